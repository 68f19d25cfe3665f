//! How a policy is written: its two documents, and texts of CEL.

use serde_json::{Value, json};

/// A policy that is bound for the whole cluster.
pub struct Policy {
    pub name: &'static str,
    /// API group, version and resources.
    pub matches: (&'static str, &'static str, &'static [&'static str]),
    pub operations: &'static [&'static str],
    /// Name and expression. All have to hold, or the policy says nothing.
    pub conditions: Vec<(&'static str, String)>,
    /// Name and expression.
    pub variables: Vec<(&'static str, String)>,
    pub validations: Vec<Validation>,
}

/// The first that does not hold is the one that the API server names.
pub struct Validation {
    expression: String,
    /// The text of a refusal: words without quotation marks, and expressions whose values stand between them.
    message: Vec<Part>,
}

pub enum Part {
    Text(String),
    Value(String),
}

impl Policy {
    /// The policy and its binding.
    pub fn documents(&self) -> [Value; 2] {
        let (group, version, resources) = self.matches;
        let named = |list: &[(&str, String)]| {
            list.iter()
                .map(|(name, expression)| json!({ "name": name, "expression": expression }))
                .collect::<Vec<_>>()
        };
        let mut spec = json!({
            // API servers evaluate expressions themselves, so none is ever unavailable. One that fails is a refusal.
            "failurePolicy": "Fail",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "resourceRules": [{
                    "apiGroups": [group], "apiVersions": [version], "operations": self.operations,
                    "resources": resources,
                }],
            },
            "matchConditions": named(&self.conditions),
            "validations": self.validations.iter().map(Validation::document).collect::<Vec<_>>(),
        });
        if !self.variables.is_empty() {
            spec["variables"] = named(&self.variables).into();
        }
        let document = |kind: &str, spec: Value| {
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
                "metadata": { "name": self.name, "labels": { "app.kubernetes.io/name": "kilo" } }, "spec": spec,
            })
        };
        [
            document("ValidatingAdmissionPolicy", spec),
            document(
                "ValidatingAdmissionPolicyBinding",
                json!({ "policyName": self.name, "validationActions": ["Deny"] }),
            ),
        ]
    }
}

impl Validation {
    pub fn new<const N: usize>(expression: impl Into<String>, message: [Part; N]) -> Self {
        Self { expression: expression.into(), message: message.into() }
    }

    fn document(&self) -> Value {
        let mut document = json!({ "expression": self.expression, "reason": "Forbidden" });
        match self.message.as_slice() {
            [Part::Text(text)] => document["message"] = json!(text),
            parts => {
                let parts = parts.iter().map(|part| match part {
                    Part::Text(text) => quoted(text),
                    Part::Value(expression) => expression.clone(),
                });
                document["messageExpression"] = json!(parts.collect::<Vec<_>>().join(" + "));
            }
        }
        document
    }
}

/// A field of a map, or an empty map.
pub fn field(map: &str, name: &str) -> String {
    format!("{} in {map} ? {map}.{name} : {{}}", quoted(name))
}

/// Whether a map of the metadata differs from that of the old object. Conditions see no variables.
pub fn differs(map: &str) -> String {
    format!(
        "(has(object.metadata.{map}) ? dyn(object.metadata.{map}) : {{}}) != \
         (oldObject != null && has(oldObject.metadata.{map}) ? dyn(oldObject.metadata.{map}) : {{}})"
    )
}

/// The keys, without some, that two maps do not both have with the same value.
pub fn differing(now: &str, before: &str, without: &[&str]) -> String {
    let counts = if without.is_empty() { String::new() } else { format!("!(k in {}) && ", list(without)) };
    format!(
        "{now}.filter(k, {counts}!(k in {before} && {before}[k] == {now}[k])) + {before}.filter(k, {counts}!(k in {now}))"
    )
}

/// Words of a message.
pub fn text(words: &str) -> Part {
    Part::Text(words.to_owned())
}

/// An expression whose value stands in a message.
pub fn value(expression: &str) -> Part {
    Part::Value(expression.to_owned())
}

/// The names of a list, with commas between.
pub fn joined(names: &str) -> Part {
    value(&format!("{names}.join(\", \")"))
}

/// A list of texts of CEL.
pub fn list(words: &[&str]) -> String {
    format!("[{}]", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", "))
}

/// A text of CEL.
pub fn quoted(text: &str) -> String {
    assert!(!text.contains(['"', '\\']), "{text} would have to be escaped");
    format!("\"{text}\"")
}
