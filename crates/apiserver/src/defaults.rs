//! What a typed server adds to or drops from objects of built-in kinds: fields that are always there, defaults,
//! and what admission adds on creation.

use serde_json::{Map, Value, json};

use crate::events;
use crate::meta;
use crate::resource::Kind;

/// The status of a Node about which nothing is known.
pub(crate) fn node_status() -> Value {
    json!({
        "daemonEndpoints": { "kubeletEndpoint": { "Port": 0 } },
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
            "operatingSystem": "", "architecture": "",
        },
    })
}

/// Brings an object into the form a typed server would have read it in.
pub(crate) fn normalise(kind: &Kind, value: &mut Value) {
    if kind.custom.is_none() {
        drop_nulls(value);
        fill(kind, value);
    }
    meta::normalise(value);
}

/// Adds the fields that objects of this kind always have.
pub(crate) fn fill(kind: &Kind, value: &mut Value) {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Node") => fill_node(value),
        ("" | "events.k8s.io", "Event") => events::fill(value, &kind.group),
        ("", "Namespace") => fill_namespace(value),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => fill_definition(value),
        _ => {}
    }
}

/// What admission plugins of a cluster add to a new object; nobody is recorded as the owner of it.
pub(crate) fn admit_created(kind: &Kind, value: &mut Value) {
    if kind.group.is_empty() && kind.kind == "Node" {
        let taint = json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" });
        let spec = object(value, "spec");
        let taints = spec.entry("taints").or_insert_with(|| json!([]));
        if let Some(list) = taints.as_array_mut()
            && !list.iter().any(|t| t["key"] == taint["key"])
        {
            list.push(taint);
        }
    }
}

fn fill_node(value: &mut Value) {
    object(value, "spec").retain(|_, field| *field != json!([]));
    let status = object(value, "status");
    status.retain(|_, field| *field != json!([]));
    merge_missing(status, node_status());
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(map) = condition.as_object_mut() {
            map.entry("lastHeartbeatTime").or_insert(Value::Null);
            map.entry("lastTransitionTime").or_insert(Value::Null);
        }
    }
}

fn fill_namespace(value: &mut Value) {
    let name = value["metadata"]["name"].clone();
    if name.is_string() {
        value["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    }
    object(value, "spec").entry("finalizers").or_insert_with(|| json!(["kubernetes"]));
    object(value, "status").entry("phase").or_insert_with(|| json!("Active"));
}

fn fill_definition(value: &mut Value) {
    let spec = object(value, "spec");
    spec.entry("conversion").or_insert_with(|| json!({ "strategy": "None" }));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut)
        && let Some(kind) = names.get("kind").and_then(Value::as_str).map(str::to_owned)
    {
        names.entry("singular").or_insert_with(|| json!(kind.to_ascii_lowercase()));
        names.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
    }
}

/// The object at `field`, made if it is missing.
fn object<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    let at = &mut value[field];
    if !at.is_object() {
        *at = json!({});
    }
    at.as_object_mut().expect("invariant: just made an object")
}

fn merge_missing(into: &mut Map<String, Value>, defaults: Value) {
    let Value::Object(defaults) = defaults else { return };
    for (key, default) in defaults {
        match into.get_mut(&key) {
            None => {
                into.insert(key, default);
            }
            Some(Value::Object(there)) => merge_missing(there, default),
            Some(_) => {}
        }
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, field| !field.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
