//! Links, addresses, routes and rules on the real kernel.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use hostnet::{
    Address, Change, HostRoute, HostState, KILO_TABLE, LinkKind, MESH_TABLE, ROUTE_PROTOCOL, Route, Rule,
    plan,
};
use mesh::prefix::Family;
use support::*;

fn rule(from: Option<&str>, iif: Option<&str>, family: Family) -> Rule {
    Rule {
        priority: 1107,
        from: from.map(|net| net.parse().unwrap()),
        to: None,
        iif: iif.map(name),
        unless: None,
        table: KILO_TABLE,
        family,
    }
}

#[test]
fn a_state_with_everything_is_reached_and_left_again() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        let address = |net: &str| Address { link: name(KILO), net: net.parse().unwrap() };
        let mut desired = with_interface();
        desired.addresses = [address("10.4.0.1/16"), address("fd04::1/64")].into();
        let source = Some("10.1.0.1".parse().unwrap());
        desired.routes = [
            Route { source, ..route("10.2.3.0/24", Some("10.4.0.2"), KILO) },
            Route { source, ..route("10.5.0.1/32", None, KILO) },
            Route { source: Some("fd01::1".parse().unwrap()), ..route("fd02:3::/64", Some("fd04::2"), KILO) },
            route("fd05::1/128", None, KILO),
            route("10.2.2.0/24", Some("172.16.0.7"), "eth0"),
            route("fd02:2::/64", Some("fd77::7"), "eth0"),
            Route { table: KILO_TABLE, ..route("10.1.0.2/32", Some("10.1.0.2"), "eth0") },
            Route { table: KILO_TABLE, ..route("fd01::2/128", Some("fd01::2"), "eth0") },
        ]
        .into();
        desired.rules = [
            rule(Some("10.2.1.0/24"), None, Family::V4),
            rule(Some("fd02:1::/64"), None, Family::V6),
            rule(None, Some(KILO), Family::V4),
            rule(None, Some(KILO), Family::V6),
            Rule { to: Some("10.9.0.0/16".parse().unwrap()), ..rule(None, None, Family::V4) },
        ]
        .into();
        desired.forwarding.v4 = true;
        desired.forwarding.v6 = true;
        reach(&mut plane, &desired).await;

        let observed = plane.observe().await.unwrap();
        // Where the kernel has IPIP, each namespace has devices of its own.
        assert_eq!(observed.host.links[&name(KILO)], desired.links[&name(KILO)]);
        assert_eq!(observed.host.addresses, desired.addresses);
        assert_eq!(observed.host.routes, desired.routes);
        assert_eq!(observed.host.rules, desired.rules);
        let text = run("ip route show table 1108 proto 107");
        assert!(text.contains("10.2.2.0/24 via 172.16.0.7 dev eth0 onlink"), "{text}");
        assert!(text.contains("10.5.0.1 dev kilo0 scope link src 10.1.0.1"), "{text}");
        let text = run("ip addr show dev kilo0");
        assert!(text.contains("mtu 1420") && text.contains("inet 10.4.0.1/16 scope global kilo0"), "{text}");
        // The kernel's own link-local address may be.
        assert!(!text.contains("scope global tentative"), "{text}");
        assert_eq!(run("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"), "1\n1\n");

        reach(&mut plane, &HostState { forwarding: desired.forwarding, ..HostState::default() }).await;
        assert_eq!(run("ip -4 route show table all proto 107; ip -6 route show table all proto 107"), "");
        assert_eq!(run("ip rule show | grep -c 1107 || true"), "0\n");
        assert!(!attempt("ip link show kilo0").status.success());
    });
}

