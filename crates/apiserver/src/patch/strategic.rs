//! Strategic merge patch: a merge patch that merges lists by key and knows the directives `$patch`,
//! `$deleteFromPrimitiveList`, `$setElementOrder` and `$retainKeys`. For built-in kinds only.

use serde_json::{Map, Value};

use crate::ownership::{Layout, Shape};
use crate::status::Status;

/// Applies a patch. An unknown directive is a 400.
pub(crate) fn apply(layout: Layout<'_>, current: &Value, patch: &Value) -> Result<Value, Status> {
    let mut merge = Merge { layout, path: Vec::new() };
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(Status::bad_request("a strategic merge patch must be a JSON object"));
    };
    Ok(Value::Object(merge.maps(current, patch)?))
}

struct Merge<'a> {
    layout: Layout<'a>,
    path: Vec<String>,
}

impl Merge<'_> {
    fn maps(
        &mut self,
        current: &Map<String, Value>,
        patch: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Status> {
        match directive(patch)? {
            Some("replace") => return Ok(without_directives(patch)),
            Some("delete") => return Ok(Map::new()),
            _ => {}
        }
        let mut merged = current.clone();
        if let Some(Value::Array(keep)) = patch.get("$retainKeys") {
            merged.retain(|key, _| keep.iter().any(|k| k == key));
        }
        for (key, value) in patch {
            if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
                if let (Some(Value::Array(there)), Value::Array(gone)) = (merged.get_mut(list), value) {
                    there.retain(|element| !gone.contains(element));
                }
            } else if key.starts_with('$') {
                continue;
            } else if value.is_null() {
                merged.remove(key);
            } else {
                self.path.push(key.clone());
                let field = self.field(merged.get(key), value);
                self.path.pop();
                merged.insert(key.clone(), field?);
            }
        }
        for (key, order) in patch {
            if let (Some(list), Value::Array(order)) = (key.strip_prefix("$setElementOrder/"), order) {
                self.path.push(list.to_owned());
                if let Some(Value::Array(elements)) = merged.get_mut(list) {
                    self.reorder(elements, order);
                }
                self.path.pop();
            }
        }
        Ok(merged)
    }

    fn field(&mut self, current: Option<&Value>, patch: &Value) -> Result<Value, Status> {
        match (current, patch) {
            (Some(Value::Object(current)), Value::Object(patch)) => {
                Ok(Value::Object(self.maps(current, patch)?))
            }
            (_, Value::Object(patch)) => Ok(Value::Object(self.maps(&Map::new(), patch)?)),
            (current, Value::Array(patch)) => {
                let there = current.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                Ok(Value::Array(self.lists(there, patch)?))
            }
            (_, scalar) => Ok(scalar.clone()),
        }
    }

    fn lists(&mut self, current: &[Value], patch: &[Value]) -> Result<Vec<Value>, Status> {
        if patch.iter().any(|element| element["$patch"] == "replace") {
            return Ok(patch.iter().filter(|element| element["$patch"].is_null()).cloned().collect());
        }
        match self.layout.shape(&self.path, &Value::Array(patch.to_vec())) {
            Shape::Keyed(keys) => self.keyed(current, patch, &keys[0]),
            Shape::Set => {
                let mut all = current.to_vec();
                all.extend(patch.iter().filter(|element| !current.contains(element)).cloned());
                Ok(all)
            }
            Shape::Atomic | Shape::Granular => Ok(patch.to_vec()),
        }
    }

    fn keyed(&mut self, current: &[Value], patch: &[Value], key: &str) -> Result<Vec<Value>, Status> {
        let mut merged = current.to_vec();
        for element in patch {
            let Value::Object(fields) = element else {
                return Err(Status::bad_request(format!(
                    "elements of {} must be objects",
                    self.path.join(".")
                )));
            };
            let at = merged.iter().position(|other| other.get(key) == element.get(key));
            match (directive(fields)?, at) {
                (Some("delete"), Some(at)) => {
                    merged.remove(at);
                }
                (Some("delete"), None) => {}
                (_, Some(at)) => merged[at] = self.field(Some(&merged[at]), element)?,
                (_, None) => merged.push(self.field(None, element)?),
            }
        }
        Ok(merged)
    }

    fn reorder(&self, elements: &mut [Value], order: &[Value]) {
        let key = match self.layout.shape(&self.path, &Value::Array(order.to_vec())) {
            Shape::Keyed(keys) => Some(keys[0].clone()),
            _ => None,
        };
        let place = |element: &Value| {
            let same = |wanted: &Value| match &key {
                Some(key) => wanted.get(key) == element.get(key),
                None => wanted == element,
            };
            order.iter().position(same).unwrap_or(usize::MAX)
        };
        elements.sort_by_key(place);
    }
}

fn directive(patch: &Map<String, Value>) -> Result<Option<&str>, Status> {
    match patch.get("$patch").map(|value| value.as_str().unwrap_or_default()) {
        None => Ok(None),
        Some(known @ ("replace" | "delete" | "merge")) => Ok(Some(known)),
        Some(other) => Err(Status::bad_request(format!("unknown $patch directive {other:?}"))),
    }
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch.iter().filter(|(key, _)| !key.starts_with('$')).map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::builtin_kinds;

    fn patched(current: Value, patch: Value) -> Value {
        let kinds = builtin_kinds();
        let node = kinds.iter().find(|k| k.kind == "Node").unwrap();
        apply(Layout::new(node), &current, &patch).unwrap()
    }

    #[test]
    fn lists_merge_by_key_and_honour_directives() {
        let current = json!({ "status": { "conditions": [{ "type": "A", "status": "x" }, { "type": "B" }] },
            "spec": { "taints": [{ "key": "a" }], "podCIDRs": ["1"] } });
        let patch = json!({
            "status": { "conditions": [{ "type": "B", "status": "y" }, { "type": "A", "$patch": "delete" }] },
            "spec": { "taints": [{ "key": "b" }], "podCIDRs": ["2"] } });
        let wanted = json!({ "status": { "conditions": [{ "type": "B", "status": "y" }] },
            "spec": { "taints": [{ "key": "b" }], "podCIDRs": ["1", "2"] } });
        assert_eq!(patched(current, patch), wanted);
    }

    #[test]
    fn null_removes_and_replace_replaces() {
        let current =
            json!({ "metadata": { "annotations": { "a": "1", "b": "2" }, "labels": { "x": "1" } } });
        let patch = json!({ "metadata": { "annotations": { "a": null }, "labels": { "$patch": "replace", "y": "2" } } });
        let wanted = json!({ "metadata": { "annotations": { "b": "2" }, "labels": { "y": "2" } } });
        assert_eq!(patched(current, patch), wanted);
    }

    #[test]
    fn element_order_and_primitive_deletion() {
        let current = json!({ "metadata": { "finalizers": ["a", "b", "c"] } });
        let patch = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["b"],
            "$setElementOrder/finalizers": ["c", "a"] } });
        assert_eq!(patched(current, patch), json!({ "metadata": { "finalizers": ["c", "a"] } }));
    }
}
