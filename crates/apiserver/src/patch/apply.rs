//! Server-side apply: merges a configuration into an object, refuses to take fields from other owners unless
//! forced, and removes what the applier no longer names.

use serde_json::{Map, Value};

use crate::ownership::{self, Entry, Fields, Layout, Operation, Shape, Writer, element_key};
use crate::status::{Cause, Status};

/// Whether an apply may take fields from other owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Force {
    No,
    Yes,
}

/// Merges `config` into `live` for `writer`; the result and its owners. A conflict is a 409.
pub(crate) fn apply(
    layout: Layout<'_>,
    live: &Value,
    config: &Value,
    writer: Writer,
    force: Force,
) -> Result<(Value, Vec<Entry>), Status> {
    let mut entries = ownership::decode(live);
    let claimed = ownership::fields_of(layout, config);
    let mut merged = merge(layout, &mut Vec::new(), Some(live), config);
    let mine = |entry: &Entry| entry.writer == writer;

    let others = entries.iter().filter(|e| !mine(e)).fold(Fields::default(), |all, e| all.union(&e.fields));
    let before = entries.iter().find(|e| mine(e)).map(|e| e.fields.clone()).unwrap_or_default();
    let kept = others.union(&claimed);
    prune(&mut merged, &before.minus(&kept), &kept);

    let delta = ownership::compare(layout, live, &merged);
    let contested = delta.changed.union(&delta.added);
    if force == Force::No {
        let handed_over = handed_over(layout, live, &writer);
        refuse_conflicts(&entries, &writer, &contested.minus(&handed_over))?;
    }
    for entry in entries.iter_mut().filter(|entry| entry.writer != writer) {
        entry.fields = entry.fields.minus(&contested).minus(&delta.removed);
    }
    match entries.iter_mut().find(|entry| entry.writer == writer) {
        Some(entry) if entry.fields == claimed => {}
        Some(entry) => {
            entry.fields = claimed;
            entry.time = crate::meta::now();
        }
        None => entries.push(Entry { writer, time: crate::meta::now(), fields: claimed }),
    }
    Ok((merged, entries))
}

/// The writer that an apply by `manager` is recorded as.
pub(crate) fn writer(manager: &str, api_version: String, subresource: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        operation: Operation::Apply,
        api_version,
        subresource: subresource.to_owned(),
    }
}

/// What `kubectl apply` set on the client side and nobody changed since: it may go on with it on the server side.
fn handed_over(layout: Layout<'_>, live: &Value, writer: &Writer) -> Fields {
    let last = live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    let last: Option<Value> = last.and_then(|text| serde_json::from_str(text).ok());
    match last {
        Some(last) if writer.manager == "kubectl" => {
            let since = ownership::compare(layout, &last, live);
            ownership::fields_of(layout, &last).minus(&since.changed).minus(&since.removed)
        }
        _ => Fields::default(),
    }
}

