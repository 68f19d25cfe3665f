//! Measures the server with many large Nodes and many watchers: `scale [NODES] [WATCHERS]`, 10000 and 1000 unless
//! said otherwise. Requests do not pass through sockets: this is what the server itself costs.

use std::time::Instant;

use apiserver::Server;
use axum::body::{Body, to_bytes};
use futures::StreamExt;
use http::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

fn node(index: usize) -> Value {
    let images: Vec<Value> = (0..50)
        .map(|i| json!({ "names": [format!("registry.example.com/image-{i}@sha256:{}", "a".repeat(165))], "sizeBytes": i }))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("node-{index:05}") },
        "spec": { "podCIDR": "10.2.0.0/24" }, "status": { "images": images },
    })
}

/// Resident memory of this process, as the kernel words it.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap_or("unknown").trim().to_owned()
}

async fn get(server: &Server, path: &str) -> Result<Body, Box<dyn std::error::Error>> {
    let request = Request::get(path).body(Body::empty())?;
    Ok(TowerToHyperService::new(server.router()).call(request).await?.into_body())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let nodes = numbers.next().transpose()?.unwrap_or(10_000);
    let watchers = numbers.next().transpose()?.unwrap_or(1_000);

    let server = Server::new();
    println!("empty: {}", resident());
    let started = Instant::now();
    for index in 0..nodes {
        server.apply_object(node(index))?;
    }
    println!("{nodes} nodes stored in {:?}: {}", started.elapsed(), resident());

    let started = Instant::now();
    let list = to_bytes(get(&server, "/api/v1/nodes").await?, usize::MAX).await?;
    println!("listed, {} bytes, in {:?}: {}", list.len(), started.elapsed(), resident());
    drop(list);

    let last = server.patch("nodes", "node-00000", &json!({ "metadata": { "labels": { "a": "b" } } }))?;
    let from = last["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..watchers {
        let body = get(&server, &format!("/api/v1/nodes?watch=true&resourceVersion={from}")).await?;
        readers.spawn(async move { body.into_data_stream().take(100).count().await });
    }
    let started = Instant::now();
    for n in 0..100 {
        server.patch(
            "nodes",
            &format!("node-{n:05}"),
            &json!({ "metadata": { "labels": { "n": n.to_string() } } }),
        )?;
    }
    let written = started.elapsed();
    while let Some(count) = readers.join_next().await {
        assert_eq!(count?, 100);
    }
    println!(
        "100 changes written in {written:?}, read by {watchers} watchers in {:?}: {}",
        started.elapsed(),
        resident()
    );
    println!("{:?}", server.counters());
    Ok(())
}
