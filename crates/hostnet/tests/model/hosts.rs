//! All hosts of a cluster, rendered.

#![allow(dead_code, reason = "every test uses a part of the model")]

use hostnet::{
    Encapsulation, EncapsulationType, HostFacts, Interface, RenderConfig, RenderInput, Rendered, render,
};
use ipnet::IpNet;
use mesh::{Node, Perspective, PrivateKey, Topology};
use simulation::{
    forwarding::{Kernel, Packet},
    network::{Host, Network, Path},
};
use std::collections::{BTreeMap, BTreeSet};

use crate::clusters::Cluster;

/// How the operator set up all hosts.
pub fn config((encapsulation, encapsulation_type): (Encapsulation, EncapsulationType)) -> RenderConfig {
    RenderConfig {
        encapsulation,
        encapsulation_type,
        accept_forwarding: true,
        ..RenderConfig::with_key(PrivateKey::from_random([1; 32]))
    }
}

/// The host has its internal addresses on eth0 and a bridge with its pods.
pub fn facts(node: &Node) -> HostFacts {
    let interface = |addresses| Interface { mtu: 1500, running: true, addresses, ..Interface::default() };
    let first = |net: &IpNet| IpNet::new(net.hosts().next().unwrap(), net.prefix_len()).unwrap();
    let bridge = node.pod_subnets.iter().map(first).collect();
    HostFacts {
        interfaces: BTreeMap::from([
            ("eth0".parse().unwrap(), interface(node.internal_ips.clone())),
            ("cni0".parse().unwrap(), interface(bridge)),
        ]),
        default_interface: Some("eth0".parse().unwrap()),
        ..Default::default()
    }
}

/// All hosts of a cluster, and what was rendered for each.
pub struct Mesh {
    pub network: Network,
    pub rendered: Vec<Rendered>,
    /// The names of the leaders.
    pub leaders: BTreeSet<String>,
}

impl Mesh {
    /// Renders every host.
    pub fn of(cluster: &Cluster, encapsulation: (Encapsulation, EncapsulationType)) -> Self {
        let topology = Topology::new(cluster.config.clone(), cluster.nodes.clone(), cluster.peers.clone());
        let host = |node: &std::sync::Arc<Node>| {
            let perspective = Perspective::of(&topology, &node.name).unwrap();
            let facts = facts(node);
            let rendered = render(&perspective, &facts, &config(encapsulation), &RenderInput::with_mtu(1420));
            let host = Host {
                name: node.name.clone(),
                location: node.location.clone(),
                key: node.key.unwrap(),
                internal_ips: node.internal_ips.clone(),
                kernel: Kernel::new(&rendered.state, &facts),
                firewall: rendered.state.firewall.clone().unwrap(),
                sessions: None,
            };
            (host, rendered)
        };
        let (hosts, rendered) = topology.nodes().map(host).unzip();
        let leaders = topology.segments.iter().map(|segment| segment.leader().name.clone()).collect();
        Self { network: Network::new(hosts), rendered, leaders }
    }

    /// The hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.network.hosts()
    }

    /// See [`Network::path`].
    pub fn path(&self, from: &str, to: &str, packet: Packet<'_>) -> Result<Path, String> {
        self.network.path(from, to, packet)
    }
}
