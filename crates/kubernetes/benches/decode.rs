//! Decoding Nodes of a real cluster's size: from the JSON of the API to what the mesh needs.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::sync::Arc;

use divan::{Bencher, counter::BytesCount};
use kubernetes::{
    NodeObject, PodCidrSource, decode_node,
    pod_cidrs::join::{Grant, Join},
    watch::WatchedNode,
};
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

/// One block more and less of a cluster with three blocks on every node: it must not matter how many nodes there are.
#[divan::bench(args = SIZES)]
fn block_to_node(bencher: Bencher, nodes: usize) {
    let block = |node: usize, number: usize| {
        let subnet = format!("10.{}.{}.{}/28", node / 256, node % 256, number * 16);
        Grant {
            node: format!("node-{node:05}"),
            subnets: vec![subnet.parse().unwrap()],
            problems: Vec::new(),
        }
    };
    let mut join = Join::new(PodCidrSource::Calico);
    for index in 0..nodes {
        let object: NodeObject = serde_json::from_value(node(index)).unwrap();
        let (node, problems) = decode_node(&object, REGION, PodCidrSource::Calico);
        let name = node.name.clone();
        join.set_node(&name, Some(WatchedNode { node: Arc::new(node), problems, own: None }));
        for number in 0..3 {
            join.set_grant(&format!("{index}-{number}"), Some(block(index, number)));
        }
    }
    join.complete_nodes();
    join.complete_grants();
    bencher.bench_local(|| {
        let more = join.set_grant("more", Some(block(nodes / 2, 9)));
        let less = join.set_grant("more", None);
        assert_eq!((more.len(), less.len()), (1, 1));
    });
}
