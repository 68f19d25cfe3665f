//! A kernel that is changed step by step and refuses what a real one refuses. (It promotes secondary addresses.)

use std::{collections::BTreeSet, net::IpAddr};

use hostnet::{
    Change, HostState, Leftover, LinkKind, LinkName, NextHop, Route, Wireguard, WireguardPeer,
    plan::PeerChange,
};
use mesh::PublicKey;

/// A host whose state changes.
#[derive(Debug, Clone)]
pub struct Machine(pub HostState);

impl Machine {
    /// Makes one change.
    ///
    /// # Errors
    /// When the change is impossible or does nothing.
    pub fn apply(&mut self, change: &Change) -> Result<(), String> {
        let state = &mut self.0;
        let done = match change {
            Change::CreateLink(name, link) => {
                // The kernel's own tunnel devices come with their module.
                let possible = link.managed || link.kind != LinkKind::Wireguard;
                let mut link = link.clone();
                link.up = false;
                possible && state.links.insert(name.clone(), link).is_none()
            }
            Change::SetMtu(name, mtu) => {
                state.links.get_mut(name).is_some_and(|link| link.mtu.replace(*mtu) != Some(*mtu))
            }
            Change::SetUp(name, up) => return self.set_up(name, *up),
            Change::RemoveLink(name, _) => {
                self.forget_routes(name);
                let state = &mut self.0;
                state.addresses.retain(|address| address.link != *name);
                let removed = state.links.remove(name).filter(|link| link.managed);
                if removed.as_ref().is_some_and(|link| link.kind == LinkKind::Wireguard) {
                    state.wireguard = None;
                }
                removed.is_some()
            }
            Change::SetWireguard(name, settings) => {
                let wireguard = self.wireguard(name)?;
                wireguard.private_key = Some(settings.private_key.clone());
                wireguard.listen_port = settings.listen_port;
                wireguard.mark = settings.mark;
                true
            }
            Change::SetPeer(name, key, change) => return set_peer(self.wireguard(name)?, *key, change),
            Change::RemovePeer(name, key) => self.wireguard(name)?.peers.remove(key).is_some(),
            Change::AddAddress(address) => {
                state.links.contains_key(&address.link) && state.addresses.insert(address.clone())
            }
            Change::RemoveAddress(address) => state.addresses.remove(address),
            Change::SetRoute(route) => {
                // A link that is not ours is up.
                let up = state.links.get(&route.link).is_none_or(|link| link.up);
                for other in with_key_of(route, &state.routes) {
                    state.routes.remove(&other);
                }
                up && state.routes.insert(route.clone())
            }
            Change::RemoveRoute(route) => state.routes.remove(route),
            Change::AddRule(rule) => state.rules.insert(rule.clone()),
            Change::RemoveRule(rule) => state.rules.remove(rule),
            Change::SetFirewall(firewall) => {
                state.leftovers.remove(&Leftover::Firewall);
                state.firewall.replace((**firewall).clone()).is_none()
            }
            Change::UpdateFirewall(before, after) => {
                let replaced = state.firewall.replace((**after).clone());
                replaced.is_some_and(|found| found.normalised() == before.normalised())
            }
            Change::RemoveFirewall => state.firewall.take().is_some(),
            Change::EnableForwarding(families) => {
                let before = state.forwarding;
                state.forwarding.v4 |= families.v4;
                state.forwarding.v6 |= families.v6;
                state.forwarding != before
            }
            Change::RemoveLeftover(leftover) => state.leftovers.remove(leftover),
        };
        if done { Ok(()) } else { Err("impossible, or nothing to do".to_owned()) }
    }

    fn wireguard(&mut self, name: &LinkName) -> Result<&mut Wireguard, String> {
        match self.0.links.get(name) {
            Some(link) if link.kind == LinkKind::Wireguard => {}
            other => return Err(format!("{name} is {other:?}")),
        }
        Ok(self.0.wireguard.get_or_insert_default())
    }

    /// A link that goes down loses its routes and its IPv6 addresses.
    fn set_up(&mut self, name: &LinkName, up: bool) -> Result<(), String> {
        let link = self.0.links.get_mut(name).ok_or("no such link")?;
        if std::mem::replace(&mut link.up, up) == up {
            return Err("the link is that already".to_owned());
        }
        if !up {
            self.forget_routes(name);
            let v6 = |address: IpAddr| address.is_ipv6();
            self.0.addresses.retain(|address| address.link != *name || !v6(address.net.addr()));
        }
        Ok(())
    }

    fn forget_routes(&mut self, link: &LinkName) {
        self.0.routes.retain(|route| route.link != *link);
    }
}

/// The other routes to the same destination, found without looking at all.
fn with_key_of(route: &Route, routes: &BTreeSet<Route>) -> Vec<Route> {
    let first: LinkName = "!".parse().unwrap();
    let least = Route { next_hop: NextHop::Destination, link: first, source: None, ..route.clone() };
    let same = routes.range(least..).take_while(|other| other.key() == route.key());
    same.filter(|other| *other != route).cloned().collect()
}

/// An allowed IP that is added moves here from whoever has it.
fn set_peer(wireguard: &mut Wireguard, key: PublicKey, change: &PeerChange) -> Result<(), String> {
    if change.new == wireguard.peers.contains_key(&key) {
        return Err(format!("new: {}, but it is not so", change.new));
    }
    for ip in &change.add_allowed_ips {
        for peer in wireguard.peers.values_mut() {
            peer.allowed_ips.remove(ip);
        }
    }
    let peer: &mut WireguardPeer = wireguard.peers.entry(key).or_default();
    peer.allowed_ips.extend(&change.add_allowed_ips);
    for ip in &change.remove_allowed_ips {
        if !peer.allowed_ips.remove(ip) {
            return Err(format!("{ip} is not there to be removed"));
        }
    }
    if let Some(preshared_key) = &change.preshared_key {
        peer.preshared_key.clone_from(preshared_key);
    }
    peer.endpoint = change.endpoint.or(peer.endpoint);
    peer.persistent_keepalive = change.persistent_keepalive.unwrap_or(peer.persistent_keepalive);
    Ok(())
}
