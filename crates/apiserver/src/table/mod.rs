//! Tables: how `kubectl get` shows objects. The server computes the cells, from built-in rules or from the columns
//! a custom resource definition names.

mod age;
mod builtin;
mod path;

use serde_json::{Value, json};

use crate::resource::Kind;

/// What a row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowObject {
    None,
    Metadata,
    Whole,
}

/// A column and how to compute its cell.
struct Column {
    name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    kind: String,
    format: String,
    description: String,
    /// 0 is always shown, more only with `-o wide`.
    priority: i64,
    cell: Cell,
}

enum Cell {
    Computed(fn(&Value) -> Value),
    Path(String),
}

/// An object reduced to its metadata.
pub(crate) fn metadata_only(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// The table of `objects`.
pub(crate) fn render(kind: &Kind, objects: &[Value], row: RowObject) -> Value {
    let columns = columns(kind);
    let rows: Vec<Value> = objects.iter().map(|object| render_row(&columns, object, row)).collect();
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            json!({ "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority })
        })
        .collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": definitions, "rows": rows })
}

fn render_row(columns: &[Column], object: &Value, row: RowObject) -> Value {
    let cells: Vec<Value> = columns.iter().map(|column| column.cell(object)).collect();
    let mut rendered = json!({ "cells": cells });
    match row {
        RowObject::None => {}
        RowObject::Metadata => rendered["object"] = metadata_only(object),
        RowObject::Whole => rendered["object"] = object.clone(),
    }
    rendered
}

fn columns(kind: &Kind) -> Vec<Column> {
    let Some(custom) = &kind.custom else { return builtin::columns(kind) };
    let mut columns = vec![builtin::name()];
    if custom.columns.is_empty() {
        columns.push(Column {
            kind: "date".to_owned(),
            cell: Cell::Path(".metadata.creationTimestamp".to_owned()),
            ..builtin::age()
        });
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    columns.extend(custom.columns.iter().map(|column| Column {
        name: text(&column["name"]),
        kind: text(&column["type"]),
        format: text(&column["format"]),
        description: text(&column["description"]),
        priority: column["priority"].as_i64().unwrap_or(0),
        cell: Cell::Path(text(&column["jsonPath"])),
    }));
    columns
}

impl Column {
    fn cell(&self, object: &Value) -> Value {
        let path = match &self.cell {
            Cell::Computed(compute) => return compute(object),
            Cell::Path(path) => path,
        };
        let found = path::find(object, path);
        match (self.kind.as_str(), found.as_slice()) {
            (_, []) => Value::Null,
            ("date", [Value::String(time), ..]) => json!(age::since(time)),
            ("string", [Value::String(text)]) => json!(text),
            ("string", many) => json!(many.iter().map(|v| path::shown(v)).collect::<Vec<_>>().join(",")),
            (_, [first, ..]) => (*first).clone(),
        }
    }
}
