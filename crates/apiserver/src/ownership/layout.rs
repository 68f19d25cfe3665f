//! How lists and maps of a kind merge: whole, by key, as sets. For custom resources the schema says so; for
//! built-in kinds a table of field names does.

use serde_json::{Map, Value};

use crate::resource::Kind;

/// How the value at a path merges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Field by field.
    Granular,
    /// Replaced whole.
    Atomic,
    /// A list of distinct scalars.
    Set,
    /// A list of objects identified by these fields.
    Keyed(Vec<String>),
}

/// The merge rules of one kind.
#[derive(Clone, Copy)]
pub(crate) struct Layout<'a> {
    kind: &'a Kind,
}

impl<'a> Layout<'a> {
    pub(crate) fn new(kind: &'a Kind) -> Layout<'a> {
        Layout { kind }
    }

    /// The rule for `value` at a path of field names (list elements add none).
    pub(crate) fn shape(&self, path: &[String], value: &Value) -> Shape {
        let metadata = path.first().is_some_and(|first| first == "metadata");
        let shape = match &self.kind.custom {
            Some(custom) if !metadata => from_schema(&custom.schema, path, value),
            _ => builtin(self.kind, path, value),
        };
        match (&shape, value) {
            (Shape::Keyed(keys), Value::Array(list)) if !list.iter().all(|e| has_key(e, keys)) => {
                Shape::Atomic
            }
            (Shape::Set, Value::Array(list)) if list.iter().any(|e| e.is_object() || e.is_array()) => {
                Shape::Atomic
            }
            _ => shape,
        }
    }
}

/// The `k:{…}` edge of an element.
pub(crate) fn element_key(element: &Value, keys: &[String]) -> String {
    let key: Map<String, Value> =
        keys.iter().filter_map(|k| Some((k.clone(), element.get(k)?.clone()))).collect();
    format!("k:{}", Value::Object(key))
}

fn has_key(element: &Value, keys: &[String]) -> bool {
    keys.iter().any(|key| element.get(key).is_some())
}

fn keyed(keys: &[&str]) -> Shape {
    Shape::Keyed(keys.iter().map(|k| (*k).to_owned()).collect())
}

fn builtin(kind: &Kind, path: &[String], value: &Value) -> Shape {
    let last = path.last().map_or("", String::as_str);
    if value.is_array() {
        return match last {
            "finalizers" | "podCIDRs" => Shape::Set,
            "ownerReferences" => keyed(&["uid"]),
            "conditions" => keyed(&["type"]),
            "addresses" if kind.kind == "Node" => keyed(&["type"]),
            "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" | "secrets"
            | "webhooks" => keyed(&["name"]),
            "volumeMounts" => keyed(&["mountPath"]),
            "ports" if kind.kind == "Service" => keyed(&["port", "protocol"]),
            "ports" => keyed(&["containerPort", "protocol"]),
            _ => Shape::Atomic,
        };
    }
    match last {
        "regarding" | "related" | "involvedObject" | "selector" | "nodeSelector" | "roleRef" => Shape::Atomic,
        _ => Shape::Granular,
    }
}

fn from_schema(schema: &Value, path: &[String], value: &Value) -> Shape {
    let found = path.iter().try_fold(schema, |at, name| {
        let mut at = at;
        while let Some(items) = at.get("items") {
            at = items;
        }
        at.get("properties").and_then(|p| p.get(name)).or_else(|| at.get("additionalProperties"))
    });
    let rule = |key: &str| found.and_then(|s| s.get(key)).and_then(Value::as_str);
    if value.is_array() {
        return match rule("x-kubernetes-list-type") {
            Some("set") => Shape::Set,
            Some("map") => {
                let keys = found.and_then(|s| s["x-kubernetes-list-map-keys"].as_array());
                let names = keys.into_iter().flatten().filter_map(|k| k.as_str().map(str::to_owned));
                Shape::Keyed(names.collect())
            }
            _ => Shape::Atomic,
        };
    }
    if rule("x-kubernetes-map-type") == Some("atomic") { Shape::Atomic } else { Shape::Granular }
}
