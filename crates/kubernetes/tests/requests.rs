//! Requests that are made once: lists, patches, Events; and what is said when they fail.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use apiserver::Deny;
use common::{KEY, TestApi, node, peer};
use kubernetes::{
    Error, PodCidrSource, Reporter,
    encode::patch,
    list_nodes, list_peers,
    patch::take_back,
    patch_node,
    permission::Permission,
    preshared_keys::{NAMESPACE, SECRET_TYPE, get_preshared_key},
    report,
};
use mesh::{Granularity, Object, Problem, Published, SecretRef};
use serde_json::{Value, json};

const REGION: &str = "topology.kubernetes.io/region";

fn facts() -> Published {
    Published {
        endpoint: Some("203.0.113.1:51820".parse().unwrap()),
        internal_ips: vec!["10.1.0.1/16".parse().unwrap(), "fd00::1/64".parse().unwrap()],
        key: KEY.parse().unwrap(),
        wireguard_ips: vec![],
        granularity: Granularity::Location,
        last_seen: 1_700_000_000,
        discovered_endpoints: BTreeMap::new(),
        cni_compatibility_ips: Vec::new(),
        pod_cidr_source: "node".to_owned(),
        settings: Default::default(),
    }
}

#[tokio::test]
async fn lists_come_by_name_and_whole() {
    let api = TestApi::new().await;
    // More than one page of 250.
    for index in (0..620).rev() {
        api.apply(node(&format!("n{index}"), &[]));
    }
    api.apply(peer("q", "10.5.0.2/32"));
    api.apply(peer("p", "10.5.0.1/32"));
    let client = api.client().await;
    let (nodes, problems) = list_nodes(&client, REGION, None).await.unwrap();
    assert_eq!(problems, []);
    let names: Vec<_> = nodes.iter().map(|node| node.name.clone()).collect();
    let mut expected: Vec<_> = (0..620).map(|index| format!("n{index}")).collect();
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(api.server.counters().requests["list"], 3);
    let (peers, problems) = list_peers(&client).await.unwrap();
    assert_eq!(peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["p", "q"]);
    assert_eq!(problems, []);
}

#[tokio::test]
async fn a_list_without_the_definition_says_what_to_do() {
    let api = TestApi::without_peers().await;
    let error = list_peers(&api.client().await).await.unwrap_err();
    assert!(error.is_missing(), "{error:?}");
    assert!(error.to_string().contains("kubectl apply -f manifests/crds.yaml"), "{error}");
}

