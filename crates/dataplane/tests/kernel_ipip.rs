//! Encapsulation by the kernel: IPv4 and IPv6 in IPv4. Built with the feature `stock-kernel` only, for a machine whose
//! kernel has the modules `ipip` and `sit`.
#![allow(clippy::unwrap_used)]

mod support;

use hostnet::{
    EncapsulationFilter, Firewall, HostState, KILO_TABLE, Link, LinkKind, Outer, Route, Rule,
    state::Forwarding,
};
use mesh::prefix::Family;
use support::*;

fn tunnel(kind: LinkKind) -> Link {
    Link { kind, mtu: Some(1480), up: true, managed: false }
}

/// A host that reaches `pods` behind 10.1.0.`far` through the tunnels.
fn encapsulating(far: u8) -> HostState {
    let outer = format!("10.1.0.{far}");
    let rule = Rule {
        priority: 1107,
        from: Some(format!("10.2.{}.0/24", 3 - far).parse().unwrap()),
        to: None,
        iif: None,
        unless: None,
        table: KILO_TABLE,
        family: Family::V4,
    };
    let filter = EncapsulationFilter { outer: Outer::Ip, from: [outer.parse().unwrap()].into() };
    HostState {
        links: [(name("tunl0"), tunnel(LinkKind::Ipip)), (name("sit0"), tunnel(LinkKind::Sit))].into(),
        routes: [
            route(&format!("10.2.{far}.0/24"), Some(&outer), "tunl0"),
            route(&format!("fd02:{far}::/64"), Some(&format!("::{outer}")), "sit0"),
            Route { table: KILO_TABLE, ..route(&format!("{outer}/32"), Some(&outer), "tunl0") },
        ]
        .into(),
        rules: mesh_rules().chain([rule]).collect(),
        firewall: Some(Firewall { encapsulation: Some(filter), ..Firewall::default() }),
        forwarding: Forwarding { v4: true, v6: true },
        ..HostState::default()
    }
}

#[test]
fn the_tunnels_come_with_their_routes_and_stay_when_we_go() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        reach(&mut plane, &encapsulating(2)).await;
        let observed = plane.observe().await.unwrap();
        assert_eq!(observed.host.links, encapsulating(2).links);
        assert_eq!(observed.host.routes, encapsulating(2).routes);
        assert!(!observed.facts.interfaces.contains_key(&name("tunl0")));
        reach(&mut plane, &HostState { forwarding: encapsulating(2).forwarding, ..HostState::default() })
            .await;
        run("ip link show tunl0");
    });
}

/// Addresses that others (or the kernel) put on these devices are not ours.
#[test]
fn addresses_of_others_on_a_tunnel_stay() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        reach(&mut plane, &encapsulating(2)).await;
        run("ip addr add 10.99.0.1/32 dev tunl0");
        reach(&mut plane, &encapsulating(2)).await;
        assert!(run("ip addr show dev tunl0").contains("10.99.0.1"));
    });
}

#[test]
fn packets_go_through_the_tunnels() {
    in_namespace(async || {
        let other = Namespace::new();
        run(&format!("ip link add eth0 type veth peer name eth0 netns {}", other.0));
        run("ip addr add 10.1.0.1/24 dev eth0; ip link set eth0 up");
        run("ip addr add 10.2.1.1/32 dev lo; ip addr add fd02:1::1/128 dev lo");
        other.run("ip addr add 10.1.0.2/24 dev eth0");
        other.run("ip link set eth0 up");
        other.run("ip addr add 10.2.2.1/32 dev lo");
        other.run("ip addr add fd02:2::1/128 dev lo");
        let mut there = other.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(open())
        });
        let mut here = open().await;
        reach(&mut here, &encapsulating(2)).await;
        reach(&mut there, &encapsulating(1)).await;
        run("ping -c 2 -W 5 -i 0.2 -I 10.2.1.1 10.2.2.1");
        run("ping -c 2 -W 5 -i 0.2 -I fd02:1::1 fd02:2::1");
        let received = run("ip -s -j link show tunl0; ip -s -j link show sit0");
        assert!(!received.contains("\"packets\":0"), "{received}");
    });
}
