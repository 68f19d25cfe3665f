//! The real `kubectl` against the server: everything a user does with Nodes and Peers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use common::peer_definition;
use common::shell::{PATIENCE, Shell, table};

const KEY: &str = "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=";

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "site": "a" }, "annotations": { "kilo.squat.ai/location": "a" } },
        "spec": { "podCIDR": "10.2.1.0/24", "podCIDRs": ["10.2.1.0/24"] },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": "10.1.0.1" }],
            "conditions": [{ "type": "Ready", "status": "True" }],
            "nodeInfo": { "kubeletVersion": "v1.36.0" },
        },
    })
}

fn peer(name: &str, allowed: &str) -> Value {
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": name },
        "spec": { "allowedIPs": [allowed], "publicKey": KEY },
    })
}

/// A cluster with Peers, a Node and a Peer.
async fn with_objects() -> Shell {
    let shell = Shell::new().await;
    for object in [peer_definition(), node("n1"), peer("p1", "10.5.0.1/32")] {
        shell.cluster.server.apply_object(object).unwrap();
    }
    shell
}

#[tokio::test]
async fn get_prints_tables_and_objects() {
    let shell = with_objects().await;
    let nodes = table(&shell.ok(&["get", "nodes"], "").await);
    assert_eq!(nodes[0], "NAME STATUS ROLES AGE VERSION");
    assert!(nodes[1].starts_with("n1 Ready <none> ") && nodes[1].ends_with(" v1.36.0"), "{nodes:?}");
    let wide = table(&shell.ok(&["get", "nodes", "-o", "wide"], "").await);
    assert!(wide[0].contains("INTERNAL-IP") && wide[1].contains("10.1.0.1"), "{wide:?}");
    let peers = table(&shell.ok(&["get", "peers"], "").await);
    assert!(peers[0] == "NAME AGE" && peers[1].starts_with("p1 "), "{peers:?}");

    let peer: Value =
        serde_json::from_str(&shell.ok(&["get", "peer", "p1", "-o", "json"], "").await).unwrap();
    assert_eq!(peer["spec"]["publicKey"], KEY);
    let node: Value = serde_norway::from_str(&shell.ok(&["get", "node/n1", "-o", "yaml"], "").await).unwrap();
    assert_eq!((&node["kind"], &node["spec"]["podCIDR"]), (&json!("Node"), &json!("10.2.1.0/24")));

    let selected = shell.ok(&["get", "no", "-l", "site in (a),!x", "-o", "name"], "").await;
    assert_eq!(selected, "node/n1\n");
    let none = shell.ok(&["get", "nodes", "-l", "site=b", "-o", "name"], "").await;
    assert_eq!(none, "");
    let absent = shell.fails(&["get", "peer", "absent"], "").await;
    assert!(absent.contains("peers.kilo.squat.ai \"absent\" not found"), "{absent}");
}

#[tokio::test]
async fn describe_shows_objects_and_their_events() {
    let shell = with_objects().await;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "generateName": "n1-", "namespace": "default" },
        "eventTime": "2026-11-23T15:00:00.000000Z", "reason": "PeerRejected", "action": "Reconcile",
        "type": "Warning", "note": "its key is malformed", "reportingController": "kilo",
        "reportingInstance": "n1", "regarding": { "kind": "Node", "name": "n1", "uid": "n1" },
    });
    shell.cluster.server.apply_object(event).unwrap();
    let node = shell.ok(&["describe", "node", "n1"], "").await;
    for expected in
        ["kilo.squat.ai/location: a", "10.2.1.0/24", "InternalIP:  10.1.0.1", "its key is malformed"]
    {
        assert!(node.contains(expected), "{expected} is missing in {node}");
    }
    let peer = shell.ok(&["describe", "peer", "p1"], "").await;
    assert!(peer.contains("10.5.0.1/32") && peer.contains(KEY), "{peer}");
    let events = shell.ok(&["get", "events"], "").await;
    assert!(events.contains("PeerRejected") && events.contains("node/n1"), "{events}");
}

