//! A watch against the embedded API: what arrives, and what an API that fails does to it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use apiserver::Deny;
use common::{KEY, TestApi, node, peer};
use kubernetes::peer::custom_resource_definition;
use serde_json::json;

#[tokio::test]
async fn everything_there_is_arrives_before_synced() {
    let api = TestApi::new().await;
    for name in ["a", "b", "own"] {
        api.apply(node(name, &[("key", KEY), ("force-endpoint", "vpn.example.com:1")]));
    }
    api.apply(peer("p", "10.5.0.1/32"));
    let mut reader = api.watch().await;
    let mut told = reader.until("synced").await;
    told.sort();
    assert_eq!(told, ["node a", "node b", "node own", "peer p", "synced"]);
    assert_eq!(reader.nodes["a"].node.key.unwrap().to_string(), KEY);
    assert_eq!(reader.nodes["a"].own, None);
    let own = reader.nodes["own"].own.as_ref().unwrap();
    assert_eq!(own.annotations["kilo.squat.ai/key"], KEY);
    assert_eq!(own.forced.endpoint.as_ref().unwrap().to_string(), "vpn.example.com:1");
    assert_eq!(reader.peers["p"].peer.as_ref().unwrap().allowed_ips.len(), 1);
}

#[tokio::test]
async fn changes_arrive_and_what_means_the_same_does_not() {
    let api = TestApi::new().await;
    let mut reader = api.watch().await;
    assert_eq!(reader.until("synced").await, ["synced"]);

    api.apply(node("a", &[]));
    assert_eq!(reader.until("node a").await, ["node a"]);
    let other = json!({ "metadata": { "annotations": { "other": "x" }, "labels": { "y": "z" } } });
    api.server.patch("nodes", "a", &other).unwrap();
    let keepalive = json!({ "metadata": { "annotations": { "kilo.squat.ai/persistent-keepalive": "ten" } } });
    api.server.patch("nodes", "a", &keepalive).unwrap();
    assert_eq!(reader.until("node a").await, ["node a"], "the first patch means nothing");
    assert_eq!(reader.nodes["a"].problems[0].reason, "InvalidPersistentKeepalive");

    api.apply(peer("p", "10.5.0.1/32"));
    reader.until("peer p").await;
    api.server.patch("peers", "p", &json!({ "spec": { "allowedIPs": ["10.5.0.1/99"] } })).unwrap();
    reader.until("peer p").await;
    assert_eq!(reader.peers["p"].peer, None);
    assert_eq!(reader.peers["p"].problems[0].reason, "InvalidPeer");

    api.server.delete("nodes", "a").unwrap();
    reader.until("no node a").await;
    api.server.delete("peers", "p").unwrap();
    assert_eq!(reader.until("no peer p").await, ["no peer p"]);
}

