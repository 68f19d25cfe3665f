//! Writing one object: what happens between a decoded request and the store. Creates, updates and deletes check,
//! normalise, prune, validate, assign ownership and versions; an update is repeated when another came between.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Inner;
use crate::defaults;
use crate::meta;
use crate::ownership::{self, Entry, Layout, Operation, Writer};
use crate::resource::{Feature, Kind};
use crate::schema::{self, definition};
use crate::status::{Cause, Status};
use crate::store::{Object, Raced, State};

/// How often an update that names no version is tried against concurrent ones.
const ATTEMPTS: usize = 100;

/// The object a write is about.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) kind: &'a Arc<Kind>,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) part: Part,
}

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status, where the kind writes it separately.
    Main,
    Status,
    /// Everything, unchecked by admission: writes from inside the program.
    Whole,
}

/// What to do about fields that a schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Whether a write is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Store,
    DryRun,
}

/// What a request says about how to write.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) manager: String,
    pub(crate) validation: FieldValidation,
    pub(crate) effect: Effect,
}

/// The outcome of a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) warnings: Vec<String>,
}

/// A changed object, and its owners if the change computed them itself.
pub(crate) struct Changed {
    pub(crate) value: Value,
    pub(crate) owners: Option<Vec<Entry>>,
}

/// Conditions on what a delete finds.
#[derive(Debug, Default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) version: Option<String>,
}

impl Inner {
    /// Stores a new object.
    pub(crate) fn create(
        &self,
        target: Target<'_>,
        new: Changed,
        options: &Options,
    ) -> Result<Written, Status> {
        let kind = target.kind;
        let mut value = new.value;
        check_type(kind, &value)?;
        self.place(target, &mut value)?;
        if value["metadata"].get("resourceVersion").is_some_and(|v| v.as_str().is_some_and(|v| !v.is_empty()))
            && target.part != Part::Whole
        {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        name_generated(&mut value);
        if kind.has(Feature::Status) && target.part != Part::Whole && !keeps_status_on_create(kind) {
            remove(&mut value, "status");
        }
        let warnings = conform(kind, &mut value, options.validation)?;
        validate(kind, &value)?;
        set_system_fields(kind, &mut value);
        let owners = new.owners.unwrap_or_else(|| created_owners(kind, &value, &options.manager));
        ownership::encode(&mut value, owners);
        if target.part != Part::Whole {
            defaults::admit_created(kind, &mut value);
        }
        if definition::is_definition(kind) {
            definition::note_stored_versions(&mut value);
            establish(kind, &mut value);
        }
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let object = self
            .commit(kind, value, None, options.effect)
            .map_err(|Raced| Status::already_exists(kind, &name))?;
        Ok(Written { object, warnings })
    }

    /// Replaces an object by what `change` makes of it.
    pub(crate) fn update(
        &self,
        target: Target<'_>,
        options: &Options,
        change: &dyn Fn(&Value) -> Result<Changed, Status>,
    ) -> Result<Written, Status> {
        let kind = target.kind;
        for _ in 0..ATTEMPTS {
            let current = self
                .state()
                .object(kind, target.namespace, target.name)
                .cloned()
                .ok_or_else(|| Status::not_found(kind, target.name))?;
            let live = current.value(kind);
            let changed = change(&live)?;
            let bound = target.part != Part::Whole && changed.value["metadata"]["resourceVersion"] != Value::Null
                && changed.value["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"];
            if bound {
                return Err(Status::modified(kind, target.name));
            }
            let (value, warnings) = next_version(target, options, &live, changed)?;
            if same_content(&live, &value) {
                return Ok(Written { object: current, warnings });
            }
            let finished = value["metadata"].get("deletionTimestamp").is_some()
                && value["metadata"].get("finalizers").is_none();
            let stored = if finished && options.effect == Effect::Store {
                self.remove(kind, target.namespace, target.name, current.version)
            } else {
                self.commit(kind, value, Some(current.version), options.effect)
            };
            if let Ok(object) = stored {
                return Ok(Written { object, warnings });
            }
        }
        Err(Status::modified(kind, target.name))
    }

    /// Removes an object, or marks it when finalizers hold it. The result is its last content.
    pub(crate) fn delete(
        &self,
        target: Target<'_>,
        when: &Preconditions,
        effect: Effect,
    ) -> Result<Arc<Object>, Status> {
        let kind = target.kind;
        for _ in 0..ATTEMPTS {
            let current = self
                .state()
                .object(kind, target.namespace, target.name)
                .cloned()
                .ok_or_else(|| Status::not_found(kind, target.name))?;
            let mut value = current.value(kind);
            check_preconditions(target, when, &value)?;
            if effect == Effect::DryRun {
                return Ok(current);
            }
            let held = value["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
            let done = if held {
                if value["metadata"].get("deletionTimestamp").is_some() {
                    return Ok(current);
                }
                value["metadata"]["deletionTimestamp"] = json!(meta::now());
                value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                self.commit(kind, value, Some(current.version), effect)
            } else {
                self.remove(kind, target.namespace, target.name, current.version)
            };
            if done.is_ok() {
                return Ok(current);
            }
        }
        Err(Status::modified(kind, target.name))
    }

    /// Puts a new object into its namespace, which must exist.
    fn place(&self, target: Target<'_>, value: &mut Value) -> Result<(), Status> {
        meta::check_shape(target.kind, value)?;
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        if !target.kind.namespaced() {
            remove(&mut value["metadata"], "namespace");
            return Ok(());
        }
        let named = value["metadata"]["namespace"].as_str().unwrap_or_default();
        if !named.is_empty() && named != target.namespace {
            return Err(Status::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request: \
                 {named:?} and {:?}",
                target.namespace
            )));
        }
        value["metadata"]["namespace"] = json!(target.namespace);
        let state = self.state();
        let Some(namespaces) = state.kind("", "v1", "namespaces") else { return Ok(()) };
        match state.object(&namespaces, "", target.namespace) {
            Some(_) => Ok(()),
            None => Err(Status::not_found(&namespaces, target.namespace)),
        }
    }

