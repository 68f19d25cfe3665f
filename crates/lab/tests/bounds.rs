//! Somebody who may write objects writes as much nonsense as fits into them: agents say so in a few lines and Events, and
//! neither memory nor traffic grow with it.

mod common;

use std::time::{Duration, Instant};

use kilo_lab::{Family, Lab, NodeRef};
use serde_json::json;

const KEY: &str = "0PYxyh3bqNs7z8ueBXzcmNA3nxvuAOdaVFFHon2t2YI=";

/// How many Peers there are at names that nobody resolves.
const PEERS: usize = 300;

#[test]
fn nonsense_costs_little() {
    let lab = common::converged(common::with_agents("bnds"));
    let before: Vec<Cost> = lab.nodes().map(Cost::of).collect();
    let bad: Vec<String> = (0..20_000).map(|index| format!("x{index}")).collect();
    lab.api()
        .annotate("b2", "kilo.squat.ai/allowed-location-ips", Some(&bad.join(",")))
        .expect("annotations are free text");
    for number in 0..PEERS {
        let peer = json!({
            "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": format!("dead-{number}")},
            "spec": {
                "publicKey": format!("{number:04}{}", &KEY[4..]),
                "allowedIPs": [format!("10.99.{}.{}/32", number / 250, number % 250)],
                "endpoint": {"dnsOrIP": {"dns": format!("dead-{number}.example")}, "port": 51820},
            },
        });
        lab.api().apply(&peer).expect("the schema allows it");
    }
    for node in lab.nodes() {
        let name = &node.layout().name;
        common::eventually(&format!("{name} telling"), common::patiently(Duration::from_secs(30)), || {
            let health = node.http_get("/health")?.body;
            Ok((!health.contains(" more like it")).then_some(health))
        });
    }
    // What is limited by time needs some to show.
    let until = Instant::now() + Duration::from_secs(40);
    while Instant::now() < until {
        bystanders_are_well(&lab);
    }
    for (node, before) in lab.nodes().zip(&before) {
        let (name, after) = (&node.layout().name, Cost::of(node));
        let lines = after.lines - before.lines;
        assert!(lines <= 100, "{name} wrote {lines} lines:\n{}", node.agent_log());
        let grown = after.resident.saturating_sub(before.resident) >> 10;
        println!("{name}: {lines} lines, {grown} KB more");
        assert!(grown <= 20 << 10, "{name} has {grown} KB more");
        assert_eq!(node.http_get("/health").expect("the agent answers").status, 200, "{name}");
    }
    let events = lab.api().get("/api/v1/events").expect("the API answers")["items"].clone();
    let events = events.as_array().expect("it is a list");
    println!("{} Events", events.len());
    // One agent writes about Peers, one about b2.
    assert!((2..=60).contains(&events.len()), "{} Events", events.len());
    let about_b2 = events.iter().filter(|event| event.to_string().contains("\"name\":\"b2\"")).count();
    assert!((1..=4).contains(&about_b2), "{about_b2} Events about b2");
}

fn bystanders_are_well(lab: &Lab) {
    let matrix = lab.matrix(Family::V4).expect("sockets can be opened");
    assert!(matrix.is_complete(), "{:?}", matrix.failures());
}

/// What an agent costs.
struct Cost {
    /// Log lines that an operator sees.
    lines: usize,
    /// In bytes.
    resident: usize,
}

impl Cost {
    fn of(node: NodeRef<'_>) -> Self {
        let log = node.agent_log();
        let metrics = node.http_get("/metrics").expect("the agent answers").body;
        let resident = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        Self {
            lines: log.lines().filter(|line| !line.contains("DEBUG") && !line.contains("TRACE")).count(),
            resident: resident.and_then(|text| text.parse::<f64>().ok()).expect("the agent tells it")
                as usize,
        }
    }
}