#[tokio::test]
async fn a_list_without_leave_or_api_says_so() {
    let mut api = TestApi::new().await;
    api.server.deny(Deny::new("list", "nodes"));
    let client = api.client().await;
    let error = list_nodes(&client, REGION, None).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot list nodes: may not list nodes (") && error.contains("ClusterRole"),
        "{error}"
    );
    api.stop().await;
    let error = list_nodes(&client, REGION, None).await.unwrap_err();
    assert!(!error.is_missing() && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_agent_writes_what_it_knows_and_takes_it_back() {
    let api = TestApi::new().await;
    api.apply(node("a", &[("location", "here")]));
    let client = api.client().await;
    let change = patch(&BTreeMap::new(), &facts()).unwrap();
    let patched = patch_node(&client, "a", &change).await.unwrap();
    let annotations = patched.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["kilo.squat.ai/internal-ips"], "10.1.0.1/16,fd00::1/64");
    assert_eq!(patch(&annotations, &facts()), None);
    let (read, problems) = kubernetes::decode_node(&patched, REGION, PodCidrSource::Node);
    assert_eq!((Published::of(&read), problems), (Some(facts()), vec![]));

    let mut permission = Permission::new(b"a");
    take_back(&client, "a", &mut permission).await.unwrap();
    let left = &api.server.get("nodes", "a").unwrap()["metadata"]["annotations"];
    assert_eq!(*left, json!({ "kilo.squat.ai/location": "here" }));
    let error = take_back(&client, "nobody", &mut permission).await.unwrap_err();
    assert!(error.is_missing() && error.to_string().contains("node nobody"), "{error}");
}

#[tokio::test]
async fn problems_of_nodes_and_peers_become_events() {
    let api = TestApi::new().await;
    api.apply(node("a", &[]));
    api.apply(peer("p", "10.5.0.1/32"));
    let client = api.client().await;
    let reporter = Reporter { controller: "kilo.squat.ai/kg".to_owned(), instance: "a".to_owned() };
    let long = "é".repeat(2000);
    for (object, message) in [
        (Object::Node("a".to_owned()), "is wrong"),
        (Object::Peer("p".to_owned()), long.as_str()),
        (Object::Host, "has no place in the API"),
    ] {
        report(&client, &reporter, &Problem::new(object, "SomeReason", message)).await.unwrap();
    }
    let events = api.server.list("events.events.k8s.io");
    assert_eq!(events.len(), 2, "{events:?}");
    let of = |kind: &str| events.iter().find(|event| event["regarding"]["kind"] == kind).unwrap();
    let event = of("Node");
    assert_eq!(event["regarding"]["name"], "a");
    assert_eq!(event["regarding"]["uid"], api.server.get("nodes", "a").unwrap()["metadata"]["uid"]);
    assert_eq!(
        (&event["reason"], &event["note"], &event["type"]),
        (&"SomeReason".into(), &"is wrong".into(), &"Warning".into())
    );
    assert_eq!(event["reportingController"], "kilo.squat.ai/kg");
    assert_eq!(of("Peer")["note"].as_str().unwrap().len(), 1024);

    api.server.deny(Deny::new("create", "events.events.k8s.io"));
    let problem = Problem::new(Object::Node("a".to_owned()), "SomeReason", "x");
    let error = report(&client, &reporter, &problem).await.unwrap_err();
    assert!(matches!(&error, Error::Request { verb: "create", .. }), "{error:?}");
    assert!(error.to_string().contains("may not create events.events.k8s.io"), "{error}");
}

const PSK: &str = "X5iEdx2IJEvQ3kYRZ09X33bW1Q4IMvQiaL5X1LuCiqQ=";

fn secret(namespace: &str, name: &str, kind: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": namespace },
        "type": kind, "data": data,
    })
}

async fn api_with_namespace() -> TestApi {
    let api = TestApi::new().await;
    api.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }));
    api
}

fn key_of(name: &str) -> SecretRef {
    SecretRef::new(name, "presharedKey").unwrap()
}

#[tokio::test]
async fn a_preshared_key_is_got_by_itself() {
    let api = api_with_namespace().await;
    // Base64 of the text and a line break, as `kubectl create secret --from-file` makes it.
    let data = json!({ "presharedKey": "WDVpRWR4MklKRXZRM2tZUlowOVgzM2JXMVE0SU12UWlhTDVYMUx1Q2lxUT0K" });
    api.apply(secret(NAMESPACE, "laptop", SECRET_TYPE, data));
    let client = api.client().await;
    assert_eq!(*get_preshared_key(&client, &key_of("laptop")).await.unwrap().expose_base64(), PSK);
    let requests = api.server.counters().requests;
    assert_eq!(
        (requests["get"], requests.get("list"), requests.get("watch")),
        (1, None, None),
        "{requests:?}"
    );
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_preshared_key_is_named_without_its_content() {
    let api = api_with_namespace().await;
    let key = json!({ "presharedKey": "aHVudGVyMg==" });
    api.apply(secret(NAMESPACE, "wrong", SECRET_TYPE, key.clone()));
    api.apply(secret(NAMESPACE, "token", "kubernetes.io/service-account-token", key.clone()));
    // The same name in another namespace is another Secret.
    api.apply(secret("kube-system", "laptop", SECRET_TYPE, key));
    let client = api.client().await;
    for (name, words) in [
        ("laptop", ["the Secret laptop in the namespace kilo-preshared-keys", "not found"]),
        (
            "token",
            ["the Secret token in the namespace kilo-preshared-keys", "its type is not kilo.squat.ai/"],
        ),
        ("wrong", ["presharedKey is no key", "wg genpsk"]),
    ] {
        let error = get_preshared_key(&client, &key_of(name)).await.unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
    }
    api.server.deny(Deny::new("get", "secrets"));
    let error = get_preshared_key(&client, &key_of("laptop")).await.unwrap_err().to_string();
    for word in ["may not get secrets (", "bind a Role of the namespace kilo-preshared-keys"] {
        assert!(error.contains(word) && !error.contains("ClusterRole"), "{error}");
    }
}
