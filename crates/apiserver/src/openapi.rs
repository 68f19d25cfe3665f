//! OpenAPI documents: as much as `kubectl` reads to know that the server validates fields, and the schemas of
//! custom resources. Built-in kinds are described without their fields.

use serde_json::{Map, Value, json};

use crate::Inner;
use crate::discovery;
use crate::resource::{Kind, group_version};

/// `/openapi/v2`: valid and without definitions.
pub(crate) fn v2() -> Value {
    json!({ "swagger": "2.0", "info": { "title": "Kubernetes", "version": "v1.36.0" }, "paths": {}, "definitions": {} })
}

/// `/openapi/v3`: where the document of each group and version is.
pub(crate) fn index(server: &Inner) -> Value {
    let mut paths = Map::new();
    for (group, versions) in discovery::versions(server) {
        for version in versions {
            let root = root(&group, &version);
            let url = format!("/openapi/v3/{root}?hash={}", server.state().kinds.len());
            paths.insert(root, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/apis/GROUP/VERSION`.
pub(crate) fn v3(server: &Inner, group: &str, version: &str) -> Option<Value> {
    let kinds = discovery::kinds(server, group, version);
    if kinds.is_empty() {
        return None;
    }
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in &kinds {
        paths.insert(object_path(kind), json!({ "patch": patch_operation(kind) }));
        schemas.insert(schema_name(kind), schema(kind));
    }
    Some(json!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": paths, "components": { "schemas": schemas },
    }))
}

fn root(group: &str, version: &str) -> String {
    let prefix = if group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", group_version(group, version))
}

fn object_path(kind: &Kind) -> String {
    let namespace = if kind.namespaced() { "namespaces/{namespace}/" } else { "" };
    format!("/{}/{namespace}{}/{{name}}", root(&kind.group, &kind.version), kind.plural)
}

fn schema_name(kind: &Kind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').filter(|part| !part.is_empty()).rev().collect();
    parts.extend([kind.version.as_str(), kind.kind.as_str()]);
    parts.join(".")
}

fn type_of(kind: &Kind) -> Value {
    json!({ "group": kind.group, "version": kind.version, "kind": kind.kind })
}

fn schema(kind: &Kind) -> Value {
    let mut schema = match &kind.custom {
        Some(custom) if custom.schema.is_object() => custom.schema.clone(),
        _ => json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
    };
    schema["x-kubernetes-group-version-kind"] = json!([type_of(kind)]);
    schema
}

/// What tells a client that it may leave the validation of fields to the server.
fn patch_operation(kind: &Kind) -> Value {
    let parameter = |name: &str| json!({ "name": name, "in": "query", "schema": { "type": "string", "uniqueItems": true } });
    let parameters = ["dryRun", "fieldManager", "fieldValidation", "force"].map(parameter);
    let reference = json!({ "$ref": format!("#/components/schemas/{}", schema_name(kind)) });
    json!({
        "operationId": format!("patch{}", kind.kind),
        "parameters": parameters,
        "responses": { "200": { "description": "OK", "content": { "application/json": { "schema": reference } } } },
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": type_of(kind),
    })
}