/// Every way in which a route to the same destination can change, in both families.
#[test]
fn a_route_replaces_the_one_to_the_same_destination() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        let mut desired = with_interface();
        let source = |text: &str| Some(text.parse().unwrap());
        let variants = [
            [route("10.7.0.0/24", Some("10.1.0.2"), "eth0"), route("fd07::/64", Some("fd01::2"), "eth0")],
            [route("10.7.0.0/24", Some("10.1.0.3"), "eth0"), route("fd07::/64", Some("fd01::3"), "eth0")],
            [route("10.7.0.0/24", None, KILO), route("fd07::/64", None, KILO)],
            [
                Route { source: source("10.1.0.1"), ..route("10.7.0.0/24", None, KILO) },
                Route { source: source("fd01::1"), ..route("fd07::/64", None, KILO) },
            ],
            [route("10.7.0.0/24", Some("10.4.0.9"), KILO), route("fd07::/64", Some("fd04::9"), KILO)],
        ];
        for from in &variants {
            for to in &variants {
                for wanted in [from, to] {
                    desired.routes = wanted.iter().cloned().collect();
                    reach(&mut plane, &desired).await;
                    for family in ["-4", "-6"] {
                        let routes =
                            json(&format!("ip -j {family} route show table 1108 proto {ROUTE_PROTOCOL}"));
                        assert_eq!(routes.len(), 1, "{from:?} to {to:?}: {routes:?}");
                        assert!(routes[0].get("nexthops").is_none(), "{routes:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_second_route_to_a_destination_is_removed() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        let mut desired = with_interface();
        desired.routes =
            [route("fd07::/64", Some("fd01::2"), "eth0"), route("10.7.0.0/24", Some("10.1.0.2"), "eth0")]
                .into();
        reach(&mut plane, &desired).await;
        run("ip -6 route append fd07::/64 via fd01::3 dev eth0 proto 107 table 1108");
        run("ip route append 10.7.0.0/24 via 10.1.0.3 dev eth0 onlink proto 107 table 1108");
        reach(&mut plane, &desired).await;
        assert_eq!(json("ip -j -6 route show table 1108").len(), 1);
        assert_eq!(json("ip -j -4 route show table 1108").len(), 1);
        assert_eq!(plane.observe().await.unwrap().host.routes, desired.routes);
    });
}

#[test]
fn routes_of_others_are_left_alone() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        run("ip route add 10.99.0.0/16 via 10.1.0.9 dev eth0 proto static");
        run("ip route add 10.98.0.0/16 via 10.1.0.9 dev eth0 proto bird");
        run("ip rule add from 10.98.0.0/16 table 100");
        // What the kernel adds by itself comes when it likes.
        let look = || run("ip route show table all | grep -v 'proto kernel'; ip rule show");
        let before = look();
        assert!(before.contains("10.99.0.0/16") && before.contains("lookup 100"), "{before}");
        reach(&mut plane, &with_interface()).await;
        reach(&mut plane, &HostState::default()).await;
        assert_eq!(look(), before);
    });
}

#[test]
fn ten_thousand_routes() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        reach(&mut plane, &with_interface()).await;
        let mut desired = with_interface();
        let source = Some("10.1.0.1".parse().unwrap());
        let v4 = (0..9_000u32).map(|i| {
            let destination = format!("11.{}.{}.0/24", i / 256, i % 256);
            Route { source, ..route(&destination, Some("10.4.0.2"), KILO) }
        });
        let v6 = (0..1_000).map(|i| route(&format!("fd02:{i:x}::/64"), Some("fd04::2"), KILO));
        desired.routes = v4.chain(v6).collect();
        let observed = plane.observe().await.unwrap().host;

        let start = Instant::now();
        let changes = plan(&observed, &desired);
        let planned = start.elapsed();
        apply(&mut plane, &changes).await;
        let applied = start.elapsed();
        let observed = plane.observe().await.unwrap().host;
        let seen = start.elapsed();
        assert_eq!(plan(&observed, &desired), []);
        println!(
            "10,000 routes: plan {planned:?}, apply {:?}, observe {:?}, plan again {:?}",
            applied - planned,
            seen - applied,
            start.elapsed() - seen
        );
        assert_eq!(observed.routes.len(), 10_000);
        // What it takes is printed. This only tells whether something grows with the square of the routes, also on
        // an emulated machine, which is a hundred times slower.
        assert!(seen.as_secs() < 30, "{seen:?}");
    });
}

#[test]
fn a_failure_stops_nothing_and_says_what_it_was() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        reach(&mut plane, &with_interface()).await;
        let good =
            [route("10.8.0.0/24", Some("10.1.0.2"), "eth0"), route("fd08::/64", Some("fd01::2"), "eth0")];
        let bad = [
            (Route { source: Some("10.66.0.1".parse().unwrap()), ..good[0].clone() }, "src 10.66.0.1"),
            (
                Route { source: Some("10.1.0.1".parse().unwrap()), ..good[1].clone() },
                "not of the destination's family",
            ),
            (route("10.8.1.0/24", None, "absent0"), "there is no interface absent0"),
            (route("fd09::/64", Some("10.1.0.2"), "eth0"), "cannot have an IPv4 next hop"),
        ];
        let changes = bad.iter().map(|(route, _)| route).chain(&good).cloned().map(Change::SetRoute);
        let mut changes: Vec<Change> = changes.collect();
        changes.insert(2, Change::SetUp(name("absent1"), true));
        changes.push(Change::AddAddress(Address { link: name(KILO), net: "10.4.0.1/16".parse().unwrap() }));
        let failures = plane.apply(&changes).await;
        let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
        assert_eq!(failures.len(), bad.len() + 1, "{text:#?}");
        for (route, reason) in &bad {
            let failure =
                failures.iter().find(|failure| failure.change == Change::SetRoute(route.clone())).unwrap();
            assert!(failure.to_string().contains(reason), "{failure}");
        }
        let observed = plane.observe().await.unwrap().host;
        assert_eq!(observed.routes, good.into());
        assert_eq!(observed.addresses.len(), 1);
    });
}

