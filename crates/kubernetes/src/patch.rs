//! What is written to the API: annotations of the own Node, and Events about objects.
//!
//! How often is decided by the caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use mesh::{Object, Problem};
use serde_json::Value;

use crate::{
    Error, NodeObject, PeerObject, encode,
    explain::{Explanation, Resource, explain},
    object::{BlockAffinityObject, CiliumNodeObject},
    permission::{Annotations, Permission},
    pod_cidrs::{BLOCK_AFFINITY, CILIUM_NODE},
};

/// The `reportingController` of the agent's Events.
pub const CONTROLLER: &str = "kilo.squat.ai/kg";
/// The kinds of objects that [`report`] creates Events about.
pub const REPORTED_KINDS: [&str; 4] = ["Node", "Peer", CILIUM_NODE, BLOCK_AFFINITY];
/// The namespace of Events about objects that have none.
pub const EVENT_NAMESPACE: &str = "default";
/// The type of all Events that [`report`] creates.
pub const EVENT_TYPE: &str = "Warning";

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest note that the API accepts in an Event, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Applies a merge patch to a Node and gives the Node that came of it.
///
/// # Errors
/// When the API does not answer or refuses; [`Error::is_missing`] when there is no such Node.
pub async fn patch_node(client: &Client, name: &str, patch: &Value) -> Result<NodeObject, Error> {
    let api: Api<NodeObject> = Api::all(client.clone());
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    request("patch", Resource::Nodes, &format!("node {name}"), api.patch(name, &params, &patch)).await
}

/// What came of telling the others about the own node.
pub type Told = Result<Written, Error>;

/// What the own Node is after it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Kilo's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The internal and external addresses of its status; `None`: nothing was written, so nothing was read.
    pub addresses: Option<BTreeSet<IpAddr>>,
}

/// Writes what an agent tells the others to its Node, as far as the API lets it. `current` are the annotations as they were
/// last read. Gives those that are there now, and the addresses, which so are read as often as the heartbeat is written.
///
/// # Errors
/// When the API does not answer, or refuses even the heartbeat; [`Error::is_missing`] when there is no such Node.
pub async fn tell(
    client: &Client,
    name: &str,
    current: &BTreeMap<String, String>,
    facts: &mesh::Published,
    permission: &mut Permission,
) -> Told {
    let latest = write(client, name, encode::changed(current, facts), permission).await?;
    Ok(match latest {
        Some(node) => {
            Written { annotations: node.metadata.annotations.unwrap_or_default(), addresses: node.addresses }
        }
        None => Written { annotations: current.clone(), addresses: None },
    })
}

/// Takes back everything that an agent has written to its Node, as far as the API lets it.
///
/// # Errors
/// As those of [`tell`].
pub async fn take_back(client: &Client, name: &str, permission: &mut Permission) -> Result<(), Error> {
    write(client, name, encode::cleared(), permission).await.map(|_| ())
}

/// Writes annotations, in as many requests as it takes. Gives the Node as it is after the last one.
async fn write(
    client: &Client,
    name: &str,
    changed: Annotations,
    permission: &mut Permission,
) -> Result<Option<NodeObject>, Error> {
    let mut attempts = permission.attempts(changed, Instant::now());
    let mut latest = None;
    let mut failure = None;
    while let Some(group) = attempts.next_group() {
        match patch_node(client, name, &encode::annotations_patch(group)).await {
            Ok(object) => {
                attempts.accepted();
                latest = Some(object);
            }
            Err(error) => match error.refusal() {
                Some(said) => {
                    attempts.refused(said);
                    failure = Some(error);
                }
                // What is written stays; the rest comes with the next heartbeat.
                None if latest.is_some() => break,
                None => return Err(error),
            },
        }
    }
    match (attempts.finish(), failure) {
        (Some(_), Some(refused)) => Err(refused),
        _ => Ok(latest),
    }
}

/// Who reports an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// The program: [`CONTROLLER`].
    pub controller: String,
    /// Which of them: the name of the node or pod it runs on.
    pub instance: String,
}

/// Creates a warning Event about a Node, a Peer or an object that gives pod subnets, where `kubectl describe` shows it. Problems of other objects
/// have no place in the API and are passed over.
///
/// # Errors
/// When the API does not answer or refuses.
pub async fn report(client: &Client, reporter: &Reporter, problem: &Problem) -> Result<(), Error> {
    let Some(regarding) = regarding(client, &problem.object).await else { return Ok(()) };
    let object = format!("an event about {}", problem.object);
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            // As Kubernetes' own components name them: the object and a number that does not repeat.
            name: Some(format!(
                "{}.{:x}{:04x}",
                regarding.name.as_deref().unwrap_or_default(),
                now.as_nanosecond(),
                rand::random::<u16>()
            )),
            namespace: Some(EVENT_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(reporter.controller.clone()),
        reporting_instance: Some(reporter.instance.clone()),
        action: Some("Reconcile".to_owned()),
        reason: Some(problem.reason.to_owned()),
        regarding: Some(regarding),
        note: Some(note(&problem.text())),
        type_: Some(EVENT_TYPE.to_owned()),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), EVENT_NAMESPACE);
    let params = PostParams::default();
    request("create", Resource::Events, &object, api.create(&params, &event)).await.map(|_| ())
}

/// The object as an Event refers to it. `kubectl describe` finds Events by the object's uid; without leave to get
/// the object the Event goes without.
async fn regarding(client: &Client, object: &Object) -> Option<ObjectReference> {
    let (api_version, kind, name, uid) = match object {
        Object::Node(name) => {
            let api: Api<NodeObject> = Api::all(client.clone());
            let found = request("get", Resource::Nodes, name, api.get(name)).await.ok();
            ("v1", "Node", name, found.and_then(|node| node.metadata.uid))
        }
        Object::Peer(name) => {
            let api: Api<PeerObject> = Api::all(client.clone());
            let found = request("get", Resource::Peers, name, api.get(name)).await.ok();
            ("kilo.squat.ai/v1alpha1", "Peer", name, found.and_then(|peer| peer.metadata.uid))
        }
        Object::Foreign { kind: kind @ CILIUM_NODE, name } => {
            let api: Api<CiliumNodeObject> = Api::all(client.clone());
            let found = request("get", Resource::CiliumNodes, name, api.get(name)).await.ok();
            ("cilium.io/v2", *kind, name, found.and_then(|object| object.metadata.uid))
        }
        Object::Foreign { kind: kind @ BLOCK_AFFINITY, name } => {
            let api: Api<BlockAffinityObject> = Api::all(client.clone());
            let found = request("get", Resource::BlockAffinities, name, api.get(name)).await.ok();
            ("crd.projectcalico.org/v1", *kind, name, found.and_then(|object| object.metadata.uid))
        }
        Object::Foreign { .. } | Object::Host | Object::Mesh => return None,
    };
    Some(ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.clone()),
        uid,
        ..ObjectReference::default()
    })
}

fn note(message: &str) -> String {
    let mut end = message.len().min(LONGEST_NOTE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

/// Waits for an answer, and explains one that is an error or does not come.
pub(crate) async fn request<T>(
    verb: &'static str,
    resource: Resource,
    object: &str,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    let explanation = match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => explain(&error, verb, resource),
        Err(_) => Explanation::of_silence(TIMEOUT.as_secs()),
    };
    Err(Error::Request { verb, object: object.to_owned(), explanation })
}
