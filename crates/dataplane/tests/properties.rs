//! Whatever states follow each other: after a plan was applied, nothing is left to do.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hostnet::{
    Address, CLIENT_TABLE, EncapsulationFilter, Firewall, HostState, KILO_TABLE, Link, LinkKind, MESH_TABLE,
    NextHop, Outer, Route, Rule, VXLAN_LINK, Wireguard, WireguardPeer, state::Forwarding,
};
use ipnet::IpNet;
use mesh::{PresharedKey, PrivateKey, prefix::Family};
use proptest::{
    collection::{btree_set, vec},
    prelude::*,
    sample::{select, subsequence},
};
use support::*;

fn parse(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Prefixes of both families that overlap, touch and reach the ends.
fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
        IpNet::new(IpAddr::V4((bits & 0xff03_0003).into()), length).unwrap().trunc()
    });
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| {
        IpNet::new(IpAddr::V6((bits & (0xff03 << 112 | 3)).into()), length).unwrap().trunc()
    });
    prop_oneof![v4, v6]
}

fn firewall() -> impl Strategy<Value = Firewall> {
    let nets = || btree_set(prefix(), 0..8);
    let hosts = prop::option::of((any::<bool>(), btree_set(any::<u8>(), 0..4)));
    (nets(), nets(), nets(), hosts, btree_set(prefix(), 0..3)).prop_map(
        |(masquerade_from, masquerade_to, never_masquerade, hosts, forward)| Firewall {
            masquerade_from,
            masquerade_to,
            never_masquerade,
            encapsulation: hosts.map(|(vxlan, hosts)| EncapsulationFilter {
                outer: if vxlan { Outer::Vxlan } else { Outer::Ip },
                from: hosts.into_iter().map(|last| [10, 1, 0, last].into()).collect(),
            }),
            forward,
        },
    )
}

/// Routes: each destination at most once per table. `tunnel`: through the WireGuard interface, too.
fn routes(tunnel: bool) -> impl Strategy<Value = BTreeSet<Route>> {
    let destinations = parse(&[
        "10.2.0.0/16",
        "10.2.1.0/24",
        "10.2.1.7/32",
        "10.9.0.0/17",
        "0.0.0.0/1",
        "fd02::/48",
        "fd02:0:0:1::/64",
        "fd02::7/128",
        "2001:db8::/32",
    ]);
    let keys = btree_set((select(destinations), select(vec![MESH_TABLE, KILO_TABLE, CLIENT_TABLE])), 0..10);
    (keys, vec((0..6usize, any::<bool>()), 10)).prop_map(move |(keys, choices)| {
        keys.into_iter()
            .zip(choices)
            .map(|((destination, table), (way, with_source))| {
                let v4 = Family::of_prefix(&destination) == Family::V4;
                let (via, link) = match way {
                    0 => (Some(if v4 { "10.1.0.2" } else { "fd01::2" }), "eth0"),
                    1 => (Some(if v4 { "10.1.0.3" } else { "fd01::3" }), "eth0"),
                    2 if tunnel => (Some(if v4 { "10.4.0.2" } else { "fd04::2" }), KILO),
                    3 if tunnel => (None, KILO),
                    4 | 5 if tunnel => (None, VXLAN_LINK),
                    _ => (Some(if v4 { "172.16.0.1" } else { "fd77::1" }), "eth1"),
                };
                let source = with_source.then(|| if v4 { "10.1.0.1" } else { "fd01::1" }.parse().unwrap());
                let via = via.map(|via| via.parse().unwrap());
                let outer = if way == 4 { "10.1.0.3" } else { "fd01::3" }.parse().unwrap();
                let next_hop = match via {
                    _ if link == VXLAN_LINK => NextHop::Outer(outer),
                    Some(via) => NextHop::Gateway(via),
                    None => NextHop::Destination,
                };
                Route { table, destination, next_hop, link: name(link), source }
            })
            .collect()
    })
}

fn rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    let selectors = [
        (Some("10.2.1.0/24"), None, None),
        (Some("10.2.1.0/24"), Some("10.1.0.2/32"), None),
        (None, Some("10.1.0.2/32"), Some(KILO)),
        (None, None, Some(KILO)),
        (Some("fd02::/64"), None, None),
        (None, Some("fd01::2/128"), Some("eth0")),
    ];
    let rules: Vec<Rule> = selectors
        .into_iter()
        .flat_map(|(from, to, iif)| {
            let net = |text: Option<&str>| text.map(|text| text.parse::<IpNet>().unwrap());
            let (from, to) = (net(from), net(to));
            let family = from.or(to).map_or(Family::V4, |net| Family::of_prefix(&net));
            [1107, 2000].map(|priority| Rule {
                priority,
                from,
                to,
                iif: iif.map(name),
                unless: None,
                table: KILO_TABLE,
                family,
            })
        })
        .collect();
    let count = rules.len();
    subsequence(rules, 0..=count).prop_map(|rules| rules.into_iter().collect())
}