#[test]
fn what_is_gone_already_is_no_failure_to_remove() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        let link = with_interface().links[&name(KILO)].clone();
        let gone = [
            Change::RemoveRoute(route("10.8.0.0/24", Some("10.1.0.2"), "eth0")),
            Change::RemoveRoute(route("fd08::/64", Some("fd01::2"), "eth0")),
            Change::RemoveRoute(route("10.8.0.0/24", None, KILO)),
            Change::RemoveRule(rule(None, Some(KILO), Family::V4)),
            Change::RemoveAddress(Address { link: name(KILO), net: "10.4.0.1/16".parse().unwrap() }),
            Change::RemoveAddress(Address { link: name("eth0"), net: "10.4.0.1/16".parse().unwrap() }),
            Change::RemoveLink(name(KILO), link),
            Change::RemoveFirewall,
        ];
        apply(&mut plane, &gone).await;
    });
}

#[test]
fn facts_of_the_host() {
    in_namespace(async || {
        underlay();
        run("ip link add br0 type bridge");
        run("ip link set br0 up mtu 1400");
        run("ip link add eth1 type veth peer name eth1-peer");
        run("ip link set eth1 up");
        run("ip route add default via 10.1.0.254 dev eth0 metric 100");
        run("ip addr add fd99::1/64 dev eth1 nodad preferred_lft 0");
        run("ip link set eth1-peer master br0");
        run("ip addr add 10.1.0.9/16 dev eth0");
        let mut plane = open().await;
        let mut desired = with_interface();
        desired.routes = [route("0.0.0.0/1", None, KILO), route("0.0.0.0/0", None, KILO)].into();
        reach(&mut plane, &desired).await;
        let facts = plane.observe().await.unwrap().facts;
        assert_eq!(facts.default_interface, Some(name("eth0")), "our own default route does not count");
        assert!(!facts.interfaces.contains_key(&name(KILO)));
        let eth0 = &facts.interfaces[&name("eth0")];
        assert_eq!((eth0.mtu, eth0.running, eth0.kind.as_str()), (1500, true, "veth"));
        assert!(eth0.addresses.contains(&"10.1.0.1/16".parse().unwrap()), "{eth0:?}");
        assert!(eth0.addresses.contains(&"fd01::1/64".parse().unwrap()), "{eth0:?}");
        let br0 = &facts.interfaces[&name("br0")];
        assert_eq!((br0.mtu, br0.kind.as_str()), (1400, "bridge"));
        assert!(!facts.interfaces[&name("eth1")].running, "its peer is down");
        assert_eq!(eth0.secondary, ["10.1.0.9".parse::<IpAddr>().unwrap()]);
        // A single address, and what a route prefers before another one.
        run("ip addr add 10.7.7.7/32 dev eth0");
        run("ip route add 10.9.0.0/16 via 10.1.0.254 dev eth0 src 10.1.0.1");
        run("ip route add 10.9.1.0/24 via 10.1.0.254 dev eth0 src 10.1.0.9 table 99");
        let sources = |facts: hostnet::HostFacts| {
            let of = &facts.interfaces[&name("eth0")].sources;
            of.iter().filter(|source| source.is_ipv4()).map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(sources(plane.observe().await.unwrap().facts), ["10.1.0.1"]);
        assert_eq!(facts.interfaces[&name("eth1-peer")].master, Some(name("br0")));
        assert_eq!(eth0.master, None);
        let deprecated = "fd99::1/64".parse().unwrap();
        assert!(!facts.interfaces[&name("eth1")].addresses.contains(&deprecated));
        assert_eq!(facts.interface_with("10.1.0.1".parse().unwrap()).unwrap().0, &name("eth0"));
        // Also where a bridge, the first by name, has it too.
        run("ip addr add 10.1.0.1/32 dev br0");
        let facts = plane.observe().await.unwrap().facts;
        assert_eq!(facts.interface_with("10.1.0.1".parse().unwrap()).unwrap().0, &name("eth0"));
        // A lease that is renewed makes another address the first, and the host's own one comes after it.
        run("sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1");
        run("ip addr del 10.1.0.1/32 dev br0");
        run("ip addr del 10.1.0.1/16 dev eth0");
        run("ip addr add 10.1.0.1/16 dev eth0");
        let facts = plane.observe().await.unwrap().facts;
        assert_eq!(facts.interfaces[&name("eth0")].secondary, ["10.1.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(sources(facts), ["10.1.0.9"]);
    });
}

#[test]
fn forwarding_keeps_the_default_route_of_a_router_advertisement() {
    in_namespace(async || {
        underlay();
        run("ip -6 route add default via fe80::1 dev eth0 proto ra metric 1024 expires 1800");
        run("echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra");
        let mut plane = open().await;
        let mut desired = HostState::default();
        desired.forwarding.v6 = true;
        reach(&mut plane, &desired).await;
        assert_eq!(run("cat /proc/sys/net/ipv6/conf/eth0/accept_ra"), "2\n");
        let default = plane.observe().await.unwrap().facts.default_interface;
        assert_eq!(default, Some(name("eth0")));
    });
}

#[test]
fn an_interface_of_another_kind_is_not_touched() {
    in_namespace(async || {
        run("ip link add kilo0 type bridge");
        let mut plane = open().await;
        let desired = with_interface();
        let observed = plane.observe().await.unwrap().host;
        let failures = plane.apply(&plan(&observed, &desired)).await;
        let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
        assert!(text[0].contains("kilo0 exists and is of kind \"bridge\", not WireGuard"), "{text:?}");
        assert!(run("ip -d link show kilo0").contains("bridge"));
        assert!(!plane.observe().await.unwrap().host.links.contains_key(&name(KILO)));
    });
}

/// Where the kernel has neither, the error says which flag to use. Where it has them, the devices are there.
#[test]
fn encapsulation_is_made_or_names_the_flag() {
    in_namespace(async || {
        let mut plane = open().await;
        assert!(
            plane.supports(LinkKind::Wireguard).await.unwrap(),
            "the embedded device does not need the kernel"
        );
        for (device, kind) in [("tunl0", LinkKind::Ipip), ("sit0", LinkKind::Sit)] {
            let supported = plane.supports(kind).await.unwrap();
            let link = hostnet::Link { kind, mtu: Some(1400), up: true, managed: false };
            let failures = plane.apply(&[Change::CreateLink(name(device), link.clone())]).await;
            let observed = plane.observe().await.unwrap().host;
            assert_eq!(failures.is_empty(), supported);
            match failures.first() {
                Some(failure) => {
                    let text = failure.to_string();
                    assert!(text.contains("--encapsulate=never") && text.contains(device), "{text}");
                }
                None => assert_eq!(observed.links[&name(device)].mtu, Some(1400)),
            }
        }
    });
}

#[test]
fn main_table_and_other_tables_are_told_apart() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        let mut desired = with_interface();
        let main = route("10.7.0.0/24", Some("10.1.0.2"), "eth0");
        let other = Route { table: KILO_TABLE, ..main.clone() };
        desired.routes = [main.clone(), other.clone()].into();
        reach(&mut plane, &desired).await;
        desired.routes = [other].into();
        reach(&mut plane, &desired).await;
        assert_eq!(run("ip route show table 1108"), "");
        assert_eq!(main.table, MESH_TABLE);
        assert_eq!(plane.observe().await.unwrap().host.routes, desired.routes);
        let tables: BTreeSet<u32> = desired.routes.iter().map(|route| route.table).collect();
        assert_eq!(tables, [KILO_TABLE].into());
    });
}