#[tokio::test]
async fn annotate_label_and_patch_change_objects() {
    let shell = with_objects().await;
    shell.ok(&["annotate", "node", "n1", "kilo.squat.ai/leader=true"], "").await;
    shell.ok(&["annotate", "node", "n1", "kilo.squat.ai/location-"], "").await;
    shell.ok(&["label", "peer", "p1", "team=x"], "").await;
    let annotations = shell.get("nodes", "n1")["metadata"]["annotations"].clone();
    assert_eq!(annotations, json!({ "kilo.squat.ai/leader": "true" }));
    assert_eq!(shell.get("peers", "p1")["metadata"]["labels"], json!({ "team": "x" }));
    let refused = shell.fails(&["label", "peer", "p1", "team=y"], "").await;
    assert!(refused.contains("--overwrite"), "{refused}");

    shell.ok(&["patch", "node", "n1", "-p", r#"{"spec":{"unschedulable":true}}"#], "").await;
    shell
        .ok(&["patch", "peer", "p1", "--type=merge", "-p", r#"{"spec":{"persistentKeepalive":5}}"#], "")
        .await;
    let json_patch = r#"[{"op":"replace","path":"/spec/persistentKeepalive","value":7}]"#;
    shell.ok(&["patch", "peer", "p1", "--type=json", "-p", json_patch], "").await;
    assert_eq!(shell.get("nodes", "n1")["spec"]["unschedulable"], true);
    assert_eq!(shell.get("peers", "p1")["spec"]["persistentKeepalive"], 7);
    let status = r#"{"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#;
    shell.ok(&["patch", "node", "n1", "--subresource=status", "-p", status], "").await;
    assert_eq!(shell.get("nodes", "n1")["status"]["conditions"][0]["status"], "False");

    let wrong =
        shell.fails(&["patch", "peer", "p1", "--type=merge", "-p", r#"{"spec":{"publicKey":1}}"#], "").await;
    assert!(wrong.contains("spec.publicKey in body must be of type string"), "{wrong}");
}

#[tokio::test]
async fn apply_on_the_client_side() {
    let shell = Shell::new().await;
    shell.ok(&["create", "-f", "-"], &peer_definition().to_string()).await;
    let applied = shell.ok(&["apply", "-f", "-"], &peer("p1", "10.5.0.1/32").to_string()).await;
    assert_eq!(applied, "peer.kilo.squat.ai/p1 created\n");
    let again = shell.ok(&["apply", "-f", "-"], &peer("p1", "10.5.0.1/32").to_string()).await;
    assert_eq!(again, "peer.kilo.squat.ai/p1 unchanged\n");
    let changed = shell.ok(&["apply", "-f", "-"], &peer("p1", "10.5.0.2/32").to_string()).await;
    assert_eq!(changed, "peer.kilo.squat.ai/p1 configured\n");
    assert_eq!(shell.get("peers", "p1")["spec"]["allowedIPs"], json!(["10.5.0.2/32"]));
    assert_eq!(shell.get("peers", "p1")["metadata"]["generation"], 2);

    let mut plain = node("n1");
    plain.as_object_mut().unwrap().remove("status");
    shell.ok(&["apply", "-f", "-"], &plain.to_string()).await;
    plain["metadata"]["annotations"] = json!({ "kilo.squat.ai/leader": "" });
    shell.ok(&["apply", "-f", "-"], &plain.to_string()).await;
    let annotations = shell.get("nodes", "n1")["metadata"]["annotations"].clone();
    assert_eq!(annotations["kilo.squat.ai/leader"], "");
    assert!(annotations.get("kilo.squat.ai/location").is_none(), "{annotations}");

    let mut unknown = peer("p1", "10.5.0.3/32");
    unknown["spec"]["extra"] = json!(1);
    let refused = shell.fails(&["apply", "-f", "-"], &unknown.to_string()).await;
    assert!(refused.contains("unknown field \"spec.extra\""), "{refused}");
    let tried =
        shell.ok(&["apply", "--dry-run=server", "-f", "-"], &peer("p9", "10.5.0.9/32").to_string()).await;
    assert_eq!(tried, "peer.kilo.squat.ai/p9 created (server dry run)\n");
    assert!(shell.cluster.server.get("peers", "p9").is_none());
}

#[tokio::test]
async fn apply_on_the_server_side() {
    let shell = with_objects().await;
    let server_side = ["apply", "--server-side", "-f", "-"];
    shell.ok(&server_side, &peer("p2", "10.5.0.2/32").to_string()).await;
    shell.ok(&server_side, &peer("p2", "10.5.0.3/32").to_string()).await;
    assert_eq!(shell.get("peers", "p2")["spec"]["allowedIPs"], json!(["10.5.0.3/32"]));

    let other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let conflict = shell.fails(&other, &peer("p2", "10.5.0.4/32").to_string()).await;
    assert!(conflict.contains("conflict with \"kubectl\": .spec.allowedIPs"), "{conflict}");
    let forced = ["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"];
    shell.ok(&forced, &peer("p2", "10.5.0.4/32").to_string()).await;
    assert_eq!(shell.get("peers", "p2")["spec"]["allowedIPs"], json!(["10.5.0.4/32"]));

    // An object that was applied on the client side can be taken over.
    shell.ok(&["apply", "-f", "-"], &peer("p3", "10.5.0.5/32").to_string()).await;
    shell.ok(&server_side, &peer("p3", "10.5.0.6/32").to_string()).await;
    assert_eq!(shell.get("peers", "p3")["spec"]["allowedIPs"], json!(["10.5.0.6/32"]));
}

#[tokio::test]
async fn delete_and_replace() {
    let shell = with_objects().await;
    let mut replaced = shell.get("peers", "p1");
    replaced["spec"]["persistentKeepalive"] = json!(3);
    shell.ok(&["replace", "-f", "-"], &replaced.to_string()).await;
    assert_eq!(shell.get("peers", "p1")["spec"]["persistentKeepalive"], 3);
    let stale = shell.fails(&["replace", "-f", "-"], &replaced.to_string()).await;
    assert!(stale.contains("the object has been modified"), "{stale}");

    shell.ok(&["delete", "node", "n1"], "").await;
    shell.ok(&["delete", "peers", "--all"], "").await;
    assert!(shell.cluster.server.get("nodes", "n1").is_none());
    assert!(shell.cluster.server.list("peers").is_empty());
    let absent = shell.fails(&["delete", "node", "n1"], "").await;
    assert!(absent.contains("nodes \"n1\" not found"), "{absent}");
    shell.ok(&["delete", "crd", "peers.kilo.squat.ai"], "").await;
    shell.fails(&["get", "peers"], "").await;
}

#[tokio::test]
async fn discovery_names_all_resources() {
    let shell = with_objects().await;
    let resources = table(&shell.ok(&["api-resources"], "").await);
    for expected in [
        "nodes no v1 false Node",
        "leases coordination.k8s.io/v1 true Lease",
        "peers kilo.squat.ai/v1alpha1 false Peer",
    ] {
        assert!(resources.iter().any(|line| line == expected), "{expected} is missing in {resources:?}");
    }
    let versions = shell.ok(&["api-versions"], "").await;
    assert!(versions.contains("kilo.squat.ai/v1alpha1\n"), "{versions}");
    let explained = shell.ok(&["explain", "peer.spec.endpoint"], "").await;
    assert!(explained.contains("dnsOrIP"), "{explained}");
    let wait = ["wait", "--for=condition=Established", "crd/peers.kilo.squat.ai", "--timeout=10s"];
    shell.ok(&wait, "").await;
}

#[tokio::test]
async fn get_watch_sees_changes() {
    let shell = with_objects().await;
    let mut child = shell.command(&["get", "peers", "-w", "-o", "name"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        line.expect("kubectl printed no further line").unwrap()
    };
    assert_eq!(next().await.as_deref(), Some("peer.kilo.squat.ai/p1"));
    shell.cluster.server.apply_object(peer("p2", "10.5.0.2/32")).unwrap();
    assert_eq!(next().await.as_deref(), Some("peer.kilo.squat.ai/p2"));

    let mut child = shell.command(&["get", "nodes", "-w"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        table(&line.expect("kubectl printed no further line").unwrap().unwrap_or_default()).concat()
    };
    assert_eq!(next().await, "NAME STATUS ROLES AGE VERSION");
    assert!(next().await.starts_with("n1 Ready "));
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    shell.cluster.server.patch("nodes", "n1", &status).unwrap();
    assert!(next().await.starts_with("n1 NotReady "));
}
