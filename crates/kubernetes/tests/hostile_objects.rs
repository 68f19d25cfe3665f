//! Objects as large as the API stores them, all wrong: what is kept of them, and what it costs to find out. Alone in its
//! program, because it measures memory.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{fs, time::Duration, time::Instant};

use kubernetes::{NodeObject, PeerObject, PodCidrSource, decode_node, decode_peer};
use mesh::Problem;
use serde_json::json;

const REGION: &str = "topology.kubernetes.io/region";

/// Pages of 4 KiB in memory (proc(5), statm), as bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn of_annotation(key: &str, value: &str) -> Vec<Problem> {
    let object: NodeObject = serde_json::from_value(common::node("n", &[(key, value)])).unwrap();
    decode_node(&object, REGION, PodCidrSource::Annotation).1
}

/// What is said about 20,000 bad entries is bounded.
fn assert_bounded(what: &str, problems: &[Problem], reasons: &[&str]) {
    let found: Vec<_> = problems.iter().map(|problem| problem.reason).collect();
    assert_eq!(found, reasons, "{what}");
    for problem in problems {
        let length = problem.to_string().chars().count();
        assert!(length < 1100, "{what}: a message of {length} characters");
    }
}

#[test]
fn objects_full_of_nonsense_cost_nothing() {
    let entries = |form: fn(usize) -> String| (0..20_000).map(form).collect::<Vec<_>>();
    let bad = entries(|index| format!("x{index}")).join(",");
    let good = entries(|index| format!("10.{}.{}.0/24", index / 200, index % 200)).join(",");
    let endpoints = entries(|index| format!("\"x{index}\":{{\"IP\":\"192.0.2.1\",\"Port\":1}}")).join(",");
    let mut peer = common::peer("p", "10.0.0.1/32");
    peer["spec"]["allowedIPs"] = json!(entries(|index| format!("x{index}")));
    let huge = "x".repeat(200_000);
    let wide = "ä".repeat(100_000);

    let (start, before) = (Instant::now(), resident());
    let mut kept = Vec::new();
    for (key, value, reasons) in [
        ("allowed-location-ips", bad.as_str(), &["TooManyEntries", "InvalidAllowedLocationIP"][..]),
        ("allowed-location-ips", &good, &["TooManyEntries"]),
        ("pod-cidrs", &bad, &["TooManyEntries", "InvalidPodCIDR"]),
        ("discovered-endpoints", &format!("{{{endpoints}}}"), &["InvalidDiscoveredEndpoints"]),
        ("discovered-endpoints", &huge, &["InvalidDiscoveredEndpoints"]),
        ("force-endpoint", &huge, &["InvalidForceEndpoint"]),
        ("force-internal-ip", &wide, &["InvalidForceInternalIP"]),
        ("internal-ip", &huge, &["InvalidAddress"]),
        ("key", &wide, &["InvalidKey"]),
        ("persistent-keepalive", &huge, &["InvalidPersistentKeepalive"]),
        ("granularity", &wide, &["InvalidGranularity"]),
        ("last-seen", &huge, &["InvalidLastSeen"]),
    ] {
        let problems = of_annotation(key, value);
        assert_bounded(key, &problems, reasons);
        kept.extend(problems);
    }
    let object: PeerObject = serde_json::from_value(peer).unwrap();
    let (decoded, problems) = decode_peer(&object);
    assert!(decoded.is_none());
    assert_bounded("a Peer", &problems, &["InvalidPeer"]);
    assert!(problems[0].message.contains("and 19992 more"), "{}", problems[0]);
    kept.extend(problems);

    let counted: Vec<usize> =
        kept.iter().map(|problem| problem.further).filter(|further| *further > 0).collect();
    assert_eq!(counted, [1023, 1023, 19_999], "of a list 1,024 entries count");
    let bytes: usize = kept.iter().map(|problem| problem.message.capacity()).sum();
    assert!(bytes < 64 << 10, "{bytes} bytes are kept");
    let (grown, took) = (resident().saturating_sub(before), start.elapsed());
    println!("{} KB, {took:?}", grown >> 10);
    assert!(grown < 20 << 20, "it costs {} KB", grown >> 10);
    assert!(took < Duration::from_secs(20), "it takes {took:?}");
}

/// As many entries as count are used.
#[test]
fn the_first_entries_of_a_long_list_are_used() {
    let entries = (0..2000).map(|index| format!("10.{}.{}.0/24", index / 200, index % 200));
    let value = entries.collect::<Vec<_>>().join(",");
    let object: NodeObject =
        serde_json::from_value(common::node("n", &[("allowed-location-ips", &value)])).unwrap();
    let (node, problems) = decode_node(&object, REGION, PodCidrSource::Node);
    assert_eq!((node.allowed_location_ips.len(), problems.len()), (1024, 1));
    assert_eq!(node.allowed_location_ips[1023].to_string(), "10.5.23.0/24");
}
