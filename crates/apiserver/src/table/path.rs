//! The part of JSONPath that printer columns use: names, `['quoted']` names, `[0]`, `[*]` and
//! `[?(@.field=="value")]`.

use serde_json::Value;

/// All values at a path; none if it leads nowhere or cannot be read.
pub(super) fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(bracket) = rest.strip_prefix('[') {
            let Some(end) = bracket_end(bracket) else { return Vec::new() };
            found = select(&found, &bracket[..end]);
            rest = &bracket[end + 1..];
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let end = name_end(rest);
        if end > 0 {
            let name = rest[..end].replace("\\.", ".");
            found = found.into_iter().filter_map(|value| value.get(&name)).collect();
        } else if !rest.starts_with('[') {
            return Vec::new();
        }
        rest = &rest[end..];
    }
    found
}

/// A value as text in a cell.
pub(super) fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The end of a name: an unescaped dot or a bracket.
fn name_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let ends = |at: &usize| matches!(bytes[*at], b'.' | b'[') && (*at == 0 || bytes[*at - 1] != b'\\');
    (0..bytes.len()).find(ends).unwrap_or(bytes.len())
}

/// The closing bracket, not one inside quotes.
fn bracket_end(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b']') => return Some(at),
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

fn select<'a>(values: &[&'a Value], inside: &str) -> Vec<&'a Value> {
    let elements = |value: &'a Value| value.as_array().into_iter().flatten();
    let each = values.iter().copied();
    if inside == "*" {
        return each.flat_map(elements).collect();
    }
    if let Some(filter) = inside.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let Some((path, wanted)) = filter.split_once("==") else { return Vec::new() };
        let path = path.trim().trim_start_matches('@');
        let wanted = unquoted(wanted.trim());
        let holds = |element: &&'a Value| find(element, path).iter().any(|v| shown(v) == wanted);
        return each.flat_map(elements).filter(holds).collect();
    }
    if let Ok(index) = inside.parse::<usize>() {
        return each.filter_map(|value| value.get(index)).collect();
    }
    let name = unquoted(inside);
    each.filter_map(|value| value.get(name)).collect()
}

fn unquoted(text: &str) -> &str {
    text.trim_matches(|c| c == '\'' || c == '"')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let object = json!({ "spec": { "a": "x", "list": [1, 2], "b.c": "y" },
            "status": { "conditions": [{ "type": "A", "status": "True" }, { "type": "Ready", "status": "No" }] } });
        let check = |path: &str, expect: Value| assert_eq!(json!(find(&object, path)), expect, "{path}");
        check(".spec.a", json!(["x"]));
        check(".spec.list[*]", json!([1, 2]));
        check(".spec.list[1]", json!([2]));
        check(".spec['b.c']", json!(["y"]));
        check(".spec.b\\.c", json!(["y"]));
        check(".status.conditions[?(@.type==\"Ready\")].status", json!(["No"]));
        check(".spec.absent.x", json!([]));
    }
}
