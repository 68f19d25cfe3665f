//! Whether the API answers, where its servers are and which ranges services have.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use apiserver::Deny;
use common::{TestApi, node};
use ipnet::IpNet;
use kubernetes::{
    ApiAccess,
    api_servers::api_servers,
    client::{addresses, answers, connect_over},
    list_nodes,
    services::service_ranges,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use underlay::Underlay;

const WITHIN: Duration = Duration::from_secs(5);

fn slice() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "kubernetes", "namespace": "default" },
        "addressType": "IPv4",
        "endpoints": [
            { "addresses": ["192.0.2.1"], "conditions": { "ready": true } },
            { "addresses": ["192.0.2.2"], "conditions": { "ready": false } },
            { "addresses": ["192.0.2.3"] },
        ],
        "ports": [
            { "name": "https", "port": 6443, "protocol": "TCP" },
            { "name": "other", "port": 53, "protocol": "UDP" },
        ],
    })
}

fn endpoints() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": "kubernetes", "namespace": "default" },
        "subsets": [{
            "addresses": [{ "ip": "192.0.2.4" }, { "ip": "fd00::4" }],
            "notReadyAddresses": [{ "ip": "192.0.2.5" }],
            "ports": [{ "port": 6443 }],
        }],
    })
}

async fn servers(api: &TestApi) -> Vec<String> {
    let found = api_servers(&api.client().await).await.unwrap();
    found.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn api_servers_are_those_that_the_cluster_publishes() {
    let api = TestApi::without_peers().await;
    assert!(servers(&api).await.is_empty());
    api.apply(endpoints());
    assert_eq!(servers(&api).await, ["192.0.2.4:6443", "[fd00::4]:6443"]);
    api.apply(slice());
    assert_eq!(servers(&api).await, ["192.0.2.1:6443", "192.0.2.3:6443"]);
    api.server.deny(Deny::new("get", "endpointslices"));
    assert_eq!(servers(&api).await, ["192.0.2.4:6443", "[fd00::4]:6443"]);
    api.server.deny(Deny::new("get", "endpoints"));
    assert!(servers(&api).await.is_empty());
}

#[tokio::test]
async fn service_ranges_are_known_where_the_cluster_tells_them() {
    let mut api = TestApi::without_peers().await;
    let client = api.client().await;
    assert_eq!(service_ranges(&client).await.unwrap(), None);
    for (name, ranges) in [("kubernetes", vec!["10.43.0.0/16", "fd43::/112"]), ("more", vec!["10.44.0.0/24"])]
    {
        api.apply(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": { "name": name }, "spec": { "cidrs": ranges },
        }));
    }
    let ranges = ["10.43.0.0/16", "10.44.0.0/24", "fd43::/112"].map(|range| range.parse::<IpNet>().unwrap());
    assert_eq!(service_ranges(&client).await.unwrap().unwrap(), ranges);
    api.server.deny(Deny::new("list", "servicecidrs"));
    assert_eq!(service_ranges(&client).await.unwrap(), None);
    // Silence is something else than an answer.
    api.stop().await;
    assert!(service_ranges(&client).await.is_err() && api_servers(&client).await.is_err());
}

#[tokio::test]
async fn an_api_answers_also_when_it_refuses() {
    let mut api = TestApi::without_peers().await;
    let underlay = Underlay::plain();
    answers(&api.access(), &underlay, WITHIN).await.unwrap();
    api.server.deny(Deny::new("*", "*"));
    answers(&api.access(), &underlay, WITHIN).await.unwrap();
    api.stop().await;
    let error = answers(&api.access(), &underlay, WITHIN).await.unwrap_err();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn an_api_that_is_silent_or_broken_does_not_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = ApiAccess::from_flags(None, Some(listener.local_addr().unwrap().to_string()), "test");
    let start = Instant::now();
    let error = answers(&access, &Underlay::plain(), Duration::from_millis(300)).await.unwrap_err();
    assert!(error.contains("no answer for 300ms") && start.elapsed() < WITHIN, "{error}");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let error = answers(&access, &Underlay::plain(), WITHIN).await.unwrap_err();
    assert!(error.contains("503"), "{error}");
}

/// Every question is one on its own connection: one that is open says nothing about the way to the API now.
#[tokio::test]
async fn answers_come_on_a_new_connection() {
    let api = TestApi::without_peers().await;
    let underlay = Underlay::plain();
    answers(&api.access(), &underlay, WITHIN).await.unwrap();
    let client = connect_over(&api.access(), &underlay).await.unwrap();
    list_nodes(&client, "x", None).await.unwrap();
    let mut api = api;
    api.stop().await;
    answers(&api.access(), &underlay, WITHIN).await.unwrap_err();
    api.start().await;
    answers(&api.access(), &underlay, WITHIN).await.unwrap();
}

#[tokio::test]
async fn an_api_with_a_name_is_reached_at_any_of_its_addresses() {
    let api = TestApi::without_peers().await;
    api.apply(node("a", &[]));
    // The server listens on the IPv4 address only.
    let named = format!("http://localhost:{}", api.address.port());
    let access = ApiAccess::from_flags(None, Some(named), "kilo-test");
    assert!(addresses(&access).await.unwrap().contains(&api.address));
    // With a mark, where this may set one.
    for underlay in [Underlay::plain(), Underlay::new(Some(0x10))] {
        let client = connect_over(&access, &underlay).await.unwrap();
        assert_eq!(list_nodes(&client, "x", None).await.unwrap().0.len(), 1);
        assert!(underlay.evidence().is_empty());
    }
    let nowhere = ApiAccess::from_flags(None, Some("http://kilo.invalid".to_owned()), "kilo-test");
    let error = list_nodes(&connect_over(&nowhere, &Underlay::plain()).await.unwrap(), "x", None).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("dns error"), "{error}");
    assert!(addresses(&nowhere).await.unwrap_err().to_string().contains("dns error"));
}

#[tokio::test]
async fn the_ports_of_urls_are_those_of_their_schemes() {
    for (url, expected) in [
        ("https://192.0.2.1", "192.0.2.1:443"),
        ("http://[fd00::1]", "[fd00::1]:80"),
        ("https://[fd00::1]:6443/path", "[fd00::1]:6443"),
    ] {
        let access = ApiAccess::from_flags(None, Some(url.to_owned()), "kilo-test");
        assert_eq!(addresses(&access).await.unwrap(), [expected.parse().unwrap()], "{url}");
    }
}