fn refuse_conflicts(entries: &[Entry], writer: &Writer, contested: &Fields) -> Result<(), Status> {
    let mut causes = Vec::new();
    let mut texts = Vec::new();
    for entry in entries.iter().filter(|entry| entry.writer != *writer) {
        let paths = entry.fields.intersect(contested).paths();
        let owner = entry.shown();
        for path in &paths {
            let message = format!("conflict with {owner}");
            causes.push(Cause { reason: "FieldManagerConflict", message, field: path.clone() });
        }
        match paths.as_slice() {
            [] => {}
            [one] => texts.push(format!("conflict with {owner}: {one}")),
            many => texts.push(format!("conflicts with {owner}:\n- {}", many.join("\n- "))),
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let plural = if causes.len() == 1 { "conflict" } else { "conflicts" };
    let message = format!("Apply failed with {} {plural}: {}", causes.len(), texts.join("\n"));
    Err(Status::apply_conflict(message, causes))
}

fn merge(layout: Layout<'_>, path: &mut Vec<String>, live: Option<&Value>, config: &Value) -> Value {
    match (live, config, layout.shape(path, config)) {
        (Some(Value::Object(there)), Value::Object(wanted), Shape::Granular) => {
            let mut merged: Map<String, Value> = there.clone();
            for (name, value) in wanted {
                path.push(name.clone());
                let field = merge(layout, path, there.get(name), value);
                path.pop();
                merged.insert(name.clone(), field);
            }
            Value::Object(merged)
        }
        (Some(Value::Array(there)), Value::Array(wanted), Shape::Set) => {
            let mut all = there.clone();
            all.extend(wanted.iter().filter(|element| !there.contains(element)).cloned());
            Value::Array(all)
        }
        (Some(Value::Array(there)), Value::Array(wanted), Shape::Keyed(keys)) => {
            let mut all = there.clone();
            for element in wanted {
                let key = element_key(element, &keys);
                match all.iter().position(|other| element_key(other, &keys) == key) {
                    Some(at) => all[at] = merge(layout, path, Some(&all[at]), element),
                    None => all.push(element.clone()),
                }
            }
            Value::Array(all)
        }
        _ => config.clone(),
    }
}

/// Removes from `value` the members of `gone`, except where something in `kept` lies below them.
fn prune(value: &mut Value, gone: &Fields, kept: &Fields) {
    for (edge, below) in gone.children() {
        let keep = kept.child(edge);
        if below.is_member() && keep.is_none_or(Fields::is_empty) {
            remove(value, edge);
        } else if let Some(child) = find(value, edge) {
            prune(child, below, keep.unwrap_or(&Fields::default()));
        }
    }
}

fn remove(value: &mut Value, edge: &str) {
    match value {
        Value::Object(map) => {
            map.remove(edge.strip_prefix("f:").unwrap_or(edge));
        }
        Value::Array(list) => list.retain(|element| !is_at(element, edge)),
        _ => {}
    }
}

fn find<'a>(value: &'a mut Value, edge: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(map) => map.get_mut(edge.strip_prefix("f:")?),
        Value::Array(list) => list.iter_mut().find(|element| is_at(element, edge)),
        _ => None,
    }
}

fn is_at(element: &Value, edge: &str) -> bool {
    match edge.split_once(':') {
        Some(("v", value)) => serde_json::from_str::<Value>(value).is_ok_and(|value| value == *element),
        Some(("k", key)) => {
            let parsed: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            !parsed.is_empty() && parsed.iter().all(|(name, value)| element.get(name) == Some(value))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::{Kind, builtin_kinds};

    fn node() -> std::sync::Arc<Kind> {
        builtin_kinds().into_iter().find(|kind| kind.kind == "Node").unwrap()
    }

    /// Applies for `manager`, and records the owners as the server does.
    fn applied(live: &Value, manager: &str, config: Value) -> Result<Value, Status> {
        let kind = node();
        let who = writer(manager, "v1".to_owned(), "");
        let (mut value, owners) = apply(Layout::new(&kind), live, &config, who, Force::No)?;
        ownership::encode(&mut value, owners);
        Ok(value)
    }

    fn annotations(value: &Value) -> Vec<&str> {
        value["metadata"]["annotations"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .collect()
    }

    #[test]
    fn what_is_no_longer_named_goes_unless_another_names_it() {
        let both = json!({ "metadata": { "annotations": { "a": "1", "b": "2" } } });
        let live = applied(&json!({ "metadata": {} }), "one", both).unwrap();
        let live = applied(&live, "two", json!({ "metadata": { "annotations": { "b": "2" } } })).unwrap();
        let live = applied(&live, "one", json!({ "metadata": {} })).unwrap();
        assert_eq!(annotations(&live), ["b"]);
        let live = applied(&live, "two", json!({ "metadata": {} })).unwrap();
        assert_eq!(annotations(&live), [""; 0]);
    }

    #[test]
    fn elements_of_keyed_lists_have_owners() {
        let of = |kind: &str| json!({ "status": { "conditions": [{ "type": kind, "status": "True" }] } });
        let live = applied(&json!({ "metadata": {} }), "one", of("A")).unwrap();
        let live = applied(&live, "two", of("B")).unwrap();
        let live = applied(&live, "one", of("C")).unwrap();
        let kinds: Vec<_> =
            live["status"]["conditions"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
        assert_eq!(kinds, ["B", "C"]);
    }

    #[test]
    fn a_field_of_another_is_a_conflict_unless_the_value_is_the_same() {
        let of = |value: &str| json!({ "metadata": { "labels": { "x": value, "y": value } } });
        let live = applied(&json!({ "metadata": {} }), "one", of("1")).unwrap();
        assert!(applied(&live, "two", of("1")).is_ok());
        let refused = applied(&live, "two", of("2")).unwrap_err();
        let expected = "Apply failed with 2 conflicts: conflicts with \"one\":\n- .metadata.labels.x\n- .metadata.labels.y";
        assert_eq!((refused.code, refused.message.as_str()), (409, expected));
    }
}
