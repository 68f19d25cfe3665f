//! Addresses and ranges of no use, in every field of an object that holds some.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use kubernetes::{PodCidrSource, decode::decode_cilium_node, decode_forced, decode_node, decode_peer};
use mesh::{
    Node, Object, Peer, Problem,
    special::{SPECIAL, check_address, check_host, check_range},
};
use proptest::{prelude::*, sample};
use serde_json::{Value, json};

const KEY: &str = "rEzswSMXSD5vdP615McU88sC0C8vm29cjELTG+RKVK4=";

fn node(annotations: &[(&str, &str)], pod_cidr: &str) -> Value {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(key, value)| (format!("kilo.squat.ai/{key}"), json!(value))).collect();
    json!({ "metadata": { "name": "n", "annotations": annotations }, "spec": { "podCIDR": pod_cidr } })
}

fn decode(object: &Value, source: PodCidrSource) -> (Node, Vec<Problem>) {
    let object = serde_json::from_value(object.clone()).unwrap();
    let (node, problems) = decode_node(&object, "region", source);
    let forced = decode_forced(&object);
    assert!(forced.endpoint.is_none_or(|endpoint| node.endpoint == Some(endpoint)));
    assert!(forced.internal_ips.is_none_or(|internal_ips| node.internal_ips == internal_ips));
    (node, problems)
}

/// One problem, which names the object, the value and what to do.
fn check_said(problems: &[Problem], object: &Object, value: &str) {
    let [problem] = problems else { panic!("{value}: {problems:?}") };
    assert_eq!((&problem.object, problem.reason), (object, "UnusableAddress"), "{problem}");
    let address = value.split('/').next().unwrap();
    let named = problem.message.contains(address) && problem.message.contains(';');
    assert!(named, "{value}: {problem}");
}

#[test]
fn a_useless_address_is_as_good_as_absent() {
    let object = Object::Node("n".to_owned());
    for address in
        ["0.0.0.1", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "::1", "fe80::1", "ff02::1"]
    {
        // Of ::/64 and 255.255.255.0/24 only a part is special.
        let length = if address == "::1" {
            128
        } else if address == "255.255.255.255" {
            32
        } else if address.contains(':') {
            64
        } else {
            24
        };
        let host = format!("{address}/{length}");
        let endpoint = mesh::Endpoint::from_ip(address.parse().unwrap(), 51820).to_string();
        for (key, value) in [
            ("internal-ip", &host),
            ("force-internal-ip", &host),
            ("endpoint", &endpoint),
            ("force-endpoint", &endpoint),
            ("force-external-ip", &host),
            ("wireguard-ip", &host),
            ("cni-compatibility-ip", &host),
            ("allowed-location-ips", &host),
            ("pod-cidrs", &host),
            ("discovered-endpoints", &format!("{{\"{KEY}\":{{\"IP\":\"{address}\",\"Port\":1}}}}")),
        ] {
            let (decoded, problems) = decode(&node(&[(key, value)], ""), PodCidrSource::Annotation);
            // A range is shown without host bits, because these do not count.
            let shown = if key == "pod-cidrs" {
                address.split(['1', '2']).next().unwrap_or(address)
            } else {
                address
            };
            check_said(&problems, &object, shown);
            let without = decode(&node(&[], ""), PodCidrSource::Annotation).0;
            assert_eq!(decoded, without, "{key}={value}");
        }
    }
}

#[test]
fn what_is_there_besides_counts() {
    let forced = [("force-internal-ip", "127.0.0.1/8"), ("internal-ip", "10.1.0.5/24")];
    assert_eq!(
        decode(&node(&forced, ""), PodCidrSource::Node).0.internal_ips,
        ["10.1.0.5/24".parse().unwrap()]
    );
    let lists = [("internal-ip", "10.1.0.0/24"), ("internal-ips", "10.1.0.0/24,fd00::5/64")];
    let (decoded, problems) = decode(&node(&lists, ""), PodCidrSource::Node);
    assert_eq!(decoded.internal_ips, ["fd00::5/64".parse().unwrap()]);
    check_said(&problems, &Object::Node("n".to_owned()), "10.1.0.0/24");
    let ranges = [("allowed-location-ips", "10.9.0.0/16,224.0.0.0/8,0.0.0.0/0")];
    assert_eq!(decode(&node(&ranges, ""), PodCidrSource::Node).0.allowed_location_ips.len(), 2);
    let (decoded, problems) = decode(&node(&[], "127.0.0.0/24"), PodCidrSource::Node);
    assert_eq!(decoded.pod_subnets, []);
    check_said(&problems, &Object::Node("n".to_owned()), "127.0.0.0/24");
}

