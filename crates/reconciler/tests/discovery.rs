//! Which addresses a host announces, whatever else comes to it or goes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

#[path = "support/hosts.rs"]
mod hosts;

use hostnet::HostFacts;
use hosts::{OTHERS, add};
use proptest::prelude::*;
use reconciler::discovery::{Discovered, DiscoveryConfig, Memory, discover};

fn host(lines: &[&str]) -> HostFacts {
    let mut facts = HostFacts::default();
    for line in lines {
        add(&mut facts, line);
    }
    facts
}

fn config() -> DiscoveryConfig {
    DiscoveryConfig {
        hostname_addresses: Vec::new(),
        internal_cidrs: Vec::new(),
        prioritise_private: false,
        port: 51820,
    }
}

fn status(addresses: &[&str]) -> Memory {
    Memory { status: addresses.iter().map(|text| text.parse().unwrap()).collect(), ..Memory::default() }
}

fn remembering(found: &Discovered) -> Memory {
    Memory {
        endpoint: found.endpoint.as_ref().and_then(mesh::Endpoint::ip),
        internal_ips: Some(found.internal_ips.clone()),
        ..Memory::default()
    }
}

fn text(found: &Discovered) -> String {
    let endpoint = found.endpoint.as_ref().and_then(mesh::Endpoint::ip).map(|ip| ip.to_string());
    let internal: Vec<_> = found.internal_ips.iter().map(ToString::to_string).collect();
    format!("{} | {}", endpoint.unwrap_or_default(), internal.join(" "))
}

#[track_caller]
fn check(lines: &[&str], memory: &Memory, expected: &str) {
    assert_eq!(text(&discover(&host(lines), &[], &config(), memory)), expected, "{lines:?} {memory:?}");
}

/// What is there at the first start, without anything that says which address is meant.
#[test]
fn the_first_start_finds_the_addresses_of_the_host() {
    let none = Memory::default();
    // A VPS after `docker compose up`.
    let vps =
        ["eth0 203.0.113.9/24", "via eth0 203.0.113.1", "br-1f2e:bridge 172.18.0.1/16", "veth1:veth<br-1f2e"];
    check(&vps, &none, "203.0.113.9 | ");
    // A Proxmox host with containers.
    let proxmox = ["vmbr0:bridge 10.0.0.5/24", "eno1<vmbr0", "vmbr1:bridge 10.9.0.1/24", "tap1:tun<vmbr1"];
    check(&proxmox, &none, "10.0.0.5 | 10.0.0.5/24");
    // Hetzner: one public address, a private network of single addresses.
    check(
        &[
            "eth0 203.0.113.9/32 2001:db8::1/64",
            "ens10 10.0.0.2/32",
            "via eth0 172.31.1.1 fe80::1",
            "net ens10 10.0.0.0/16",
        ],
        &none,
        "203.0.113.9 | 10.0.0.2/32",
    );
    // GCE and AWS.
    check(&["ens4 10.128.0.5/32", "via ens4 10.128.0.1"], &none, "10.128.0.5 | 10.128.0.5/32");
    check(
        &["ens5 172.31.0.5/20 2001:db8::5/128", "via ens5 172.31.0.1 fe80::1"],
        &none,
        "2001:db8::5 | 172.31.0.5/20",
    );
    // Stateful DHCP for IPv6.
    check(
        &["eth0 192.168.1.5/24 fd00::abc/128", "via eth0 192.168.1.1 fe80::1"],
        &none,
        "192.168.1.5 | 192.168.1.5/24 fd00::abc/128",
    );
    // PPPoE.
    check(
        &["eth0 192.168.1.1/24", "ppp0:ppp 203.0.113.9/32", "via ppp0 198.51.100.1"],
        &none,
        "203.0.113.9 | 192.168.1.1/24",
    );
    // A second network of another sort is none of the choice where the gateway is.
    check(
        &["eth0 192.168.7.5/24 10.9.0.5/24", "via eth0 192.168.7.1"],
        &none,
        "192.168.7.5 | 192.168.7.5/24",
    );
}

