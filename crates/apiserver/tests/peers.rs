//! The definition of Peers that users install, on a server that checks what a real one checks, with the real `kubectl`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use serde_json::{Value, json};

use common::peer_definition;
use common::shell::{Shell, table};

const KEY: &str = "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=";

fn definition() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/crds.yaml")).unwrap()
}

fn peer(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut spec = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY });
    change(&mut spec);
    let object = json!({ "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": name }, "spec": spec });
    object.to_string()
}

#[tokio::test]
async fn tables_show_what_identifies_a_peer() {
    let shell = Shell::new().await;
    shell.ok(&["apply", "-f", "-"], &definition()).await;
    shell.ok(&["wait", "--for=condition=Established", "crd/peers.kilo.squat.ai", "--timeout=10s"], "").await;
    let dns = json!({ "dnsOrIP": { "dns": "vpn.example.com" }, "port": 51820 });
    let ip = json!({ "dnsOrIP": { "ip": "2001:db8::7" }, "port": 4000 });
    shell.ok(&["apply", "-f", "-"], &peer("a", |spec| spec["endpoint"] = dns)).await;
    shell.ok(&["apply", "-f", "-"], &peer("b", |spec| spec["endpoint"] = ip)).await;
    shell
        .ok(
            &["apply", "-f", "-"],
            &peer("c", |spec| spec["allowedIPs"] = json!(["10.5.0.2/32", "fd05::/64"])),
        )
        .await;
    // A preshared key is in no table.
    shell.ok(&["apply", "-f", "-"], &peer("d", |spec| spec["presharedKey"] = json!(KEY))).await;
    for name in ["peers", "peer", "kp", "peers.kilo.squat.ai"] {
        let rows = table(&shell.ok(&["get", name], "").await);
        let rows: Vec<&str> = rows.iter().map(|row| row.rsplit_once(' ').unwrap().0).collect();
        let expected = [
            "NAME PUBLIC KEY ALLOWED IPS DNS IP PORT".to_owned(),
            format!("a {KEY} [\"10.5.0.1/32\"] vpn.example.com 51820"),
            format!("b {KEY} [\"10.5.0.1/32\"] 2001:db8::7 4000"),
            format!("c {KEY} [\"10.5.0.2/32\",\"fd05::/64\"]"),
            format!("d {KEY} [\"10.5.0.1/32\"]"),
        ];
        assert_eq!(rows, expected, "kubectl get {name}");
    }
    let resources = table(&shell.ok(&["api-resources", "--api-group=kilo.squat.ai"], "").await);
    assert_eq!(resources[1], "peers kp kilo.squat.ai/v1alpha1 false Peer");
    let explained = shell.ok(&["explain", "peer.spec.allowedIPs"], "").await;
    assert!(explained.contains("in CIDR notation"), "{explained}");
}

#[tokio::test]
async fn wrong_peers_are_refused_with_the_field() {
    let shell = Shell::new().await;
    shell.ok(&["apply", "-f", "-"], &definition()).await;
    let endpoint = |dns_or_ip: Value, port: i64| json!({ "dnsOrIP": dns_or_ip, "port": port });
    let ip = || json!({ "ip": "192.0.2.7" });
    for (field, value, named) in [
        ("allowedIPs", json!(["10.5.0.1"]), "spec.allowedIPs[0]"),
        ("allowedIPs", json!(["10.5.0.1/32", "x/32"]), "spec.allowedIPs[1]"),
        ("publicKey", json!("short"), "spec.publicKey"),
        ("presharedKey", json!("short"), "spec.presharedKey"),
        ("persistentKeepalive", json!(-1), "spec.persistentKeepalive"),
        ("persistentKeepalive", json!(65_536), "spec.persistentKeepalive"),
        ("endpoint", endpoint(ip(), 0), "spec.endpoint.port"),
        ("endpoint", endpoint(ip(), 65_536), "spec.endpoint.port"),
        ("endpoint", endpoint(json!({}), 1), "spec.endpoint.dnsOrIP"),
        ("endpoint", endpoint(json!({ "dns": "UPPER" }), 1), "spec.endpoint.dnsOrIP.dns"),
        ("endpoint", endpoint(json!({ "ip": "a.example" }), 1), "spec.endpoint.dnsOrIP.ip"),
        ("endpoint", json!({ "dnsOrIP": ip() }), "spec.endpoint.port"),
        ("keepalive", json!(5), "unknown field \"spec.keepalive\""),
    ] {
        let refused = shell.fails(&["apply", "-f", "-"], &peer("bad", |spec| spec[field] = value)).await;
        assert!(refused.contains(named), "{named} is not in {refused}");
    }
    assert!(shell.cluster.server.list("peers").is_empty());
}

/// What was stored under the definition of the Go implementation stays usable under ours.
#[tokio::test]
async fn peers_from_before_can_be_read_labelled_mended_and_deleted() {
    let shell = Shell::new().await;
    shell.ok(&["apply", "-f", "-"], &peer_definition().to_string()).await;
    let wrong = |spec: &mut Value| {
        spec["allowedIPs"] = json!(["10.5.0.1"]);
        spec["publicKey"] = json!("short");
        spec["endpoint"] = json!({ "dnsOrIP": {}, "port": 0 });
        spec["persistentKeepalive"] = json!(100_000);
    };
    shell.ok(&["apply", "-f", "-"], &peer("old", wrong)).await;
    shell.ok(&["apply", "-f", "-"], &peer("other", wrong)).await;
    shell.ok(&["apply", "-f", "-"], &definition()).await;

    let rows = table(&shell.ok(&["get", "kp"], "").await);
    assert!(rows[1].starts_with("old short [\"10.5.0.1\"] 0 "), "{rows:?}");
    shell.ok(&["label", "peer", "old", "team=x"], "").await;
    let patch = async |change: &str| {
        shell
            .run(&["patch", "peer", "old", "--type=merge", "-p", &format!("{{\"spec\":{change}}}")], "")
            .await
    };
    // A field that is changed has to be right; the others may stay as they are.
    let refused = patch("{\"publicKey\":\"other\"}").await;
    assert!(!refused.success && refused.stderr.contains("spec.publicKey"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("spec.allowedIPs"), "{}", refused.stderr);
    for change in [
        &format!("{{\"publicKey\":\"{KEY}\"}}"),
        "{\"allowedIPs\":[\"10.5.0.1/32\"]}",
        "{\"endpoint\":{\"port\":51820}}",
        "{\"endpoint\":null}",
        "{\"persistentKeepalive\":25}",
    ] {
        let patched = patch(change).await;
        assert!(patched.success, "{change}: {}", patched.stderr);
    }
    let again = patch("{\"persistentKeepalive\":100000}").await;
    assert!(!again.success && again.stderr.contains("spec.persistentKeepalive"), "{}", again.stderr);
    shell.ok(&["delete", "peer", "other"], "").await;
}
