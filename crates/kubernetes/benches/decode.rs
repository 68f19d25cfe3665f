//! Decoding Nodes of a real cluster's size: from the JSON of the API to what the mesh needs.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

use divan::{Bencher, counter::BytesCount};
use kubernetes::{NodeObject, PodCidrSource, decode_node};
use serde_json::{Value, json};

const SIZES: [usize; 3] = [100, 1_000, 10_000];

const REGION: &str = "topology.kubernetes.io/region";

fn main() {
    divan::main();
}

/// A Node of 13 KB as kubelet, the controllers and a Go agent leave it: most of it are images and managed fields.
fn node(index: usize) -> Value {
    let image = |number| {
        let name = format!("registry.example.com/{}/{number}@sha256:{}", "x".repeat(60), "0".repeat(64));
        json!({ "names": [name], "sizeBytes": number })
    };
    let address = format!("172.16.{}.{}", index / 256, index % 256);
    let key = format!("{index:042}8=");
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": format!("node-{index:05}"),
            "uid": format!("00000000-0000-0000-0000-{index:012}"),
            "resourceVersion": index.to_string(),
            "labels": { REGION: format!("location-{}", index / 20), "kubernetes.io/os": "linux" },
            "annotations": {
                "kilo.squat.ai/endpoint": format!("{address}:51820"),
                "kilo.squat.ai/internal-ip": format!("{address}/12"),
                "kilo.squat.ai/key": key,
                "kilo.squat.ai/last-seen": "1700000000",
                "kilo.squat.ai/wireguard-ip": "10.4.0.1/16",
                "kilo.squat.ai/granularity": "location",
                "kilo.squat.ai/discovered-endpoints": "",
                "node.alpha.kubernetes.io/ttl": "0",
            },
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:status": (0..40).map(|field| (format!("f:{field}"), json!({}))).collect::<serde_json::Map<_, _>>() } }],
        },
        "spec": { "podCIDR": format!("10.{}.{}.0/24", 64 + index / 256, index % 256),
                  "podCIDRs": [format!("10.{}.{}.0/24", 64 + index / 256, index % 256)] },
        "status": { "images": (0..60).map(image).collect::<Vec<_>>(), "capacity": { "cpu": "8", "memory": "32Gi" } },
    })
}

/// From text to what the mesh needs: what every event costs, also a heartbeat.
#[divan::bench(args = SIZES)]
fn text_to_node(bencher: Bencher, nodes: usize) {
    let texts: Vec<String> = (0..nodes).map(|index| node(index).to_string()).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    bencher.counter(BytesCount::new(bytes)).bench(|| {
        let mut usable = 0;
        for text in &texts {
            let object: NodeObject = serde_json::from_str(text).unwrap();
            usable += usize::from(decode_node(&object, REGION, PodCidrSource::Node).0.lacks().is_empty());
        }
        assert_eq!(usable, nodes);
    });
}

/// From the slimmed object to what the mesh needs.
#[divan::bench(args = SIZES)]
fn object_to_node(bencher: Bencher, nodes: usize) {
    let objects: Vec<NodeObject> =
        (0..nodes).map(|index| serde_json::from_value(node(index)).unwrap()).collect();
    bencher.bench(|| {
        objects
            .iter()
            .filter(|object| decode_node(object, REGION, PodCidrSource::Node).0.lacks().is_empty())
            .count()
    });
}
