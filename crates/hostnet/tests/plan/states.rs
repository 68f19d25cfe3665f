//! Random states of a host: any that a kernel could be in, and any that could be desired.

use std::collections::{BTreeMap, BTreeSet};

use hostnet::{
    Address, EncapsulationFilter, Firewall, HostState, KILO_TABLE, Leftover, Link, LinkKind, LinkName,
    MESH_TABLE, NextHop, Outer, Route, Rule, Wireguard, WireguardPeer, state::Forwarding,
};
use ipnet::IpNet;
use mesh::{PresharedKey, PrivateKey, prefix::Family};
use proptest::{prelude::*, sample};

use crate::clusters::key;

const NETS: &[&str] =
    &["10.2.1.0/24", "10.2.2.0/24", "10.1.0.2/32", "10.2.0.0/16", "fd00:2::/64", "10.5.0.1/32"];

fn net(index: usize) -> IpNet {
    NETS[index].parse().unwrap()
}

fn nets() -> impl Strategy<Value = BTreeSet<IpNet>> {
    sample::subsequence((0..NETS.len()).collect::<Vec<_>>(), 0..=NETS.len())
        .prop_map(|picked| picked.into_iter().map(net).collect())
}

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

prop_compose! {
    /// The WireGuard interface and the kernel's tunnel device.
    fn links()(
        wireguard in prop::option::weighted(0.8, (sample::select(vec![Some(1420), Some(1300), None]), any::<bool>())),
        tunnel in prop::option::of(any::<bool>()),
    ) -> BTreeMap<LinkName, Link> {
        let wireguard = wireguard.map(|(mtu, up)| {
            (name("kilo0"), Link { kind: LinkKind::Wireguard, mtu, up, managed: true })
        });
        let tunnel =
            tunnel.map(|up| (name("tunl0"), Link { kind: LinkKind::Ipip, mtu: Some(1480), up, managed: false }));
        wireguard.into_iter().chain(tunnel).collect()
    }
}

/// At most one route to every prefix of every table, through links that are up.
fn routes(links: &BTreeMap<LinkName, Link>) -> impl Strategy<Value = BTreeSet<Route>> + use<> {
    let up = links.iter().filter(|(_, link)| link.up).map(|(name, _)| name.clone());
    let usable: Vec<_> = up.chain([name("eth0")]).collect();
    let route = (sample::select(usable), prop::option::of(1u8..4), any::<bool>());
    let key = (sample::select(vec![MESH_TABLE, KILO_TABLE]), 0..NETS.len());
    prop::collection::btree_map(key, route, 0..8).prop_map(|routes| {
        let mut set = BTreeSet::new();
        for ((table, index), (link, via, source)) in routes {
            let destination = net(index);
            let v4 = destination.addr().is_ipv4();
            let via = via.filter(|_| v4).map(|last| std::net::IpAddr::from([10, 1, 0, last]));
            let next_hop = via.map_or(NextHop::Destination, NextHop::Gateway);
            let source = (source && v4).then(|| std::net::IpAddr::from([10, 1, 0, 9]));
            set.insert(Route { table, destination, next_hop, link, source });
        }
        set
    })
}

/// Links that are up have any addresses, others none: a kernel may keep them, but takes the IPv6 ones.
fn addresses(links: &BTreeMap<LinkName, Link>) -> impl Strategy<Value = BTreeSet<Address>> + use<> {
    let up = links.iter().filter(|(_, link)| link.up).map(|(name, _)| name.clone());
    let texts = ["10.4.0.1/16", "10.4.0.2/16", "fd00:4::1/112"];
    let all: Vec<_> = up
        .flat_map(|link| texts.map(|text| Address { link: link.clone(), net: text.parse().unwrap() }))
        .collect();
    let count = all.len();
    sample::subsequence(all, 0..=count).prop_map(|picked| picked.into_iter().collect())
}

fn rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    let rule = |(index, iif): (usize, bool)| Rule {
        priority: 1107,
        from: Some(net(index)),
        to: None,
        iif: iif.then(|| name("kilo0")),
        unless: None,
        table: KILO_TABLE,
        family: Family::of_prefix(&net(index)),
    };
    prop::collection::btree_set((0..NETS.len(), any::<bool>()), 0..4)
        .prop_map(move |rules| rules.into_iter().map(rule).collect())
}

prop_compose! {
    fn firewall()(
        masquerade_from in nets(), masquerade_to in nets(), never_masquerade in nets(), forward in nets(),
        encapsulated in prop::option::of(1u8..4),
    ) -> Firewall {
        let encapsulation = encapsulated.map(|last| EncapsulationFilter {
            outer: if last == 1 { Outer::Ip } else { Outer::Vxlan },
            from: [[10, 1, 0, last].into()].into(),
        });
        Firewall { masquerade_from, masquerade_to, never_masquerade, encapsulation, forward }
    }
}

prop_compose! {
    /// Up to four peers; every allowed IP belongs to one of them or none.
    fn wireguard()(
        private in 1u8..3,
        listen_port in 1u16..3,
        mark in 0u32..2,
        peers in prop::collection::btree_map(
            1u8..5,
            (prop::option::of(1u8..3), prop::option::of(1u16..3), 0u16..3),
            0..4,
        ),
        owners in prop::collection::vec(0usize..6, NETS.len()),
    ) -> Wireguard {
        let mut peers: BTreeMap<_, _> = peers
            .into_iter()
            .map(|(seed, (preshared, port, persistent_keepalive))| {
                let peer = WireguardPeer {
                    preshared_key: preshared.and_then(|seed| PresharedKey::from_bytes([seed; 32])),
                    endpoint: port.map(|port| ([192, 0, 2, 1], port).into()),
                    persistent_keepalive,
                    allowed_ips: BTreeSet::new(),
                };
                (key(seed), peer)
            })
            .collect();
        for (index, owner) in owners.into_iter().enumerate() {
            if let Some(peer) = peers.values_mut().nth(owner) {
                peer.allowed_ips.insert(net(index));
            }
        }
        Wireguard { private_key: Some(PrivateKey::from_random([private; 32])), listen_port, mark, peers }
    }
}

fn leftovers() -> impl Strategy<Value = BTreeSet<Leftover>> {
    let chain = Leftover::Iptables { family: "ip", table: "nat" };
    sample::subsequence(vec![Leftover::Firewall, chain], 0..=2)
        .prop_map(|picked| picked.into_iter().collect())
}

/// Any state that a host can be in.
pub fn observed() -> impl Strategy<Value = HostState> {
    let state = links().prop_flat_map(|links| {
        let (routes, addresses) = (routes(&links), addresses(&links));
        let wireguard = prop::option::of(wireguard());
        (Just(links), routes, addresses, rules(), prop::option::of(firewall()), wireguard)
    });
    (state, leftovers(), any::<[bool; 2]>()).prop_map(
        |((links, routes, addresses, rules, firewall, wireguard), mut leftovers, [v4, v6])| {
            if firewall.is_some() {
                leftovers.remove(&Leftover::Firewall);
            }
            let wireguard = wireguard.filter(|_| links.contains_key(&name("kilo0")));
            let forwarding = Forwarding { v4, v6 };
            HostState { links, addresses, routes, rules, firewall, wireguard, leftovers, forwarding }
        },
    )
}

/// Any state that can be desired.
pub fn desired() -> impl Strategy<Value = HostState> {
    observed().prop_map(|state| HostState { leftovers: BTreeSet::new(), ..state })
}
