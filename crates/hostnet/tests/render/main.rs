//! What is rendered for hosts that the goldens do not have, written as lines: one module per theme.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, sync::Arc};

use hostnet::{Encapsulation, HostFacts, Interface, RenderConfig, RenderInput, Rendered, render};
use ipnet::IpNet;
use mesh::{Granularity, Node, Peer, Perspective, PrivateKey, Problem, PublicKey, Topology, TopologyConfig};

mod compatibility;
mod encapsulation;
mod families;
mod firewall;
mod guard;
mod leaders;
mod many;
mod options;
mod trouble;

/// A mesh and the host in it that is looked at: locations `a` (`a1` leads, `a2`) and `b` (`b1`), unless changed.
struct Fixture {
    host: &'static str,
    nodes: Vec<Node>,
    peers: Vec<Peer>,
    subnets: &'static str,
    config: RenderConfig,
    input: RenderInput,
    facts: HostFacts,
}

/// `a1 10.1.0.1/24 10.2.1.0/24`: the name begins with the location; then internal addresses and pod subnets. What
/// begins with 10.2. or fd00:2: is a pod subnet. The digit at the end of the name makes key and endpoint.
fn node(text: &str) -> Node {
    let mut words = text.split(' ');
    let name = words.next().unwrap();
    let mut node = Node::named(name);
    let number = name.as_bytes()[0] - b'a' + 1 + 16 * (name.as_bytes()[1] - b'0');
    node.location = name[..1].to_owned();
    node.key = Some(PublicKey::from_bytes([number; 32]).unwrap());
    node.endpoint = format!("203.0.113.{number}:51820").parse().ok();
    for word in words {
        let net: IpNet = word.parse().unwrap();
        match word.starts_with("10.2.") || word.starts_with("fd00:2:") {
            true => node.pod_subnets.push(net),
            false => node.internal_ips.push(net),
        }
    }
    node
}

/// `p1 10.5.0.1/32`: the name and the allowed IPs.
fn peer(text: &str) -> Peer {
    let mut words = text.split(' ');
    let name = words.next().unwrap();
    Peer {
        name: name.to_owned(),
        created: 0,
        changed: false,
        key: PublicKey::from_bytes([name.as_bytes()[1] - b'0' + 200; 32]).unwrap(),
        allowed_ips: words.map(|word| word.parse().unwrap()).collect(),
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 0,
    }
}

impl Fixture {
    /// IPv4 alone, with this encapsulation.
    fn v4(host: &'static str, encapsulation: Encapsulation) -> Self {
        let nodes =
            ["a1 10.1.0.1/24 10.2.1.0/24", "a2 10.1.0.2/24 10.2.2.0/24", "b1 10.1.9.1/24 10.2.3.0/24"];
        Self::of(host, &nodes, "10.4.0.0/16", encapsulation)
    }

    /// These nodes.
    fn of(host: &'static str, nodes: &[&str], subnets: &'static str, encapsulation: Encapsulation) -> Self {
        let nodes: Vec<_> = nodes.iter().map(|text| node(text)).collect();
        let own = nodes.iter().find(|node| node.name == host).unwrap();
        let eth0 = Interface {
            mtu: 1500,
            running: true,
            addresses: own.internal_ips.clone(),
            ..Interface::default()
        };
        let facts = HostFacts {
            interfaces: BTreeMap::from([("eth0".parse().unwrap(), eth0)]),
            default_interface: Some("eth0".parse().unwrap()),
            ..Default::default()
        };
        let config =
            RenderConfig { encapsulation, ..RenderConfig::with_key(PrivateKey::from_random([1; 32])) };
        Self { host, nodes, peers: Vec::new(), subnets, config, input: RenderInput::with_mtu(1420), facts }
    }

    fn topology(&self) -> Topology {
        let config = TopologyConfig {
            granularity: Granularity::Location,
            subnets: self.subnets.parse().unwrap(),
            services: Vec::new(),
        };
        let nodes = self.nodes.iter().cloned().map(Arc::new);
        Topology::new(config, nodes, self.peers.clone())
    }

    fn rendered(&self) -> Rendered {
        let topology = self.topology();
        let perspective = Perspective::of(&topology, self.host).unwrap();
        render(&perspective, &self.facts, &self.config, &self.input)
    }

    /// What is wrong in the mesh as a whole, and for this host.
    fn problems(&self) -> Vec<Problem> {
        self.topology().problems.into_iter().chain(self.rendered().problems).collect()
    }

    /// Links, addresses, routes and rules, as lines, and then the problems by their reasons.
    fn check(&self, expected: &[&str]) {
        let Rendered { state, problems, .. } = self.rendered();
        let mut lines = Vec::new();
        for (name, link) in &state.links {
            let (up, managed) =
                (if link.up { "up" } else { "down" }, if link.managed { "" } else { " given" });
            lines.push(format!("link {name} {link} {up}{managed}"));
        }
        lines.extend(
            state.addresses.iter().map(|address| format!("address {} {}", address.net, address.link)),
        );
        lines.extend(state.routes.iter().map(|route| format!("route {route}")));
        lines.extend(state.rules.iter().map(|rule| format!("rule {rule} {:?}", rule.family)));
        lines.extend(problems.iter().map(|problem| format!("problem {}", problem.reason)));
        assert_eq!(lines, expected);
    }

    /// The firewall, as lines.
    fn check_firewall(&self, expected: &[&str]) {
        let firewall = self.rendered().state.firewall.unwrap().to_string();
        assert_eq!(firewall.split("; ").collect::<Vec<_>>(), expected);
    }
}
