//! Pod subnets from other CNIs' objects, against the embedded API: watched, listed, missing and forbidden.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use apiserver::Deny;
use common::{
    KEY, Reader, TestApi, block_affinity, calico_definition, cilium_definition, cilium_node, node, peer,
};
use kubernetes::{Error, PodCidrSource, Reporter, list_nodes, published_source, report};
use mesh::{Node, Object, Problem};
use serde_json::json;

const REGION: &str = "topology.kubernetes.io/region";
const BLOCKS: &str = "blockaffinities.crd.projectcalico.org";

fn subnets(node: &Node) -> Vec<String> {
    node.pod_subnets.iter().map(ToString::to_string).collect()
}

fn of(reader: &Reader, name: &str) -> Vec<String> {
    subnets(&reader.nodes[name].node)
}

/// Reads until a node has these subnets.
async fn until(reader: &mut Reader, name: &str, expected: &[&str]) {
    while reader.nodes.get(name).is_none_or(|watched| subnets(&watched.node) != expected) {
        reader.next().await;
    }
}

async fn api_of_cilium() -> TestApi {
    let api = TestApi::new().await;
    api.apply(cilium_definition());
    api
}

async fn api_of_calico() -> TestApi {
    let api = TestApi::new().await;
    api.apply(calico_definition());
    api
}

#[tokio::test]
async fn subnets_of_cilium_replace_those_of_the_node() {
    let api = api_of_cilium().await;
    for name in ["a", "b", "c"] {
        api.apply(node(name, &[("key", KEY), ("pod-cidr-source", "cilium")]));
    }
    api.apply(cilium_node("a", &["10.0.1.0/24", "fd00:1::/64"]));
    api.apply(cilium_node("b", &["10.0.2.0", "10.0.3.0/24"]));
    let mut reader = api.watch_with(PodCidrSource::Cilium).await;
    reader.until("synced").await;
    assert_eq!(of(&reader, "a"), ["10.0.1.0/24", "fd00:1::/64"]);
    assert_eq!(reader.nodes["a"].problems, []);
    assert_eq!(of(&reader, "b"), ["10.0.3.0/24"], "what is wrong hurts only itself");
    let [problem] = reader.objects["b"].as_slice() else { panic!("{:?}", reader.objects) };
    assert_eq!(problem.to_string().split(':').next(), Some("CiliumNode b"));
    assert!(of(&reader, "c").is_empty() && reader.nodes["c"].node.joins_without_pods);
    assert_eq!(reader.nodes["c"].problems[0].reason, "MissingPodCIDR");

    api.apply(cilium_node("c", &["10.0.4.0/24"]));
    assert_eq!(reader.until("node c").await, ["node c"]);
    assert_eq!((of(&reader, "c"), reader.nodes["c"].problems.len()), (vec!["10.0.4.0/24".to_owned()], 0));
    api.apply(cilium_node("b", &["10.0.3.0/24"]));
    assert_eq!(reader.until("object b []").await, ["object b []"]);
    api.server.delete("ciliumnodes", "a").unwrap();
    assert_eq!(reader.until("node a").await, ["node a"]);
    assert!(of(&reader, "a").is_empty());
    api.server.delete("nodes", "c").unwrap();
    reader.until("object c [UnknownNode]").await;
    api.server.delete("ciliumnodes", "c").unwrap();
    reader.until("object c []").await;
}

#[tokio::test]
async fn blocks_of_calico_come_and_go() {
    let api = api_of_calico().await;
    api.apply(node("a", &[]));
    api.apply(block_affinity("a-1", "a", "10.244.1.64/26", "confirmed"));
    api.apply(block_affinity("a-2", "a", "10.244.1.0/26", "confirmed"));
    api.apply(block_affinity("a-3", "a", "fd00:244::/122", "confirmed"));
    api.apply(block_affinity("a-4", "a", "10.244.9.0/26", "pending"));
    api.apply(block_affinity("stray", "gone", "10.244.8.0/26", "confirmed"));
    let mut reader = api.watch_with(PodCidrSource::Calico).await;
    let told = reader.until("synced").await;
    assert!(told.contains(&"object stray [UnknownNode]".to_owned()), "{told:?}");
    assert_eq!(of(&reader, "a"), ["10.244.1.0/26", "10.244.1.64/26", "fd00:244::/122"]);

    api.server.patch("blockaffinities", "a-4", &json!({ "spec": { "state": "confirmed" } })).unwrap();
    assert_eq!(reader.until("node a").await, ["node a"]);
    assert_eq!(of(&reader, "a").len(), 4);
    api.server.patch("blockaffinities", "a-1", &json!({ "spec": { "deleted": "true" } })).unwrap();
    assert_eq!(reader.until("node a").await, ["node a"]);
    api.server.delete("blockaffinities", "a-1").unwrap();
    api.server.delete("blockaffinities", "a-2").unwrap();
    assert_eq!(
        reader.until("node a").await,
        ["node a"],
        "the end of one that no longer counts means nothing"
    );
    assert_eq!(of(&reader, "a"), ["10.244.9.0/26", "fd00:244::/122"]);
    api.apply(node("gone", &[]));
    assert_eq!(reader.until("object stray []").await, ["node gone", "object stray []"]);
    assert_eq!(of(&reader, "gone"), ["10.244.8.0/26"]);
}