#[test]
fn virtual_addresses_are_not_the_hosts() {
    let none = Memory::default();
    for line in [
        "eth0 10.0.0.1/32",
        "eth0 10.0.0.1/24!",
        "vrrp.51:macvlan 10.0.0.1/32",
        "macv:macvlan 10.0.0.1/32",
        "lo 10.0.0.1/32",
        "kube-ipvs0:dummy 10.0.0.1/32",
        "eth0 10.9.9.9/32",
        "eth0 fd00::1/128",
        "tailscale0:tun 100.64.0.7/32 fd7a::7/128",
        "wg1:wireguard 10.6.0.2/24",
    ] {
        check(&["eth0 10.0.0.5/24", line], &none, "10.0.0.5 | 10.0.0.5/24");
        // Nobody's hostname is an address that may be on another host soon.
        let at = host(&["eth0 10.0.0.5/24", line]);
        let named = line.split(' ').nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        let config = DiscoveryConfig { hostname_addresses: vec![named], ..config() };
        assert_eq!(text(&discover(&at, &[], &config, &none)), "10.0.0.5 | 10.0.0.5/24", "{line}");
        // Nor is what somebody has read from there.
        if line.starts_with("eth0 10.0.0.1") {
            check(&["eth0 10.0.0.5/24", line], &status(&["10.0.0.1"]), "10.0.0.5 | 10.0.0.5/24");
        }
    }
}

#[test]
fn the_status_decides_between_addresses_of_the_host_and_names_others() {
    let two = ["eth0 10.0.0.5/24", "eth1 192.168.1.5/24", "via eth0 10.0.0.1"];
    check(&two, &status(&["192.168.1.5"]), "192.168.1.5 | 192.168.1.5/24");
    check(&two, &status(&["172.16.0.9"]), "10.0.0.5 | 10.0.0.5/24");
    // Clusters over a VPN, over a bridge of one's own, and with addresses that routers announce.
    check(
        &["eth0 203.0.113.9/24", "wg0:wireguard 10.6.0.2/24"],
        &status(&["10.6.0.2"]),
        "203.0.113.9 | 10.6.0.2/24",
    );
    check(
        &["eth0 203.0.113.9/24", "br0:bridge 10.6.0.2/24"],
        &status(&["10.6.0.2"]),
        "203.0.113.9 | 10.6.0.2/24",
    );
    check(&["eth0 172.16.0.2/30 10.5.5.5/32"], &status(&["10.5.5.5"]), "10.5.5.5 | 10.5.5.5/32");
    check(&["eth0 172.16.0.2/30", "lo 10.5.5.5/32"], &status(&["10.5.5.5"]), "10.5.5.5 | 10.5.5.5/32");
    // Nobody wants a tunnel inside of a tunnel who has another way.
    let over_vpn = ["eth0 203.0.113.9/24", "tailscale0:tun 100.64.0.7/32"];
    check(&over_vpn, &status(&["100.64.0.7"]), "203.0.113.9 | ");
    check(&over_vpn[1..], &status(&["100.64.0.7"]), "100.64.0.7 | ");
    check(
        &["eth0 10.0.0.5/24", "wg0:wireguard 10.6.0.2/24"],
        &status(&["10.6.0.2"]),
        "10.0.0.5 | 10.6.0.2/24",
    );
    // Of two public addresses the one that the cloud names.
    check(
        &["eth0 10.0.0.5/24 198.51.100.7/32 203.0.113.9/32"],
        &status(&["203.0.113.9"]),
        "203.0.113.9 | 10.0.0.5/24",
    );
    // What was absent comes when it is named.
    let private = host(&["eth0 203.0.113.9/24"]);
    let memory = remembering(&discover(&private, &[], &config(), &Memory::default()));
    let named = Memory { status: ["10.0.0.7".parse().unwrap()].into(), ..memory };
    check(&["eth0 203.0.113.9/24 10.0.0.7/24"], &named, "203.0.113.9 | 10.0.0.7/24");
}

