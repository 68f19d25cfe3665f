//! The addresses that the node's own name resolves to.

use std::{future::Future, net::IpAddr, pin::Pin, time::Duration};

use program::Resolver;

/// How long the start waits for a name server: half of the time in which a node is to be in a mesh of a thousand nodes.
const WAIT: Duration = Duration::from_millis(250);

/// What gives addresses later.
pub type Later = Pin<Box<dyn Future<Output = Vec<IpAddr>>>>;

/// The addresses that the node's name resolves to, or what gives them later. The agent waits for them, so that it does
/// not publish wrong addresses first and the right ones a moment later; but not for long, because a name server may be out
/// of reach until there is a mesh.
pub async fn own_addresses(resolver: &Option<Resolver>, node: &str) -> Result<Vec<IpAddr>, Later> {
    let Some(resolver) = resolver.clone() else { return Ok(Vec::new()) };
    let node = node.to_owned();
    let mut answer: Later = Box::pin(async move { resolver.resolve_host(&node).await.unwrap_or_default() });
    match tokio::time::timeout(WAIT, &mut answer).await {
        Ok(addresses) => Ok(addresses),
        Err(_) => Err(answer),
    }
}