    fn commit(
        &self,
        kind: &Arc<Kind>,
        value: Value,
        replaces: Option<u64>,
        effect: Effect,
    ) -> Result<Arc<Object>, Raced> {
        let mut state = self.state_mut();
        if effect == Effect::DryRun {
            let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default();
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            if state.object(kind, namespace, name).map(|object| object.version) != replaces {
                return Err(Raced);
            }
            let version = replaces.unwrap_or(state.version);
            return Ok(Arc::new(Object::new(value, version)));
        }
        let definition = definition::is_definition(kind).then(|| value.clone());
        let object = state.put(kind, value, replaces)?;
        if let Some(definition) = definition {
            register(&mut state, &definition);
        }
        Ok(object)
    }

    fn remove(&self, kind: &Arc<Kind>, namespace: &str, name: &str, replaces: u64) -> Result<Arc<Object>, Raced> {
        let mut state = self.state_mut();
        let object = state.remove(kind, namespace, name, replaces)?;
        if definition::is_definition(kind) {
            let spec = object.bare();
            let text = |at: &Value| at.as_str().unwrap_or_default().to_owned();
            state.unregister(&text(&spec["spec"]["group"]), &text(&spec["spec"]["names"]["plural"]));
        }
        if kind.group.is_empty() && kind.kind == "Namespace" {
            state.empty_namespace(name);
        }
        Ok(object)
    }
}

fn register(state: &mut State, definition: &Value) {
    let kinds = definition::kinds(definition);
    let text = |at: &Value| at.as_str().unwrap_or_default().to_owned();
    let spec = &definition["spec"];
    state.retain_versions(&text(&spec["group"]), &text(&spec["names"]["plural"]), &kinds);
    for kind in kinds {
        state.register(kind);
    }
}

/// Turns a changed object into the one to store.
fn next_version(
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
    validate(kind, &value)?;
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

fn writer(target: Target<'_>, manager: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        operation: Operation::Update,
        api_version: target.kind.api_version(),
        subresource: if target.part == Part::Status { "status".to_owned() } else { String::new() },
    }
}

fn created_owners(kind: &Kind, value: &Value, manager: &str) -> Vec<Entry> {
    let mut base = kind.empty();
    base["metadata"] = json!({});
    if !definition::is_definition(kind) {
        defaults::fill(kind, &mut base);
    }
    base["apiVersion"] = json!(kind.api_version());
    base["kind"] = json!(kind.kind);
    let delta = ownership::compare(Layout::new(kind), &base, value);
    let writer = Writer {
        manager: manager.to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: String::new(),
    };
    ownership::after_update(Vec::new(), &delta, writer)
}