#[test]
fn what_was_announced_stays_and_what_was_absent_comes_with_a_link() {
    let of = |lines: &[&str]| remembering(&discover(&host(lines), &[], &config(), &Memory::default()));
    let memory = of(&["eth1 192.168.1.5/24"]);
    check(
        &["eth0 10.0.0.5/24", "eth1 192.168.1.5/24", "via eth0 10.0.0.1"],
        &memory,
        "192.168.1.5 | 192.168.1.5/24",
    );
    // The second network card of a public host was slow.
    let memory = of(&["eth0 203.0.113.9/24"]);
    check(&["eth0 203.0.113.9/24", "eth1 10.0.0.5/24"], &memory, "203.0.113.9 | 10.0.0.5/24");
    check(&["eth0 203.0.113.9/24 10.0.0.5/24"], &memory, "203.0.113.9 | ");
    // IPv6 came after IPv4, as it does at every boot.
    let memory = of(&["eth0 10.0.0.5/24"]);
    check(&["eth0 10.0.0.5/24 fd00::5/64 2001:db8::5/64"], &memory, "2001:db8::5 | 10.0.0.5/24 fd00::5/64");
    check(&["eth0 10.0.0.5/24 203.0.113.9/32"], &memory, "10.0.0.5 | 10.0.0.5/24");
    check(&["eth0 10.0.0.5/24", "eth1 192.168.7.5/24 203.0.113.9/32"], &memory, "10.0.0.5 | 10.0.0.5/24");
    check(&["eth0 10.0.0.5/24", "eth1 203.0.113.9/24"], &memory, "203.0.113.9 | 10.0.0.5/24");
    // It has another mask, or is gone.
    check(&["eth0 10.0.0.5/16 10.0.0.1/16!"], &memory, "10.0.0.5 | 10.0.0.5/16");
    check(&["eth0 10.0.7.7/24"], &memory, "10.0.7.7 | 10.0.7.7/24");
}

#[test]
fn a_wrong_choice_of_another_agent_is_not_kept() {
    let memory = |endpoint: &str, internal: &str| Memory {
        endpoint: Some(endpoint.parse().unwrap()),
        internal_ips: Some(vec![internal.parse().unwrap()]),
        ..Memory::default()
    };
    check(
        &["eth0 203.0.113.9/24", "br-1f2e:bridge 172.18.0.1/16"],
        &memory("203.0.113.9", "172.18.0.1/16"),
        "203.0.113.9 | ",
    );
    check(&["eth0 10.0.0.5/24 10.0.0.1/32"], &memory("10.0.0.1", "10.0.0.1/32"), "10.0.0.5 | 10.0.0.5/24");
    check(&["eth0 203.0.113.9/24 203.0.113.1/32"], &memory("203.0.113.1", "10.7.7.7/32"), "203.0.113.9 | ");
    check(
        &["eth0 10.0.0.5/24", "tailscale0:tun 100.64.0.7/32"],
        &memory("100.64.0.7", "10.0.0.5/24"),
        "10.0.0.5 | 10.0.0.5/24",
    );
}

