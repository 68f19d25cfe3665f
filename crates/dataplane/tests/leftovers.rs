//! What a Go agent left behind is found, our state takes its place, and it is removed; what is not Kilo's stays.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use hostnet::{
    Address, Change, Firewall, HostState, KILO_TABLE, Leftover, LegacyTable, MAIN_TABLE, Route, Rule,
};
use mesh::prefix::Family;
use support::*;

const GO: &str = r#"
iptables -t nat -N KILO-NAT
iptables -t nat -A KILO-NAT -d 10.2.1.0/24 -m comment --comment 'Kilo: do not NAT packets destined for known IPs' -j RETURN
iptables -t nat -A KILO-NAT -m comment --comment 'Kilo: NAT remaining packets' -j MASQUERADE
iptables -t nat -A POSTROUTING -s 10.2.1.0/24 -m comment --comment 'Kilo: jump to KILO-NAT chain' -j KILO-NAT
iptables -t nat -A POSTROUTING -s 10.5.0.1/32 -m comment --comment 'Kilo: jump to NAT chain' -j KILO-NAT
iptables -t nat -A POSTROUTING -s 10.66.0.0/16 -j MASQUERADE
iptables -t nat -A POSTROUTING -s 10.67.0.0/16 -m comment --comment 'Kilo: an operator wrote this' -j MASQUERADE
iptables -N KILO-IPIP
iptables -A KILO-IPIP -s 10.1.0.2/32 -j ACCEPT
iptables -A INPUT -p 4 -m comment --comment 'Kilo: jump to IPIP chain' -j KILO-IPIP
iptables -A INPUT -p 4 -m comment --comment 'Kilo: reject other IPIP traffic' -j DROP
iptables -A INPUT -p udp --dport 51820 -m comment --comment 'Kilo: let WireGuard in' -j ACCEPT
iptables -A FORWARD -m comment --comment 'Kilo: forward packets from the pod subnet' -s 10.2.1.0/24 -j ACCEPT
iptables -A FORWARD -m comment --comment "Kilo: forward packets to the node's pod subnet" -d 10.2.1.0/24 -j ACCEPT
ip6tables -A INPUT -p 4 -m comment --comment 'Kilo: reject other IPIP traffic' -j DROP
ip6tables -t nat -N KILO-NAT
ip6tables -t nat -A POSTROUTING -s fd02:1::/64 -j KILO-NAT
ip route add 10.2.3.0/24 via 10.4.0.2 dev kilo0 proto static src 10.1.0.1 onlink
ip route add 10.5.0.1/32 dev kilo0 proto static
ip -6 route add fd02:3::/64 dev kilo0 proto static
ip route add 10.1.0.2/32 via 10.1.0.2 dev eth0 proto static table 1107
ip rule add from 10.2.1.0/24 to 10.1.0.2/32 table 1107
ip rule add to 10.1.0.2/32 iif kilo0 table 1107
ip route add 10.2.4.0/24 via 10.1.0.3 dev eth0 proto static onlink
ip route add 10.2.5.0/24 via 10.1.0.3 dev eth0 proto static onlink metric 50
ip route add 10.99.0.0/16 via 10.1.0.9 dev eth0 proto static
"#;

fn desired() -> HostState {
    let mut desired = with_interface();
    let source = Some("10.1.0.1".parse().unwrap());
    desired.routes = [
        Route { source, ..route("10.2.3.0/24", Some("10.4.0.2"), KILO) },
        route("fd02:3::/64", None, KILO),
        Route { table: KILO_TABLE, ..route("10.1.0.2/32", Some("10.1.0.2"), "eth0") },
    ]
    .into();
    desired.rules = [Rule {
        priority: 1107,
        from: Some("10.2.1.0/24".parse().unwrap()),
        to: None,
        iif: None,
        unless: None,
        table: KILO_TABLE,
        family: Family::V4,
    }]
    .into();
    desired.firewall = Some(Firewall::default());
    desired
}

