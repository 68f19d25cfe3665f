//! Create, update, patch and delete: decoding bodies and options.

use axum::http::header;
use axum::response::Response;
use serde_json::{Value, json};

use super::Call;
use super::reply;
use crate::ownership::Layout;
use crate::patch::{self, apply::Force};
use crate::resource::Feature;
use crate::selector::Selector;
use crate::status::{self, Cause, Status};
use crate::table;
use crate::watch::View;
use crate::write::{Changed, Effect, FieldValidation, Options, Part, Preconditions, Target, Written};

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

pub(super) fn create(call: &Call, body: &[u8]) -> Result<Response, Status> {
    if call.kind.namespaced() && call.place.namespace.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let new = Changed { value: decode(call, body)?, owners: None };
    let written = call.server.create(target(call), new, &options(call)?)?;
    respond(call, 201, &written)
}

pub(super) fn update(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let value = decode(call, body)?;
    let options = options(call)?;
    let absent = call.server.state().object(&call.kind, &call.place.namespace, &call.place.name).is_none();
    if absent && call.kind.has(Feature::CreateOnUpdate) {
        let written = call.server.create(target(call), Changed { value, owners: None }, &options)?;
        return respond(call, 201, &written);
    }
    let unbound = value["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty();
    if unbound && !absent && call.kind.has(Feature::ConditionalUpdate) {
        let cause = Cause::invalid("metadata.resourceVersion", "0", "must be specified for an update");
        return Err(Status::invalid(&call.kind.group, &call.kind.kind, &call.place.name, &[cause]));
    }
    let change = |_: &Value| {
        let mut value = value.clone();
        if unbound && let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        Ok(Changed { value, owners: None })
    };
    let written = call.server.update(target(call), &options, &change)?;
    respond(call, 200, &written)
}

pub(super) fn patch(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let media = media_type(call);
    let layout = Layout::new(&call.kind);
    match media {
        APPLY => return apply(call, body),
        STRATEGIC if call.kind.custom.is_some() => {
            return Err(Status::unsupported_media(&[JSON, MERGE, APPLY]));
        }
        JSON | MERGE | STRATEGIC => {}
        _ => {
            let status = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
            return Err(status.with_empty_details());
        }
    }
    let patch: Value = serde_json::from_slice(body).map_err(|error| {
        let why = if error.is_eof() { "unexpected end of JSON input".to_owned() } else { error.to_string() };
        Status::bad_request(format!("error decoding patch: {why}"))
    })?;
    let change = |live: &Value| {
        let value = match media {
            JSON => patch::json::apply(live, &patch)?,
            MERGE => patch::merge::apply(live, &patch),
            _ => patch::strategic::apply(layout, live, &patch)?,
        };
        Ok(Changed { value, owners: None })
    };
    let written = call.server.update(target(call), &options(call)?, &change)?;
    respond(call, 200, &written)
}

fn apply(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let manager = call.query("fieldManager");
    if manager.is_empty() {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[cause]));
    }
    let config: Value = serde_norway::from_slice(body)
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    if config["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let layout = Layout::new(&call.kind);
    let writer = patch::apply::writer(manager, call.kind.api_version(), &call.place.subresource);
    let force = if call.flag("force") { Force::Yes } else { Force::No };
    let options = options(call)?;
    let change = |live: &Value| {
        let (value, owners) = patch::apply::apply(layout, live, &config, writer.clone(), force)?;
        Ok(Changed { value, owners: Some(owners) })
    };
    let absent = call.server.state().object(&call.kind, &call.place.namespace, &call.place.name).is_none();
    if absent && call.part == Part::Main {
        let mut config = config.clone();
        if config["metadata"]["name"].is_null() {
            config["metadata"]["name"] = json!(call.place.name);
        }
        let (_, owners) = patch::apply::apply(layout, &json!({}), &config, writer.clone(), force)?;
        let created =
            call.server.create(target(call), Changed { value: config, owners: Some(owners) }, &options);
        match created {
            Err(status) if status.reason == "AlreadyExists" => {}
            other => return respond(call, 201, &other?),
        }
    }
    let written = call.server.update(target(call), &options, &change)?;
    respond(call, 200, &written)
}

