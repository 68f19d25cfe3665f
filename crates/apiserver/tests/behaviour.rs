//! What clients rely on beyond the recorded answers: watches that resume, lists that continue, conflicts,
//! finalizers, refusals, and a server that goes away.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use apiserver::{Deny, Server};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::{Value, json};

use common::{Answer, Cluster, open, peer_definition, request, send};

const NODES: &str = "/api/v1/nodes";

impl Cluster {
    async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        send(self.address, request(method, path, body)).await
    }

    async fn watch(&self, path: &str) -> Lines {
        let response = open(self.address, request("GET", path, &Value::Null)).await;
        assert_eq!(response.status(), 200);
        Lines { response, rest: String::new() }
    }

    fn node(&self, name: &str, site: &str) -> Value {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "site": site } } });
        self.server.apply_object(node).unwrap()
    }
}

/// The events of an open watch.
struct Lines {
    response: Response<Incoming>,
    rest: String,
}

impl Lines {
    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.rest.split_once('\n') {
                let value = serde_json::from_str(line).unwrap();
                self.rest = rest.to_owned();
                return Some(value);
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.response.body_mut().frame());
            let data = frame.await.expect("the watch is silent").and_then(Result::ok)?.into_data().ok()?;
            self.rest += std::str::from_utf8(&data).unwrap();
        }
    }

    /// The next event as `TYPE name`.
    async fn brief(&mut self) -> String {
        let event = self.next().await.expect("the watch goes on");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[tokio::test]
async fn a_watch_follows_its_selection() {
    let cluster = Cluster::start(Server::new()).await;
    cluster.node("a", "x");
    cluster.node("b", "y");
    let mut watch = cluster.watch("/api/v1/nodes?watch=true&labelSelector=site%3Dx").await;
    assert_eq!(watch.brief().await, "ADDED a");
    cluster.node("b", "x");
    assert_eq!(watch.brief().await, "ADDED b");
    cluster.node("a", "y");
    let left = watch.next().await.unwrap();
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["site"]),
        (&json!("DELETED"), &json!("x"))
    );
    cluster.server.delete("nodes", "a").unwrap();
    cluster.server.patch("nodes", "b", &json!({ "spec": { "unschedulable": true } })).unwrap();
    assert_eq!(watch.brief().await, "MODIFIED b");
    cluster.server.delete("nodes", "b").unwrap();
    assert_eq!(watch.brief().await, "DELETED b");
}

#[tokio::test]
async fn a_watch_of_one_namespace_and_one_name() {
    let cluster = Cluster::start(Server::new()).await;
    let path = "/api/v1/namespaces/kube-system/configmaps?watch=true&fieldSelector=metadata.name%3Dc";
    let mut watch = cluster.watch(path).await;
    for (namespace, name) in [("default", "c"), ("kube-system", "other"), ("kube-system", "c")] {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace } });
        cluster.server.apply_object(map).unwrap();
    }
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["metadata"]["namespace"], "kube-system");
    assert_eq!(event["object"]["metadata"]["name"], "c");
}

#[tokio::test]
async fn bookmarks_carry_the_version_of_everything_before_them() {
    let cluster = Cluster::start(Server::with_bookmarks_every(Duration::from_millis(50))).await;
    let node = cluster.node("a", "x");
    let path = format!("{NODES}?watch=true&allowWatchBookmarks=true&resourceVersion={}", version(&node));
    let mut watch = cluster.watch(&path).await;
    let lease =
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "l" } });
    let lease = cluster.server.apply_object(lease).unwrap();
    // A bookmark may be on its way from before the lease; a later one tells its version.
    loop {
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        if version(&event["object"]) == version(&lease) {
            break;
        }
    }
    let mut resumed = cluster.watch(&format!("{NODES}?watch=true&resourceVersion={}", version(&lease))).await;
    cluster.node("b", "x");
    assert_eq!(resumed.brief().await, "ADDED b");
}

