//! Makes the client's TCP connections, over the underlay where that leads to the API.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use http::{Uri, uri::Scheme};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;
use underlay::Underlay;

use super::CONNECT_TIMEOUT;

/// What the client asks for connections.
#[derive(Clone)]
pub(super) struct Connector(pub Underlay);

/// Why there is no connection, in the words of the connector that the client has otherwise.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("dns error")]
    Name(#[source] io::Error),
    #[error("tcp connect error")]
    Tcp(#[source] io::Error),
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let underlay = self.0.clone();
        Box::pin(async move {
            let addresses = addresses(&url).await?;
            let stream = underlay.connect_any(&addresses, CONNECT_TIMEOUT).await;
            stream.map(TokioIo::new).map_err(ConnectError::Tcp)
        })
    }
}

/// The addresses of a URL's host, in the order in which the system's resolver gives them.
pub(super) async fn addresses(url: &Uri) -> Result<Vec<SocketAddr>, ConnectError> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = tokio::net::lookup_host((host, port)).await.map_err(ConnectError::Name)?;
    Ok(found.collect())
}