/// Hosts as clouds and operators have them, beside addresses that go to another host.
#[test]
fn virtual_addresses_beside_single_and_overlapping_ones() {
    let none = Memory::default();
    // A new network card in a wide network makes no virtual address of what has the default route.
    let gce = ["ens4 10.128.0.5/32", "via ens4 10.128.0.1"];
    let memory = remembering(&discover(&host(&gce), &[], &config(), &none));
    check(&[gce[0], gce[1], "eth1 10.200.0.9/8"], &memory, "10.128.0.5 | 10.128.0.5/32");
    check(&[gce[0], gce[1], "eth1 10.200.0.9/8"], &none, "10.128.0.5 | 10.128.0.5/32");
    // One of a narrower network inside of the host's.
    check(&["eth0 10.0.0.1/24 10.0.0.5/23", "via eth0 10.0.1.254"], &none, "10.0.0.5 | 10.0.0.5/23");
    let memory = remembering(&discover(&host(&["eth0 10.0.0.5/24"]), &[], &config(), &none));
    check(&["eth0 10.0.0.5/24 10.0.9.1/8"], &memory, "10.0.0.5 | 10.0.0.5/24");
    // On a network card without addresses, and on an interface of a virtual router of any name.
    let memory = remembering(&discover(&host(&["eth0 203.0.113.9/24"]), &[], &config(), &none));
    let public = "eth0 203.0.113.9/24";
    for line in ["eth1 10.0.0.1/32", "vi51:macvlan 10.0.0.1/32", "eth1 fd00::1/128"] {
        let routes = ["via eth0 203.0.113.1", "net eth1 fd00::1/128"];
        check(&[public, line, routes[0], routes[1]], &memory, "203.0.113.9 | ");
        check(&[public, line, routes[0], routes[1]], &none, "203.0.113.9 | ");
    }
    check(
        &[public, "via eth0 203.0.113.1", "ens10 10.0.0.2/32", "net ens10 10.0.0.0/16"],
        &memory,
        "203.0.113.9 | 10.0.0.2/32",
    );
    let memory = remembering(&discover(&host(&["eth0 10.0.0.5/24"]), &[], &config(), &none));
    check(
        &["eth0 10.0.0.5/24", "via eth0 10.0.0.254", "vi51:macvlan 198.51.100.7/32"],
        &memory,
        "10.0.0.5 | 10.0.0.5/24",
    );
    // Hetzner with a floating address and an alias, at the first start: routes say where packets come from.
    let hetzner = [
        "eth0 198.51.100.7/32 203.0.113.9/32",
        "ens10 10.0.0.100/32 10.0.0.2/32",
        "via eth0 172.31.1.1",
        "net ens10 10.0.0.0/16",
        "from eth0 203.0.113.9",
        "from ens10 10.0.0.2",
    ];
    check(&hetzner, &none, "203.0.113.9 | 10.0.0.2/32");
}

/// IPVS has an address for every service, and each notice of the kernel leads to one look at all of them.
#[test]
fn thousands_of_links_and_addresses_cost_little() {
    let single = |n: u32| -> ipnet::IpNet { format!("10.43.{}.{}/32", n / 250, n % 250).parse().unwrap() };
    for links in ["kube-ipvs0:dummy 10.43.0.1/32", "lo 10.43.0.1/32", "eth0"] {
        let mut facts = host(&["eth0 10.0.0.5/24", "via eth0 10.0.0.1", links]);
        let name = links.split([':', ' ']).next().unwrap();
        let link = facts.interfaces.get_mut(&name.parse().unwrap()).unwrap();
        link.addresses.extend((0..10_000).map(single));
        link.secondary.extend((0..5_000).map(|n| single(n).addr()));
        (0..1000).for_each(|n| add(&mut facts, &format!("veth{n}:veth fe80::{n:x}/64")));
        for range in ["10.43.0.0/16", "10.0.0.0/8"] {
            let config = DiscoveryConfig { internal_cidrs: vec![range.parse().unwrap()], ..config() };
            let start = std::time::Instant::now();
            discover(&facts, &[], &config, &Memory::default());
            let took = start.elapsed();
            assert!(took < std::time::Duration::from_secs(1), "{took:?}: {links} within {range}");
        }
    }
}

/// Home servers whose second way out, or only one, is a mobile network.
#[test]
fn addresses_that_providers_translate_replace_no_endpoint() {
    let home = ["eth0 192.168.1.5/24", "via eth0 192.168.1.1"];
    let mobile = "wwan0 100.72.1.2/30";
    let memory = remembering(&discover(&host(&home), &[], &config(), &Memory::default()));
    check(&[home[0], home[1], mobile, "via wwan0 100.72.1.1"], &memory, "192.168.1.5 | 192.168.1.5/24");
    check(&[home[0], mobile, "via wwan0 100.72.1.1"], &memory, "192.168.1.5 | 192.168.1.5/24");
    check(&[mobile, "via wwan0 100.72.1.1"], &Memory::default(), "100.72.1.2 | ");
    let mut named = memory;
    named.status.insert("100.72.1.2".parse().unwrap());
    check(&[home[0], mobile], &named, "100.72.1.2 | 192.168.1.5/24");
}

