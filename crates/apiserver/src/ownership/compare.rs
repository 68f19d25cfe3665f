//! Which fields differ between two objects, and which fields an object has.

use serde_json::Value;

use super::fields::Fields;
use super::layout::{Layout, Shape, element_key};

/// The difference between an old and a new object.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Delta {
    pub(crate) changed: Fields,
    pub(crate) added: Fields,
    pub(crate) removed: Fields,
}

/// What differs, the fields that nobody owns (name, uid, versions, …) left out.
pub(crate) fn compare(layout: Layout<'_>, old: &Value, new: &Value) -> Delta {
    let mut walk = Walk { layout, names: Vec::new(), edges: Vec::new() };
    let mut delta = Delta::default();
    walk.compare(old, new, &mut delta);
    for fields in [&mut delta.changed, &mut delta.added, &mut delta.removed] {
        strip(fields);
    }
    delta
}

/// The fields an applied configuration claims.
pub(crate) fn fields_of(layout: Layout<'_>, value: &Value) -> Fields {
    let mut walk = Walk { layout, names: Vec::new(), edges: Vec::new() };
    let mut fields = Fields::default();
    walk.collect(value, Collect::Leaves, &mut fields);
    strip(&mut fields);
    fields
}

/// Fields that have no owner.
fn strip(fields: &mut Fields) {
    const UNOWNED: &[&[&str]] = &[
        &[],
        &["f:apiVersion"],
        &["f:kind"],
        &["f:metadata"],
        &["f:metadata", "f:name"],
        &["f:metadata", "f:namespace"],
        &["f:metadata", "f:creationTimestamp"],
        &["f:metadata", "f:deletionTimestamp"],
        &["f:metadata", "f:deletionGracePeriodSeconds"],
        &["f:metadata", "f:uid"],
        &["f:metadata", "f:generation"],
        &["f:metadata", "f:resourceVersion"],
    ];
    for path in UNOWNED {
        fields.remove(path);
    }
    if let Some(mut metadata) = fields.cut("f:metadata") {
        metadata.cut("f:managedFields");
        *fields = fields.union(&at("f:metadata", metadata));
    }
}

fn at(edge: &str, below: Fields) -> Fields {
    let mut json = serde_json::Map::new();
    if !below.is_empty() {
        json.insert(edge.to_owned(), below.to_json());
    }
    Fields::from_json(&Value::Object(json))
}

/// What counts as a member when a whole subtree is taken.
#[derive(Clone, Copy, PartialEq)]
enum Collect {
    /// Leaves and list elements: what a configuration sets.
    Leaves,
    /// Also the maps and lists on the way: what appears or disappears with a subtree.
    Everything,
}

struct Walk<'a> {
    layout: Layout<'a>,
    /// Field names on the way here, for the layout.
    names: Vec<String>,
    /// Edges on the way here, for the field set.
    edges: Vec<String>,
}

impl Walk<'_> {
    fn below(&mut self, edge: String, name: Option<&str>, visit: impl FnOnce(&mut Self)) {
        self.edges.push(edge);
        self.names.extend(name.map(str::to_owned));
        visit(self);
        self.edges.pop();
        if name.is_some() {
            self.names.pop();
        }
    }

    fn compare(&mut self, old: &Value, new: &Value, delta: &mut Delta) {
        let shape = self.layout.shape(&self.names, new);
        match (old, new, shape) {
            (Value::Object(before), Value::Object(after), Shape::Granular) => {
                for (name, value) in after {
                    self.below(format!("f:{name}"), Some(name), |walk| match before.get(name) {
                        Some(there) => walk.compare(there, value, delta),
                        None => walk.collect(value, Collect::Everything, &mut delta.added),
                    });
                }
                for (name, value) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
                    self.below(format!("f:{name}"), Some(name), |walk| {
                        walk.collect(value, Collect::Everything, &mut delta.removed);
                    });
                }
            }
            (Value::Array(before), Value::Array(after), shape @ (Shape::Set | Shape::Keyed(_))) => {
                self.compare_lists(before, after, &shape, delta);
            }
            (Value::Null, Value::Array(after), shape @ (Shape::Set | Shape::Keyed(_))) => {
                self.compare_lists(&[], after, &shape, delta);
            }
            _ if old != new => delta.changed.insert(&self.edges),
            _ => {}
        }
    }

    fn compare_lists(&mut self, before: &[Value], after: &[Value], shape: &Shape, delta: &mut Delta) {
        for element in after {
            let edge = edge_of(element, shape);
            let there = before.iter().find(|other| edge_of(other, shape) == edge);
            self.below(edge, None, |walk| match there {
                Some(there) => walk.compare(there, element, delta),
                None => walk.collect(element, Collect::Everything, &mut delta.added),
            });
        }
        for element in before {
            let edge = edge_of(element, shape);
            if !after.iter().any(|other| edge_of(other, shape) == edge) {
                self.below(edge, None, |walk| {
                    walk.collect(element, Collect::Everything, &mut delta.removed);
                });
            }
        }
    }

    fn collect(&mut self, value: &Value, what: Collect, fields: &mut Fields) {
        match (value, self.layout.shape(&self.names, value)) {
            (Value::Object(map), Shape::Granular) if !map.is_empty() => {
                if what == Collect::Everything {
                    fields.insert(&self.edges);
                }
                for (name, field) in map {
                    self.below(format!("f:{name}"), Some(name), |walk| walk.collect(field, what, fields));
                }
            }
            (Value::Array(list), shape @ (Shape::Set | Shape::Keyed(_))) if !list.is_empty() => {
                if what == Collect::Everything {
                    fields.insert(&self.edges);
                }
                for element in list {
                    self.below(edge_of(element, &shape), None, |walk| {
                        fields.insert(&walk.edges);
                        walk.collect(element, what, fields);
                    });
                }
            }
            _ => fields.insert(&self.edges),
        }
    }
}

fn edge_of(element: &Value, shape: &Shape) -> String {
    match shape {
        Shape::Keyed(keys) => element_key(element, keys),
        _ => format!("v:{element}"),
    }
}
