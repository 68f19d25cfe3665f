//! `Status`, the error object of the Kubernetes API: how each failure is worded and coded.
//! It knows names and groups of resources, not what is stored.

use serde_json::{Value, json};

use crate::resource::Kind;

/// A failure as the API reports it (`kind: Status`, `status: Failure`).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message} ({reason}, HTTP {code})")]
pub struct Status {
    /// The HTTP status code, 400 to 599.
    pub code: u16,
    /// The machine readable reason, for example `NotFound`; empty for none.
    pub reason: String,
    /// The sentence a user reads.
    pub message: String,
    /// The `details` object: name, group, kind, causes.
    pub details: Option<Value>,
    /// `metadata.continue`: where an expired list can be taken up, inconsistently.
    pub continue_token: Option<String>,
}

/// One reason why an object is invalid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cause {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) field: String,
}

impl Cause {
    pub(crate) fn required(field: &str, hint: &str) -> Cause {
        let message =
            if hint.is_empty() { "Required value".to_owned() } else { format!("Required value: {hint}") };
        Cause { reason: "FieldValueRequired", message, field: field.to_owned() }
    }

    /// `shown` is the offending value as it appears in the message, quoted if it is a string.
    pub(crate) fn invalid(field: &str, shown: &str, why: &str) -> Cause {
        let message = format!("Invalid value: {shown}: {why}");
        Cause { reason: "FieldValueInvalid", message, field: field.to_owned() }
    }

    pub(crate) fn forbidden(field: &str, why: &str) -> Cause {
        Cause { reason: "FieldValueForbidden", message: format!("Forbidden: {why}"), field: field.to_owned() }
    }
}

impl Status {
    /// The JSON object sent to clients.
    pub fn to_value(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = json!(token);
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }

    pub(crate) fn new(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: None,
            continue_token: None,
        }
    }

    fn with_details(mut self, details: Value) -> Status {
        self.details = Some(details);
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Status {
        let message = format!("{} {name:?} not found", kind.qualified());
        Status::new(404, "NotFound", message).with_details(details(&kind.group, &kind.plural, name))
    }

    pub(crate) fn unknown_path() -> Status {
        Status::new(404, "NotFound", "the server could not find the requested resource")
            .with_details(json!({}))
    }

    pub(crate) fn method_not_allowed() -> Status {
        let message = "the server does not allow this method on the requested resource";
        Status::new(405, "MethodNotAllowed", message).with_details(json!({}))
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Status {
        let message = format!("{} {name:?} already exists", kind.qualified());
        Status::new(409, "AlreadyExists", message).with_details(details(&kind.group, &kind.plural, name))
    }

    pub(crate) fn modified(kind: &Kind, name: &str) -> Status {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(kind, name, why)
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
        Status::new(409, "Conflict", message).with_details(details(&kind.group, &kind.plural, name))
    }

    /// Another manager owns fields that an apply would change.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Cause>) -> Status {
        Status::new(409, "Conflict", message).with_details(json!({ "causes": causes_value(&causes) }))
    }

    pub(crate) fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    pub(crate) fn too_large(limit: usize) -> Status {
        let message = format!("Request entity too large: limit is {limit}");
        Status::new(413, "RequestEntityTooLarge", message)
    }

    pub(crate) fn unsupported_media(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::new(415, "UnsupportedMediaType", message)
    }

    /// An object of `kind` in `group` failed validation for `causes` (at least one).
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Status {
        let each: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = if let [one] = each.as_slice() { one.clone() } else { format!("[{}]", each.join(", ")) };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut info = details(group, kind, name);
        info["causes"] = causes_value(causes);
        Status::new(422, "Invalid", format!("{qualified} {name:?} is invalid: {text}")).with_details(info)
    }

    /// A JSON patch could not be applied; the API tells no more than this.
    pub(crate) fn unprocessable_patch() -> Status {
        let message = "the server rejected our request due to an error in our request";
        Status::new(422, "Invalid", message).with_details(json!({}))
    }

    pub(crate) fn with_empty_details(self) -> Status {
        self.with_details(json!({}))
    }

    pub(crate) fn forbidden(who: &Refused<'_>) -> Status {
        let subject = if who.name.is_empty() {
            format!("{} is forbidden", who.qualified)
        } else {
            format!("{} {:?} is forbidden", who.qualified, who.name)
        };
        let scope = if who.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", who.namespace)
        };
        let message = format!(
            "{subject}: User {:?} cannot {} resource {:?} in API group {:?} {scope}",
            who.user, who.verb, who.resource, who.group
        );
        Status::new(403, "Forbidden", message).with_details(details(who.group, who.resource, who.name))
    }
}

/// Whom and what a 403 is about.
pub(crate) struct Refused<'a> {
    pub(crate) user: &'a str,
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) qualified: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The body of a successful delete.
pub(crate) fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut info = details(&kind.group, &kind.plural, name);
    if !uid.is_empty() {
        info["uid"] = json!(uid);
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": info })
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut info = json!({ "kind": kind });
    if !name.is_empty() {
        info["name"] = json!(name);
    }
    if !group.is_empty() {
        info["group"] = json!(group);
    }
    info
}

fn causes_value(causes: &[Cause]) -> Value {
    causes
        .iter()
        .map(|c| json!({ "reason": c.reason, "message": c.message, "field": c.field }))
        .collect::<Vec<_>>()
        .into()
}
