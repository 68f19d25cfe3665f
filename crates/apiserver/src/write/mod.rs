//! Writing one object: what happens between a decoded request and the store. Creates, updates and deletes check,
//! normalise, prune, validate, assign ownership and versions; an update is repeated when another came between.

mod fields;
mod owners;
mod prepare;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Inner;
use crate::defaults;
use crate::meta;
use crate::ownership::{self, Entry};
use crate::resource::{Feature, Kind};
use crate::schema::definition;
use crate::status::Status;
use crate::store::{Object, Raced, State};

use fields::{keeps_status_on_create, name_generated, remove, same_content, set_system_fields};
use owners::{created_owners, establish};
use prepare::{check_preconditions, check_type, conform, next_version, validate};

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
        validate(kind, &value, None)?;
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
            let bound = target.part != Part::Whole
                && changed.value["metadata"]["resourceVersion"] != Value::Null
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

    fn remove(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        replaces: u64,
    ) -> Result<Arc<Object>, Raced> {
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