/// The kernel removes the later addresses of a subnet with the first one.
#[test]
fn an_address_is_replaced_by_another_one_of_the_subnet() {
    in_namespace(async || {
        let mut plane = open().await;
        let mut desired = with_interface();
        for net in ["10.4.0.1/16", "10.4.0.3/16", "10.4.0.2/16", "10.5.0.2/16"] {
            desired.addresses = [Address { link: name(KILO), net: net.parse().unwrap() }].into();
            desired.routes = [route("10.7.0.0/24", Some("10.4.0.9"), KILO)].into();
            // In one go: the routes through the interface must not go with its last address either.
            reach(&mut plane, &desired).await;
            assert_eq!(json("ip -j -4 addr show dev kilo0")[0]["addr_info"].as_array().unwrap().len(), 1);
        }
    });
}

/// What others have routes to, by whatever means, and the rules that come before ours.
#[test]
fn what_the_host_has_by_itself_is_seen() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        let mut desired = with_interface();
        desired.addresses = [Address { link: name(KILO), net: "10.4.0.1/16".parse().unwrap() }].into();
        desired.routes = [route("10.2.2.0/24", Some("10.4.0.2"), KILO)].into();
        desired.rules = mesh_rules().collect();
        reach(&mut plane, &desired).await;
        for command in [
            "ip route add default via 10.1.0.254",
            "ip route add 10.0.0.0/8 via 10.1.0.9 metric 50",
            "ip route add 10.98.0.0/16 via 10.1.0.9 table 52",
            "ip route add blackhole 192.0.2.0/24",
            "ip route add 198.51.100.0/24 nexthop via 10.1.0.7 dev eth0 nexthop via 10.1.0.8 dev eth0",
            "ip -6 route add fd98::/64 via fd01::9 dev eth0",
            "ip nexthop add id 7 via 10.1.0.6 dev eth0",
            "ip route add 203.0.113.0/24 nhid 7",
            "ip rule add to 192.168.220.0/24 priority 5000 table 99",
            "ip rule add to 192.168.221.0/24 priority 5001 prohibit",
        ] {
            run(command);
        }
        let facts = plane.observe().await.unwrap().facts;
        let line = |route: &HostRoute| {
            let gateway = route.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
            let link = route.link.as_ref().map_or_else(String::new, |link| format!(" dev {link}"));
            format!("{}{gateway}{link} table {}", route.destination, route.table)
        };
        let expected = [
            "0.0.0.0/0 via 10.1.0.254 dev eth0 table 254",
            "10.0.0.0/8 via 10.1.0.9 dev eth0 table 254",
            "10.1.0.0/16 dev eth0 table 254",
            "10.98.0.0/16 via 10.1.0.9 dev eth0 table 52",
            "192.0.2.0/24 table 254",
            "192.168.220.0/24 table 99",
            "192.168.221.0/24 table 0",
            "198.51.100.0/24 via 10.1.0.7 dev eth0 table 254",
            "198.51.100.0/24 via 10.1.0.8 dev eth0 table 254",
            "203.0.113.0/24 via 10.1.0.6 dev eth0 table 254",
            "fd01::/64 dev eth0 table 254",
            "fd98::/64 via fd01::9 dev eth0 table 254",
        ];
        assert_eq!(facts.routes.iter().map(line).collect::<Vec<_>>(), expected, "nothing of kilo0");
        assert_eq!(facts.first_rule, [Some(32766); 2]);
    });
}

