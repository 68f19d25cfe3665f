//! What an error of the Kubernetes API means, in a word for metrics and a sentence for whoever has to mend it.

use std::time::Duration;

use kube::{Error, core::Status};

use crate::{client::NoCredentials, preshared_keys::NAMESPACE};

/// The resources that Kilo needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Nodes of the core API.
    Nodes,
    /// Peers of `kilo.squat.ai`.
    Peers,
    /// Events of `events.k8s.io`, only written.
    Events,
    /// What Cilium's address management gave to nodes.
    CiliumNodes,
    /// What Calico's address management gave to nodes.
    BlockAffinities,
    /// Where services are served; only that of the API itself is read.
    EndpointSlices,
    /// The same, as older clusters have it.
    Endpoints,
    /// The ranges of service addresses.
    ServiceCidrs,
    /// Preshared keys, in a namespace of their own.
    PresharedKeys,
}

impl Resource {
    /// The plural with its group, as `kubectl` and RBAC rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Nodes => "nodes",
            Resource::Peers => "peers.kilo.squat.ai",
            Resource::Events => "events.events.k8s.io",
            Resource::CiliumNodes => "ciliumnodes.cilium.io",
            Resource::BlockAffinities => "blockaffinities.crd.projectcalico.org",
            Resource::EndpointSlices => "endpointslices.discovery.k8s.io",
            Resource::Endpoints => "endpoints",
            Resource::ServiceCidrs => "servicecidrs.networking.k8s.io",
            Resource::PresharedKeys => "secrets",
        }
    }

    /// What grants access to it, and no more than that.
    fn role(self) -> String {
        match self {
            Resource::PresharedKeys => format!("Role of the namespace {NAMESPACE}"),
            _ => "ClusterRole".to_owned(),
        }
    }

    /// What a cluster that does not know the resource lacks, and what to do. `None`: every cluster knows it.
    fn missing(self) -> Option<(&'static str, &'static str)> {
        match self {
            Resource::Nodes | Resource::Events | Resource::PresharedKeys => None,
            // Nothing is amiss in a cluster without them.
            Resource::EndpointSlices | Resource::Endpoints | Resource::ServiceCidrs => None,
            Resource::Peers => {
                Some((MISSING_PEERS, ", so there are no Peers; kubectl apply -f manifests/crds.yaml"))
            }
            Resource::CiliumNodes => {
                Some((MISSING_DEFINITION, "; install Cilium, or choose another --pod-cidr-source"))
            }
            Resource::BlockAffinities => Some((
                MISSING_DEFINITION,
                "; install Calico with the Kubernetes datastore, or choose another --pod-cidr-source",
            )),
        }
    }
}

const MISSING_PEERS: &str = "MissingPeerDefinition";
const MISSING_DEFINITION: &str = "MissingDefinition";
/// A policy or a webhook does not want what is written.
pub(crate) const REFUSED: &str = "Refused";

/// Why the API did not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// A word in CamelCase: `Forbidden`, `Unauthorized`, `MissingPeerDefinition`, `MissingDefinition`, `NotFound`,
    /// `Refused`, `Unreachable`, `ApiError` or `Unreadable`.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
    /// How long the API asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl Explanation {
    /// Whether the object, or the whole resource, does not exist.
    pub fn is_missing(&self) -> bool {
        self.reason == "NotFound" || self.is_of_definition()
    }

    /// Whether the cluster does not know the resource.
    pub(crate) fn is_of_definition(&self) -> bool {
        matches!(self.reason, MISSING_PEERS | MISSING_DEFINITION)
    }

    /// The connection ended before all objects had come.
    pub(crate) fn of_early_end() -> Self {
        let message =
            "the connection to the API server ended in the middle of a list; is it being restarted?";
        Self { reason: "Unreachable", message: message.to_owned(), retry_after: None }
    }

    /// The API did not answer in time.
    pub(crate) fn of_silence(seconds: u64) -> Self {
        Self {
            reason: "Unreachable",
            message: format!(
                "the API server gave no answer for {seconds} s; is it up, and is the way to it free?"
            ),
            retry_after: None,
        }
    }
}

/// Explains an error that came of this verb on this resource.
pub(crate) fn explain(error: &Error, verb: &str, resource: Resource) -> Explanation {
    let (reason, message) = match error {
        Error::Api(status) => explain_status(status, verb, resource),
        Error::SerdeError(error) => (
            "Unreadable",
            format!("the API answered with something that is not a list of {}: {error}", resource.name()),
        ),
        Error::Service(why) if why.is::<NoCredentials>() => {
            ("Unauthorized", format!("the credentials of the kubeconfig cannot be used: {why}"))
        }
        other => ("Unreachable", format!("no connection to the API server: {}", chain(other))),
    };
    let retry_after = match error {
        Error::Api(status) => status.details.as_ref().map(|details| details.retry_after_seconds),
        _ => None,
    };
    let retry_after =
        retry_after.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
    Explanation { reason, message, retry_after }
}

fn explain_status(status: &Status, verb: &str, resource: Resource) -> (&'static str, String) {
    let name = resource.name();
    let said = &status.message;
    match status.code {
        401 => (
            "Unauthorized",
            format!(
                "the API server does not accept the credentials ({said}); renew the token or the kubeconfig"
            ),
        ),
        400 | 403 | 422 if is_writing(verb) && !is_of_access(status, verb) => (REFUSED, said.clone()),
        403 => (
            "Forbidden",
            format!(
                "may not {verb} {name} ({said}); bind a {} that allows {verb} on {name} to this user or service account",
                resource.role()
            ),
        ),
        404 => match resource.missing().filter(|_| is_of_resource(status)) {
            Some((reason, what)) => (reason, format!("the cluster does not know {name}{what}")),
            None => ("NotFound", said.clone()),
        },
        code => ("ApiError", format!("the API server answered {code} {}: {said}", status.reason)),
    }
}

fn is_writing(verb: &str) -> bool {
    matches!(verb, "patch" | "create" | "update")
}

/// Whether nobody gave the user leave for such requests, whatever they contain. Policies and webhooks begin their refusal
/// with the same words.
fn is_of_access(status: &Status, verb: &str) -> bool {
    status.code == 403 && status.message.contains(&format!(" cannot {verb} resource "))
}

/// A 404 is about one object or about the whole resource; only of an object is there a name.
fn is_of_resource(status: &Status) -> bool {
    status.details.as_ref().is_none_or(|details| details.name.is_empty())
}

/// An error and what caused it. Each layer of the client adds a few words, and some repeat those below.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