/// Peers; every allowed IP belongs to at most one.
fn wireguard() -> impl Strategy<Value = Wireguard> {
    let nets =
        parse(&["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24", "10.4.0.2/32", "fd02::/64", "fd02:1::/64"]);
    let owners = vec(0..5usize, nets.len());
    let settings = vec((any::<bool>(), any::<bool>(), 0..3u16), 4);
    (owners, settings, 1..3u8, select(vec![51820u16, 51821]), select(vec![0, 0x10u32])).prop_map(
        move |(owners, settings, own, listen_port, mark)| {
            let mut peers = BTreeMap::new();
            for (index, (shared, located, keepalive)) in settings.into_iter().enumerate() {
                let allowed_ips: BTreeSet<IpNet> = nets
                    .iter()
                    .zip(&owners)
                    .filter(|(_, owner)| **owner == index)
                    .map(|(net, _)| *net)
                    .collect();
                if allowed_ips.is_empty() {
                    continue;
                }
                let peer = WireguardPeer {
                    preshared_key: shared.then(|| PresharedKey::from_bytes([7; 32])).flatten(),
                    endpoint: located.then(|| format!("192.0.2.{index}:51820").parse().unwrap()),
                    persistent_keepalive: keepalive,
                    allowed_ips,
                };
                peers.insert(PrivateKey::from_random([index as u8 + 100; 32]).public_key(), peer);
            }
            Wireguard { private_key: Some(PrivateKey::from_random([own * 8; 32])), listen_port, mark, peers }
        },
    )
}

fn addresses() -> impl Strategy<Value = BTreeSet<Address>> {
    let nets =
        parse(&["10.4.0.1/16", "10.4.0.2/16", "10.4.0.3/16", "10.5.0.1/24", "fd04::1/64", "fd04::2/64"]);
    subsequence(nets, 0..=4)
        .prop_map(|nets| nets.into_iter().map(|net| Address { link: name(KILO), net }).collect())
}

/// A leader's host, a member's (the interface is down), or one without the interface.
fn state() -> impl Strategy<Value = HostState> {
    let leader = (wireguard(), addresses(), routes(true), select(vec![1420, 1380])).prop_map(
        |(wireguard, addresses, mut routes, mtu)| {
            // A host is not its own next hop. In the state before it may have had that address.
            let own = |via: Option<IpAddr>| addresses.iter().any(|address| Some(address.net.addr()) == via);
            routes.retain(|route| !own(route.next_hop.gateway()));
            let link = Link { kind: LinkKind::Wireguard, mtu: Some(mtu), up: true, managed: true };
            let vxlan = Link { kind: LinkKind::Vxlan, mtu: Some(mtu), up: true, managed: true };
            let vxlan = routes
                .iter()
                .any(|route| route.next_hop.outer().is_some())
                .then(|| (name(VXLAN_LINK), vxlan));
            let links = [(name(KILO), link)].into_iter().chain(vxlan).collect();
            HostState { links, addresses, routes, wireguard: Some(wireguard), ..HostState::default() }
        },
    );
    let member = (wireguard(), routes(false)).prop_map(|(mut wireguard, routes)| {
        wireguard.peers.clear();
        let link = Link { kind: LinkKind::Wireguard, mtu: None, up: false, managed: true };
        HostState {
            links: [(name(KILO), link)].into(),
            routes,
            wireguard: Some(wireguard),
            ..HostState::default()
        }
    });
    let other = routes(false).prop_map(|routes| HostState { routes, ..HostState::default() });
    let base = prop_oneof![4 => leader, 2 => member, 1 => other];
    let rest = (rules(), prop::option::weighted(0.8, firewall()), any::<(bool, bool)>());
    (base, rest).prop_map(|(mut state, (rules, firewall, (v4, v6)))| {
        state.rules = rules;
        state.firewall = firewall;
        state.forwarding = Forwarding { v4, v6 };
        state
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_state_is_reached_from_every_other(states in vec(state(), 2..8), iptables in any::<bool>()) {
        in_namespace(async || {
            underlay();
            run("ip link add eth1 type veth peer name eth1-peer; ip link set eth1 up; ip link set eth1-peer up");
            if iptables {
                run("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP");
            }
            let mut plane = open().await;
            for state in &states {
                reach(&mut plane, state).await;
            }
        });
    }
}
