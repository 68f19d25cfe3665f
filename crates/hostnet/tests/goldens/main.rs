//! What we would set on a host against what the Go agent set there, for every golden host: not the same form, but the
//! same meaning for every class of packets.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use hostnet::{
    Encapsulation, HostFacts, HostState, Interface, RenderConfig, RenderInput, Responsible, Wireguard,
    WireguardPeer, render,
};
use ipnet::IpNet;
use mesh::{
    Endpoint, Granularity, Host, Node, Peer, Perspective, PrivateKey, Role, Topology, TopologyConfig, prefix,
};

mod files;
#[path = "../../../mesh/tests/support/mod.rs"]
mod support;

use files::Left;
use simulation::forwarding::{Kernel, Packet, forwards, masquerades, samples};
use support::{Golden, flag, folders, goldens, node};

/// How many golden hosts there are.
const HOSTS: usize = 33;

/// What every DNS name in the goldens resolves to.
const RESOLVED: &str = "192.0.2.123";

/// Where the Go agent gave up half-way: destination, what it did, what we do.
fn differences(host: &str) -> BTreeSet<String> {
    let lines: &[&str] = match host {
        // The kernel refuses a route to an IPv6 destination with an IPv4 source.
        "peers/a1" => {
            &["fd00:5::1: eth0 to fe80::1 → tunnel to VFaOz3tixD3GymYPMdCpfY47AR2Z7NXWXiLmcRrO/Kc="]
        }
        // The kernel refuses a route whose source is not an address of the host, here the forced internal IP.
        "forced-endpoints/b1" => &[
            "10.1.0.1: eth0 to 192.0.2.254 → tunnel to 9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=",
            "10.2.1.0: eth0 to 192.0.2.254 → tunnel to 9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=",
            "10.2.1.255: eth0 to 192.0.2.254 → tunnel to 9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=",
            "10.2.4.0: eth0 to 192.0.2.254 → tunnel to 0PYxyh3bqNs7z8ueBXzcmNA3nxvuAOdaVFFHon2t2YI=",
            "10.2.4.255: eth0 to 192.0.2.254 → tunnel to 0PYxyh3bqNs7z8ueBXzcmNA3nxvuAOdaVFFHon2t2YI=",
            "10.7.0.1: eth0 to 192.0.2.254 → tunnel to 0PYxyh3bqNs7z8ueBXzcmNA3nxvuAOdaVFFHon2t2YI=",
        ],
        _ => &[],
    };
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// One golden host: what the Go agent was given, and what it left.
struct GoldenHost {
    name: String,
    command: String,
    node: Node,
    topology: Topology,
    resolved: BTreeMap<String, IpAddr>,
    facts: HostFacts,
    /// All addresses that packets may come from and go to.
    addresses: BTreeSet<IpAddr>,
    left: Left,
}

impl GoldenHost {
    fn read(golden: &Golden, folder: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let command = read("command");
        let hostname = flag_after(&command, "--hostname");
        let mut object =
            golden.nodes.iter().find(|object| object["metadata"]["name"] == *hostname).unwrap().clone();
        let facts = facts(&object);
        let annotations: BTreeMap<String, String> = serde_json::from_str(&read("annotations.json")).unwrap();
        for (key, value) in annotations {
            object["metadata"]["annotations"][key] = value.into();
        }
        let mut own = node(&object, "topology.kubernetes.io/region");
        // An agent takes its own discoveries from its WireGuard, and here there was no handshake.
        own.discovered_endpoints.clear();
        let mut nodes = golden.live_nodes();
        nodes.retain(|node| node.name != own.name);
        nodes.push(own.clone());
        let granularity = flag(&command, "--mesh-granularity").map(|text| text.parse().unwrap());
        let subnets = flag(&command, "--subnet").map(|text| text.parse().unwrap());
        let config = TopologyConfig {
            granularity: granularity.unwrap_or(Granularity::Location),
            subnets: subnets.unwrap_or_default(),
            services: Vec::new(),
        };
        let peers = golden.valid_peers();
        let asked = nodes.iter().flat_map(|node| &node.allowed_location_ips).copied();
        let asked: Vec<IpNet> = asked.chain(peers.iter().flat_map(|peer| peer.allowed_ips.clone())).collect();
        let resolved = resolved(&nodes, &peers);
        let topology = Topology::with_resolved(config, nodes.into_iter().map(Arc::new), peers, &resolved);
        Self {
            name: format!("{}/{}", golden.name, folder.file_name().unwrap().to_str().unwrap()),
            addresses: addresses(&topology, &asked),
            command,
            node: own,
            topology,
            resolved,
            facts,
            left: Left::read(folder),
        }
    }

    fn config(&self) -> RenderConfig {
        let flag = |name| flag(&self.command, name);
        let responsible = |kilo| if kilo { Responsible::Kilo } else { Responsible::Other };
        RenderConfig {
            // The Go agent listens on the port of its endpoint, which may be forced.
            listen_port: self.node.endpoint.as_ref().unwrap().port,
            encapsulation: flag("--encapsulate").unwrap().parse().unwrap(),
            local_routes_by: responsible(flag("--local").as_deref() != Some("false")),
            pod_nat_by: responsible(flag("--cni").as_deref() != Some("false")),
            accept_forwarding: flag("--iptables-forward-rules").is_some(),
            service_cidrs: flag("--service-cidr").into_iter().map(|text| text.parse().unwrap()).collect(),
            ..RenderConfig::with_key(PrivateKey::from_random([1; 32]))
        }
    }

    fn input(&self) -> RenderInput {
        let mtu = flag(&self.command, "--mtu").map_or(1420, |mtu| mtu.parse().unwrap());
        RenderInput { resolved: self.resolved.clone(), ..RenderInput::with_mtu(mtu) }
    }

    fn check(&self) {
        let perspective = Perspective::of(&self.topology, &self.node.name).unwrap();
        let config = self.config();
        assert_eq!(config.encapsulation, Encapsulation::Never, "{}: tunnels are not in the facts", self.name);
        let rendered = render(&perspective, &self.facts, &config, &self.input());
        assert_eq!(rendered.problems, [], "{}", self.name);
        self.check_link(&rendered.state, perspective.role);
        self.check_ways(&rendered.state);
        self.check_firewall(&rendered.state);
        if perspective.role == Role::Leader {
            self.check_wireguard(rendered.state.wireguard.as_ref().unwrap());
        }
    }

    fn check_link(&self, state: &HostState, role: Role) {
        let [(name, link)] = state.links.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", state.links) };
        assert_eq!(
            (name.as_str(), link.up, link.mtu),
            ("kilo0", self.left.link.up, Some(self.left.link.mtu))
        );
        assert_eq!(link.up, role == Role::Leader, "{}", self.name);
        let addresses: Vec<_> = state.addresses.iter().map(|address| address.net).collect();
        match role {
            Role::Leader => assert_eq!(addresses, self.left.link.addresses, "{}", self.name),
            // Go leaves on the link, which is down, what it had there when it led.
            Role::Member => {
                assert_eq!((addresses, &state.wireguard.as_ref().unwrap().peers), (vec![], &BTreeMap::new()))
            }
        }
    }

    fn check_ways(&self, state: &HostState) {
        let ours = Kernel::new(state, &self.facts);
        let mut theirs = self.left.kernel.clone();
        theirs.add_facts(&self.facts);
        assert!(ours.refused().is_empty(), "{}: {:?}", self.name, ours.refused());
        let mut found = BTreeSet::new();
        for &destination in &self.addresses {
            let sources = (theirs.source(destination), ours.source(destination));
            for &source in &self.addresses {
                for iif in [None, Some("eth0"), Some("kilo0"), Some("cni0")] {
                    let packet = Packet { source, destination, iif };
                    let ways = (theirs.way(packet), ours.way(packet));
                    if let Some(wireguard_ip) = self.beyond_tunnel_end(source, destination) {
                        let inside = ours.way(Packet { destination: wireguard_ip, ..packet });
                        assert_eq!(ways.1, inside, "{}: {source} to {destination}", self.name);
                    } else if ways.0 != ways.1 {
                        found.insert(format!("{destination}: {} → {}", ways.0, ways.1));
                    } else if sources.0 != sources.1 {
                        found.insert(format!("{destination} prefers {:?} → {:?}", sources.0, sources.1));
                    }
                }
            }
        }
        assert_eq!(found, differences(&self.name), "{}: left is what was found", self.name);
    }

    /// Where the Go agent has no way for pods: to a leader whose internal address is its endpoint. Ours is that to the leader's
    /// WireGuard address, which is returned. In a network of this host, a leader of another location may be anybody: pods
    /// reach that address as the host does.
    fn beyond_tunnel_end(&self, source: IpAddr, destination: IpAddr) -> Option<IpAddr> {
        let perspective = Perspective::of(&self.topology, &self.node.name).unwrap();
        let forwards_for = |node: &Node| perspective.role == Role::Leader || node.name == self.node.name;
        let near = perspective.segment().nodes.iter().filter(|node| forwards_for(node));
        let from_pod = near.flat_map(|node| &node.pod_subnets).any(|net| net.contains(&source));
        let ends_there = |segment: &&mesh::Segment| {
            perspective.segment_endpoint(segment).ip() == Some(destination)
                && segment.allowed_ips.contains(&prefix::host(destination))
                && prefix::is_private(&prefix::host(destination))
        };
        let addresses = || self.facts.interfaces.values().flat_map(|interface| &interface.addresses);
        let neighbour = addresses().any(|net| net.contains(&destination));
        let apart = |segment: &&mesh::Segment| neighbour && segment.leader().location != self.node.location;
        let segment =
            perspective.other_segments().filter(|_| from_pod).find(ends_there).filter(|it| !apart(it))?;
        segment.wireguard_ips.first().copied()
    }

    fn check_firewall(&self, state: &HostState) {
        let firewall = state.firewall.as_ref().unwrap();
        for &source in self.addresses.iter().filter(|address| address.is_ipv4()) {
            for &destination in self.addresses.iter().filter(|address| address.is_ipv4()) {
                let ours =
                    (masquerades(firewall, source, destination), forwards(firewall, source, destination));
                let iptables = &self.left.iptables;
                let theirs =
                    (iptables.masquerades(source, destination), iptables.forwards(source, destination));
                assert_eq!(ours, theirs, "{}: (NAT, forward) {source} to {destination}", self.name);
            }
        }
        assert_eq!(firewall.encapsulation, None, "{}", self.name);
    }

    fn check_wireguard(&self, wireguard: &Wireguard) {
        let text = |peers: &BTreeMap<_, WireguardPeer>| format!("{peers:#?}");
        assert_eq!(text(&wireguard.peers), text(&self.left.kernel.peers), "{}", self.name);
        assert_eq!(wireguard.peers, self.left.kernel.peers, "{}: preshared keys", self.name);
        assert_eq!(wireguard.listen_port, self.left.listen_port, "{}", self.name);
    }
}

/// The word after a flag.
fn flag_after(command: &str, name: &str) -> String {
    command.split_whitespace().skip_while(|word| *word != name).nth(1).unwrap().to_owned()
}

/// What all names in endpoints resolve to.
fn resolved(nodes: &[Node], peers: &[Peer]) -> BTreeMap<String, IpAddr> {
    let endpoints = nodes.iter().map(|node| &node.endpoint).chain(peers.iter().map(|peer| &peer.endpoint));
    let name = |endpoint: &Endpoint| match &endpoint.host {
        Host::Dns(name) => Some((name.clone(), RESOLVED.parse().unwrap())),
        Host::Ip(_) => None,
    };
    endpoints.flatten().filter_map(name).collect()
}

/// The host has an eth0 with the addresses that its Node object gives it before anything is forced.
fn facts(object: &serde_json::Value) -> HostFacts {
    let annotation = |key| object["metadata"]["annotations"][key].as_str();
    let internal = annotation("kilo.squat.ai/internal-ip").and_then(|text| text.parse().ok());
    let endpoint = annotation("kilo.squat.ai/endpoint").and_then(|text| text.parse::<Endpoint>().ok());
    let external = endpoint.and_then(|endpoint| endpoint.ip()).map(prefix::host);
    let addresses: BTreeSet<IpNet> = internal.into_iter().chain(external).collect();
    let addresses = addresses.into_iter().collect();
    let eth0 = Interface { mtu: 1500, running: true, addresses, ..Interface::default() };
    HostFacts {
        interfaces: BTreeMap::from([("eth0".parse().unwrap(), eth0)]),
        default_interface: Some("eth0".parse().unwrap()),
        ..Default::default()
    }
}

/// Samples of everything that is in the mesh or was meant to be, and of what is not.
fn addresses(topology: &Topology, asked: &[IpNet]) -> BTreeSet<IpAddr> {
    let mut nets: Vec<IpNet> = asked.to_vec();
    for node in topology.nodes() {
        nets.extend(&node.pod_subnets);
        nets.extend(node.internal_ips.iter().map(|net| prefix::host(net.addr())));
        nets.extend(node.endpoint.iter().filter_map(|endpoint| endpoint.ip()).map(prefix::host));
    }
    nets.extend(
        topology.segments.iter().flat_map(|segment| &segment.wireguard_ips).map(|ip| prefix::host(*ip)),
    );
    nets.extend(topology.config.subnets.iter());
    for outside in ["8.8.8.8/32", "10.43.0.1/32", "10.4.200.7/32", "2001:4860::8888/128"] {
        nets.push(outside.parse().unwrap());
    }
    nets.iter().flat_map(samples).collect()
}

#[test]
fn every_host_means_the_same() {
    let hosts: Vec<_> = goldens()
        .iter()
        .flat_map(|golden| {
            folders(&golden.folder.join("host")).into_iter().map(|folder| GoldenHost::read(golden, &folder))
        })
        .collect();
    assert_eq!(hosts.len(), HOSTS);
    for host in hosts {
        host.check();
    }
}
