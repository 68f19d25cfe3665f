//! Who owns the fields of objects that are new or written by the server itself.

use serde_json::{Value, json};

use super::{Part, Target};
use crate::defaults;
use crate::ownership::{self, Entry, Layout, Operation, Writer};
use crate::resource::Kind;
use crate::schema::definition;

pub(super) fn writer(target: Target<'_>, manager: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        operation: Operation::Update,
        api_version: target.kind.api_version(),
        subresource: if target.part == Part::Status { "status".to_owned() } else { String::new() },
    }
}

pub(super) fn created_owners(kind: &Kind, value: &Value, manager: &str) -> Vec<Entry> {
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
pub(super) fn establish(kind: &Kind, value: &mut Value) {
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