#[tokio::test]
async fn a_forgotten_history_is_gone() {
    let cluster = Cluster::start(Server::new()).await;
    let old = cluster.node("a", "x");
    let first = cluster.node("b", "x");
    let page = cluster.call("GET", "/api/v1/nodes?limit=1", &Value::Null).await.json();
    let token = page["metadata"]["continue"].as_str().unwrap();
    cluster.node("a", "y");
    cluster.server.compact();

    let expired =
        cluster.watch(&format!("{NODES}?watch=true&resourceVersion={}", version(&old))).await.next().await;
    let expired = expired.unwrap();
    assert_eq!((&expired["type"], &expired["object"]["code"]), (&json!("ERROR"), &json!(410)));
    let answer = cluster.call("GET", &format!("{NODES}?limit=1&continue={token}"), &Value::Null).await;
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (410, Some("Expired")));
    let inconsistent = answer.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = cluster.call("GET", &format!("{NODES}?limit=1&continue={inconsistent}"), &Value::Null).await;
    assert_eq!(rest.json()["items"][0]["metadata"]["resourceVersion"], version(&first));
    let exact = format!("{NODES}?resourceVersionMatch=Exact&resourceVersion={}", version(&old));
    assert_eq!(cluster.call("GET", &exact, &Value::Null).await.status, 410);
}

#[tokio::test]
async fn pages_show_the_state_of_the_first() {
    let cluster = Cluster::start(Server::new()).await;
    for name in ["a", "b", "c", "d"] {
        cluster.node(name, "x");
    }
    let first = cluster.call("GET", "/api/v1/nodes?limit=2", &Value::Null).await.json();
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    cluster.node("c", "changed");
    cluster.node("bb", "new");
    cluster.server.delete("nodes", "d").unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = cluster.call("GET", &format!("{NODES}?limit=2&continue={token}"), &Value::Null).await.json();
    let shown: Vec<_> = second["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (&n["metadata"]["name"], &n["metadata"]["labels"]["site"]))
        .collect();
    assert_eq!(shown, [(&json!("c"), &json!("x")), (&json!("d"), &json!("x"))]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_no_event() {
    let cluster = Cluster::start(Server::new()).await;
    let node = cluster.node("a", "x");
    let same = json!({ "metadata": { "labels": { "site": "x" } } });
    let answer = cluster.call("PATCH", "/api/v1/nodes/a", &same).await.json();
    assert_eq!(version(&answer), version(&node));
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let cluster = Cluster::start(Server::new()).await;
    let held =
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a", "finalizers": ["x/y"] } });
    cluster.server.apply_object(held).unwrap();
    let answer = cluster.call("DELETE", "/api/v1/nodes/a", &Value::Null).await.json();
    assert_eq!(answer["kind"], "Node");
    assert!(answer["metadata"]["deletionTimestamp"].is_string(), "{answer}");
    let released = json!({ "metadata": { "finalizers": null } });
    assert_eq!(cluster.call("PATCH", "/api/v1/nodes/a", &released).await.status, 200);
    assert_eq!(cluster.call("GET", "/api/v1/nodes/a", &Value::Null).await.status, 404);
}

#[tokio::test]
async fn deletes_have_preconditions_and_selections() {
    let cluster = Cluster::start(Server::new()).await;
    for (name, site) in [("a", "x"), ("b", "x"), ("c", "y")] {
        cluster.node(name, site);
    }
    let wrong = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": "other" } });
    assert_eq!(cluster.call("DELETE", "/api/v1/nodes/a", &wrong).await.status, 409);
    let deleted = cluster.call("DELETE", "/api/v1/nodes?labelSelector=site%3Dx", &Value::Null).await.json();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left: Vec<_> = cluster.server.list("nodes").iter().map(|n| n["metadata"]["name"].clone()).collect();
    assert_eq!(left, [json!("c")]);
}

#[tokio::test]
async fn namespaces_contain_and_take_along() {
    let cluster = Cluster::start(Server::new()).await;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" } });
    let path = "/api/v1/namespaces/n/configmaps";
    assert_eq!(cluster.call("POST", path, &map).await.status, 404);
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "n" } });
    assert_eq!(cluster.call("POST", "/api/v1/namespaces", &namespace).await.status, 201);
    assert_eq!(cluster.call("POST", path, &map).await.status, 201);
    assert!(cluster.server.get("configmaps", "n/m").is_some());
    cluster.server.delete("ns", "n").unwrap();
    assert!(cluster.server.get("configmaps", "n/m").is_none());
}