#[test]
fn leftovers_are_found_and_removed() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        reach(&mut plane, &with_interface()).await;
        GO.lines().filter(|line| !line.is_empty()).for_each(|line| drop(run(line)));

        let observation = plane.observe().await.unwrap();
        let member = Route { table: MAIN_TABLE, ..route("10.2.4.0/24", Some("10.1.0.3"), "eth0") };
        assert_eq!(observation.suspects, [Leftover::Route { route: member, protocol: 4 }].into());
        let found = observation.host.leftovers;
        let iptables = |family, table| Leftover::Iptables { family, table };
        let routes = found.iter().filter(|leftover| matches!(leftover, Leftover::Route { .. })).count();
        let rules = found.iter().filter(|leftover| matches!(leftover, Leftover::Rule(_))).count();
        let tables: BTreeSet<_> =
            found.iter().filter(|leftover| matches!(leftover, Leftover::Iptables { .. })).cloned().collect();
        assert_eq!((routes, rules), (4, 2), "{found:#?}");
        let expected = [
            iptables("ip", "nat"),
            iptables("ip", "filter"),
            iptables("ip6", "nat"),
            // A rule without the chain: the jump was removed by hand.
            iptables("ip6", "filter"),
        ];
        assert_eq!(tables, expected.into());

        reach(&mut plane, &desired()).await;
        let observed = plane.observe().await.unwrap().host;
        assert_eq!(observed.leftovers, [].into());
        let suspects = plane.observe().await.unwrap().suspects.into_iter();
        apply(&mut plane, &suspects.map(Change::RemoveLeftover).collect::<Vec<_>>()).await;
        assert_eq!((&observed.routes, &observed.rules), (&desired().routes, &desired().rules));
        let text = run("iptables-save; ip6tables-save");
        let left: Vec<&str> =
            text.lines().filter(|line| line.starts_with("-A") || line.contains("KILO")).collect();
        let others = [
            "-A INPUT -p udp -m udp --dport 51820 -m comment --comment \"Kilo: let WireGuard in\" -j ACCEPT",
            "-A POSTROUTING -s 10.66.0.0/16 -j MASQUERADE",
            "-A POSTROUTING -s 10.67.0.0/16 -m comment --comment \"Kilo: an operator wrote this\" -j MASQUERADE",
        ];
        assert_eq!(left, others, "{text}");
        let left: Vec<String> =
            run("ip route show proto static").lines().map(|line| line.trim().to_owned()).collect();
        let others =
            ["10.2.5.0/24 via 10.1.0.3 dev eth0 metric 50 onlink", "10.99.0.0/16 via 10.1.0.9 dev eth0"];
        assert_eq!(left, others);
    });
}

/// A rule of a Go agent that is equal to one of ours: ours stays.
#[test]
fn of_two_equal_rules_ours_stays() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        run("ip rule add from 10.2.1.0/24 table 1107 priority 1107");
        reach(&mut plane, &desired()).await;
        let rules = json("ip -j rule show table 1107");
        assert_eq!(rules.len(), 1, "{rules:?}");
        assert_eq!(rules[0]["protocol"], "107", "{rules:?}");
    });
}

/// They are told, not changed; and once an operator has removed them, as the documentation says, nothing is told any more.
#[test]
fn rules_in_iptables_legacy_are_seen() {
    in_namespace(async || {
        let mut plane = open().await;
        assert_eq!(plane.observe().await.unwrap().legacy_tables, []);
        let mut plane = open().await;
        let legacy = GO.replace("ip6tables ", "ip6tables-legacy ").replace("iptables ", "iptables-legacy ");
        legacy.lines().filter(|line| line.contains("-legacy")).for_each(|line| drop(run(line)));
        let tables = |family| ["filter", "nat"].map(|table| LegacyTable { family, table });
        let found = plane.observe().await.unwrap();
        assert_eq!(found.legacy_tables, [tables("ip"), tables("ip6")].concat());
        assert_eq!(found.host.leftovers, [].into(), "nf_tables does not show them");
        run(
            "for v in iptables ip6tables; do $v-legacy-save | grep -v -e KILO- -e 'Kilo: ' | $v-legacy-restore; done",
        );
        assert_eq!(plane.observe().await.unwrap().legacy_tables, []);
        let left = run("iptables-legacy-save | grep ^-A");
        assert_eq!(left.trim(), "-A POSTROUTING -s 10.66.0.0/16 -j MASQUERADE");
    });
}

/// Version 0.1 had its routes in the main table. Ours are in place before they go, and nobody else's go with them.
#[test]
fn routes_of_version_0_1_in_the_main_table_go() {
    in_namespace(async || {
        underlay();
        let mut plane = open().await;
        let mut before = with_interface();
        before.addresses = [Address { link: name(KILO), net: "10.4.0.1/16".parse().unwrap() }].into();
        reach(&mut plane, &before).await;
        run("ip route add 10.99.0.0/16 via 10.1.0.9 dev eth0 proto static");
        let others = run("ip route show table main");
        run("ip route add 10.2.3.0/24 via 10.4.0.2 dev kilo0 proto 107 src 10.1.0.1 onlink");
        run("ip route add 10.2.4.0/24 via 10.1.0.3 dev eth0 proto 107 onlink");
        run("ip -6 route add fd02:3::/64 dev kilo0 proto 107");
        let observed = plane.observe().await.unwrap();
        assert_eq!(observed.host.leftovers.len(), 3, "{:?}", observed.host.leftovers);
        assert!(
            observed.facts.routes.iter().all(|route| !route.destination.to_string().starts_with("10.2."))
        );
        let mut desired = HostState { rules: mesh_rules().collect(), ..before };
        desired.routes = [route("10.2.3.0/24", Some("10.4.0.2"), KILO)].into();
        let changes = hostnet::plan(&observed.host, &desired);
        let position = |wanted: fn(&Change) -> bool| changes.iter().position(wanted).unwrap();
        let first_gone = position(|change| matches!(change, Change::RemoveLeftover(_)));
        assert!(position(|change| matches!(change, Change::SetRoute(_))) < first_gone);
        assert!(position(|change| matches!(change, Change::AddRule(_))) < first_gone);
        reach(&mut plane, &desired).await;
        assert_eq!(run("ip route show table main"), others);
        assert!(!run("ip -6 route show table main").contains("proto 107"));
    });
}
