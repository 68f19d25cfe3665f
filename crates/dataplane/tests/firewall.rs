//! The nftables table on the real kernel: what is written reads back, damage is noticed, packets are translated.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use dataplane::DataPlane;
use hostnet::{Change, EncapsulationFilter, Firewall, HostState, Leftover, Outer, plan};
use ipnet::IpNet;
use support::*;

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn with(firewall: Firewall) -> HostState {
    HostState { firewall: Some(firewall), ..HostState::default() }
}

fn full() -> Firewall {
    Firewall {
        masquerade_from: nets(&["10.2.1.0/24", "10.5.0.1/32", "fd02:1::/64"]),
        masquerade_to: nets(&["192.0.2.0/24", "2001:db8::/32"]),
        // Overlapping, neighbouring, whole ranges: what an interval set does not take as it is.
        never_masquerade: nets(&[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "11.0.0.0/9",
            "11.128.0.0/9",
            "192.168.0.1/32",
            "192.168.0.2/32",
            "192.168.0.3/32",
            "255.255.255.255/32",
            "fd00::/8",
            "fd02:1::/64",
            "ffff::/16",
        ]),
        encapsulation: filter(Outer::Ip, &["10.1.0.2", "10.1.0.3", "fd01::2"]),
        forward: nets(&["10.2.1.0/24", "10.1.0.1/32", "fd02:1::/64"]),
    }
}

fn filter(outer: Outer, from: &[&str]) -> Option<EncapsulationFilter> {
    Some(EncapsulationFilter { outer, from: from.iter().map(|text| text.parse().unwrap()).collect() })
}

async fn seen(plane: &mut DataPlane) -> Option<Firewall> {
    plane.observe().await.unwrap().host.firewall
}

#[test]
fn a_firewall_reads_back() {
    in_namespace(async || {
        let mut plane = open().await;
        let everything = Firewall {
            masquerade_from: nets(&["0.0.0.0/0", "::/0"]),
            never_masquerade: nets(&["0.0.0.0/1", "128.0.0.0/1", "8000::/1"]),
            ..Firewall::default()
        };
        let strict = Firewall { encapsulation: filter(Outer::Ip, &[]), ..Firewall::default() };
        let vxlan = Firewall { encapsulation: filter(Outer::Vxlan, &["10.1.0.2"]), ..full() };
        let states = [full(), Firewall::default(), everything, strict, vxlan];
        for from in &states {
            for to in &states {
                reach(&mut plane, &with(from.clone())).await;
                reach(&mut plane, &with(to.clone())).await;
                assert_eq!(seen(&mut plane).await, Some(to.normalised()));
            }
        }
        let text = run("nft list table inet kilo");
        assert!(text.contains("elements = { }") || text.contains("type ipv4_addr"), "{text}");
        reach(&mut plane, &HostState::default()).await;
        assert_eq!(run("nft list ruleset"), "");
    });
}

