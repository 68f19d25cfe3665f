//! Events exist twice in the API, as `v1` and as `events.k8s.io/v1`, with other names for the same fields. Both
//! are stored, each converted from the other, so that `kubectl describe` finds what an agent published.

use serde_json::{Value, json};

use crate::resource::{CollectionKey, Kind};

/// Fields as named in `v1` and in `events.k8s.io/v1`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Turns an event of one version into one of the other.
pub(crate) type Convert = fn(Value) -> Value;

/// The other collection an event belongs to, and how to get there.
pub(crate) fn twin(kind: &Kind) -> Option<(CollectionKey, Convert)> {
    if kind.plural != "events" {
        return None;
    }
    match kind.group.as_str() {
        "" => Some((("events.k8s.io".to_owned(), "events".to_owned()), to_new)),
        "events.k8s.io" => Some(((String::new(), "events".to_owned()), to_core)),
        _ => None,
    }
}

/// The fields that a typed server always sends.
pub(crate) fn fill(value: &mut Value, group: &str) {
    let (source, first, last) = if group.is_empty() {
        ("source", "firstTimestamp", "lastTimestamp")
    } else {
        ("deprecatedSource", "deprecatedFirstTimestamp", "deprecatedLastTimestamp")
    };
    let Some(map) = value.as_object_mut() else { return };
    map.entry(source).or_insert_with(|| json!({}));
    for time in [first, last, "eventTime"] {
        map.entry(time).or_insert(Value::Null);
    }
    if group.is_empty() {
        for name in ["reportingComponent", "reportingInstance"] {
            map.entry(name).or_insert_with(|| json!(""));
        }
    }
}

fn to_new(value: Value) -> Value {
    rename(value, NAMES.iter().map(|(core, new)| (*core, *new)))
}

fn to_core(value: Value) -> Value {
    rename(value, NAMES.iter().map(|(core, new)| (*new, *core)))
}

fn rename<'a>(mut value: Value, names: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    if let Some(map) = value.as_object_mut() {
        for (from, to) in names {
            if let Some(field) = map.remove(from) {
                map.insert(to.to_owned(), field);
            }
        }
    }
    value
}
