//! Plans, carried out on a model of a kernel: from any state they lead to any other, by possible steps only, and no
//! way is taken away before the new one is there.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, net::IpAddr};

use hostnet::{Encapsulation, EncapsulationType, HostState, RenderInput, plan, render};
use ipnet::IpNet;
use mesh::{Perspective, PublicKey, Topology, prefix::Family};
use proptest::{prelude::*, sample};

#[path = "../../../mesh/tests/support/clusters.rs"]
mod clusters;
#[path = "../model/hosts.rs"]
mod hosts;
mod order;
mod states;

use clusters::{Cluster, sound};
use hosts::{config, facts};
use simulation::{
    forwarding::{Kernel, Packet, Way},
    machine::Machine,
    network::pod,
};
use states::{desired, observed};

/// Carries out the plan from one state to another and calls `look` after every step.
fn carry_out(from: &HostState, to: &HostState, mut look: impl FnMut(&HostState)) -> HostState {
    let mut machine = Machine(from.clone());
    for change in plan(from, to) {
        if let Err(why) = machine.apply(&change) {
            let planned: Vec<_> = plan(from, to).iter().map(ToString::to_string).collect();
            panic!("{change}: {why}; planned: {planned:#?}");
        }
        look(&machine.0);
    }
    machine.0
}

/// The parts of a state that a desired state says something about.
fn comparable(state: &HostState, desired: &HostState) -> HostState {
    let mut state = state.clone();
    // What is not ours stays, and what is left open can be anything.
    state.links.retain(|name, link| desired.links.contains_key(name) || link.managed);
    for (name, wanted) in &desired.links {
        if let (None, Some(link)) = (wanted.mtu, state.links.get_mut(name)) {
            link.mtu = None;
        }
    }
    state.firewall = state.firewall.map(|firewall| firewall.normalised());
    match (&mut state.wireguard, &desired.wireguard) {
        (found, None) => *found = None,
        (Some(found), Some(wanted)) => {
            for (key, peer) in &mut found.peers {
                peer.endpoint = peer
                    .endpoint
                    .filter(|_| wanted.peers.get(key).is_some_and(|peer| peer.endpoint.is_some()));
            }
        }
        (None, Some(_)) => {}
    }
    state.forwarding.v4 &= desired.forwarding.v4;
    state.forwarding.v6 &= desired.forwarding.v6;
    state
}

/// Who has which allowed IP; fails when two have one.
fn owners(state: &HostState) -> BTreeMap<IpNet, PublicKey> {
    let mut owners = BTreeMap::new();
    for (key, peer) in state.wireguard.iter().flat_map(|wireguard| &wireguard.peers) {
        for ip in &peer.allowed_ips {
            assert_eq!(owners.insert(*ip, *key), None, "{ip} belongs to two peers");
        }
    }
    owners
}

/// A cluster, and the same one after something happened to one of its nodes.
fn before_and_after() -> impl Strategy<Value = (Cluster, Cluster)> {
    (sound(), any::<sample::Index>(), 0u8..5).prop_map(|(before, index, what)| {
        let mut after = before.clone();
        let index = index.index(after.nodes.len());
        let node = std::sync::Arc::make_mut(&mut after.nodes[index]);
        match what {
            0 => node.leader = !node.leader,
            1 => node.persistent_keepalive = 25 - node.persistent_keepalive,
            2 => node.key = Some(clusters::key(77)),
            3 => after.peers.clear(),
            _ => drop(after.nodes.remove(index)),
        }
        (before, after)
    })
}

fn rendered(
    cluster: &Cluster,
    name: &str,
    encapsulation: (Encapsulation, EncapsulationType),
) -> Option<HostState> {
    let topology = Topology::new(cluster.config.clone(), cluster.nodes.clone(), cluster.peers.clone());
    let perspective = Perspective::of(&topology, name)?;
    Some(
        render(&perspective, &facts(perspective.node), &config(encapsulation), &RenderInput::with_mtu(1420))
            .state,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_planned_for_a_state_that_is_as_desired(state in desired()) {
        prop_assert_eq!(plan(&state, &state), []);
    }

    #[test]
    fn every_state_leads_to_every_other(from in observed(), to in desired()) {
        let (before, after) = (owners(&from), owners(&to));
        let reached = carry_out(&from, &to, |state| {
            let now = owners(state);
            for ip in before.keys().filter(|ip| after.contains_key(*ip)) {
                assert!(now.contains_key(ip), "{ip} is without an owner for a moment");
            }
        });
        let (reached_part, wanted) = (comparable(&reached, &to), comparable(&to, &to));
        prop_assert_eq!(reached_part, wanted);
        prop_assert_eq!(plan(&reached, &to), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// While a host changes, every packet goes the old way or the new one; also when what it is encapsulated in changes.
    #[test]
    fn no_way_is_lost_on_the_way(
        (before, after) in before_and_after(),
        when in sample::select(vec![Encapsulation::Never, Encapsulation::CrossSubnet, Encapsulation::Always]),
        kinds in sample::select(vec![
            [EncapsulationType::Ipip, EncapsulationType::Ipip],
            [EncapsulationType::Vxlan, EncapsulationType::Vxlan],
            [EncapsulationType::Ipip, EncapsulationType::Vxlan],
            [EncapsulationType::Vxlan, EncapsulationType::Ipip],
        ]),
    ) {
        for node in &after.nodes {
            let old = rendered(&before, &node.name, (when, kinds[0]));
            let states = old.zip(rendered(&after, &node.name, (when, kinds[1])));
            let Some((from, to)) = states else { continue };
            let facts = facts(node);
            let packets: Vec<_> = packets(&before, &node.name).into_iter().collect();
            let ways = |state: &HostState| -> Vec<Way> {
                let kernel = Kernel::new(state, &facts);
                packets.iter().map(|packet| kernel.way(*packet)).collect()
            };
            let (old, new) = (ways(&from), ways(&to));
            let reached = carry_out(&from, &to, |state| {
                for (index, way) in ways(state).into_iter().enumerate() {
                    let (old, new) = (&old[index], &new[index]);
                    // An address may move to another peer before it leaves the tunnel for good.
                    let tunnels = [old, &way].iter().all(|way| matches!(way, Way::Tunnel { .. }));
                    let fine = way == *old || way == *new || tunnels;
                    assert!(fine, "{:?}: {old}, then {way}, then {new}", packets[index]);
                }
            });
            prop_assert_eq!(comparable(&reached, &to), comparable(&to, &to));
        }
    }
}

/// What the host's pods send, and what comes out of the tunnel, to the pods and addresses of all nodes.
fn packets(cluster: &Cluster, name: &str) -> Vec<Packet<'static>> {
    let own = cluster.nodes.iter().find(|node| node.name == name).unwrap();
    let mut packets = Vec::new();
    for family in Family::ALL {
        for other in cluster.nodes.iter().filter(|node| node.name != name) {
            let internal = other.internal_ip(family);
            let destinations: Vec<IpAddr> = pod(other, family).into_iter().chain(internal).collect();
            let Some(source) = pod(own, family) else { continue };
            for destination in destinations {
                packets.extend(["cni0", "kilo0"].map(|iif| Packet { source, destination, iif: Some(iif) }));
            }
        }
    }
    packets
}