/// Which rules of others would take the mesh's packets, as Tailscale, Cilium and wg-quick make them.
#[test]
fn rules_of_others_that_all_packets_meet() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        reach(&mut plane, &HostState { rules: mesh_rules().collect(), ..with_interface() }).await;
        for (command, v4, v6) in [
            ("ip rule add priority 9 fwmark 0x200/0xf00 table 2004", 32766, 32766),
            ("ip rule add priority 100 table local", 32766, 32766),
            ("ip rule add priority 110 from 10.2.0.0/16 table 7", 32766, 32766),
            ("ip rule add priority 111 iif eth0 table 7", 32766, 32766),
            ("ip rule add priority 112 oif eth0 table 7", 32766, 32766),
            ("ip rule add priority 113 ipproto 6 dport 25 table 7", 32766, 32766),
            ("ip rule add priority 5210 fwmark 0x80000/0xff0000 table main", 32766, 32766),
            ("ip rule add priority 5270 table 52", 5270, 32766),
            // What the kernel puts before ours, because no priority is given.
            ("ip -6 rule add not fwmark 0xca6c table 51820", 5270, 1107),
            ("ip rule add not fwmark 0xca6c table 51820", 8, 1107),
            ("ip rule add table main suppress_prefixlength 0", 7, 1107),
            ("ip -6 rule add priority 50 not from fd09::/64 table 9", 7, 50),
        ] {
            run(command);
            let observed = plane.observe().await.unwrap();
            assert_eq!(observed.facts.first_rule, [Some(v4), Some(v6)], "{command}");
            assert_eq!(observed.host.rules, mesh_rules().collect(), "{command}");
        }
        let others = || run("ip rule | grep -v 1108; ip -6 rule | grep -v 1108");
        let before = others();
        reach(&mut plane, &with_interface()).await;
        assert_eq!(others(), before);
        assert_eq!(run("ip rule; ip -6 rule"), before, "ours are gone");
    });
}
