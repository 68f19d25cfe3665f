//! Peer objects as a client makes them for itself and takes them away again.
//!
//! Which Peer it should be is decided by the caller.

use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{Error, explain::Resource, patch::request, peer::Peer};

/// On a Peer that a client made for itself: the name of the client's host. Such a Peer may be taken over by the same
/// host, whose key is lost when the client crashes.
pub const CONNECTED_FROM: &str = "kilo.squat.ai/connected-from";

/// The Peer of this name, if there is one.
///
/// # Errors
/// When the API does not answer or refuses, or does not know Peers at all.
pub async fn get_peer(client: &Client, name: &str) -> Result<Option<Peer>, Error> {
    let api: Api<Peer> = Api::all(client.clone());
    match request("get", Resource::Peers, &format!("peer {name}"), api.get(name)).await {
        Err(Error::Request { explanation, .. }) if explanation.reason == "NotFound" => Ok(None),
        result => result.map(Some),
    }
}

/// Creates a Peer.
///
/// # Errors
/// When the API does not answer or refuses; also when there is one of that name.
pub async fn create_peer(client: &Client, peer: &Peer) -> Result<Peer, Error> {
    let api: Api<Peer> = Api::all(client.clone());
    let object = format!("peer {}", name(peer));
    request("create", Resource::Peers, &object, api.create(&PostParams::default(), peer)).await
}

/// Replaces a Peer, unless it has changed since it was read.
///
/// # Errors
/// When the API does not answer or refuses.
pub async fn replace_peer(client: &Client, peer: &Peer) -> Result<Peer, Error> {
    let api: Api<Peer> = Api::all(client.clone());
    let object = format!("peer {}", name(peer));
    let params = PostParams::default();
    request("update", Resource::Peers, &object, api.replace(name(peer), &params, peer)).await
}

/// Deletes this very Peer, not another one that has its name meanwhile. That it is gone already is a success.
///
/// # Errors
/// When the API does not answer or refuses.
pub async fn delete_peer(client: &Client, peer: &Peer) -> Result<(), Error> {
    let api: Api<Peer> = Api::all(client.clone());
    let preconditions = Preconditions { uid: peer.metadata.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let object = format!("peer {}", name(peer));
    match request("delete", Resource::Peers, &object, api.delete(name(peer), &params)).await {
        Err(error) if error.is_missing() => Ok(()),
        result => result.map(drop),
    }
}

fn name(peer: &Peer) -> &str {
    peer.metadata.name.as_deref().unwrap_or_default()
}