/// Gives a new definition its status, in the name of the server.
fn establish(kind: &Kind, value: &mut Value) {
    let mut before = value.clone();
    before["status"]["acceptedNames"] = json!({});
    before["status"]["conditions"] = Value::Null;
    definition::establish(value);
    let delta = ownership::compare(Layout::new(kind), &before, value);
    let writer = Writer {
        manager: "kube-apiserver".to_owned(),
        operation: Operation::Update,
        api_version: kind.api_version(),
        subresource: "status".to_owned(),
    };
    let owners = ownership::after_update(ownership::decode(value), &delta, writer);
    ownership::encode(value, owners);
}

/// Prunes, defaults and normalises; the result are warnings.
fn conform(kind: &Kind, value: &mut Value, validation: FieldValidation) -> Result<Vec<String>, Status> {
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

fn validate(kind: &Kind, value: &Value) -> Result<(), Status> {
    let mut causes: Vec<Cause> = meta::validate(kind, value);
    if let Some(custom) = &kind.custom {
        causes.extend(schema::validate(&custom.schema, value));
    } else if definition::is_definition(kind) {
        causes.extend(definition::validate(value));
    }
    if causes.is_empty() {
        return Ok(());
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::invalid(&kind.group, &kind.kind, name, &causes))
}

fn check_type(kind: &Kind, value: &Value) -> Result<(), Status> {
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

fn check_identity(target: Target<'_>, live: &Value, value: &Value) -> Result<(), Status> {
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

fn check_preconditions(target: Target<'_>, when: &Preconditions, value: &Value) -> Result<(), Status> {
    let checks = [("UID", &when.uid, "uid"), ("ResourceVersion", &when.version, "resourceVersion")];
    for (label, wanted, field) in checks {
        let found = value["metadata"][field].as_str().unwrap_or_default();
        if let Some(wanted) = wanted
            && wanted != found
        {
            let why =
                format!("Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}");
            return Err(Status::conflict(target.kind, target.name, &why));
        }
    }
    Ok(())
}

fn name_generated(value: &mut Value) {
    let metadata = &mut value["metadata"];
    let unnamed = metadata["name"].as_str().unwrap_or_default().is_empty();
    if let Some(prefix) = metadata["generateName"].as_str().filter(|prefix| unnamed && !prefix.is_empty()) {
        metadata["name"] = json!(meta::generate_name(prefix));
    }
}

fn set_system_fields(kind: &Kind, value: &mut Value) {
    value["apiVersion"] = json!(kind.api_version());
    value["kind"] = json!(kind.kind);
    let metadata = &mut value["metadata"];
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "managedFields"] {
        remove(metadata, field);
    }
    metadata["uid"] = json!(meta::new_uid());
    metadata["creationTimestamp"] = json!(meta::now());
    if kind.has(Feature::Generation) {
        metadata["generation"] = json!(1);
    } else {
        remove(metadata, "generation");
    }
}

fn keep_system_fields(live: &Value, value: &mut Value) {
    for field in ["apiVersion", "kind"] {
        copy(live, value, field);
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        copy(&live["metadata"], &mut value["metadata"], field);
    }
}

/// A status write leaves the rest alone; for built-in kinds metadata may change with it.
fn keep_all_but_status(kind: &Kind, live: &Value, value: &mut Value) {
    let mut kept = live.clone();
    copy(value, &mut kept, "status");
    if kind.custom.is_none() {
        copy(value, &mut kept, "metadata");
    }
    *value = kept;
}

/// Nodes may come with a status.
fn keeps_status_on_create(kind: &Kind) -> bool {
    kind.custom.is_none() && kind.group.is_empty()
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(content) => to[field] = content.clone(),
        None => remove(to, field),
    }
}

fn remove(value: &mut Value, field: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(field);
    }
}

/// True if only metadata or status differ.
fn same_desire(kind: &Kind, live: &Value, value: &Value) -> bool {
    let desire = |object: &Value| {
        let mut desired = object.clone();
        remove(&mut desired, "metadata");
        if kind.has(Feature::Status) {
            remove(&mut desired, "status");
        }
        desired
    };
    desire(live) == desire(value)
}

/// True if nothing differs but the times in `managedFields`.
fn same_content(live: &Value, value: &Value) -> bool {
    let timeless = |object: &Value| {
        let mut object = object.clone();
        for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            remove(entry, "time");
        }
        object
    };
    timeless(live) == timeless(value)
}
