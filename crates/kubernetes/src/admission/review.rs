//! `AdmissionReview` of `admission.k8s.io/v1`, as much of it as matters.
//!
//! What has no bearing on the answer is not read and may be missing, as in the Go implementation; what has, is asked
//! for by name.

use std::fmt;

use mesh::text::{Plain, plain};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::Verdict;
use crate::{Error, PeerObject, decode::shortened, object::reason};

const API_VERSION: &str = "admission.k8s.io/v1";
/// API servers cut off a warning that is longer, in characters.
const LONGEST_WARNING: usize = 250;
/// The longest name of an object, in characters.
const LONGEST_NAME: usize = 253;

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
    objects: Option<Objects>,
}

/// The Peers of a request, as far as they are judged.
pub(super) struct Objects {
    /// The Peer that is to be stored, or why it cannot be read.
    pub new: Result<PeerObject, String>,
    /// The Peer that it replaces, if it can be read.
    pub old: Option<PeerObject>,
    /// Whether both have the same specification.
    pub same_spec: bool,
}

impl Objects {
    fn read(new: &RawValue, old: Option<&RawValue>) -> Self {
        Self {
            new: PeerObject::from_json(new.get()),
            old: old.and_then(|old| PeerObject::from_json(old.get()).ok()),
            same_spec: old.and_then(spec_text).is_some_and(|old| Some(old) == spec_text(new)),
        }
    }
}

/// The specification of an object, as it is written. An API server writes both objects of a request, with the fields in
/// order, so those with the same value have the same text.
fn spec_text(object: &RawValue) -> Option<&str> {
    #[derive(Deserialize)]
    struct Spec<'a> {
        #[serde(borrow, default)]
        spec: Option<&'a RawValue>,
    }
    serde_json::from_str::<Spec<'_>>(object.get()).ok()?.spec.map(RawValue::get)
}

impl Request {
    /// Reads the body of a request. Nothing is kept of what is not judged, so a request takes no more than some ten
    /// times the memory of its body, in whatever shape it is.
    ///
    /// # Errors
    /// [`Error::Review`] when it is empty, not JSON, no AdmissionReview of version 1 or without a request.
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        let refused = |why: String| Err(Error::Review(why));
        if body.iter().all(u8::is_ascii_whitespace) {
            return refused("it has no body".to_owned());
        }
        let text = match std::str::from_utf8(body) {
            Ok(text) => text,
            Err(error) => return refused(format!("its body is not JSON: {error}")),
        };
        // First as a whole, so that what is not JSON is said to be that wherever it is wrong.
        if let Err(error) = serde_json::from_str::<&RawValue>(text) {
            return refused(format!("its body is not JSON: {error}"));
        }
        let review = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text),
            false => Ok(WireReview::default()),
        };
        let review = match review {
            Ok(review) => review,
            Err(error) => return refused(reason(&error)),
        };
        let (version, kind) = (text_of(review.api_version), text_of(review.kind));
        if (version.as_str(), kind.as_str()) != (API_VERSION, "AdmissionReview") {
            return refused(format!(
                "its apiVersion is {:?} and its kind {:?}; only {API_VERSION} AdmissionReview is supported, see \
                 admissionReviewVersions of the ValidatingWebhookConfiguration",
                shortened(&version),
                shortened(&kind)
            ));
        }
        let Some(request) = review.request else { return refused("it has no request".to_owned()) };
        match serde_json::from_str::<WireRequest<'_>>(request.get()) {
            Ok(request) if !request.uid.is_empty() => Ok(request.into()),
            Ok(_) => refused("request.uid is missing".to_owned()),
            Err(error) => refused(reason(&error)),
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
        let peer = self.objects.as_ref().and_then(|objects| objects.new.as_ref().ok());
        peer.map(PeerObject::name).unwrap_or_default()
    }

    /// The Peer that is to be stored, and the one it replaces.
    pub(super) fn objects(&self) -> Result<&Objects, Error> {
        let missing = || Error::Review(format!("request.object is missing in a {}", self.operation.name()));
        self.objects.as_ref().ok_or_else(missing)
    }

    /// The answer, as an AdmissionReview.
    pub fn answer(&self, verdict: &Verdict) -> Value {
        let mut response = json!({ "uid": self.uid, "allowed": verdict.is_allowed() });
        if !verdict.is_allowed() {
            // It is shown in the terminal of whoever asked for the Peer to be stored.
            let name = cut(self.name(), LONGEST_NAME);
            let message = format!("peer {name} cannot be used: {}", verdict.faults.join("; "));
            let message = plain(message);
            response["status"] =
                json!({ "status": "Failure", "reason": "Invalid", "code": 422, "message": message });
        }
        if !verdict.warnings.is_empty() {
            response["warnings"] = verdict
                .warnings
                .iter()
                .map(|warning| cut(&Plain(warning).to_string(), LONGEST_WARNING))
                .collect();
        }
        json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response })
    }
}

/// The beginning of a text that has more characters than this.
fn cut(text: &str, longest: usize) -> String {
    if text.chars().nth(longest).is_none() {
        return text.to_owned();
    }
    text.chars().take(longest - 1).chain(std::iter::once('…')).collect()
}

/// A text in JSON; empty if it is missing or anything else.
fn text_of(value: Option<&RawValue>) -> String {
    value.and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or_default()
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct WireReview<'a> {
    #[serde(borrow, default)]
    api_version: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WireRequest<'a> {
    uid: String,
    kind: Option<WireKind>,
    resource: Option<WireResource>,
    operation: String,
    name: Option<String>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    old_object: Option<&'a RawValue>,
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

impl From<WireRequest<'_>> for Request {
    fn from(wire: WireRequest<'_>) -> Self {
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
        let mut request = Self {
            uid: wire.uid,
            resource: of_resource.or(of_kind).unwrap_or_default(),
            operation,
            name: wire.name.unwrap_or_default(),
            objects: None,
        };
        if request.is_for_peers() && matches!(operation, Operation::Create | Operation::Update) {
            let old = wire.old_object.filter(|_| operation == Operation::Update);
            request.objects = wire.object.map(|new| Objects::read(new, old));
        }
        request
    }
}
