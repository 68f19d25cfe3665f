//! Objects that are wrong hurt only themselves: the rest of the mesh keeps working, and the agents say what
//! is wrong.

mod common;

use std::time::Duration;

use kilo_lab::{Family, Lab, LabError, Outage};
use serde_json::{Value, json};

/// Where nothing wrong is done: these pods reach each other throughout.
const BYSTANDERS: [&str; 3] = ["a1-p1", "a2-p1", "c1-p1"];
const KEY: &str = "0PYxyh3bqNs7z8ueBXzcmNA3nxvuAOdaVFFHon2t2YI=";

#[test]
fn wrong_objects_hurt_only_themselves() {
    let lab = common::converged(common::with_agents("bad"));
    for (key, value) in [
        ("force-endpoint", "no port at all"),
        ("persistent-keepalive", "often"),
        ("allowed-location-ips", "10.0.0.0/33,here"),
        ("discovered-endpoints", "{broken"),
    ] {
        lab.api()
            .annotate("b2", &format!("kilo.squat.ai/{key}"), Some(value))
            .expect("annotations are free text");
        said(&lab, "b2", key);
        bystanders_are_well(&lab);
        lab.api().annotate("b2", &format!("kilo.squat.ai/{key}"), None).expect("annotations are free text");
    }
    loosen_the_definition(&lab);
    for (name, spec) in [
        ("badkey", json!({"publicKey": "garbage", "allowedIPs": ["10.99.0.1/32"]})),
        ("badprefix", json!({"publicKey": KEY, "allowedIPs": ["10.99.0.1"]})),
        ("twin-one", json!({"publicKey": KEY, "allowedIPs": ["10.99.0.2/32"]})),
        ("twin-two", json!({"publicKey": KEY, "allowedIPs": ["10.99.0.3/32"]})),
        (
            "nowhere",
            json!({
                "publicKey": "9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=", "allowedIPs": ["10.99.0.4/32"],
                "endpoint": {"dnsOrIP": {"dns": "does-not-exist.example"}, "port": 51820},
            }),
        ),
    ] {
        let peer = json!({
            "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": name}, "spec": spec,
        });
        lab.api().apply(&peer).expect("the schema allows it");
        if name != "twin-one" {
            said(&lab, name, "");
        }
        bystanders_are_well(&lab);
    }
    let b1 = lab.api().get("/api/v1/nodes/b1").expect("the API answers");
    for (name, change) in [
        ("z-bare", json!({"spec": {}})),
        (
            "z-no-pods",
            json!({"metadata": {"annotations": published("192.0.2.11", "Bk0XJVjy2TYZgHcnMMKPdYFbcgWBPwzFoWZQMIK9pDg=")}}),
        ),
        (
            "z-same-pods",
            json!({
                "metadata": {"annotations": published("192.0.2.12", "fclvd2yEI+V6J4VImj+cQ/tudWh21q2anKxKpOcuwZM=")},
                "spec": b1["spec"],
            }),
        ),
        (
            "z-same-key",
            json!({
                "metadata": {"annotations": published("192.0.2.13", annotation(&b1, "key"))},
                "spec": {"podCIDR": "10.42.200.0/24", "podCIDRs": ["10.42.200.0/24"]},
            }),
        ),
    ] {
        let mut node = json!({"apiVersion": "v1", "kind": "Node"});
        merge(&mut node, &change);
        node["metadata"]["name"] = name.into();
        lab.api().apply(&node).expect("the API allows it");
        if name != "z-bare" {
            said(&lab, name, "");
        }
        bystanders_are_well(&lab);
        lab.api().delete("Node", name).expect("it is there");
    }
    common::assert_converges(&lab);
}

#[test]
fn a_forbidding_api_is_told_and_survived() {
    let lab = common::converged(common::with_agents("forb"));
    lab.api().pause(Outage::Forbidding).expect("rules can be set");
    let node = lab.node("a1").expect("the demo has it");
    common::eventually("the agent telling", common::patiently(Duration::from_secs(60)), || {
        let health = node.http_get("/health")?;
        let told =
            health.status == 503 && (node.agent_log() + &health.body).to_lowercase().contains("forbidden");
        Ok((!told).then(|| format!("{} {}\n{}", health.status, health.body, node.agent_log())))
    });
    for family in [Family::V4, Family::V6] {
        let matrix = lab.matrix(family).expect("sockets can be opened");
        assert!(matrix.is_complete(), "{family}: {:?}", matrix.failures());
    }
    lab.api().resume().expect("rules can be removed");
    common::eventually("health again", common::patiently(Duration::from_secs(90)), || {
        let health = node.http_get("/health")?;
        Ok((health.status != 200).then_some(health.body))
    });
}

/// Waits until an agent warns about an object: in a log line that holds the object's name and `part`, and in
/// a metric.
fn said(lab: &Lab, object: &str, part: &str) {
    let node = lab.node("a1").expect("the demo has it");
    common::eventually(
        &format!("a warning about {object}"),
        common::patiently(Duration::from_secs(20)),
        || {
            let log = node.agent_log();
            let warned =
                log.lines().any(|line| line.contains("WARN") && line.contains(object) && line.contains(part));
            let metrics = node.http_get("/metrics")?.body;
            let counted =
                metrics.lines().any(|line| line.starts_with("kilo_problems{") && line.contains(object));
            let events = lab.api().get("/api/v1/events")?["items"].to_string();
            let recorded = events.contains(&format!("\"name\":\"{object}\""))
                || node.http_get("/health")?.body.contains(object);
            let last = || log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
            Ok::<_, LabError>(
                (!(warned && counted && recorded)).then(|| {
                    format!("warned: {warned}, counted: {counted}, recorded: {recorded}\n{}", last())
                }),
            )
        },
    );
}

/// An older definition, or none of ours, lets anything through that has the right shape.
fn loosen_the_definition(lab: &Lab) {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/peers.kilo.squat.ai";
    let mut definition = lab.api().get(path).expect("the lab brings it");
    loosen(&mut definition["spec"]["versions"]);
    lab.api().apply(&definition).expect("the API takes it");
}

fn loosen(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let strict = ["pattern", "format", "minimum", "maximum", "minItems", "minLength", "maxLength"];
            fields.retain(|key, value| {
                // A property may have one of these names, too; then its value is a schema.
                value.is_object() || !(strict.contains(&key.as_str()) || key.starts_with("x-kubernetes-"))
            });
            fields.values_mut().for_each(loosen);
        }
        Value::Array(items) => items.iter_mut().for_each(loosen),
        _ => {}
    }
}

fn bystanders_are_well(lab: &Lab) {
    for family in [Family::V4, Family::V6] {
        let matrix =
            lab.matrix_of(&BYSTANDERS, family, Duration::from_secs(1)).expect("sockets can be opened");
        assert!(matrix.is_complete(), "{family}: {:?}", matrix.failures());
    }
}

/// What an agent on a node of that address would have published.
fn published(address: &str, key: &str) -> Value {
    json!({
        "kilo.squat.ai/endpoint": format!("{address}:51820"),
        "kilo.squat.ai/internal-ip": "",
        "kilo.squat.ai/key": key,
        "kilo.squat.ai/last-seen": "4102444800",
    })
}

fn annotation<'a>(node: &'a Value, key: &str) -> &'a str {
    node["metadata"]["annotations"][format!("kilo.squat.ai/{key}")].as_str().expect("the agent published it")
}

fn merge(into: &mut Value, change: &Value) {
    match (into.as_object_mut(), change.as_object()) {
        (Some(into), Some(change)) => {
            change.iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        _ => into.clone_from(change),
    }
}