/// One confirmed block of two nodes is for the mesh to judge; each of the two is told of its own.
#[tokio::test]
async fn a_block_of_two_nodes_is_told_of_both() {
    let api = api_of_calico().await;
    for name in ["a", "b"] {
        api.apply(node(name, &[]));
        api.apply(block_affinity(name, name, "10.244.1.0/26", "confirmed"));
    }
    let mut reader = api.watch_with(PodCidrSource::Calico).await;
    reader.until("synced").await;
    assert_eq!(
        (of(&reader, "a"), of(&reader, "b")),
        (vec!["10.244.1.0/26".to_owned()], vec!["10.244.1.0/26".to_owned()])
    );
}

#[tokio::test]
async fn annotated_subnets_are_followed() {
    let api = TestApi::new().await;
    api.apply(node("a", &[("pod-cidrs", "10.42.1.0/24")]));
    let mut reader = api.watch_with(PodCidrSource::Annotation).await;
    reader.until("synced").await;
    assert_eq!(of(&reader, "a"), ["10.42.1.0/24"]);
    let change =
        json!({ "metadata": { "annotations": { "kilo.squat.ai/pod-cidrs": "10.42.2.0/24,fd42::/64" } } });
    api.server.patch("nodes", "a", &change).unwrap();
    assert_eq!(reader.until("node a").await, ["node a"]);
    assert_eq!(of(&reader, "a"), ["10.42.2.0/24", "fd42::/64"]);
    assert_eq!(api.server.counters().watches, 2);
}

/// Where the Node gives pod subnets nothing else is asked for, also where other CNIs' objects are.
#[tokio::test]
async fn nothing_is_watched_that_is_not_needed() {
    let api = api_of_cilium().await;
    api.apply(node("a", &[("pod-cidrs", "10.42.1.0/24")]));
    api.apply(cilium_node("a", &["10.0.1.0/24"]));
    let mut reader = api.watch().await;
    assert_eq!(reader.until("synced").await, ["node a", "synced"]);
    assert_eq!(of(&reader, "a"), ["10.2.1.0/24"]);
    assert_eq!(api.server.counters().watches, 2);
    let mut reader = api.watch_with(PodCidrSource::Cilium).await;
    reader.until("synced").await;
    assert_eq!(api.server.counters().watches, 2 + 3);
}

#[tokio::test]
async fn a_missing_definition_is_told_hurts_nothing_else_and_may_come_later() {
    for (source, resource, definition, object) in [
        (
            PodCidrSource::Cilium,
            "ciliumnodes.cilium.io",
            cilium_definition(),
            cilium_node("a", &["10.0.1.0/24"]),
        ),
        (
            PodCidrSource::Calico,
            BLOCKS,
            calico_definition(),
            block_affinity("x", "a", "10.0.1.0/24", "confirmed"),
        ),
    ] {
        let api = TestApi::new().await;
        api.apply(node("a", &[("key", KEY)]));
        api.apply(peer("p", "10.5.0.1/32"));
        let mut reader = api.watch_with(source).await;
        let told = reader.until("synced").await;
        for entry in ["access [MissingDefinition]", "node a", "peer p"] {
            assert!(told.contains(&entry.to_owned()), "{source}: {told:?}");
        }
        let message = &reader.access[0].message;
        assert!(message.contains(resource) && message.contains("--pod-cidr-source"), "{message}");
        assert!(message.contains("until they are read, pod subnets are those of spec.podCIDRs"), "{message}");
        assert_eq!(of(&reader, "a"), ["10.2.1.0/24"]);
        // That it reads something else is judged together with all others.
        assert_eq!(reader.nodes["a"].node.pod_cidr_source.as_deref(), Some("node"));
        assert_eq!(reader.nodes["a"].problems, []);
        api.apply(definition);
        api.apply(object);
        until(&mut reader, "a", &["10.0.1.0/24"]).await;
        while !reader.access.is_empty() {
            reader.next().await;
        }
    }
}

