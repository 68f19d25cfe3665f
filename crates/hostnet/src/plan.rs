//! The changes that lead from what is to what should be, in an order that never takes away a way before the new one
//! is there: links, keys and peers, addresses, firewall, routes, rules, and what nothing uses any more last.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh::{PrivateKey, PublicKey};

use crate::{
    Address, Firewall, HostState, Leftover, Link, LinkName, Route, Rule, Wireguard, WireguardPeer,
    state::Forwarding,
};

/// One change of a host's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make an interface, with its MTU, down.
    CreateLink(LinkName, Link),
    /// Set the MTU of an interface, in bytes.
    SetMtu(LinkName, u32),
    /// Set an interface up or down.
    SetUp(LinkName, bool),
    /// Remove an interface of ours.
    RemoveLink(LinkName, Link),
    /// Set what concerns the WireGuard interface as a whole.
    SetWireguard(LinkName, DeviceSettings),
    /// Add a peer to the WireGuard interface or change the one there is.
    SetPeer(LinkName, PublicKey, PeerChange),
    /// Remove a peer from the WireGuard interface.
    RemovePeer(LinkName, PublicKey),
    /// Add an address.
    AddAddress(Address),
    /// Remove an address. The link has to promote secondary addresses (`promote_secondaries` in `/proc/sys/net/ipv4`):
    /// otherwise the kernel takes those that were added in the same prefix later with it, and after the last IPv4
    /// address all IPv4 routes of the link.
    RemoveAddress(Address),
    /// Add a route, or replace the one with the same table and destination.
    SetRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
    /// Add a rule.
    AddRule(Rule),
    /// Remove a rule.
    RemoveRule(Rule),
    /// Make the firewall table anew, in one transaction.
    SetFirewall(Box<Firewall>),
    /// Change the elements of the firewall's sets, from the first state to the second, in one transaction.
    UpdateFirewall(Box<Firewall>, Box<Firewall>),
    /// Remove the firewall table.
    RemoveFirewall,
    /// Let the host forward packets.
    EnableForwarding(Forwarding),
    /// Remove what a Go agent left behind.
    RemoveLeftover(Leftover),
}

/// What is set of a WireGuard interface as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSettings {
    /// The private key.
    pub private_key: PrivateKey,
    /// The UDP port.
    pub listen_port: u16,
    /// The firewall mark; 0 takes it away.
    pub mark: u32,
}

/// What changes at one peer. Fields that are `None` or empty stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerChange {
    /// The peer is new: nothing of it exists yet.
    pub new: bool,
    /// The new preshared key; the inner `None` removes it.
    pub preshared_key: Option<Option<mesh::PresharedKey>>,
    /// The new endpoint.
    pub endpoint: Option<std::net::SocketAddr>,
    /// The new keepalive in seconds; 0 turns it off.
    pub persistent_keepalive: Option<u16>,
    /// Allowed IPs that are added. One that another peer had moves.
    pub add_allowed_ips: Vec<IpNet>,
    /// Allowed IPs that are removed and do not go to another peer.
    pub remove_allowed_ips: Vec<IpNet>,
}

/// The changes that lead from `observed` to `desired`; empty when there is nothing to do.
pub fn plan(observed: &HostState, desired: &HostState) -> Vec<Change> {
    let mut changes = Vec::new();
    plan_links(observed, desired, &mut changes);
    plan_wireguard(observed, desired, &mut changes);
    plan_up(observed, desired, true, &mut changes);
    let added = desired.addresses.difference(&observed.addresses).cloned();
    changes.extend(added.map(Change::AddAddress));
    plan_forwarding(observed, desired, &mut changes);
    plan_firewall(observed, desired, &mut changes);
    plan_routes_and_rules(observed, desired, &mut changes);
    let removed = observed.addresses.difference(&desired.addresses);
    // An address goes with its link.
    let removed = removed.filter(|address| stays(observed, desired, &address.link)).cloned();
    changes.extend(removed.map(Change::RemoveAddress));
    plan_wireguard_removals(observed, desired, &mut changes);
    let leftovers = observed.leftovers.iter().filter(|leftover| match leftover {
        // Setting the firewall repairs it.
        Leftover::Firewall => desired.firewall.is_none(),
        Leftover::Route { .. } | Leftover::Rule(_) | Leftover::Iptables { .. } => true,
    });
    changes.extend(leftovers.cloned().map(Change::RemoveLeftover));
    // The kernel forgets the routes of a link that goes down: by now nothing uses it.
    plan_up(observed, desired, false, &mut changes);
    for (name, link) in &observed.links {
        if !desired.links.contains_key(name) && link.managed {
            changes.push(Change::RemoveLink(name.clone(), link.clone()));
        }
    }
    changes
}

/// Whether a link that is there is not about to be removed.
fn stays(observed: &HostState, desired: &HostState, link: &LinkName) -> bool {
    observed.links.get(link).is_none_or(|found| !found.managed) || desired.links.contains_key(link)
}

fn plan_links(observed: &HostState, desired: &HostState, changes: &mut Vec<Change>) {
    for (name, link) in &desired.links {
        let Some(found) = observed.links.get(name) else {
            changes.push(Change::CreateLink(name.clone(), link.clone()));
            continue;
        };
        if let Some(mtu) = link.mtu
            && found.mtu != link.mtu
        {
            changes.push(Change::SetMtu(name.clone(), mtu));
        }
    }
}

