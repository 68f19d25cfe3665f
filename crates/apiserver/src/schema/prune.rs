//! Removing fields that a schema does not know, and adding those it has defaults for.

use serde_json::Value;

use super::{is_embedded, keeps_unknown};

/// Removes unknown fields below the root; the paths of what was removed, in order.
pub(crate) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut removed = Vec::new();
    walk(schema, object, "", true, &mut removed);
    removed
}

fn walk(schema: &Value, value: &mut Value, path: &str, whole_object: bool, removed: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let properties = schema["properties"].as_object();
            let additional = &schema["additionalProperties"];
            map.retain(|name, field| {
                let own_rules = whole_object && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                if own_rules {
                    return true;
                }
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let found = properties.and_then(|p| p.get(name));
                match found.or_else(|| additional.is_object().then_some(additional)) {
                    Some(schema) => walk(schema, field, &below, is_embedded(schema), removed),
                    None if keeps_unknown(schema) || *additional == Value::Bool(true) => {}
                    None => {
                        removed.push(below);
                        return false;
                    }
                }
                true
            });
        }
        Value::Array(list) => {
            let items = &schema["items"];
            for (index, element) in list.iter_mut().enumerate() {
                walk(items, element, &format!("{path}[{index}]"), is_embedded(items), removed);
            }
        }
        _ => {}
    }
}

/// Adds the defaults of missing properties, and drops nulls where null is not allowed.
pub(crate) fn fill_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let nullable = property["nullable"] == Value::Bool(true);
                if map.get(name).is_some_and(Value::is_null) && !nullable && property.get("default").is_some()
                {
                    map.remove(name);
                }
                if let Some(default) = property.get("default")
                    && !map.contains_key(name)
                {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(field) = map.get_mut(name) {
                    fill_defaults(property, field);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|element| fill_defaults(&schema["items"], element)),
        _ => {}
    }
}
