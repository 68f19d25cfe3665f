//! A set of fields of an object, as `fieldsV1` writes it: a tree whose edges are `f:name`, `k:{key}`, `v:value`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A set of fields. A node is a member itself, has members below it, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    member: bool,
    below: BTreeMap<String, Fields>,
}

impl Fields {
    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    pub(crate) fn is_member(&self) -> bool {
        self.member
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = (&String, &Fields)> {
        self.below.iter()
    }

    pub(crate) fn child(&self, edge: &str) -> Option<&Fields> {
        self.below.get(edge)
    }

    pub(crate) fn from_json(value: &Value) -> Fields {
        let mut fields = Fields::default();
        for (edge, below) in value.as_object().into_iter().flatten() {
            if edge == "." {
                fields.member = true;
                continue;
            }
            let mut child = Fields::from_json(below);
            if child.is_empty() {
                child.member = true;
            }
            fields.below.insert(edge.clone(), child);
        }
        fields
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (edge, child) in &self.below {
            map.insert(edge.clone(), child.to_json());
        }
        Value::Object(map)
    }

    pub(crate) fn insert(&mut self, path: &[String]) {
        match path.split_first() {
            None => self.member = true,
            Some((edge, rest)) => self.below.entry(edge.clone()).or_default().insert(rest),
        }
    }

    pub(crate) fn remove(&mut self, path: &[&str]) {
        match path.split_first() {
            None => self.member = false,
            Some((edge, rest)) => {
                if let Some(child) = self.below.get_mut(*edge) {
                    child.remove(rest);
                    if child.is_empty() {
                        self.below.remove(*edge);
                    }
                }
            }
        }
    }

    /// Removes a whole subtree.
    pub(crate) fn cut(&mut self, edge: &str) -> Option<Fields> {
        self.below.remove(edge)
    }

    pub(crate) fn union(&self, other: &Fields) -> Fields {
        let mut all = self.clone();
        all.member |= other.member;
        for (edge, child) in &other.below {
            let merged = all.below.get(edge).map_or_else(|| child.clone(), |mine| mine.union(child));
            all.below.insert(edge.clone(), merged);
        }
        all
    }

    pub(crate) fn minus(&self, other: &Fields) -> Fields {
        let below = self.below.iter().filter_map(|(edge, mine)| {
            let left = other.below.get(edge).map_or_else(|| mine.clone(), |theirs| mine.minus(theirs));
            (!left.is_empty()).then(|| (edge.clone(), left))
        });
        Fields { member: self.member && !other.member, below: below.collect() }
    }

    pub(crate) fn intersect(&self, other: &Fields) -> Fields {
        let below = self.below.iter().filter_map(|(edge, mine)| {
            let both = mine.intersect(other.below.get(edge)?);
            (!both.is_empty()).then(|| (edge.clone(), both))
        });
        Fields { member: self.member && other.member, below: below.collect() }
    }

    /// All members as users read them: `.metadata.annotations.a`, `.status.conditions[type="Ready"].status`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, prefix: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(prefix.to_owned());
        }
        for (edge, child) in &self.below {
            child.collect(&format!("{prefix}{}", shown(edge)), found);
        }
    }
}

fn shown(edge: &str) -> String {
    match edge.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", key)) => {
            let parsed: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let parts: Vec<String> = parsed.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", parts.join(","))
        }
        _ => format!("[{edge}]"),
    }
}