/// Links go up after WireGuard is configured, so that it sends no packet with half a configuration.
fn plan_up(observed: &HostState, desired: &HostState, up: bool, changes: &mut Vec<Change>) {
    for (name, _) in desired.links.iter().filter(|(_, link)| link.up == up) {
        if observed.links.get(name).is_some_and(|found| found.up) != up {
            changes.push(Change::SetUp(name.clone(), up));
        }
    }
}

fn plan_forwarding(observed: &HostState, desired: &HostState, changes: &mut Vec<Change>) {
    let missing = Forwarding {
        v4: desired.forwarding.v4 && !observed.forwarding.v4,
        v6: desired.forwarding.v6 && !observed.forwarding.v6,
    };
    if missing.v4 || missing.v6 {
        changes.push(Change::EnableForwarding(missing));
    }
}

fn plan_firewall(observed: &HostState, desired: &HostState, changes: &mut Vec<Change>) {
    match (&observed.firewall, &desired.firewall) {
        (None, Some(wanted)) => changes.push(Change::SetFirewall(Box::new(wanted.clone()))),
        (Some(found), Some(wanted)) if found == wanted => {}
        (Some(found), Some(wanted)) => {
            let (found, wanted) = (found.normalised(), wanted.normalised());
            if found != wanted {
                changes.push(Change::UpdateFirewall(Box::new(found), Box::new(wanted)));
            }
        }
        (Some(_), None) => changes.push(Change::RemoveFirewall),
        (None, None) => {}
    }
}

fn plan_routes_and_rules(observed: &HostState, desired: &HostState, changes: &mut Vec<Change>) {
    let set = || desired.routes.difference(&observed.routes);
    changes.extend(set().cloned().map(Change::SetRoute));
    changes.extend(desired.rules.difference(&observed.rules).cloned().map(Change::AddRule));
    changes.extend(observed.rules.difference(&desired.rules).cloned().map(Change::RemoveRule));
    // A route that is set replaces the one with its key.
    let replaced: BTreeSet<_> = set().map(Route::key).collect();
    let stale = observed.routes.difference(&desired.routes).filter(|route| !replaced.contains(&route.key()));
    let stale = stale.filter(|route| stays(observed, desired, &route.link)).cloned();
    changes.extend(stale.map(Change::RemoveRoute));
}

/// The WireGuard interface and what it should be.
fn wanted_wireguard(desired: &HostState) -> Option<(&LinkName, &Wireguard)> {
    let (name, _) = desired.links.iter().find(|(_, link)| link.kind == crate::LinkKind::Wireguard)?;
    Some((name, desired.wireguard.as_ref()?))
}

fn plan_wireguard(observed: &HostState, desired: &HostState, changes: &mut Vec<Change>) {
    let Some((name, wanted)) = wanted_wireguard(desired) else { return };
    let nothing = Wireguard::default();
    let found = observed.wireguard.as_ref().unwrap_or(&nothing);
    if let Some(settings) = device_settings(wanted)
        && device_settings(found).as_ref() != Some(&settings)
    {
        changes.push(Change::SetWireguard(name.clone(), settings));
    }
    for (key, peer) in &wanted.peers {
        if let Some(change) = peer_change(found.peers.get(key), peer) {
            changes.push(Change::SetPeer(name.clone(), *key, change));
        }
    }
}

/// What there is to set of the interface as a whole; nothing without a key.
fn device_settings(wireguard: &Wireguard) -> Option<DeviceSettings> {
    let Wireguard { private_key, listen_port, mark, peers: _ } = wireguard;
    let private_key = private_key.clone()?;
    Some(DeviceSettings { private_key, listen_port: *listen_port, mark: *mark })
}

/// After the additions, so that an allowed IP that goes to another peer has moved before and at every moment belongs
/// to exactly one; and after the routes, so that nothing is sent to a peer that is gone.
fn plan_wireguard_removals(observed: &HostState, desired: &HostState, changes: &mut Vec<Change>) {
    let Some((name, wanted)) = wanted_wireguard(desired) else { return };
    let moved: BTreeSet<IpNet> = changes.iter().flat_map(added_allowed_ips).copied().collect();
    for (key, found) in observed.wireguard.iter().flat_map(|found| &found.peers) {
        let Some(wanted) = wanted.peers.get(key) else {
            changes.push(Change::RemovePeer(name.clone(), *key));
            continue;
        };
        let stale = found.allowed_ips.difference(&wanted.allowed_ips).filter(|ip| !moved.contains(ip));
        let change = PeerChange { remove_allowed_ips: stale.copied().collect(), ..PeerChange::default() };
        if change != PeerChange::default() {
            changes.push(Change::SetPeer(name.clone(), *key, change));
        }
    }
}

fn added_allowed_ips(change: &Change) -> &[IpNet] {
    match change {
        Change::SetPeer(_, _, change) => &change.add_allowed_ips,
        _ => &[],
    }
}

/// What changes at one peer, except what it loses.
fn peer_change(found: Option<&WireguardPeer>, wanted: &WireguardPeer) -> Option<PeerChange> {
    let nothing = WireguardPeer::default();
    let base = found.unwrap_or(&nothing);
    let change = PeerChange {
        new: found.is_none(),
        preshared_key: (base.preshared_key != wanted.preshared_key).then(|| wanted.preshared_key.clone()),
        endpoint: wanted.endpoint.filter(|endpoint| base.endpoint != Some(*endpoint)),
        persistent_keepalive: (base.persistent_keepalive != wanted.persistent_keepalive)
            .then_some(wanted.persistent_keepalive),
        add_allowed_ips: wanted.allowed_ips.difference(&base.allowed_ips).copied().collect(),
        remove_allowed_ips: Vec::new(),
    };
    (change != PeerChange::default()).then_some(change)
}
