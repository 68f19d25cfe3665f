//! `metadata`: its shape, names, and the fields the server sets.

use serde_json::{Value, json};

use crate::resource::Kind;
use crate::status::{Cause, Status};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
    '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
    validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
    must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation \
    is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' \
    or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
    regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// The time as the API writes it: RFC 3339 in UTC, whole seconds.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random UUID (version 4).
pub(crate) fn new_uid() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// `generateName` plus five characters that form no words.
pub(crate) fn generate_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let suffix: String = (0..5).map(|_| ALPHABET[rand::random_range(0..ALPHABET.len())] as char).collect();
    format!("{prefix}{suffix}")
}

/// Checks the types inside `metadata`; a wrong one is a 400, as it would not decode.
pub(crate) fn check_shape(kind: &Kind, value: &Value) -> Result<(), Status> {
    let fail = |found: &Value, field: &str, wanted: &str| {
        Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: json: cannot unmarshal {} into Go struct field \
             ObjectMeta.{field} of type {wanted}",
            kind.kind,
            kind.version,
            kind.kind,
            type_name(found)
        )))
    };
    let metadata = match value.get("metadata") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(metadata)) => metadata,
        Some(other) => return fail(other, "metadata", "v1.ObjectMeta"),
    };
    for (field, content) in metadata {
        match (field.as_str(), content) {
            ("labels" | "annotations", Value::Object(map)) => {
                if let Some(bad) = map.values().find(|v| !v.is_string() && !v.is_null()) {
                    return fail(bad, &format!("metadata.{field}"), "string");
                }
            }
            ("labels" | "annotations" | "name" | "namespace" | "resourceVersion" | "uid", Value::Null) => {}
            ("labels" | "annotations", other) => {
                return fail(other, &format!("metadata.{field}"), "map[string]string");
            }
            ("name" | "namespace" | "resourceVersion" | "uid" | "generateName", other)
                if !other.is_string() =>
            {
                return fail(other, &format!("metadata.{field}"), "string");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Drops what is empty and what no server keeps.
pub(crate) fn normalise(value: &mut Value) {
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.retain(|key, field| {
            let empty = match field {
                Value::Null => true,
                Value::Object(map) => map.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::String(text) => text.is_empty(),
                _ => false,
            };
            !empty && key != "selfLink"
        });
    }
}

/// What is wrong with the name and labels.
pub(crate) fn validate(kind: &Kind, value: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let metadata = &value["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = name_problem(kind, name) {
        causes.push(Cause::invalid("metadata.name", &format!("{name:?}"), &why));
    }
    for (_, label) in metadata["labels"].as_object().into_iter().flatten() {
        let text = label.as_str().unwrap_or_default();
        if !is_label_value(text) {
            causes.push(Cause::invalid("metadata.labels", &format!("{text:?}"), LABEL_VALUE));
        }
    }
    causes
}

fn name_problem(kind: &Kind, name: &str) -> Option<String> {
    let label = matches!(kind.kind.as_str(), "Namespace" | "Service") && kind.group.is_empty();
    let path_segment = kind.group == "rbac.authorization.k8s.io";
    if path_segment {
        return (name.contains('/') || name.contains('%')).then(|| "may not contain '/' or '%'".to_owned());
    }
    let limit = if label { 63 } else { 253 };
    if name.len() > limit {
        return Some(format!("must be no more than {limit} bytes"));
    }
    let fine = if label { is_dns_label(name) } else { name.split('.').all(is_dns_label) };
    (!fine).then(|| if label { LABEL } else { SUBDOMAIN }.to_owned())
}

fn is_dns_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if plain(*first) && plain(*last))
        && bytes.iter().all(|b| plain(*b) || *b == b'-')
}

fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return true };
    text.len() <= 63
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
