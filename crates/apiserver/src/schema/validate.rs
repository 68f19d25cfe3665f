//! Validation against a structural schema (OpenAPI v3 as custom resource definitions use it), with the wording of
//! kube-apiserver. CEL rules (`x-kubernetes-validations`) are not evaluated.

use std::net::{Ipv4Addr, Ipv6Addr};

use regex::Regex;
use serde_json::Value;

use super::is_embedded;
use crate::status::Cause;

/// Everything that is wrong with an object, in the order of its fields. What an update leaves as it is in `old` is not
/// looked at: a real API server lets pass what was stored before a rule was made.
pub(crate) fn validate(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let (Some(map), Some(properties)) = (object.as_object(), schema["properties"].as_object()) {
        required(schema, object, "", &mut causes);
        for (name, field) in map {
            if let Some(property) = properties.get(name)
                && name != "metadata"
            {
                check(property, field, old.and_then(|old| old.get(name)), name, &mut causes);
            }
        }
    }
    causes
}

fn check(schema: &Value, value: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    if old == Some(value) {
        return;
    }
    if value.is_null() && schema["nullable"] == Value::Bool(true) {
        return;
    }
    if let Some(cause) = wrong_type(schema, value, path) {
        causes.push(cause);
        return;
    }
    match value {
        Value::Object(_) => check_object(schema, value, old, path, causes),
        Value::Array(list) => check_list(schema, list, old, path, causes),
        Value::String(text) => check_text(schema, text, path, causes),
        Value::Number(_) => check_number(schema, value, path, causes),
        Value::Bool(_) | Value::Null => {}
    }
    check_enum(schema, value, path, causes);
    check_logic(schema, value, path, causes);
}

fn wrong_type(schema: &Value, value: &Value, path: &str) -> Option<Cause> {
    if schema["x-kubernetes-int-or-string"] == Value::Bool(true) {
        let fine = value.is_string() || value.is_i64() || value.is_u64();
        return (!fine).then(|| type_cause(path, "integer,string", value));
    }
    let wanted = schema["type"].as_str()?;
    let fine = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    };
    (!fine).then(|| type_cause(path, wanted, value))
}

fn type_cause(path: &str, wanted: &str, value: &Value) -> Cause {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let message = format!("Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}");
    Cause { reason: "FieldValueTypeInvalid", message, field: path.to_owned() }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn required(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            causes.push(Cause::required(&join(path, name), ""));
        }
    }
}

fn check_object(schema: &Value, value: &Value, old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    required(schema, value, path, causes);
    let Some(map) = value.as_object() else { return };
    count(schema, ("minProperties", "maxProperties", "properties"), map.len(), path, causes);
    for (name, field) in map {
        if is_embedded(schema) && name == "metadata" {
            continue;
        }
        let before = old.and_then(|old| old.get(name));
        if let Some(property) = schema["properties"].get(name) {
            check(property, field, before, &join(path, name), causes);
        } else if schema["additionalProperties"].is_object() {
            check(&schema["additionalProperties"], field, before, &join(path, name), causes);
        }
    }
}

fn check_list(schema: &Value, list: &[Value], old: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    count(schema, ("minItems", "maxItems", "items"), list.len(), path, causes);
    let keys = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(None),
        Some("map") => Some(schema["x-kubernetes-list-map-keys"].as_array()),
        _ => None,
    };
    let identity = |element: &Value| match keys.flatten() {
        Some(keys) => keys
            .iter()
            .filter_map(Value::as_str)
            .map(|k| element[k].to_string())
            .collect::<Vec<_>>()
            .join(","),
        None => element.to_string(),
    };
    // Only the elements of a map can be told from those that were there before.
    let olds = old.filter(|_| keys.flatten().is_some()).and_then(Value::as_array).into_iter().flatten();
    for (index, element) in list.iter().enumerate() {
        let before = olds.clone().find(|old| identity(old) == identity(element));
        check(&schema["items"], element, before, &format!("{path}[{index}]"), causes);
    }
    if keys.is_none() {
        return;
    }
    for (index, element) in list.iter().enumerate() {
        if list[..index].iter().any(|other| identity(other) == identity(element)) {
            let message = format!("Duplicate value: {element}");
            causes.push(Cause { reason: "FieldValueDuplicate", message, field: format!("{path}[{index}]") });
        }
    }
}