pub(super) fn delete(call: &Call, body: &[u8]) -> Result<Response, Status> {
    let options = delete_options(call, body)?;
    let when = Preconditions {
        uid: options["preconditions"]["uid"].as_str().map(str::to_owned),
        version: options["preconditions"]["resourceVersion"].as_str().map(str::to_owned),
    };
    let object = call.server.delete(target(call), &when, effect(call, &options["dryRun"])?)?;
    let bare = object.bare();
    let held = bare["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if held {
        let state = call.server.state();
        if let Some(marked) = state.object(&call.kind, &object.namespace, &object.name) {
            return Ok(reply::json_text(200, marked.json(&call.kind)));
        }
    }
    let uid = bare["metadata"]["uid"].as_str().unwrap_or_default();
    Ok(reply::json(200, &status::deleted(&call.kind, &object.name, uid)))
}

pub(super) fn delete_collection(call: &Call) -> Result<Response, Status> {
    let selector = Selector::parse(&call.kind, call.query("labelSelector"), call.query("fieldSelector"))?;
    let effect = effect(call, &Value::Null)?;
    let state = call.server.state();
    let collection = state.collection(&call.kind).ok_or_else(Status::unknown_path)?;
    let inside = |namespace: &str| call.place.namespace.is_empty() || namespace == call.place.namespace;
    let objects: Vec<_> = collection
        .objects
        .values()
        .filter(|o| inside(&o.namespace) && selector.matches(o))
        .cloned()
        .collect();
    drop(state);
    for object in &objects {
        let target =
            Target { kind: &call.kind, namespace: &object.namespace, name: &object.name, part: Part::Main };
        match call.server.delete(target, &Preconditions::default(), effect) {
            Err(status) if status.code != 404 => return Err(status),
            _ => {}
        }
    }
    let items: Vec<Value> = objects.iter().map(|object| object.value(&call.kind)).collect();
    Ok(reply::json(
        200,
        &json!({ "kind": call.kind.list_kind, "apiVersion": call.kind.api_version(),
        "metadata": { "resourceVersion": call.server.state().version.to_string() }, "items": items }),
    ))
}

fn target(call: &Call) -> Target<'_> {
    Target { kind: &call.kind, namespace: &call.place.namespace, name: &call.place.name, part: call.part }
}

fn respond(call: &Call, code: u16, written: &Written) -> Result<Response, Status> {
    let response = match reply::view(call)? {
        View::Object => reply::json_text(code, written.object.json(&call.kind)),
        View::Metadata => reply::json(code, &table::metadata_only(&written.object.bare())),
        View::Table(row) => {
            reply::json(code, &table::render(&call.kind, &[written.object.value(&call.kind)], row))
        }
    };
    Ok(reply::warn(response, &written.warnings))
}

fn media_type(call: &Call) -> &str {
    call.header(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

fn decode(call: &Call, body: &[u8]) -> Result<Value, Status> {
    let kind = &call.kind;
    let fail = |why: String| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            kind.kind, kind.version, kind.kind
        ))
    };
    match media_type(call) {
        "application/yaml" => serde_norway::from_slice(body).map_err(|error| fail(error.to_string())),
        "application/json" | "" => serde_json::from_slice(body).map_err(|error| fail(error.to_string())),
        _ => Err(Status::unsupported_media(&["application/json", "application/yaml"])),
    }
}

fn delete_options(call: &Call, body: &[u8]) -> Result<Value, Status> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    decode(call, body)
}

fn options(call: &Call) -> Result<Options, Status> {
    let agent = call.header(header::USER_AGENT).split('/').next().unwrap_or_default();
    let manager = match (call.query("fieldManager"), agent) {
        ("", "") => "unknown",
        ("", agent) => agent,
        (manager, _) => manager,
    };
    let validation = match call.query("fieldValidation") {
        "Strict" => FieldValidation::Strict,
        "Ignore" => FieldValidation::Ignore,
        "" | "Warn" => FieldValidation::Warn,
        other => {
            let message =
                format!("Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\"");
            let cause =
                Cause { reason: "FieldValueNotSupported", message, field: "fieldValidation".to_owned() };
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[cause]));
        }
    };
    Ok(Options { manager: manager.to_owned(), validation, effect: effect(call, &Value::Null)? })
}

fn effect(call: &Call, from_body: &Value) -> Result<Effect, Status> {
    let asked = match from_body[0].as_str() {
        Some(asked) => asked,
        None => call.query("dryRun"),
    };
    match asked {
        "" => Ok(Effect::Store),
        "All" => Ok(Effect::DryRun),
        other => Err(Status::bad_request(format!("invalid dryRun {other:?}: only \"All\" is supported"))),
    }
}
