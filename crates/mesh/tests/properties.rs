//! What holds for every cluster, however broken its objects are.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use mesh::{
    Endpoint, Granularity, Host, Node, Object, Perspective, PresharedKey, PrivateKey, PublicKey, Role,
    Topology, allocation::Subnets, conf::Conf, prefix,
};
use proptest::prelude::*;

#[path = "support/clusters.rs"]
mod clusters;
use clusters::{Cluster, sound, wild, wild_node};

fn topology(cluster: &Cluster) -> Topology {
    Topology::new(cluster.config.clone(), cluster.nodes.clone(), cluster.peers.clone())
}

/// Every prefix that a WireGuard peer is given, with the name of who has it.
fn allowed_ips(topology: &Topology) -> Vec<(IpNet, String)> {
    let segments = topology
        .segments
        .iter()
        .flat_map(|segment| segment.all_allowed_ips().map(|ip| (ip.trunc(), segment.name.to_string())));
    let peers = topology.peers.iter();
    let peers =
        peers.flat_map(|peer| peer.allowed_ips.iter().map(|ip| (ip.trunc(), format!("peer {}", peer.name))));
    segments.chain(peers).collect()
}

/// The addresses that anything in a wild cluster is about.
fn sample_addresses() -> impl Iterator<Item = std::net::IpAddr> {
    let texts = [
        "10.2.0.1",
        "10.2.1.1",
        "10.2.1.129",
        "10.2.3.7",
        "10.2.5.9",
        "192.168.0.1",
        "192.168.0.2",
        "fd00:9::1",
    ];
    texts.into_iter().map(|text| text.parse().unwrap())
}