#[test]
fn nft_shows_what_we_mean() {
    in_namespace(async || {
        let mut plane = open().await;
        reach(&mut plane, &with(full())).await;
        let text = run("nft list table inet kilo");
        for expected in [
            "type nat hook postrouting priority srcnat - 1; policy accept;",
            "ip daddr @never_masquerade4 counter packets 0 bytes 0 accept",
            "ip saddr @masquerade_from4 counter packets 0 bytes 0 masquerade",
            "ip6 daddr @masquerade_to6 counter packets 0 bytes 0 masquerade",
            "ip saddr @encapsulation4 counter packets 0 bytes 0 accept comment \"kilo 1: protocol 4 over IPv4\"",
            "counter packets 0 bytes 0 drop comment \"kilo 1: drop protocol 41\"",
            "elements = { 10.0.0.0/7, 192.168.0.1,",
            "fd00::/8",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    });
}

#[test]
fn any_damage_is_noticed_and_repaired() {
    in_namespace(async || {
        let mut plane = open().await;
        let desired = with(full());
        reach(&mut plane, &desired).await;
        for damage in [
            "nft flush table inet kilo",
            "nft delete table inet kilo",
            "nft flush ruleset",
            "nft flush chain inet kilo input",
            "nft add rule inet kilo postrouting counter accept",
            "nft insert rule inet kilo forward drop",
            "nft add chain inet kilo other",
            "nft add set inet kilo other '{ type ipv4_addr; }'",
            "nft 'chain inet kilo forward { policy drop; }'",
            "nft flush set inet kilo never_masquerade4",
            "nft delete element inet kilo masquerade_from4 '{ 10.5.0.1 }'",
            "nft add element inet kilo masquerade_to6 '{ fd99::/64 }'",
            "nft add element inet kilo masquerade_to4 '{ 1.2.3.4-1.2.3.9 }'",
            "nft add element inet kilo encapsulation4 '{ 1.2.3.0/30 }'",
            "nft 'add table inet kilo { flags dormant; }'",
        ] {
            run(damage);
            let observed = plane.observe().await.unwrap().host;
            let changes = plan(&observed, &desired);
            assert_eq!(changes.len(), 1, "{damage}: {changes:?}");
            reach(&mut plane, &desired).await;
            assert_eq!(seen(&mut plane).await, Some(full().normalised()), "{damage}");
        }
    });
}

/// A delta that is based on what is not there any more does not fail: the table is made anew.
#[test]
fn an_update_of_a_table_that_changed_meanwhile_succeeds() {
    in_namespace(async || {
        let mut plane = open().await;
        reach(&mut plane, &with(full())).await;
        let mut next = full();
        next.masquerade_from.pop_first();
        next.never_masquerade.insert("172.16.0.0/12".parse().unwrap());
        run("nft flush ruleset");
        apply(&mut plane, &[Change::UpdateFirewall(full().into(), next.clone().into())]).await;
        assert_eq!(seen(&mut plane).await, Some(next.normalised()));
    });
}

/// A new data plane (after a crash) takes the table over, without making it anew.
#[test]
fn a_table_is_adopted() {
    in_namespace(async || {
        let mut plane = open().await;
        reach(&mut plane, &with(full())).await;
        let before = run("nft -a list table inet kilo");
        let mut other = open().await;
        reach(&mut other, &with(full())).await;
        assert_eq!(run("nft -a list table inet kilo"), before);
    });
}

#[test]
fn a_damaged_table_that_nobody_wants_is_removed() {
    in_namespace(async || {
        run("iptables -P FORWARD DROP");
        let mut plane = open().await;
        reach(&mut plane, &with(full())).await;
        run("nft add chain inet kilo other");
        assert!(plane.observe().await.unwrap().host.leftovers.contains(&Leftover::Firewall));
        reach(&mut plane, &HostState::default()).await;
        assert!(!run("nft list ruleset").contains("kilo"));

        reach(&mut plane, &with(full())).await;
        run("nft delete table inet kilo");
        assert!(run("nft list ruleset").contains("kilo forward"), "the rules in FORWARD are still there");
        reach(&mut plane, &HostState::default()).await;
        assert!(!run("nft list ruleset").contains("kilo"));
    });
}

#[test]
fn ten_thousand_prefixes() {
    in_namespace(async || {
        let mut plane = open().await;
        let nets =
            |count: u32| (0..count).map(|i| format!("11.{}.{}.0/28", i / 256, i % 256).parse().unwrap());
        let mut firewall = Firewall { never_masquerade: nets(10_000).collect(), ..Firewall::default() };
        let start = Instant::now();
        apply(&mut plane, &[Change::SetFirewall(firewall.clone().into())]).await;
        let made = start.elapsed();
        assert_eq!(seen(&mut plane).await, Some(firewall.normalised()));
        let observed = start.elapsed();
        let before = firewall.clone();
        firewall.never_masquerade.extend((0..10).map(|i| format!("12.0.{i}.0/28").parse::<IpNet>().unwrap()));
        apply(&mut plane, &[Change::UpdateFirewall(before.into(), firewall.clone().into())]).await;
        let updated = start.elapsed();
        assert_eq!(seen(&mut plane).await, Some(firewall.normalised()));
        println!(
            "10,000 prefixes: make {made:?}, observe {:?}, add 10 {:?}",
            observed - made,
            updated - observed
        );
        assert!(made.as_secs() < 30, "also on an emulated machine: {made:?}");
    });
}

/// This namespace is a node with a pod, `lan`, and an outside, `wan`, that knows no way to the pod.
struct Node {
    pod: Namespace,
    wan: Namespace,
}

impl Node {
    fn new() -> Self {
        let (pod, wan) = (Namespace::new(), Namespace::new());
        for (namespace, device, own, other, own6, other6) in [
            (&pod, "lan", "10.2.1.1/24", "10.2.1.2/24", "fd02:1::1/64", "fd02:1::2/64"),
            (&wan, "wan", "198.51.100.1/24", "198.51.100.2/24", "2001:db8:1::1/64", "2001:db8:1::2/64"),
        ] {
            run(&format!("ip link add {device} type veth peer name eth0 netns {}", namespace.0));
            run(&format!("ip addr add {own} dev {device}"));
            run(&format!("ip addr add {own6} dev {device} nodad"));
            run(&format!("ip link set {device} up"));
            namespace.run(&format!("ip addr add {other} dev eth0"));
            namespace.run(&format!("ip addr add {other6} dev eth0 nodad"));
            namespace.run("ip link set eth0 up");
        }
        pod.run("ip route add default via 10.2.1.1");
        pod.run("ip -6 route add default via fd02:1::1");
        wan.run("ip addr add 192.0.2.1/32 dev lo");
        run("ip route add 192.0.2.0/24 via 198.51.100.2");
        Self { pod, wan }
    }

    /// Where a packet that the pod sends to the outside seems to come from; `None` when it does not arrive.
    fn source_seen_at(&self, destination: &str) -> Option<IpAddr> {
        let address: IpAddr = destination.parse().unwrap();
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let receiver = self.wan.inside(|| UdpSocket::bind((address, 0)).unwrap());
        let sender = self.pod.inside(|| UdpSocket::bind((any, 0)).unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let to = SocketAddr::new(address, receiver.local_addr().unwrap().port());
        // The first packet may be lost while the neighbours find each other.
        (0..4).find_map(|_| {
            let _ = sender.send_to(b"?", to);
            receiver.recv_from(&mut [0; 8]).ok().map(|(_, from)| from.ip())
        })
    }
}

#[test]
fn packets_are_masqueraded() {
    in_namespace(async || {
        let node = Node::new();
        let mut plane = open().await;
        let mut desired = with(Firewall {
            masquerade_from: nets(&["10.2.1.0/24", "fd02:1::/64"]),
            never_masquerade: nets(&["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"]),
            ..Firewall::default()
        });
        desired.forwarding.v4 = true;
        desired.forwarding.v6 = true;
        reach(&mut plane, &desired).await;
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(node.source_seen_at("198.51.100.2"), ip("198.51.100.1"), "leaves the mesh");
        assert_eq!(node.source_seen_at("2001:db8:1::2"), ip("2001:db8:1::1"), "leaves the mesh, IPv6");
        assert_eq!(node.source_seen_at("192.0.2.1"), ip("10.2.1.2"), "is part of the mesh");

        let firewall = desired.firewall.as_mut().unwrap();
        firewall.masquerade_from.clear();
        firewall.never_masquerade.clear();
        firewall.masquerade_to = nets(&["192.0.2.0/24"]);
        reach(&mut plane, &desired).await;
        assert_eq!(node.source_seen_at("192.0.2.1"), ip("198.51.100.1"), "is masqueraded whoever sends it");
        assert_eq!(node.source_seen_at("198.51.100.2"), ip("10.2.1.2"), "nobody asked for it");
    });
}

#[test]
fn forwarding_is_accepted_where_iptables_drops() {
    in_namespace(async || {
        let node = Node::new();
        run("iptables -P FORWARD DROP");
        run("ip6tables -P FORWARD DROP");
        run("iptables -A FORWARD -s 10.66.0.0/16 -j ACCEPT");
        let mut plane = open().await;
        let mut desired = with(Firewall::default());
        desired.forwarding.v4 = true;
        desired.forwarding.v6 = true;
        reach(&mut plane, &desired).await;
        assert_eq!(node.source_seen_at("198.51.100.2"), None, "iptables drops it");
        assert_eq!(node.source_seen_at("2001:db8:1::2"), None, "ip6tables drops it");

        desired.firewall.as_mut().unwrap().forward =
            nets(&["10.2.1.0/25", "192.168.7.0/27", "10.3.0.1/32", "fd02:1::/65"]);
        reach(&mut plane, &desired).await;
        assert_eq!(node.source_seen_at("198.51.100.2"), Some("10.2.1.2".parse().unwrap()));
        assert_eq!(node.source_seen_at("2001:db8:1::2"), Some("fd02:1::2".parse().unwrap()));
        let text = run("iptables -S FORWARD");
        for expected in
            ["-s 10.2.1.0/25", "-d 10.2.1.0/25", "-s 192.168.7.0/27", "-d 10.3.0.1/32", "-s 10.66.0.0/16"]
        {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let text = run("ip6tables -S FORWARD");
        assert!(text.contains("-s fd02:1::/65") && text.contains("-d fd02:1::/65"), "{text}");

        // Somebody writes the chain anew, deletes one of our rules, or removes the chain.
        for damage in ["iptables -F FORWARD", "iptables -D FORWARD 1", "ip6tables -D FORWARD 2"] {
            run(damage);
            let observed = plane.observe().await.unwrap().host;
            assert_eq!(plan(&observed, &desired).len(), 1, "{damage}");
            reach(&mut plane, &desired).await;
            assert_eq!(run("iptables -S FORWARD | grep -c 10.3.0.1"), "2\n", "{damage}");
        }
        desired.firewall.as_mut().unwrap().forward.pop_first();
        reach(&mut plane, &desired).await;
        run("nft delete table ip filter");
        reach(&mut plane, &desired).await;
        run("iptables -P FORWARD DROP");
        reach(&mut plane, &desired).await;
        assert_eq!(run("iptables -S FORWARD | grep -c 10.3.0.1"), "2\n");
        reach(&mut plane, &HostState { forwarding: desired.forwarding, ..HostState::default() }).await;
        assert_eq!(run("iptables -S FORWARD"), "-P FORWARD DROP\n");
    });
}

/// Only known nodes may send us encapsulated packets; the sender writes IP packets of protocol 4 itself.
#[test]
fn encapsulated_packets_of_strangers_are_dropped() {
    in_namespace(async || {
        let node = Node::new();
        let mut plane = open().await;
        let firewall =
            Firewall { encapsulation: filter(Outer::Ip, &["198.51.100.2"]), ..Firewall::default() };
        reach(&mut plane, &with(firewall)).await;
        for namespace in [&node.pod, &node.wan] {
            namespace.inside(|| {
                let protocol = socket2::Protocol::from(4);
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(protocol)).unwrap();
                let to: SocketAddr =
                    if namespace.0 == node.pod.0 { "10.2.1.1:0" } else { "198.51.100.1:0" }.parse().unwrap();
                socket.send_to(&[0x45; 40], &to.into()).unwrap();
            });
        }
        eventually("one packet is accepted and one dropped", async || {
            let text = run("nft list chain inet kilo input");
            let count =
                |end: &str| text.lines().any(|line| line.contains("packets 1 ") && line.contains(end));
            if count("accept") && count("drop") { Ok(()) } else { Err(text) }
        })
        .await;
    });
}
