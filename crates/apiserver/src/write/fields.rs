//! The fields that the server alone sets, and what a write may leave alone.

use serde_json::{Value, json};

use crate::meta;
use crate::resource::{Feature, Kind};

pub(super) fn name_generated(value: &mut Value) {
    let metadata = &mut value["metadata"];
    let unnamed = metadata["name"].as_str().unwrap_or_default().is_empty();
    if let Some(prefix) = metadata["generateName"].as_str().filter(|prefix| unnamed && !prefix.is_empty()) {
        metadata["name"] = json!(meta::generate_name(prefix));
    }
}

pub(super) fn set_system_fields(kind: &Kind, value: &mut Value) {
    value["apiVersion"] = json!(kind.api_version());
    value["kind"] = json!(kind.kind);
    let metadata = &mut value["metadata"];
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "managedFields"] {
        remove(metadata, field);
    }
    metadata["uid"] = json!(meta::new_uid());
    metadata["creationTimestamp"] = json!(meta::now());
    if kind.has(Feature::Generation) {
        metadata["generation"] = json!(1);
    } else {
        remove(metadata, "generation");
    }
}

pub(super) fn keep_system_fields(live: &Value, value: &mut Value) {
    for field in ["apiVersion", "kind"] {
        copy(live, value, field);
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        copy(&live["metadata"], &mut value["metadata"], field);
    }
}

/// A status write leaves the rest alone; for built-in kinds metadata may change with it.
pub(super) fn keep_all_but_status(kind: &Kind, live: &Value, value: &mut Value) {
    let mut kept = live.clone();
    copy(value, &mut kept, "status");
    if kind.custom.is_none() {
        copy(value, &mut kept, "metadata");
    }
    *value = kept;
}

/// Nodes may come with a status.
pub(super) fn keeps_status_on_create(kind: &Kind) -> bool {
    kind.custom.is_none() && kind.group.is_empty()
}

pub(super) fn copy(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(content) => to[field] = content.clone(),
        None => remove(to, field),
    }
}

pub(super) fn remove(value: &mut Value, field: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(field);
    }
}

/// True if only metadata or status differ.
pub(super) fn same_desire(kind: &Kind, live: &Value, value: &Value) -> bool {
    let desire = |object: &Value| {
        let mut desired = object.clone();
        remove(&mut desired, "metadata");
        if kind.has(Feature::Status) {
            remove(&mut desired, "status");
        }
        desired
    };
    desire(live) == desire(value)
}

/// True if nothing differs but the times in `managedFields`.
pub(super) fn same_content(live: &Value, value: &Value) -> bool {
    let timeless = |object: &Value| {
        let mut object = object.clone();
        for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            remove(entry, "time");
        }
        object
    };
    timeless(live) == timeless(value)
}
