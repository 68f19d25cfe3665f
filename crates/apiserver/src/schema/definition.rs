//! Custom resource definitions: checking one, the kinds it makes, and the status it gets.

use std::sync::Arc;

use regex::Regex;
use serde_json::{Value, json};

use crate::meta;
use crate::resource::{Custom, Feature, Kind, Scope};
use crate::status::Cause;

/// True for the kind that defines kinds.
pub(crate) fn is_definition(kind: &Kind) -> bool {
    kind.group == "apiextensions.k8s.io" && kind.kind == "CustomResourceDefinition"
}

/// What is wrong with a definition.
pub(crate) fn validate(value: &Value) -> Vec<Cause> {
    let spec = &value["spec"];
    let text = |at: &Value| at.as_str().unwrap_or_default().to_owned();
    let mut causes = Vec::new();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    for (field, found) in [
        ("spec.group", &group),
        ("spec.names.plural", &plural),
        ("spec.names.kind", &text(&spec["names"]["kind"])),
    ] {
        if found.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    if !matches!(spec["scope"].as_str(), Some("Cluster" | "Namespaced")) {
        let message =
            format!("Unsupported value: {}: supported values: \"Cluster\", \"Namespaced\"", spec["scope"]);
        causes.push(Cause { reason: "FieldValueNotSupported", message, field: "spec.scope".to_owned() });
    }
    let name = text(&value["metadata"]["name"]);
    let wanted = format!("{plural}.{group}");
    if name != wanted {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &format!("{name:?}"), why));
    }
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    if versions.iter().filter(|version| version["storage"] == json!(true)).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &spec["versions"].to_string(), why));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match &version["schema"]["openAPIV3Schema"] {
            Value::Null => causes.push(Cause::required(&path, "schemas are required")),
            schema => patterns(schema, &path, &mut causes),
        }
    }
    causes
}

/// Every `pattern` must be a regular expression.
fn patterns(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(pattern) = schema["pattern"].as_str()
        && let Err(error) = Regex::new(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        causes.push(Cause::invalid(&format!("{path}.pattern"), &format!("{pattern:?}"), &why));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        patterns(property, &format!("{path}.properties[{name}]"), causes);
    }
    for nested in ["items", "additionalProperties"] {
        if schema[nested].is_object() {
            patterns(&schema[nested], &format!("{path}.{nested}"), causes);
        }
    }
}

/// The kinds a valid definition makes, one per served version.
pub(crate) fn kinds(value: &Value) -> Vec<Arc<Kind>> {
    let spec = &value["spec"];
    let names = &spec["names"];
    let text = |at: &Value| at.as_str().unwrap_or_default().to_owned();
    let texts = |at: &Value| at.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let versions = spec["versions"].as_array().into_iter().flatten();
    let served = versions.filter(|version| version["served"] == json!(true));
    let kind = |version: &Value| {
        let mut features = vec![Feature::Generation, Feature::ConditionalUpdate];
        if version["subresources"]["status"].is_object() {
            features.push(Feature::Status);
        }
        let path = |field: &Value| text(&field["jsonPath"]).trim_start_matches('.').to_owned();
        Arc::new(Kind {
            group: text(&spec["group"]),
            version: text(&version["name"]),
            kind: text(&names["kind"]),
            list_kind: text(&names["listKind"]),
            plural: text(&names["plural"]),
            singular: text(&names["singular"]),
            short_names: texts(&names["shortNames"]),
            categories: texts(&names["categories"]),
            scope: if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
            features,
            custom: Some(Custom {
                schema: version["schema"]["openAPIV3Schema"].clone(),
                columns: version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default(),
                selectable: version["selectableFields"].as_array().into_iter().flatten().map(path).collect(),
            }),
        })
    };
    served.map(kind).collect()
}

/// Adds the status a definition has as soon as it is served.
pub(crate) fn establish(value: &mut Value) {
    let now = meta::now();
    let condition = |kind: &str, reason: &str, message: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message });
    let conditions = json!([
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ]);
    let status = &mut value["status"];
    if !status["conditions"].is_array() {
        status["conditions"] = conditions;
    }
    let names = value["spec"]["names"].clone();
    value["status"]["acceptedNames"] = names;
    note_stored_versions(value);
}

/// Records the storage version among those that objects were ever stored in.
pub(crate) fn note_stored_versions(value: &mut Value) {
    let versions = value["spec"]["versions"].as_array().into_iter().flatten();
    let stored = versions.filter(|v| v["storage"] == json!(true)).map(|v| v["name"].clone()).next();
    let Some(stored) = stored else { return };
    let known = &mut value["status"]["storedVersions"];
    match known.as_array_mut() {
        Some(list) if !list.contains(&stored) => list.push(stored),
        Some(_) => {}
        None => *known = json!([stored]),
    }
}