/// Every host has them, so a status that names one would take it from the others.
#[test]
fn no_status_names_addresses_of_containers_and_services() {
    for line in [
        "kube-ipvs0:dummy 10.43.0.1/32",
        "docker0:bridge 172.17.0.1/16",
        "br-0123456789ab:bridge 172.18.0.1/16",
    ] {
        let address = line.split([' ', '/']).nth(1).unwrap();
        check(&["eth0 10.0.0.5/24", line], &status(&[address]), "10.0.0.5 | 10.0.0.5/24");
        check(&["eth0 203.0.113.9/24", line], &status(&[address]), "203.0.113.9 | ");
    }
    // Nor is an address of another host on this one because somebody says so.
    let hostile = Memory {
        endpoint: Some("192.0.2.1".parse().unwrap()),
        internal_ips: Some(vec!["10.0.0.6/24".parse().unwrap()]),
        ..status(&["10.0.0.6", "192.0.2.1"])
    };
    check(&["eth0 10.0.0.5/24"], &hostile, "10.0.0.5 | 10.0.0.5/24");
}

/// Rootless containers, and hosts that are on a VPN only: without an endpoint they would not be in the mesh at all.
#[test]
fn the_default_route_decides_where_nothing_else_leads_out() {
    let none = Memory::default();
    check(
        &["tap0:tun 10.0.2.100/24", "via tap0 10.0.2.2", "docker0:bridge 172.17.0.1/16"],
        &none,
        "10.0.2.100 | ",
    );
    check(&["wg0:wireguard 10.6.0.2/24", "via wg0", "docker0:bridge 172.17.0.1/16"], &none, "10.6.0.2 | ");
    check(&["docker0:bridge 172.17.0.1/16", "via docker0 172.17.0.2"], &none, " | ");
    check(
        &["tap0:tun 10.0.2.100/24", "via tap0 10.0.2.2", "eth0 10.0.0.5/24"],
        &none,
        "10.0.0.5 | 10.0.0.5/24",
    );
}

/// `--internal-cidr` names an address wherever it is, but better ones in the range go first.
#[test]
fn ranges_of_the_operator_name_what_does_not_count_by_itself() {
    let in_range = |lines: &[&str], memory: &Memory, range: &str, expected: &str| {
        let config = DiscoveryConfig { internal_cidrs: vec![range.parse().unwrap()], ..config() };
        assert_eq!(text(&discover(&host(lines), &[], &config, memory)), expected, "{lines:?} in {range}");
    };
    let none = Memory::default();
    let host = ["eth0 203.0.113.9/24 10.0.0.5/24 10.0.0.1/24!", "wg0:wireguard 10.6.0.2/24"];
    in_range(&host, &none, "10.6.0.0/16", "203.0.113.9 | 10.6.0.2/24");
    in_range(&host, &none, "10.0.0.1/32", "203.0.113.9 | 10.0.0.1/24");
    in_range(&host, &none, "10.0.0.0/8", "203.0.113.9 | 10.0.0.5/24");
    // A wide range is no word about networks of containers, which are the same on every host.
    for line in [
        "docker0:bridge 172.17.0.1/16",
        "br-1f2e3d4c5b6a:bridge 172.18.0.1/16",
        "kube-ipvs0:dummy 172.20.0.1/32",
        "podman0:bridge 172.19.0.1/16",
        "virbr0:bridge 172.16.122.1/24",
    ] {
        in_range(&["eth0 203.0.113.9/24", line], &none, "172.16.0.0/12", "203.0.113.9 | ");
    }
    // Whatever was announced before the operator said so.
    let memory =
        Memory { endpoint: Some("203.0.113.9".parse().unwrap()), internal_ips: Some(Vec::new()), ..none };
    in_range(&host, &memory, "10.0.0.0/24", "203.0.113.9 | 10.0.0.5/24");
}

