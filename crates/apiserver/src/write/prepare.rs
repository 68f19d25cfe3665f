//! From an object as a client sent it to the one that is stored, or the reason why not.

use serde_json::{Value, json};

use super::fields::{copy, keep_all_but_status, keep_system_fields, same_desire};
use super::owners::writer;
use super::{Changed, FieldValidation, Options, Part, Preconditions, Target};
use crate::defaults;
use crate::meta;
use crate::ownership::{self, Layout};
use crate::resource::{Feature, Kind};
use crate::schema::{self, definition};
use crate::status::{Cause, Status};

/// Turns a changed object into the one to store.
pub(super) fn next_version(
    target: Target<'_>,
    options: &Options,
    live: &Value,
    changed: Changed,
) -> Result<(Value, Vec<String>), Status> {
    let kind = target.kind;
    let mut value = changed.value;
    check_type(kind, &value)?;
    meta::check_shape(kind, &value)?;
    check_identity(target, live, &value)?;
    let warnings = conform(kind, &mut value, options.validation)?;
    keep_system_fields(live, &mut value);
    match target.part {
        Part::Main if kind.has(Feature::Status) => copy(live, &mut value, "status"),
        Part::Status => keep_all_but_status(kind, live, &mut value),
        Part::Main | Part::Whole => {}
    }
    validate(kind, &value, Some(live))?;
    if definition::is_definition(kind) {
        definition::note_stored_versions(&mut value);
    }
    let owners = match changed.owners {
        Some(owners) => owners,
        None => {
            let named = if value["metadata"].get("managedFields").is_some() { &value } else { live };
            let delta = ownership::compare(Layout::new(kind), live, &value);
            ownership::after_update(ownership::decode(named), &delta, writer(target, &options.manager))
        }
    };
    ownership::encode(&mut value, owners);
    if kind.has(Feature::Generation) && !same_desire(kind, live, &value) {
        let generation = live["metadata"]["generation"].as_i64().unwrap_or(0);
        value["metadata"]["generation"] = json!(generation + 1);
    }
    Ok((value, warnings))
}

/// Prunes, defaults and normalises; the result are warnings.
pub(super) fn conform(
    kind: &Kind,
    value: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    let mut warnings = Vec::new();
    if let Some(custom) = &kind.custom {
        let unknown = schema::prune(&custom.schema, value);
        let texts: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
        match validation {
            FieldValidation::Strict if !texts.is_empty() => {
                return Err(Status::bad_request(format!(
                    "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                    kind.kind,
                    kind.version,
                    kind.kind,
                    texts.join(", ")
                )));
            }
            FieldValidation::Warn => warnings = texts,
            FieldValidation::Strict | FieldValidation::Ignore => {}
        }
        schema::fill_defaults(&custom.schema, value);
    }
    defaults::normalise(kind, value);
    Ok(warnings)
}

/// `live` is what the object replaces.
pub(super) fn validate(kind: &Kind, value: &Value, live: Option<&Value>) -> Result<(), Status> {
    let mut causes: Vec<Cause> = meta::validate(kind, value);
    if let Some(custom) = &kind.custom {
        causes.extend(schema::validate(&custom.schema, value, live));
    } else if definition::is_definition(kind) {
        causes.extend(definition::validate(value));
    }
    if causes.is_empty() {
        return Ok(());
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::invalid(&kind.group, &kind.kind, name, &causes))
}

pub(super) fn check_type(kind: &Kind, value: &Value) -> Result<(), Status> {
    let Value::Object(map) = value else {
        return Err(Status::bad_request("the request body must be an object"));
    };
    let wanted = [("kind", kind.kind.clone()), ("apiVersion", kind.api_version())];
    for (field, wanted) in wanted {
        match map.get(field).and_then(Value::as_str) {
            Some(found) if found == wanted => {}
            None | Some("") if kind.custom.is_none() => {}
            None | Some("") => {
                return Err(Status::bad_request(format!("Object '{field}' is missing in the request body")));
            }
            Some(found) => {
                return Err(Status::bad_request(format!(
                    "the {field} in the data ({found}) does not match the expected {field} ({wanted})"
                )));
            }
        }
    }
    Ok(())
}

pub(super) fn check_identity(target: Target<'_>, live: &Value, value: &Value) -> Result<(), Status> {
    let metadata = &value["metadata"];
    if let Some(name) = metadata["name"].as_str()
        && !name.is_empty()
        && name != target.name
    {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let uid = metadata["uid"].as_str().unwrap_or_default();
    let there = live["metadata"]["uid"].as_str().unwrap_or_default();
    if target.part != Part::Whole && !uid.is_empty() && uid != there {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {there}");
        return Err(Status::conflict(target.kind, target.name, &why));
    }
    Ok(())
}

pub(super) fn check_preconditions(
    target: Target<'_>,
    when: &Preconditions,
    value: &Value,
) -> Result<(), Status> {
    let checks = [("UID", &when.uid, "uid"), ("ResourceVersion", &when.version, "resourceVersion")];
    for (label, wanted, field) in checks {
        let found = value["metadata"][field].as_str().unwrap_or_default();
        if let Some(wanted) = wanted
            && wanted != found
        {
            let why = format!(
                "Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
            );
            return Err(Status::conflict(target.kind, target.name, &why));
        }
    }
    Ok(())
}