fn count(
    schema: &Value,
    (least, most, noun): (&str, &str, &str),
    found: usize,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let singular = if noun == "items" { "item" } else { "property" };
    if let Some(most) = schema[most].as_u64()
        && found as u64 > most
    {
        let message = format!("Too many: {found}: must have at most {most} {noun}");
        causes.push(Cause { reason: "FieldValueTooMany", message, field: path.to_owned() });
    }
    if let Some(least) = schema[least].as_u64()
        && (found as u64) < least
    {
        let noun = if least == 1 { singular } else { noun };
        let why = format!("{path} in body should have at least {least} {noun}");
        causes.push(Cause::invalid(path, &found.to_string(), &why));
    }
}

fn check_text(schema: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let shown = format!("{text:?}");
    let length = text.chars().count() as u64;
    if let Some(most) = schema["maxLength"].as_u64()
        && length > most
    {
        let message = format!("Too long: may not be more than {most} bytes");
        causes.push(Cause { reason: "FieldValueTooLong", message, field: path.to_owned() });
    }
    if let Some(least) = schema["minLength"].as_u64()
        && length < least
    {
        let why = format!("{path} in body should be at least {least} chars long");
        causes.push(Cause::invalid(path, &shown, &why));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let matched = Regex::new(pattern).map(|regex| regex.is_match(text));
        if !matched.unwrap_or(false) {
            causes.push(Cause::invalid(path, &shown, &format!("{path} in body should match '{pattern}'")));
        }
    }
    if let Some(format) = schema["format"].as_str()
        && !fits_format(format, text)
    {
        causes.push(Cause::invalid(
            path,
            &shown,
            &format!("{path} in body must be of type {format}: {shown}"),
        ));
    }
}

fn fits_format(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(address, length)| {
            let most = match address.parse() {
                Ok(std::net::IpAddr::V4(_)) => 32,
                Ok(std::net::IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            length.parse::<u8>().is_ok_and(|length| length <= most)
        }),
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        _ => true,
    }
}

fn check_number(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(number) = value.as_f64() else { return };
    let shown = value.to_string();
    if let Some(least) = schema["minimum"].as_f64() {
        let exclusive = schema["exclusiveMinimum"] == Value::Bool(true);
        if number < least || (exclusive && number == least) {
            let than = if exclusive { "greater than" } else { "greater than or equal to" };
            causes.push(Cause::invalid(path, &shown, &format!("{path} in body should be {than} {least}")));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let exclusive = schema["exclusiveMaximum"] == Value::Bool(true);
        if number > most || (exclusive && number == most) {
            let than = if exclusive { "less than" } else { "less than or equal to" };
            causes.push(Cause::invalid(path, &shown, &format!("{path} in body should be {than} {most}")));
        }
    }
    let bits = match schema["format"].as_str() {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        Some("int64") => Some((i64::MIN as f64, i64::MAX as f64)),
        _ => None,
    };
    if let Some((least, most)) = bits
        && (number < least || number > most)
    {
        let format = schema["format"].as_str().unwrap_or_default();
        causes.push(Cause::invalid(
            path,
            &shown,
            &format!("{path} in body must be of type {format}: {shown}"),
        ));
    }
}

fn check_enum(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        causes.push(Cause { reason: "FieldValueNotSupported", message, field: path.to_owned() });
    }
}

/// `allOf`, `anyOf`, `oneOf`, `not`.
fn check_logic(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let fits = |schema: &Value| {
        let mut found = Vec::new();
        check(schema, value, None, path, &mut found);
        found.is_empty()
    };
    let fitting = |key: &str| schema[key].as_array().map(|list| list.iter().filter(|s| fits(s)).count());
    for each in schema["allOf"].as_array().into_iter().flatten() {
        check(each, value, None, path, causes);
    }
    let mut fail = |why: &str| {
        causes.push(Cause::invalid(path, &value.to_string(), &format!("{path:?} {why}")));
    };
    if fitting("anyOf") == Some(0) {
        fail("must validate at least one schema (anyOf)");
    }
    if let Some(found) = fitting("oneOf")
        && found != 1
    {
        fail(&format!("must validate one and only one schema (oneOf). Found {found} valid alternatives"));
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        fail("must not validate the schema (not)");
    }
}
