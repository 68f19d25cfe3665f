//! A large cluster costs little: only what the objects mean is kept. Alone in its program, because it measures it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;

use common::{TestApi, node};
use serde_json::json;

/// Pages of 4 KiB in memory (proc(5), statm), as bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_thousand_nodes_of_13_kilobytes() {
    let api = TestApi::new().await;
    let images: Vec<_> = (0..62)
        .map(|index| json!({ "names": [format!("registry.example.com/{}/{index}@sha256:{}", "x".repeat(80), "0".repeat(64))], "sizeBytes": index }))
        .collect();
    for index in 0..1000 {
        let mut node =
            node(&format!("node-{index:04}"), &[("key", common::KEY), ("endpoint", "203.0.113.1:51820")]);
        node["status"] = json!({ "images": images });
        if index == 0 {
            let size = node.to_string().len();
            assert!((11_000..15_000).contains(&size), "{size}");
        }
        api.apply(node);
    }
    // A first watch stays, so that what passes by and is freed again, of server and client, is there before the measurement,
    // and what a watch keeps is not.
    let mut first = api.watch().await;
    first.until("synced").await;

    let before = resident();
    let mut reader = api.watch().await;
    reader.until("synced").await;
    assert_eq!(reader.nodes.len(), 1000);
    let grown = resident().saturating_sub(before);
    println!("a further watch costs {} KB", grown >> 10);
    assert_eq!(first.nodes.len(), 1000);
    assert!(grown < 6 << 20, "a further watch of 1,000 nodes (13 MB of JSON) costs {} KB", grown >> 10);
}
