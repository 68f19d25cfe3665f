//! Packets between all pods of random clusters, followed from host to host through what is rendered for each.

#![allow(clippy::unwrap_used, reason = "a test")]

use hostnet::{Encapsulation, EncapsulationType};
use mesh::{Granularity, Node, prefix::Family};
use proptest::{prelude::*, sample};

#[path = "../../mesh/tests/support/clusters.rs"]
mod clusters;
#[path = "model/hosts.rs"]
mod hosts;

use clusters::{Cluster, sound};
use hosts::Mesh;
use simulation::{
    forwarding::{Packet, Way},
    network::{Path, pod},
};

fn encapsulation() -> impl Strategy<Value = (Encapsulation, EncapsulationType)> {
    let when = vec![Encapsulation::Never, Encapsulation::CrossSubnet, Encapsulation::Always];
    (sample::select(when), sample::select(vec![EncapsulationType::Ipip, EncapsulationType::Vxlan]))
}

/// Ordered pairs of different nodes.
fn pairs(cluster: &Cluster) -> impl Iterator<Item = (&Node, &Node)> {
    let nodes = || cluster.nodes.iter().map(|node| &**node);
    nodes().flat_map(move |a| nodes().map(move |b| (a, b))).filter(|(a, b)| a.name != b.name)
}

/// Whether the two reach each other over the private network.
fn together(cluster: &Cluster, a: &Node, b: &Node) -> bool {
    let alone = |node: &Node| cluster.config.granularity == Granularity::Full || node.internal_ips.is_empty();
    a.location == b.location && !alone(a) && !alone(b)
}

/// A path holds what the operator asked for: one tunnel between segments and none inside, and the private network is
/// used bare or encapsulated as said.
fn check_path(cluster: &Cluster, encapsulation: Encapsulation, (a, b): (&Node, &Node), path: &Path) {
    let count = |wanted: fn(&Way) -> bool| path.iter().filter(|(_, way)| wanted(way)).count();
    let tunnels = count(|way| matches!(way, Way::Tunnel { .. }));
    assert_eq!(tunnels, usize::from(!together(cluster, a, b)), "{} to {} by {path:?}", a.name, b.name);
    let bare = count(|way| matches!(way, Way::Link { link, .. } if link == "eth0"));
    let encapsulated = count(|way| matches!(way, Way::Encapsulated { .. }));
    match encapsulation {
        Encapsulation::Never => assert_eq!(encapsulated, 0, "{path:?}"),
        Encapsulation::Always => assert_eq!(bare, 0, "{path:?}"),
        Encapsulation::CrossSubnet => {}
    }
    // At most one hop inside of each of the two locations.
    assert!(bare + encapsulated <= 2, "{path:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every pod reaches every other, unchanged, in both directions; if not, a host has said why.
    #[test]
    fn pods_reach_each_other(cluster in sound(), encapsulation in encapsulation()) {
        let mesh = Mesh::of(&cluster, encapsulation);
        let problems: Vec<_> = mesh.rendered.iter().flat_map(|rendered| &rendered.problems).collect();
        for host in mesh.hosts() {
            prop_assert!(host.kernel.refused().is_empty(), "{}: {:?}", host.name, host.kernel.refused());
        }
        for (a, b) in pairs(&cluster) {
            for family in Family::ALL {
                let Some((source, destination)) = pod(a, family).zip(pod(b, family)) else { continue };
                let packet = Packet { source, destination, iif: Some("cni0") };
                match mesh.path(&a.name, &b.name, packet) {
                    Ok(path) => check_path(&cluster, encapsulation.0, (a, b), &path),
                    // The only thing that can be missing: IPv6 pods, IPv4 nodes, and no encapsulation.
                    Err(why) => {
                        prop_assert!(family == Family::V6 && encapsulation.0 != Encapsulation::Always, "{}", why);
                        prop_assert!(problems.iter().any(|problem| problem.reason == "NoNextHop"), "{}", why);
                    }
                }
            }
        }
    }

    /// Every pod reaches the own address of every other leader, also where the leader's tunnel ends there, and is answered by
    /// the same way: through a tunnel.
    #[test]
    fn pods_reach_leaders(cluster in sound(), encapsulation in encapsulation(), at_home in any::<bool>()) {
        let mut cluster = cluster;
        for node in cluster.nodes.iter_mut().filter(|_| at_home) {
            let node = std::sync::Arc::make_mut(node);
            if let Some(address) = node.internal_ip(Family::V4) {
                node.endpoint = Some(mesh::Endpoint::from_ip(address, 51820));
            }
        }
        let mesh = Mesh::of(&cluster, encapsulation);
        let leads = |node: &Node| mesh.leaders.contains(&node.name);
        for (a, b) in pairs(&cluster).filter(|(a, b)| leads(b) && !together(&cluster, a, b)) {
            let (Some(source), Some(destination)) = (pod(a, Family::V4), b.internal_ip(Family::V4)) else { continue };
            let there = mesh.path(&a.name, &b.name, Packet { source, destination, iif: Some("cni0") });
            let tunnels = |path: &Path| path.iter().filter(|(_, way)| matches!(way, Way::Tunnel { .. })).count();
            prop_assert_eq!(there.as_ref().map(tunnels), Ok(1), "{} to {}: {:?}", a.name, b.name, there);
            let back = mesh.path(&b.name, &a.name, Packet { source: destination, destination: source, iif: None });
            prop_assert_eq!(back.as_ref().map(tunnels), Ok(1), "{} to {}: {:?}", b.name, a.name, back);
        }
    }

    /// What a node itself sends to a pod elsewhere has a source that the way there and the way back know.
    #[test]
    fn nodes_reach_pods(cluster in sound(), encapsulation in encapsulation()) {
        let mesh = Mesh::of(&cluster, encapsulation);
        for (a, b) in pairs(&cluster) {
            let Some(destination) = pod(b, Family::V4) else { continue };
            let from = mesh.hosts().find(|host| host.name == a.name).unwrap();
            let source = from.kernel.source(destination);
            prop_assert!(source.is_some(), "{} has no source for {}", a.name, destination);
            let packet = Packet { source: source.unwrap(), destination, iif: None };
            let path = mesh.path(&a.name, &b.name, packet);
            prop_assert!(path.is_ok(), "{:?}", path);
        }
    }

    /// With `--encapsulate=crosssubnet` only what stays in the own prefix goes bare.
    #[test]
    fn crosssubnet_goes_bare_inside_of_the_subnet_only(cluster in sound(), (_, kind) in encapsulation()) {
        let mesh = Mesh::of(&cluster, (Encapsulation::CrossSubnet, kind));
        for (a, b) in pairs(&cluster) {
            let Some((source, destination)) = pod(a, Family::V4).zip(pod(b, Family::V4)) else { continue };
            let path = mesh.path(&a.name, &b.name, Packet { source, destination, iif: Some("cni0") });
            for (host, way) in path.unwrap() {
                let own = mesh.hosts().find(|other| other.name == host).unwrap().internal_ips.first();
                match way {
                    Way::Link { link, to } if link == "eth0" => prop_assert!(own.unwrap().contains(&to)),
                    Way::Encapsulated { outer } => prop_assert!(!own.unwrap().contains(&outer)),
                    _ => {}
                }
            }
        }
    }
}
