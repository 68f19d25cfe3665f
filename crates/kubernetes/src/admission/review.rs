//! `AdmissionReview` of `admission.k8s.io/v1`, as much of it as matters.
//!
//! What has no bearing on the answer is not read and may be missing, as in the Go implementation; what has, is asked
//! for by name.

use std::fmt;

use mesh::text::{Plain, plain};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Verdict;
use crate::{Error, decode::shortened};

const API_VERSION: &str = "admission.k8s.io/v1";
/// API servers cut off a warning that is longer, in characters.
const LONGEST_WARNING: usize = 250;

/// What is done with the object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Create,
    /// It replaces one.
    Update,
    /// It is removed.
    Delete,
    /// Somebody connects to it.
    Connect,
    /// Something that did not exist when this was written.
    #[default]
    Other,
}

impl Operation {
    /// The word of the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Other => "OTHER",
        }
    }
}

/// A group and a resource, as `kubectl` and RBAC rules write it: `peers.kilo.squat.ai`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceName {
    group: String,
    resource: String,
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{}{dot}{}", shortened(&self.resource), shortened(&self.group))
    }
}

/// What an API server asks. It has no `Debug`, for there are preshared keys in its objects.
pub struct Request {
    /// Goes back with the answer.
    uid: String,
    /// What kind of object it is about.
    pub resource: ResourceName,
    /// What is done with it.
    pub operation: Operation,
    name: String,
    object: Option<Value>,
    old: Option<Value>,
}

impl Request {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`Error::Review`] when it is empty, not JSON, no AdmissionReview of version 1 or without a request.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let refused = |why: String| Err(Error::Review(why));
        if body.iter().all(u8::is_ascii_whitespace) {
            return refused("it has no body".to_owned());
        }
        let value: Value = match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(error) => return refused(format!("its body is not JSON: {error}")),
        };
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if (version, kind) != (API_VERSION, "AdmissionReview") {
            return refused(format!(
                "its apiVersion is {:?} and its kind {:?}; only {API_VERSION} AdmissionReview is supported, see \
                 admissionReviewVersions of the ValidatingWebhookConfiguration",
                shortened(version),
                shortened(kind)
            ));
        }
        let wire: WireReview = match serde_json::from_value(value) {
            Ok(wire) => wire,
            Err(error) => return refused(error.to_string()),
        };
        match wire.request {
            Some(request) if !request.uid.is_empty() => Ok(request.into()),
            Some(_) => refused("request.uid is missing".to_owned()),
            None => refused("it has no request".to_owned()),
        }
    }

    /// Whether it is about Peers.
    pub fn is_for_peers(&self) -> bool {
        self.resource.group == "kilo.squat.ai" && self.resource.resource == "peers"
    }

    /// The name of the object; empty when the API server is to make one up.
    pub fn name(&self) -> &str {
        if !self.name.is_empty() {
            return &self.name;
        }
        self.object.as_ref().and_then(|object| object["metadata"]["name"].as_str()).unwrap_or_default()
    }

    /// The object that is to be stored, and the one it replaces.
    pub(super) fn objects(&self) -> Result<(&Value, Option<&Value>), Error> {
        let missing = || Error::Review(format!("request.object is missing in a {}", self.operation.name()));
        let old = self.old.as_ref().filter(|_| self.operation == Operation::Update);
        Ok((self.object.as_ref().ok_or_else(missing)?, old))
    }

    /// The answer, as an AdmissionReview.
    pub fn answer(&self, verdict: &Verdict) -> Value {
        let mut response = json!({ "uid": self.uid, "allowed": verdict.is_allowed() });
        if !verdict.is_allowed() {
            // It is shown in the terminal of whoever asked for the Peer to be stored.
            let message = format!("peer {} cannot be used: {}", self.name(), verdict.faults.join("; "));
            let message = plain(message);
            response["status"] =
                json!({ "status": "Failure", "reason": "Invalid", "code": 422, "message": message });
        }
        if !verdict.warnings.is_empty() {
            response["warnings"] =
                verdict.warnings.iter().map(|warning| cut(&Plain(warning).to_string())).collect();
        }
        json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response })
    }
}

fn cut(warning: &str) -> String {
    if warning.chars().count() <= LONGEST_WARNING {
        return warning.to_owned();
    }
    warning.chars().take(LONGEST_WARNING - 1).chain(std::iter::once('…')).collect()
}

#[derive(Deserialize)]
struct WireReview {
    #[serde(default)]
    request: Option<WireRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct WireRequest {
    uid: String,
    kind: Option<WireKind>,
    resource: Option<WireResource>,
    operation: String,
    name: Option<String>,
    object: Option<Value>,
    old_object: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireKind {
    group: String,
    kind: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireResource {
    group: String,
    resource: String,
}

impl From<WireRequest> for Request {
    fn from(wire: WireRequest) -> Self {
        // A request that names only the kind is as clear: the Go implementation asks for neither.
        let of_kind = wire.kind.filter(|kind| !kind.kind.is_empty()).map(|kind| ResourceName {
            group: kind.group,
            resource: format!("{}s", kind.kind.to_lowercase()),
        });
        let of_resource = wire
            .resource
            .filter(|resource| !resource.resource.is_empty())
            .map(|wire| ResourceName { group: wire.group, resource: wire.resource });
        let operation = match wire.operation.as_str() {
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update,
            "DELETE" => Operation::Delete,
            "CONNECT" => Operation::Connect,
            _ => Operation::Other,
        };
        Self {
            uid: wire.uid,
            resource: of_resource.or(of_kind).unwrap_or_default(),
            operation,
            name: wire.name.unwrap_or_default(),
            object: wire.object,
            old: wire.old_object,
        }
    }
}
