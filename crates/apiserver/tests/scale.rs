//! Many objects and many watchers: everyone sees every change, in order, and a late one is told to start anew.
//! Without sockets, so that no limit on open files matters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use apiserver::Server;
use axum::body::Body;
use futures::StreamExt;
use futures::future::join_all;
use http::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

const NODES: usize = 500;
const WATCHERS: usize = 1000;
const CHANGES: usize = 20;

/// A Node of about 13 KB, as large as those of a busy cluster.
fn node(index: usize) -> Value {
    let images: Vec<Value> = (0..50)
        .map(|i| json!({ "names": [format!("registry.example.com/team/image-{i}@sha256:{}", "a".repeat(160))], "sizeBytes": i }))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("node-{index:05}") },
        "spec": { "podCIDR": "10.2.0.0/24" }, "status": { "images": images },
    })
}

/// The lines of a watch that starts now, as they come.
async fn watch(server: &Server, path: &str) -> impl futures::Stream<Item = Value> + use<> {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = TowerToHyperService::new(server.router()).call(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().into_data_stream().map(|chunk| serde_json::from_slice(&chunk.unwrap()).unwrap())
}

/// Reads the values that the label `n` of `node-00000` takes.
async fn values_seen(stream: impl futures::Stream<Item = Value>) -> Vec<usize> {
    let mut stream = std::pin::pin!(stream);
    let mut seen = Vec::new();
    while seen.len() < CHANGES {
        let event = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
        let event = event.expect("a watcher waits in vain").unwrap();
        assert_eq!(event["type"], "MODIFIED");
        seen.push(event["object"]["metadata"]["labels"]["n"].as_str().unwrap().parse().unwrap());
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_see_every_change() {
    let server = Server::new();
    for index in 0..NODES {
        server.apply_object(node(index)).unwrap();
    }
    let size = server.get("nodes", "node-00000").unwrap().to_string().len();
    assert!((12_000..15_000).contains(&size), "a node has {size} bytes");
    let version =
        server.list("nodes").last().unwrap()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/nodes?watch=true&resourceVersion={version}");
    let mut readers = Vec::new();
    for _ in 0..WATCHERS {
        let stream = watch(&server, &path).await;
        readers.push(tokio::spawn(values_seen(stream)));
    }
    let started = Instant::now();
    for n in 0..CHANGES {
        server
            .patch("nodes", "node-00000", &json!({ "metadata": { "labels": { "n": n.to_string() } } }))
            .unwrap();
    }
    let expected: Vec<usize> = (0..CHANGES).collect();
    for seen in join_all(readers).await {
        assert_eq!(seen.unwrap(), expected);
    }
    println!("{CHANGES} changes reached {WATCHERS} watchers in {:?}", started.elapsed());
    assert!(server.counters().watch_events >= (WATCHERS * CHANGES) as u64);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_to_start_anew() {
    let server = Server::new();
    server.apply_object(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" } })).unwrap();
    let mut stream = std::pin::pin!(watch(&server, "/api/v1/nodes?watch=true").await);
    assert_eq!(stream.next().await.unwrap()["type"], "ADDED");
    for n in 0..5000 {
        server.patch("nodes", "n", &json!({ "metadata": { "labels": { "n": n.to_string() } } })).unwrap();
    }
    let event = stream.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(stream.next().await.is_none());
}