/// However much of a Node the API is asked for, what arrives is the whole Node as it is.
#[tokio::test]
async fn pod_subnets_are_those_of_the_node() {
    let api = TestApi::new().await;
    let with_pods = |name: &str, subnet: &str| {
        let mut object = node(name, &[]);
        object["spec"] = json!({ "podCIDR": subnet, "podCIDRs": [subnet] });
        object["status"] = json!({ "images": [{ "names": ["x".repeat(10_000)] }] });
        object
    };
    let subnet_of = |reader: &common::Reader, name: &str| reader.nodes[name].node.pod_subnets[0].to_string();
    api.apply(with_pods("a", "10.2.1.0/24"));
    let mut reader = api.watch().await;
    reader.until("synced").await;
    // The watch that brings it has begun when the first change has come.
    let seconds = |seconds: u32| {
        let key = "kilo.squat.ai/persistent-keepalive";
        json!({ "metadata": { "annotations": { key: seconds.to_string() } } })
    };
    api.server.patch("nodes", "a", &seconds(1)).unwrap();
    reader.until("node a").await;
    let before = api.server.counters().bytes_sent;
    api.server.patch("nodes", "a", &seconds(2)).unwrap();
    reader.until("node a").await;
    assert_eq!(
        (reader.nodes["a"].node.persistent_keepalive, subnet_of(&reader, "a")),
        (2, "10.2.1.0/24".into())
    );
    let bytes = api.server.counters().bytes_sent - before;
    assert!(bytes < 2000, "the images are not asked for: {bytes} bytes");
    // Heartbeats are told as such, but those of a kubelet not at all.
    let seen = |time: &str| json!({ "metadata": { "annotations": { "kilo.squat.ai/last-seen": time } } });
    api.server.patch("nodes", "a", &seen("100")).unwrap();
    assert_eq!(reader.until("node a").await, ["node a"]);
    api.server.patch("nodes", "a", &json!({ "status": { "conditions": [] } })).unwrap();
    api.server.patch("nodes", "a", &seen("130")).unwrap();
    assert_eq!(reader.until("heartbeat a").await, ["heartbeat a"]);
    assert_eq!(reader.nodes["a"].node.last_seen, 130);
    let mut both = seconds(5);
    both["metadata"]["annotations"]["kilo.squat.ai/last-seen"] = json!("160");
    api.server.patch("nodes", "a", &both).unwrap();
    assert_eq!(reader.until("node a").await, ["node a"]);
    let told = &reader.nodes["a"].node;
    assert_eq!((told.persistent_keepalive, told.last_seen), (5, 160));

    // A new Node, which gets its subnet only after its agent has spoken.
    let mut without_pods = node("b", &[]);
    without_pods.as_object_mut().unwrap().remove("spec");
    api.apply(without_pods);
    reader.until("node b").await;
    assert!(reader.nodes["b"].node.pod_subnets.is_empty());
    api.server.patch("nodes", "b", &seconds(3)).unwrap();
    reader.until("node b").await;
    let subnet = json!({ "spec": { "podCIDR": "10.2.2.0/24", "podCIDRs": ["10.2.2.0/24"] } });
    api.server.patch("nodes", "b", &subnet).unwrap();
    reader.until("node b").await;
    assert_eq!(
        (reader.nodes["b"].node.persistent_keepalive, subnet_of(&reader, "b")),
        (3, "10.2.2.0/24".into())
    );

    // Another Node of the same name.
    api.server.delete("nodes", "a").unwrap();
    api.apply(with_pods("a", "10.2.9.0/24"));
    reader.until("no node a").await;
    reader.until("node a").await;
    assert_eq!(subnet_of(&reader, "a"), "10.2.9.0/24");
    assert_eq!(subnet_of(&reader, "b"), "10.2.2.0/24");
}

/// Resumes where it was: nothing is listed again.
#[tokio::test]
async fn an_api_that_was_away_catches_up() {
    let mut api = TestApi::new().await;
    for name in ["a", "b"] {
        api.apply(node(name, &[]));
    }
    let mut reader = api.watch().await;
    reader.until("synced").await;
    let before = api.server.counters();

    api.stop().await;
    // Which of the two watches notices first is chance.
    let told = reader.until("broken Unreachable").await;
    api.server.delete("nodes", "a").unwrap();
    api.apply(node("c", &[]));
    while reader.access.len() < 2 {
        reader.next().await;
    }
    for entry in told.iter().chain(&reader.log) {
        assert!(
            entry == "broken Unreachable" || entry.starts_with("access"),
            "nothing is taken back: {entry}"
        );
    }
    // Whether a connection had just been begun is chance.
    let message = &reader.access[0].message;
    assert!(message.contains("refused") || message.contains("reset"), "{message}");
    assert_eq!(reader.node_names(), ["a", "b"]);

    api.start().await;
    reader.until("synced").await;
    assert_eq!(reader.node_names(), ["b", "c"]);
    while !reader.access.is_empty() {
        reader.next().await;
    }
    let after = api.server.counters();
    assert_eq!(before.requests.get("list"), after.requests.get("list"));
    api.apply(node("d", &[]));
    assert_eq!(reader.until("node d").await, ["node d"]);
}

/// The API has forgotten where the watch was: it is all asked for again, and what is gone is told after that.
#[tokio::test]
async fn an_api_that_forgot_the_position_is_listed_again() {
    let mut api = TestApi::new().await;
    for name in ["a", "b"] {
        api.apply(node(name, &[]));
    }
    let mut reader = api.watch().await;
    reader.until("synced").await;
    api.stop().await;
    reader.until("broken Unreachable").await;
    api.server.delete("nodes", "a").unwrap();
    api.apply(node("c", &[]));
    api.server.compact();
    api.start().await;
    let told = reader.until("synced").await;
    let nodes: Vec<_> = told.iter().filter(|entry| entry.contains("node")).collect();
    assert_eq!(nodes, ["node c", "no node a"]);
}