/// The narrowest allowed IP that holds an address, and who has it.
fn narrowest(topology: &Topology, address: std::net::IpAddr) -> Option<(IpNet, String)> {
    let around = allowed_ips(topology).into_iter().filter(|(net, _)| net.contains(&address));
    around.max_by_key(|(net, _)| net.prefix_len())
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.trunc().contains(&b.trunc()) || b.trunc().contains(&a.trunc())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_objects_does_not_matter(
        (cluster, shuffled) in wild().prop_flat_map(|cluster| {
            let Cluster { config, nodes, peers } = cluster.clone();
            let shuffled = (Just(config), Just(nodes).prop_shuffle(), Just(peers).prop_shuffle());
            (Just(cluster), shuffled.prop_map(|(config, nodes, peers)| Cluster { config, nodes, peers }))
        })
    ) {
        prop_assert_eq!(topology(&cluster), topology(&shuffled));
    }

    #[test]
    fn no_allowed_ip_belongs_to_two(cluster in wild()) {
        let topology = topology(&cluster);
        let mut owners = BTreeMap::new();
        for (ip, owner) in allowed_ips(&topology) {
            let before = owners.insert(ip, owner.clone());
            prop_assert_eq!(before, None, "{} of {}", ip, owner);
        }
    }

    #[test]
    fn no_key_occurs_twice(cluster in wild()) {
        let topology = topology(&cluster);
        let nodes = topology.nodes().filter_map(|node| node.key);
        let keys: Vec<_> = nodes.chain(topology.peers.iter().map(|peer| peer.key)).collect();
        prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{:?}", keys);
    }

    #[test]
    fn no_two_nodes_share_pod_addresses(cluster in wild()) {
        let topology = topology(&cluster);
        let subnets = topology.nodes().flat_map(|node| node.pod_subnets.iter().map(move |net| (&node.name, net)));
        let subnets: Vec<_> = subnets.collect();
        for (index, (node, net)) in subnets.iter().enumerate() {
            for (other, taken) in &subnets[..index] {
                prop_assert!(!overlap(net, taken), "{} of {} and {} of {}", net, node, taken, other);
            }
        }
    }

    /// Whoever is older, and whatever a Peer asks for.
    #[test]
    fn pods_are_not_routed_away_from_their_node(cluster in wild()) {
        let topology = topology(&cluster);
        let all = allowed_ips(&topology);
        for segment in &topology.segments {
            let pods = segment.nodes.iter().flat_map(|node| &node.pod_subnets);
            for (subnet, (ip, owner)) in pods.flat_map(|subnet| all.iter().map(move |entry| (subnet, entry))) {
                let elsewhere = *owner != segment.name.to_string() && subnet.trunc().contains(ip);
                prop_assert!(!elsewhere, "{} in {} of {} leads to {}", ip, subnet, segment.name, owner);
            }
        }
    }

    #[test]
    fn nobody_gets_what_the_cluster_has(cluster in wild()) {
        let topology = topology(&cluster);
        let leads = |ip: &IpNet| topology.segments.iter().any(|segment| segment.wireguard_ips.contains(&ip.addr()));
        for (ip, owner) in allowed_ips(&topology) {
            let services = cluster.config.services.iter().find(|net| net.trunc().contains(&ip));
            prop_assert!(services.is_none() || leads(&ip), "{} in {:?} leads to {}", ip, services, owner);
            let subnet = cluster.config.subnets.iter().find(|net| net.contains(&ip));
            let of_peer = owner.starts_with("peer ");
            prop_assert!(subnet.is_none() || of_peer || leads(&ip), "{} in {:?} leads to {}", ip, subnet, owner);
        }
    }

    /// Whoever is sent packets for an address goes on to be sent them when a younger node joins, whatever it says of itself.
    /// Its pods are its own: the cluster gave them to it. In a wide range a node may well be, and in a network behind a Peer.
    /// Keys are another matter: nodes go before Peers.
    #[test]
    fn a_younger_node_takes_nothing(cluster in wild(), thief in wild_node(99)) {
        let mut cluster = cluster;
        cluster.config.subnets = "10.4.0.0/16,fd00:4::/112".parse().unwrap();
        for node in &mut cluster.nodes {
            // Every age is known.
            Arc::make_mut(node).created += 1;
        }
        cluster.peers.iter_mut().for_each(|peer| peer.created += 1);
        let before = topology(&cluster);
        // The nodes of a location are in its ranges.
        let key = Some(clusters::key(200));
        let thief = Arc::new(Node { created: 100, location: "z".to_owned(), key, ..(*thief).clone() });
        let mut ranges = cluster.nodes.iter().flat_map(|node| &node.allowed_location_ips);
        // Of several ranges that overlap each other, others stay then.
        if ranges.any(|range| thief.pod_subnets.iter().any(|own| overlap(own, range))) {
            return Ok(());
        }
        cluster.nodes.push(thief.clone());
        let after = topology(&cluster);
        for node in before.nodes() {
            let still = after.node(&node.name);
            prop_assert!(still.is_some_and(|still| still.pod_subnets == node.pod_subnets), "{}", node.name);
        }
        let tunnel = |net: &IpNet| cluster.config.subnets.iter().any(|subnet| overlap(subnet, net));
        for (net, owner) in allowed_ips(&before).into_iter().filter(|(net, _)| !tunnel(net)) {
            for address in sample_addresses().filter(|address| net.contains(address)) {
                let (had, by) = narrowest(&before, address).unwrap();
                let of_thief = thief.pod_subnets.iter().any(|own| own.contains(&address));
                let behind_peer = owner.starts_with("peer ") && !prefix::is_host(&had);
                if by != owner || prefix::is_wide(&had) || of_thief || behind_peer {
                    continue;
                }
                let found = narrowest(&after, address).map(|(_, owner)| owner);
                prop_assert_eq!(found, Some(owner.clone()), "{} in {}", address, had);
            }
        }
    }

    /// A node that lacks nothing is in one segment, or a problem says why it is in none.
    #[test]
    fn every_node_is_in_one_segment_or_excused(cluster in wild()) {
        let topology = topology(&cluster);
        let exhausted = topology.problems.iter().any(|problem| problem.object == Object::Mesh);
        for node in &cluster.nodes {
            let segments = topology.segments.iter().filter(|segment| segment.contains(&node.name)).count();
            let problem = topology.problems.iter().any(|problem| problem.object == Object::Node(node.name.clone()));
            match (node.lacks().is_empty(), segments) {
                (true, 1) | (false, 0) => {}
                (true, 0) => prop_assert!(problem || exhausted, "{} is in no segment", node.name),
                (ready, count) => prop_assert!(false, "{} (ready: {}) is in {} segments", node.name, ready, count),
            }
        }
    }

    #[test]
    fn every_segment_has_addresses_and_a_leader_of_its_own(cluster in wild()) {
        let topology = topology(&cluster);
        let addresses: Vec<_> = topology.segments.iter().flat_map(|segment| &segment.wireguard_ips).collect();
        prop_assert_eq!(addresses.len(), topology.segments.len() * cluster.config.subnets.iter().count());
        prop_assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len());
        for address in addresses {
            prop_assert!(cluster.config.subnets.iter().any(|subnet| subnet.contains(address)));
        }
        for segment in &topology.segments {
            prop_assert_eq!(Some(segment.key), segment.leader().key);
            if cluster.config.granularity == Granularity::Full {
                prop_assert_eq!(segment.nodes.len(), 1);
            }
        }
        let leaders = topology.nodes().filter(|node| {
            Perspective::of(&topology, &node.name).is_some_and(|perspective| perspective.role == Role::Leader)
        });
        prop_assert_eq!(leaders.count(), topology.segments.len());
    }

    /// Everything that is shown can be shown, and everyone has every other segment and every peer as a peer.
    #[test]
    fn whatever_is_shown_is_complete(cluster in wild()) {
        let topology = topology(&cluster);
        // In every line, quotes open and close: no name breaks out of its string. (A peer's label spans two lines.)
        let dot = topology.to_dot().replace("\\\\", "").replace("\\\"", "").replace("\n\", shape", "\", shape");
        prop_assert!(dot.lines().all(|line| line.matches('"').count() % 2 == 0), "{}", dot);
        for node in topology.nodes() {
            let perspective = Perspective::of(&topology, &node.name).unwrap();
            let peers = perspective.conf_peers(&Default::default());
            prop_assert_eq!(peers.len(), topology.segments.len() - 1 + topology.peers.len());
            let text = Conf { listen_port: Some(1), peers }.to_string();
            prop_assert_eq!(text.matches("[Peer]").count(), topology.segments.len() - 1 + topology.peers.len());
            for peer in &topology.peers {
                prop_assert!(perspective.peer_conf(&peer.name, &Default::default()).is_some());
            }
        }
    }

    #[test]
    fn a_sound_cluster_has_no_problems(cluster in sound()) {
        let topology = topology(&cluster);
        prop_assert_eq!(&topology.problems, &[]);
        prop_assert_eq!(topology.nodes().count(), cluster.nodes.len());
    }

    #[test]
    fn malformed_text_is_refused_without_a_panic(text in "[a-z0-9:.\\[\\]/%=+A-Z é\u{0}-]{0,80}", any in any::<String>()) {
        for text in [&text, &any] {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
            }
            let _ = (text.parse::<Host>(), text.parse::<Subnets>(), text.parse::<Granularity>());
            let _ = (text.parse::<PublicKey>(), text.parse::<PrivateKey>(), text.parse::<PresharedKey>());
            let _ = Node::named(text.clone()).lacks();
        }
    }

    #[test]
    fn keys_read_back_as_they_were_written(bytes in any::<[u8; 32]>()) {
        let private = PrivateKey::from_random(bytes);
        prop_assert_eq!(private.expose_base64().parse::<PrivateKey>().unwrap(), private.clone());
        prop_assert_eq!(private.public_key().to_string().parse::<PublicKey>().unwrap(), private.public_key());
    }
}