#[tokio::test]
async fn objects_of_the_wrong_shape_are_refused() {
    let cluster = Cluster::start(Server::new()).await;
    let number =
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a", "annotations": { "x": 1 } } });
    let label = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a", "labels": { "x": "not ok" } } });
    let other = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" } });
    for (body, code) in [(number, 400), (label, 422), (other, 400), (json!([]), 400)] {
        assert_eq!(cluster.call("POST", NODES, &body).await.status, code, "{body}");
    }
    let large =
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a" }, "x": "y".repeat(3 << 20) });
    assert_eq!(cluster.call("POST", NODES, &large).await.status, 413);
}

#[tokio::test]
async fn schemas_are_enforced() {
    let cluster = Cluster::start(Server::new()).await;
    let mut definition = peer_definition();
    let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let properties = &mut spec["properties"];
    properties["persistentKeepalive"]["minimum"] = json!(0);
    properties["persistentKeepalive"]["default"] = json!(0);
    properties["publicKey"]["pattern"] = json!("^[A-Za-z0-9+/]{43}=$");
    properties["mode"] = json!({ "type": "string", "enum": ["a", "b"] });
    cluster.server.apply_object(definition).unwrap();
    let key = "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=";
    let create = async |spec: Value| {
        let peer = json!({ "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": "p" }, "spec": spec });
        cluster.call("POST", "/apis/kilo.squat.ai/v1alpha1/peers", &peer).await.json()
    };
    let bad =
        create(json!({ "allowedIPs": [1], "publicKey": "x", "persistentKeepalive": -1, "mode": "c" })).await;
    let mut fields: Vec<_> =
        bad["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["spec.allowedIPs[0]", "spec.mode", "spec.persistentKeepalive", "spec.publicKey"],
        "{bad}"
    );
    let good = create(json!({ "allowedIPs": [], "publicKey": key })).await;
    assert_eq!(good["spec"]["persistentKeepalive"], 0, "{good}");
}

#[tokio::test]
async fn rules_deny_and_are_lifted() {
    let cluster = Cluster::start(Server::new()).await;
    cluster.node("a", "x");
    cluster.server.deny(Deny::new("patch", "nodes"));
    let patch = json!({ "metadata": { "annotations": { "a": "b" } } });
    let refused = cluster.call("PATCH", "/api/v1/nodes/a", &patch).await;
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (403, Some("Forbidden")));
    assert_eq!(cluster.call("GET", "/api/v1/nodes/a", &Value::Null).await.status, 200);
    cluster.server.allow_all();
    assert_eq!(cluster.call("PATCH", "/api/v1/nodes/a", &patch).await.status, 200);
    let counters = cluster.server.counters();
    assert_eq!((counters.requests["patch"], counters.requests["get"]), (2, 1));
    assert!(counters.bytes_sent > 0);
}

#[tokio::test]
async fn a_dropped_server_closes_its_watches() {
    let cluster = Cluster::start(Server::new()).await;
    let mut watch = cluster.watch("/api/v1/nodes?watch=true").await;
    let server = cluster.server.clone();
    assert_eq!(server.counters().watches, 1);
    drop(cluster);
    assert_eq!(watch.next().await, None);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while server.counters().watches > 0 {
        assert!(tokio::time::Instant::now() < deadline, "the watch is still counted");
        tokio::task::yield_now().await;
    }
    let again = Cluster::start(server).await;
    assert_eq!(again.call("GET", "/readyz", &Value::Null).await.body, "ok");
}

#[tokio::test]
async fn a_watch_ends_with_its_definition() {
    let cluster = Cluster::start(Server::new()).await;
    cluster.server.apply_object(peer_definition()).unwrap();
    let mut watch = cluster.watch("/apis/kilo.squat.ai/v1alpha1/peers?watch=true").await;
    cluster.server.delete("crd", "peers.kilo.squat.ai").unwrap();
    assert_eq!(watch.next().await, None);
    let gone = cluster.call("GET", "/apis/kilo.squat.ai/v1alpha1/peers", &Value::Null).await;
    assert_eq!((gone.status, gone.body.as_str()), (404, "404 page not found\n"));
}