/// A host with one or two network cards, or bridges over them, in which networks ever.
fn any_host() -> impl Strategy<Value = Vec<String>> {
    let v4 = prop_oneof![
        Just("10.0.0.50/24"),
        Just("203.0.113.50/24"),
        Just("203.0.113.50/32"),
        Just("10.0.0.50/24 203.0.113.50/32"),
        Just("203.0.113.50/24 10.0.0.50/24"),
        Just("100.64.3.50/24"),
        Just(""),
    ];
    let v6 = prop_oneof![
        Just("fd00::50/64"),
        Just("2001:db8::50/64"),
        Just("2001:db8::50/64 fd00::50/64"),
        Just("2001:db8::50/128"),
        Just(""),
    ];
    let second = prop_oneof![
        Just(""),
        Just("eth1 192.168.1.50/24"),
        Just("eth1 192.168.1.50/32;net eth1 192.168.0.0/16"),
        Just("eth1:vlan fd07::50/64")
    ];
    let all = (v4, v6, second, any::<bool>(), any::<bool>());
    let all = all.prop_filter("it has an address", |(v4, v6, ..)| !(v4.is_empty() && v6.is_empty()));
    all.prop_map(|(v4, v6, second, bridge, first)| {
        let name = if bridge { "vmbr0" } else { "eth0" };
        let mut lines = vec![if bridge { "vmbr0:bridge" } else { "eth0" }.to_owned() + " " + v4 + " " + v6];
        if bridge {
            lines.push("eno1<vmbr0".to_owned());
        }
        lines.extend(second.split_terminator(';').map(str::to_owned));
        let gateways = format!(
            "via {name} {} {}",
            if v4.is_empty() { "" } else { "10.0.0.254" },
            if v6.is_empty() { "" } else { "fe80::1" }
        );
        if first {
            lines.insert(0, gateways)
        } else {
            lines.push(gateways)
        }
        lines
    })
}

/// What can be told from the host's own addresses only by what was announced, or by the status.
const UNCLEAR: &[&str] =
    &["UPLINK 192.0.2.1/32", "UPLINK 10.0.77.1/24", "UPLINK 203.0.113.2/32", "UPLINK fd00:77::1/64"];

fn with(lines: &[String], others: &[&str]) -> HostFacts {
    let uplink = if lines.iter().any(|line| line.starts_with("vmbr0")) { "vmbr0" } else { "eth0" };
    let mut facts = HostFacts::default();
    lines.iter().for_each(|line| add(&mut facts, line));
    others.iter().for_each(|line| add(&mut facts, &line.replace("UPLINK", uplink)));
    facts
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_else_changes_what_is_announced(
        lines in any_host(),
        others in proptest::sample::subsequence(OTHERS, 0..OTHERS.len()),
        unclear in proptest::sample::subsequence(UNCLEAR, 0..UNCLEAR.len()),
    ) {
        let own = with(&lines, &[]);
        let find = |facts: &HostFacts, memory: &Memory| text(&discover(facts, &[], &config(), memory));
        let found = discover(&own, &[], &config(), &Memory::default());
        let (expected, memory) = (text(&found), remembering(&found));
        // The first start.
        prop_assert_eq!(find(&with(&lines, &others), &Memory::default()), expected.clone(), "{:?}", others);
        // They come, go, and are there when another agent starts.
        // Beside an address of the family that is announced, one more is no news; elsewhere it may be what was waited for.
        let uplink = own.interfaces.iter().find(|(name, _)| ["eth0", "vmbr0"].contains(&name.as_str())).unwrap().1;
        let internal = memory.internal_ips.iter().flatten().map(ipnet::IpNet::addr);
        let announced: Vec<IpAddr> = internal.chain(memory.endpoint).collect();
        let has = |v6: bool| {
            let mut addresses = uplink.addresses.iter().map(ipnet::IpNet::addr);
            addresses.any(|address| address.is_ipv6() == v6 && announced.contains(&address))
        };
        let unclear = unclear.into_iter().filter(|line| has(line.contains("::")));
        let all: Vec<_> = others.iter().copied().chain(unclear).collect();
        prop_assert_eq!(find(&with(&lines, &all), &memory), expected.clone(), "{:?}", all);
        prop_assert_eq!(find(&with(&lines, &others), &memory), expected.clone(), "{:?}", others);
        prop_assert_eq!(find(&own, &memory), expected.clone());
        // A status that names the host's own addresses makes the first start like any other.
        let own_addresses = own.interfaces.values().flat_map(|link| &link.addresses).map(|net| net.addr());
        let named = Memory { status: own_addresses.collect(), ..Memory::default() };
        let named_only = find(&own, &named);
        prop_assert_eq!(&named_only, &expected);
        prop_assert_eq!(find(&with(&lines, &others), &named), named_only);
    }
}
