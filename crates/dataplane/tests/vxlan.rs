//! Encapsulation in UDP: VXLAN without Ethernet headers, the remote of each packet named by its route.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, net::IpAddr};

use hostnet::{
    EncapsulationFilter, Firewall, HostState, KILO_TABLE, Link, LinkKind, LinkName, NextHop, Outer, Route,
    VXLAN_LINK, VXLAN_PORT, state::Forwarding,
};
use support::*;

/// A host that reaches the pods of the host with this number, over this address of it.
fn encapsulating(far: u8, outer: &str) -> HostState {
    let outer: IpAddr = outer.parse().unwrap();
    let through =
        |destination: &str| Route { next_hop: NextHop::Outer(outer), ..route(destination, None, VXLAN_LINK) };
    let filter = EncapsulationFilter { outer: Outer::Vxlan, from: [outer].into() };
    let link = Link { kind: LinkKind::Vxlan, mtu: Some(1444), up: true, managed: true };
    HostState {
        links: [(name(VXLAN_LINK), link)].into(),
        routes: [
            through(&format!("10.2.{far}.0/24")),
            through(&format!("fd02:{far}::/64")),
            Route { table: KILO_TABLE, ..through(&format!("10.1.0.{far}/32")) },
        ]
        .into(),
        rules: mesh_rules().collect(),
        firewall: Some(Firewall { encapsulation: Some(filter), ..Firewall::default() }),
        forwarding: Forwarding { v4: true, v6: true },
        ..HostState::default()
    }
}

/// A kernel with IPIP has tunl0 and sit0 in every namespace, and they are nobody's.
fn ours(observed: &HostState) -> BTreeMap<LinkName, Link> {
    let mut links = observed.links.clone();
    links.retain(|_, link| link.managed);
    links
}

#[test]
fn the_interface_comes_and_goes_with_its_routes() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        assert!(plane.supports(LinkKind::Vxlan).await.unwrap());
        let desired = encapsulating(2, "10.1.0.2");
        reach(&mut plane, &desired).await;
        let observed = plane.observe().await.unwrap();
        assert_eq!((&ours(&observed.host), &observed.host.routes), (&desired.links, &desired.routes));
        assert!(!observed.facts.interfaces.contains_key(&name(VXLAN_LINK)));
        // A node that has got another address.
        reach(&mut plane, &encapsulating(2, "10.1.0.7")).await;
        assert!(run("ip route show table 1108 10.2.2.0/24").contains("dst 10.1.0.7"), "{}", run("ip route"));
        reach(&mut plane, &HostState { forwarding: desired.forwarding, ..HostState::default() }).await;
        assert!(!run("ip link").contains(VXLAN_LINK));
    });
}

#[test]
fn packets_of_both_families_go_in_packets_of_either() {
    for (here, there) in [("10.1.0.1", "10.1.0.2"), ("fd01::1", "fd01::2")] {
        in_namespace(async || {
            let other = Namespace::new();
            run(&format!("ip link add eth0 type veth peer name eth0 netns {}", other.0));
            run(
                "ip addr add 10.1.0.1/24 dev eth0; ip addr add fd01::1/64 dev eth0 nodad; ip link set eth0 up",
            );
            run("ip addr add 10.2.1.1/32 dev lo; ip addr add fd02:1::1/128 dev lo; ip link set lo up");
            for command in [
                "ip addr add 10.1.0.2/24 dev eth0",
                "ip addr add fd01::2/64 dev eth0 nodad",
                "ip link set eth0 up",
                "ip link set lo up",
                "ip addr add 10.2.2.1/32 dev lo",
                "ip addr add fd02:2::1/128 dev lo",
            ] {
                other.run(command);
            }
            let mut far = other.inside(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(open())
            });
            let mut near = open().await;
            reach(&mut near, &encapsulating(2, there)).await;
            reach(&mut far, &encapsulating(1, here)).await;
            run("ping -c 2 -W 5 -i 0.2 -I 10.2.1.1 10.2.2.1");
            run("ping -c 2 -W 5 -i 0.2 -I fd02:1::1 fd02:2::1");
            // As large as fits, and in the outer packet that was asked for.
            run("ping -c 1 -W 5 -M do -s 1416 -I 10.2.1.1 10.2.2.1");
            let counted = run("nft list chain inet kilo input");
            let version = if here.contains(':') { "IPv6" } else { "IPv4" };
            let line = counted.lines().find(|line| line.contains(&format!("over {version}"))).unwrap();
            assert!(line.contains(&VXLAN_PORT.to_string()) && !line.contains("packets 0 "), "{counted}");
            // From a stranger nothing is taken.
            let mut stranger = encapsulating(2, there);
            stranger.firewall = Some(Firewall {
                encapsulation: Some(EncapsulationFilter {
                    outer: Outer::Vxlan,
                    from: ["10.1.0.9".parse().unwrap()].into(),
                }),
                ..Firewall::default()
            });
            reach(&mut near, &stranger).await;
            assert!(!attempt("ping -c 1 -W 1 -I 10.2.1.1 10.2.2.1").status.success());
            let counted = run("nft list chain inet kilo input");
            assert!(
                counted.lines().any(|line| line.contains("drop UDP") && !line.contains("packets 0 ")),
                "{counted}"
            );
        });
    }
}

/// A VXLAN of somebody else that has our name, or our port.
#[test]
fn an_interface_of_somebody_else_is_named() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        let mut failed = async |wanted: &str| {
            let observed = plane.observe().await.unwrap().host;
            assert_eq!(ours(&observed), BTreeMap::new());
            let plan = hostnet::plan(&observed, &encapsulating(2, "10.1.0.2"));
            let failures = plane.apply(&plan).await;
            let text = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(text.contains(wanted), "{text}");
        };
        run(&format!("ip link add {VXLAN_LINK} type vxlan id 7 dev eth0 dstport 4789"));
        failed("the interface kilo-vxlan exists and is of kind \"vxlan\", not VXLAN-GPE on Kilo's port")
            .await;
        run(&format!("ip link del {VXLAN_LINK}"));
        run(&format!("ip link add other type vxlan external gpe dstport {VXLAN_PORT}; ip link set other up"));
        failed(&format!("UDP port {VXLAN_PORT}")).await;
    });
}