/// It is said which verb on which resource is missing, and what counts until then.
#[tokio::test]
async fn forbidden_objects_are_told_and_hurt_nothing_else() {
    let api = api_of_calico().await;
    api.apply(node("a", &[]));
    api.apply(block_affinity("x", "a", "10.244.1.0/26", "confirmed"));
    api.server.deny(Deny::new("*", BLOCKS));
    let mut reader = api.watch_with(PodCidrSource::Calico).await;
    let told = reader.until("synced").await;
    assert!(told.contains(&"access [Forbidden]".to_owned()), "{told:?}");
    let message = &reader.access[0].message;
    for words in ["watch", BLOCKS, "ClusterRole", "spec.podCIDRs"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(of(&reader, "a"), ["10.2.1.0/24"]);
    api.apply(node("b", &[]));
    reader.until("node b").await;
    api.server.allow_all();
    until(&mut reader, "a", &["10.244.1.0/26"]).await;
    while !reader.access.is_empty() {
        reader.next().await;
    }
}

/// Two resources that may not be read at a time are two problems, with the same reason, and each ends by itself.
#[tokio::test]
async fn every_resource_is_told_by_itself() {
    let api = api_of_cilium().await;
    api.apply(node("a", &[]));
    api.server.deny(Deny::new("*", "peers.kilo.squat.ai"));
    api.server.deny(Deny::new("*", "ciliumnodes.cilium.io"));
    let mut reader = api.watch_with(PodCidrSource::Cilium).await;
    reader.until("access [Forbidden, Forbidden]").await;
    api.server.allow_all();
    api.server.deny(Deny::new("*", "peers.kilo.squat.ai"));
    reader.until("access [Forbidden]").await;
    assert!(reader.access[0].message.contains("peers.kilo.squat.ai"), "{}", reader.access[0]);
    api.server.allow_all();
    reader.until("access []").await;
}

/// While the API is away nothing is taken back; what changed meanwhile is told afterwards.
#[tokio::test]
async fn an_api_that_was_away_catches_up() {
    let mut api = api_of_calico().await;
    api.apply(node("a", &[]));
    api.apply(block_affinity("x", "a", "10.244.1.0/26", "confirmed"));
    api.apply(block_affinity("y", "a", "10.244.2.0/26", "confirmed"));
    let mut reader = api.watch_with(PodCidrSource::Calico).await;
    reader.until("synced").await;
    api.stop().await;
    reader.until("access [Unreachable, Unreachable, Unreachable]").await;
    assert_eq!(of(&reader, "a").len(), 2);
    let of_blocks = reader.access.iter().find(|problem| problem.message.contains("kept"));
    assert!(of_blocks.is_some(), "{:?}", reader.access);
    api.server.delete("blockaffinities", "x").unwrap();
    api.apply(block_affinity("z", "a", "10.244.3.0/26", "confirmed"));
    api.server.compact();
    api.start().await;
    until(&mut reader, "a", &["10.244.2.0/26", "10.244.3.0/26"]).await;
    while !reader.access.is_empty() {
        reader.next().await;
    }
}

/// Many nodes with several blocks each: one more block is one update.
#[tokio::test]
async fn a_change_is_one_update_in_a_large_cluster() {
    let api = api_of_calico().await;
    for index in 0..300 {
        let name = format!("n{index:03}");
        api.apply(node(&name, &[]));
        for block in 0..3 {
            let cidr = format!("10.{}.{}.{}/26", 100 + block, index / 4, index % 4 * 64);
            api.apply(block_affinity(&format!("{name}-{block}"), &name, &cidr, "confirmed"));
        }
    }
    let mut reader = api.watch_with(PodCidrSource::Calico).await;
    let told = reader.until("synced").await;
    assert_eq!(told.len(), 300 + 1, "every node is told once, with its subnets");
    assert!(reader.nodes.values().all(|watched| watched.node.pod_subnets.len() == 3));
    api.apply(block_affinity("one-more", "n150", "10.9.0.0/26", "confirmed"));
    assert_eq!(reader.until("node n150").await, ["node n150"]);
    assert_eq!(of(&reader, "n150").len(), 4);
}

#[tokio::test]
async fn a_list_reads_what_the_agents_read() {
    let api = api_of_calico().await;
    api.apply(node("a", &[]));
    api.apply(node("b", &[("key", KEY), ("pod-cidr-source", "calico")]));
    api.apply(node("c", &[("key", KEY)]));
    api.apply(block_affinity("x", "b", "10.244.1.0/26", "confirmed"));
    api.apply(block_affinity("y", "nobody", "10.244.2.0/26", "confirmed"));
    let client = api.client().await;
    assert_eq!(published_source(&client).await.unwrap(), PodCidrSource::Calico);
    let (nodes, problems) = list_nodes(&client, REGION, None).await.unwrap();
    assert_eq!(
        nodes.iter().map(subnets).collect::<Vec<_>>(),
        [vec![], vec!["10.244.1.0/26".to_owned()], vec![]]
    );
    let told: Vec<_> =
        problems.iter().map(|problem| format!("{} {}", problem.reason, problem.object)).collect();
    assert_eq!(told, ["UnknownNode BlockAffinity y"]);
    let sources: Vec<_> = nodes.iter().map(|node| node.pod_cidr_source.as_deref()).collect();
    assert_eq!(sources, [None, Some("calico"), Some("node")]);

    let (nodes, problems) = list_nodes(&client, REGION, Some(PodCidrSource::Node)).await.unwrap();
    assert!(nodes.iter().all(|node| subnets(node) == ["10.2.1.0/24"] && !node.joins_without_pods));
    assert_eq!(problems, []);
    let error = list_nodes(&client, REGION, Some(PodCidrSource::Cilium)).await.unwrap_err();
    assert!(error.is_missing() && error.to_string().contains("ciliumnodes.cilium.io"), "{error}");
    api.server.deny(Deny::new("list", BLOCKS));
    let error = list_nodes(&client, REGION, None).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot list {BLOCKS}: may not list {BLOCKS} (")), "{error}");
}

#[tokio::test]
async fn a_source_that_is_not_known_here_is_refused() {
    let api = TestApi::new().await;
    let client = api.client().await;
    assert_eq!(published_source(&client).await.unwrap(), PodCidrSource::Node, "nobody is there");
    api.apply(node("a", &[("pod-cidr-source", "calico")]));
    assert_eq!(published_source(&client).await.unwrap(), PodCidrSource::Node, "no agent is there");
    api.apply(node("b", &[("key", KEY), ("pod-cidr-source", "moon")]));
    let error = published_source(&client).await.unwrap_err();
    assert!(matches!(&error, Error::PodCidrSource { node, .. } if node == "b"), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("moon") && text.contains("--pod-cidr-source"), "{text}");
    assert!(list_nodes(&client, REGION, None).await.is_err());
    assert_eq!(list_nodes(&client, REGION, Some(PodCidrSource::Node)).await.unwrap().0.len(), 2);
    // One node alone decides nothing.
    for name in ["c", "d"] {
        api.apply(node(name, &[("key", KEY)]));
    }
    assert_eq!(published_source(&client).await.unwrap(), PodCidrSource::Node);
    assert_eq!(list_nodes(&client, REGION, None).await.unwrap().0.len(), 4);
}

#[tokio::test]
async fn problems_of_other_cnis_objects_become_events() {
    let api = api_of_calico().await;
    api.apply(cilium_definition());
    api.apply(block_affinity("x", "a", "10.244.1.0/26", "confirmed"));
    api.apply(cilium_node("a", &[]));
    let client = api.client().await;
    let reporter = Reporter { controller: "kilo.squat.ai/kg".to_owned(), instance: "a".to_owned() };
    for (kind, name) in [("BlockAffinity", "x"), ("CiliumNode", "a")] {
        let object = Object::Foreign { kind, name: name.to_owned() };
        report(&client, &reporter, &Problem::new(object, "SomeReason", "is wrong")).await.unwrap();
    }
    let events = api.server.list("events.events.k8s.io");
    for (kind, version, resource, name) in [
        ("BlockAffinity", "crd.projectcalico.org/v1", "blockaffinities", "x"),
        ("CiliumNode", "cilium.io/v2", "ciliumnodes", "a"),
    ] {
        let event = events.iter().find(|event| event["regarding"]["kind"] == kind).unwrap();
        assert_eq!(
            (&event["regarding"]["name"], &event["regarding"]["apiVersion"]),
            (&name.into(), &version.into())
        );
        assert_eq!(event["regarding"]["uid"], api.server.get(resource, name).unwrap()["metadata"]["uid"]);
    }
}
