//! Structural schemas of custom resources: what a custom resource definition makes, and how objects are pruned,
//! defaulted and validated by it.

pub(crate) mod definition;
mod prune;
mod validate;

use serde_json::Value;

pub(crate) use prune::{fill_defaults, prune};
pub(crate) use validate::validate;

/// True if fields that the schema does not name are kept here.
fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true)
}

/// True for the root of a whole Kubernetes object, whose type and metadata have their own rules.
fn is_embedded(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == Value::Bool(true)
}
