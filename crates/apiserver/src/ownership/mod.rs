//! `metadata.managedFields`: who owns which fields, and how writes move ownership. Follows the behaviour of
//! structured-merge-diff as clients see it; it knows objects and layouts, not storage.

mod compare;
mod fields;
mod layout;

use serde_json::{Value, json};

pub(crate) use compare::{Delta, compare, fields_of};
pub(crate) use fields::Fields;
pub(crate) use layout::{Layout, Shape, element_key};

use crate::meta;

/// Who writes, as recorded in `managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) operation: Operation,
    pub(crate) api_version: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// One writer and its fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) writer: Writer,
    pub(crate) time: String,
    pub(crate) fields: Fields,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

impl Entry {
    /// How a conflict names this owner.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.writer.manager);
        if !self.writer.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.writer.subresource);
        }
        if self.writer.operation == Operation::Update {
            text += &format!(" using {}", self.writer.api_version);
        }
        text
    }
}

/// The entries in `metadata.managedFields` of an object; malformed ones are left out.
pub(crate) fn decode(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter().flatten().filter_map(decode_entry).collect()
}

fn decode_entry(value: &Value) -> Option<Entry> {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let operation = match value["operation"].as_str()? {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    Some(Entry {
        writer: Writer {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
        },
        time: text("time"),
        fields: Fields::from_json(&value["fieldsV1"]),
    })
}

/// Writes the entries into `metadata.managedFields`, those that own nothing left out.
pub(crate) fn encode(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| {
        let order = |e: &Entry| (e.writer.operation, e.time.clone(), e.writer.manager.clone());
        order(a).cmp(&order(b)).then_with(|| a.writer.subresource.cmp(&b.writer.subresource))
    });
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let list: Vec<Value> = entries.iter().map(encode_entry).collect();
    metadata.insert("managedFields".to_owned(), list.into());
}

fn encode_entry(entry: &Entry) -> Value {
    let mut value = json!({
        "manager": entry.writer.manager,
        "operation": entry.writer.operation.name(),
        "apiVersion": entry.writer.api_version,
        "time": entry.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": entry.fields.to_json(),
    });
    if !entry.writer.subresource.is_empty() {
        value["subresource"] = json!(entry.writer.subresource);
    }
    value
}

/// Moves ownership after `writer` changed an object as `delta` says: what it set is its own, and no longer the
/// property of others whose value it changed.
pub(crate) fn after_update(mut entries: Vec<Entry>, delta: &Delta, writer: Writer) -> Vec<Entry> {
    let set = delta.changed.union(&delta.added);
    if set.is_empty() && delta.removed.is_empty() {
        return entries;
    }
    for entry in entries.iter_mut().filter(|entry| entry.writer != writer) {
        entry.fields = entry.fields.minus(&delta.changed).minus(&delta.removed);
    }
    match entries.iter_mut().find(|entry| entry.writer == writer) {
        Some(entry) => {
            let fields = entry.fields.minus(&delta.removed).union(&set);
            if fields != entry.fields || !set.is_empty() {
                entry.time = meta::now();
            }
            entry.fields = fields;
        }
        None => entries.push(Entry { writer, time: meta::now(), fields: set }),
    }
    entries
}
