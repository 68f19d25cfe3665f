//! All Nodes or Peers at one moment, for tools that look once.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    api::ListParams,
    core::{ObjectList, Resource as KubeResource},
};
use mesh::{Node, Peer, Problem, allocation::said_by_most};
use serde::de::DeserializeOwned;

use crate::{
    Error, NodeObject, PeerObject, PodCidrSource,
    decode::{decode_block_affinity, decode_cilium_node, shortened},
    decode_node, decode_peer,
    explain::{Explanation, Resource, explain},
    object::{BlockAffinityObject, CiliumNodeObject},
    pod_cidrs::{
        join::{Grant, join_once},
        published_text,
    },
};

/// How many objects are asked for at once: a few megabytes of a cluster's Nodes.
pub(crate) const PAGE: u32 = 250;
/// How long a page may take.
pub(crate) const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// All Nodes, by name, and what is wrong with them and with what gives them pod subnets. These come from `source`, or,
/// without one, from where most agents take them.
///
/// # Errors
/// When the API does not answer or refuses, or does not know what is to be read; [`Error::PodCidrSource`] when most agents
/// take them from somewhere that is not known here.
pub async fn list_nodes(
    client: &Client,
    topology_label: &str,
    source: Option<PodCidrSource>,
) -> Result<(Vec<Node>, Vec<Problem>), Error> {
    let objects: Vec<NodeObject> = all(client, Resource::Nodes).await?;
    let source = match source {
        Some(source) => source,
        None => source_of_most(objects.iter().filter_map(told))?,
    };
    let grants = grants(client, source).await?;
    let mut nodes = Vec::with_capacity(objects.len());
    let mut problems = Vec::new();
    for object in &objects {
        let (node, mut found) = decode_node(object, topology_label, source);
        problems.append(&mut found);
        nodes.push(node);
    }
    if let Some(grants) = grants {
        problems.extend(join_once(source, &mut nodes, grants));
    }
    Ok((nodes, problems))
}

/// What another CNI gives to nodes, by the names of its objects; `None`: pod subnets do not come from there.
async fn grants(client: &Client, source: PodCidrSource) -> Result<Option<Vec<(String, Grant)>>, Error> {
    let named = |metadata: &ObjectMeta, grant| (metadata.name.clone().unwrap_or_default(), grant);
    Ok(match source {
        PodCidrSource::Node | PodCidrSource::Annotation => None,
        PodCidrSource::Cilium => {
            let objects: Vec<CiliumNodeObject> = all(client, Resource::CiliumNodes).await?;
            Some(objects.iter().map(|object| named(&object.metadata, decode_cilium_node(object))).collect())
        }
        PodCidrSource::Calico => {
            let objects: Vec<BlockAffinityObject> = all(client, Resource::BlockAffinities).await?;
            Some(
                objects.iter().map(|object| named(&object.metadata, decode_block_affinity(object))).collect(),
            )
        }
    })
}

/// Where most agents take pod subnets from. Without any agent it is the Node.
///
/// # Errors
/// As those of [`list_nodes`].
pub async fn published_source(client: &Client) -> Result<PodCidrSource, Error> {
    let api: Api<NodeObject> = Api::all(client.clone());
    let mut all = Vec::new();
    let mut token = None;
    loop {
        // The API lists by name.
        let page =
            page(&api, token, Resource::Nodes).await.map_err(|failed| failed.of_list(Resource::Nodes))?;
        all.extend(page.items.iter().filter_map(told));
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            return source_of_most(all.into_iter());
        }
    }
}

/// Where the agent of a node takes pod subnets from, in its own word, and the name of the node.
fn told(object: &NodeObject) -> Option<(String, String)> {
    Some((shortened(published_text(object)?), object.name().to_owned()))
}

/// What most say: one node alone decides nothing for a program that looks at all of them. Of several that are said as
/// often it is the one of the first node.
fn source_of_most(
    told: impl DoubleEndedIterator<Item = (String, String)> + Clone,
) -> Result<PodCidrSource, Error> {
    let Some(most) = said_by_most(told.clone().rev().map(|(word, _)| word)) else {
        return Ok(PodCidrSource::default());
    };
    most.parse().map_err(|why| {
        let node = told.clone().find(|(word, _)| *word == most).map(|(_, node)| node).unwrap_or_default();
        Error::PodCidrSource { node, why }
    })
}

/// All Peers that are valid, by name, and what is wrong with these and the others.
///
/// # Errors
/// When the API does not answer or refuses; [`Error::is_missing`] when the cluster does not know Peers.
pub async fn list_peers(client: &Client) -> Result<(Vec<Peer>, Vec<Problem>), Error> {
    let objects: Vec<PeerObject> = all(client, Resource::Peers).await?;
    let mut peers = Vec::with_capacity(objects.len());
    let mut problems = Vec::new();
    for object in &objects {
        let (peer, found) = decode_peer(object);
        peers.extend(peer);
        problems.extend(found);
    }
    Ok((peers, problems))
}

async fn all<K>(client: &Client, resource: Resource) -> Result<Vec<K>, Error>
where
    K: KubeResource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let mut objects = Vec::new();
    let mut token = None;
    loop {
        let page = page(&api, token, resource).await.map_err(|failed| failed.of_list(resource))?;
        objects.extend(page.items);
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    objects.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
    Ok(objects)
}

/// A request that did not work. There is no status code when there was no answer.
pub(crate) struct Failed {
    pub code: Option<u16>,
    pub explanation: Explanation,
}

impl Failed {
    pub fn new(error: &kube::Error, verb: &str, resource: Resource) -> Self {
        let code = if let kube::Error::Api(status) = error { Some(status.code) } else { None };
        Self { code, explanation: explain(error, verb, resource) }
    }

    pub fn of_silence(limit: Duration) -> Self {
        Self { code: None, explanation: Explanation::of_silence(limit.as_secs()) }
    }

    fn of_list(self, resource: Resource) -> Error {
        Error::Request { verb: "list", object: resource.name().to_owned(), explanation: self.explanation }
    }
}

/// One page of a list that is consistent over its pages.
pub(crate) async fn page<K>(
    api: &Api<K>,
    token: Option<String>,
    resource: Resource,
) -> Result<ObjectList<K>, Failed>
where
    K: Clone + DeserializeOwned + Debug,
{
    let params = ListParams { limit: Some(PAGE), continue_token: token, ..ListParams::default() };
    match tokio::time::timeout(PAGE_TIMEOUT, api.list(&params)).await {
        Ok(page) => page.map_err(|error| Failed::new(&error, "list", resource)),
        Err(_) => Err(Failed::of_silence(PAGE_TIMEOUT)),
    }
}