#[test]
fn pod_subnets_of_another_cni() {
    let object = json!({ "metadata": { "name": "n" }, "spec": { "ipam": { "podCIDRs": ["10.1.0.0/24", "fe80::/64"] } } });
    let grant = decode_cilium_node(&serde_json::from_value(object).unwrap());
    assert_eq!(grant.subnets, ["10.1.0.0/24".parse().unwrap()]);
    check_said(&grant.problems, &Object::Foreign { kind: "CiliumNode", name: "n".to_owned() }, "fe80::/64");
}

fn peer(allowed_ips: &[&str], endpoint: &str) -> (Option<Peer>, Vec<Problem>) {
    let mut spec = json!({ "allowedIPs": allowed_ips, "publicKey": KEY });
    if !endpoint.is_empty() {
        spec["endpoint"] = json!({ "dnsOrIP": { "ip": endpoint }, "port": 1 });
    }
    let object = json!({ "metadata": { "name": "p" }, "spec": spec });
    decode_peer(&serde_json::from_value(object).unwrap())
}

#[test]
fn a_peer_is_without_what_leads_to_no_place() {
    let object = Object::Peer("p".to_owned());
    let (decoded, problems) = peer(&["10.5.0.1/32", "ff02::5/128"], "");
    assert_eq!(decoded.unwrap().allowed_ips.len(), 1);
    check_said(&problems, &object, "ff02::5/128");
    let (decoded, problems) = peer(&["10.5.0.1/32"], "127.0.0.1");
    assert_eq!(decoded.unwrap().endpoint, None);
    check_said(&problems, &object, "127.0.0.1");
    let (decoded, problems) = peer(&["224.0.0.0/4"], "");
    assert_eq!((decoded, problems[0].reason), (None, "InvalidPeer"));
    assert!(problems[0].message.contains("multicast"), "{}", problems[0]);
}

/// Addresses in and around special ranges, and any.
fn addresses() -> impl Strategy<Value = IpAddr> + Clone {
    let v4 = any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits)));
    let v6 = any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits)));
    let special = (sample::select(SPECIAL.to_vec()), any::<u8>()).prop_map(|(special, last)| {
        match special.range.network() {
            IpAddr::V4(v4) => IpAddr::from(Ipv4Addr::from_bits(v4.to_bits() | u32::from(last))),
            IpAddr::V6(v6) => IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() | u128::from(last))),
        }
    });
    let mapped = any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits).to_ipv6_mapped()));
    prop_oneof![v4, v6, special, mapped]
}

fn nets() -> impl Strategy<Value = IpNet> + Clone {
    (addresses(), 0..=128u8).prop_map(|(address, length)| {
        IpNet::new(address, length % if address.is_ipv4() { 33 } else { 129 }).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever objects say, what is decoded can be used.
    #[test]
    fn no_useless_address_gets_through(
        hosts in prop::collection::vec(nets(), 4),
        ranges in prop::collection::vec(nets(), 1..6),
        ends in prop::collection::vec(addresses(), 4),
        source in sample::select(vec![PodCidrSource::Node, PodCidrSource::Cilium, PodCidrSource::Annotation]),
    ) {
        let ends: Vec<String> = ends.iter().map(|ip| mesh::Endpoint::from_ip(*ip, 4000).to_string()).collect();
        let list = ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let discovered = format!("{{\"{KEY}\":{{\"IP\":\"{}\",\"Port\":1}}}}", hosts[3].addr());
        let [internal, forced, wireguard, cni] = [0, 1, 2, 3].map(|index| hosts[index].to_string());
        let object = node(
            &[
                ("internal-ip", &internal), ("internal-ips", &format!("{internal},{forced}")),
                ("force-internal-ip", if ends[0].starts_with('[') { &forced } else { "" }),
                ("endpoint", &ends[0]), ("force-endpoint", &ends[1]), ("force-external-ip", &forced),
                ("wireguard-ip", &wireguard), ("cni-compatibility-ip", &cni),
                ("allowed-location-ips", &list), ("pod-cidrs", &list), ("discovered-endpoints", &discovered),
            ],
            &internal,
        );
        let (node, _) = decode(&object, source);
        for host in node.internal_ips.iter().chain(&node.wireguard_ips).chain(&node.cni_compatibility_ips) {
            prop_assert_eq!(check_host(host), Ok(()));
        }
        for range in node.allowed_location_ips.iter().chain(&node.pod_subnets) {
            prop_assert_eq!(check_range(range), Ok(()));
        }
        let seen = node.discovered_endpoints.values().map(|endpoint| endpoint.ip());
        for address in node.endpoint.iter().filter_map(mesh::Endpoint::ip).chain(seen) {
            prop_assert_eq!(check_address(address), Ok(()));
        }
        let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        if let (Some(peer), _) = peer(&texts, &hosts[0].addr().to_string()) {
            prop_assert!(!peer.allowed_ips.is_empty());
            for range in &peer.allowed_ips {
                prop_assert_eq!(check_range(range), Ok(()));
            }
            prop_assert_eq!(peer.endpoint.and_then(|endpoint| endpoint.ip()).map_or(Ok(()), check_address), Ok(()));
        }
    }
}