/// Neither is the watch broken: the API is there.
#[tokio::test]
async fn a_compaction_under_a_watch_goes_unnoticed() {
    let api = TestApi::new().await;
    api.apply(node("a", &[]));
    let mut reader = api.watch().await;
    reader.until("synced").await;
    api.server.compact();
    api.apply(node("b", &[]));
    assert_eq!(reader.until("node b").await, ["node b"]);
}

#[tokio::test]
async fn forbidden_nodes_say_which_verb_and_resource() {
    let api = TestApi::new().await;
    api.apply(node("a", &[]));
    api.server.deny(Deny::new("*", "nodes"));
    let mut reader = api.watch().await;
    reader.until("broken Forbidden").await;
    reader.until("access [Forbidden]").await;
    let message = &reader.access[0].message;
    assert!(
        message.contains("watch") && message.contains("nodes") && message.contains("ClusterRole"),
        "{message}"
    );
    api.server.allow_all();
    let told = reader.until("synced").await;
    assert_eq!(told, ["node a", "access []", "synced"]);
}

/// Nodes go on without Peers.
#[tokio::test]
async fn forbidden_peers_do_not_stop_nodes() {
    let api = TestApi::new().await;
    api.apply(node("a", &[]));
    api.apply(peer("p", "10.5.0.1/32"));
    api.server.deny(Deny::new("*", "peers.kilo.squat.ai"));
    let mut reader = api.watch().await;
    let told = reader.until("synced").await;
    assert!(
        told.contains(&"access [Forbidden]".to_owned()) && !told.contains(&"peer p".to_owned()),
        "{told:?}"
    );
    assert!(reader.access[0].message.contains("peers.kilo.squat.ai"), "{}", reader.access[0]);
    api.server.allow_all();
    assert_eq!(reader.until("access []").await, ["peer p", "access []"]);
}

#[tokio::test]
async fn a_missing_definition_does_not_stop_nodes_and_may_come_later() {
    let api = TestApi::without_peers().await;
    api.apply(node("a", &[]));
    let mut reader = api.watch().await;
    let told = reader.until("synced").await;
    assert!(told.contains(&"access [MissingPeerDefinition]".to_owned()), "{told:?}");
    assert!(
        reader.access[0].message.contains("kubectl apply -f manifests/crds.yaml"),
        "{}",
        reader.access[0]
    );
    api.apply(custom_resource_definition());
    api.apply(peer("p", "10.5.0.1/32"));
    while !reader.access.is_empty() || reader.peers.is_empty() {
        reader.next().await;
    }
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends() {
    let api = TestApi::new().await;
    let mut reader = api.watch().await;
    reader.until("synced").await;
    assert_eq!(api.server.counters().watches, 2);
    drop(reader);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while api.server.counters().watches > 0 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", api.server.counters());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The own Node's addresses arrive with the list, and with what the API answers to a patch; a watch of metadata says nothing of
/// them.
#[tokio::test]
async fn addresses_of_the_own_node_arrive() {
    let api = TestApi::new().await;
    let mut own = node("own", &[]);
    own["status"] = json!({ "addresses": [{ "type": "InternalIP", "address": "10.0.0.5" }] });
    api.apply(own.clone());
    let mut reader = api.watch().await;
    reader.until("node own").await;
    let of = |text: &str| Some([text.parse().unwrap()].into());
    assert_eq!(reader.nodes["own"].own.as_ref().unwrap().addresses, of("10.0.0.5"));
    own["status"] = json!({ "addresses": [{ "type": "InternalIP", "address": "10.0.0.6" }] });
    api.apply(own);
    let facts = mesh::Published {
        endpoint: None,
        internal_ips: Vec::new(),
        key: KEY.parse().unwrap(),
        wireguard_ips: Vec::new(),
        granularity: mesh::Granularity::Location,
        last_seen: 7,
        discovered_endpoints: BTreeMap::new(),
        cni_compatibility_ips: Vec::new(),
        pod_cidr_source: "node".to_owned(),
        settings: Default::default(),
    };
    let mut permission = kubernetes::permission::Permission::new(b"own");
    let client = api.client().await;
    let told =
        kubernetes::patch::tell(&client, "own", &BTreeMap::new(), &facts, &mut permission).await.unwrap();
    assert_eq!(told.addresses, of("10.0.0.6"));
}
