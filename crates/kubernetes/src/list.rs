//! All Nodes or Peers at one moment, for tools that look once.

use std::{fmt::Debug, time::Duration};

use kube::{
    Api, Client,
    api::ListParams,
    core::{ObjectList, Resource as KubeResource},
};
use mesh::{Node, Peer, Problem};
use serde::de::DeserializeOwned;

use crate::{
    Error, NodeObject, PeerObject, decode_node, decode_peer,
    explain::{Explanation, Resource, explain},
};

/// How many objects are asked for at once: a few megabytes of a cluster's Nodes.
pub(crate) const PAGE: u32 = 250;
/// How long a page may take.
pub(crate) const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// All Nodes, by name, with what is wrong with them.
///
/// # Errors
/// When the API does not answer or refuses.
pub async fn list_nodes(client: &Client, topology_label: &str) -> Result<Vec<(Node, Vec<Problem>)>, Error> {
    let objects: Vec<NodeObject> = all(client, Resource::Nodes).await?;
    Ok(objects.iter().map(|object| decode_node(object, topology_label)).collect())
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
        let page = page(&api, token, resource).await.map_err(|failed| Error::Request {
            verb: "list",
            object: resource.name().to_owned(),
            explanation: failed.explanation,
        })?;
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
