//! HTTP over TLS for as long as the webhook runs: connections, their limits, and their end.
//!
//! What is asked and answered is not known here.

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::server::ResolvesServerCert;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// How long a client may take to agree on a key.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent between requests. API servers keep theirs, and come again when one is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How many connections there may be; further ones wait.
const MOST_CONNECTIONS: usize = 256;
/// How long requests may take that are being answered when the end comes, as in the Go implementation.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a connection could not be accepted: mostly there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens; `flag` is what to change when that does not work.
pub async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}; see {flag}"))
}

/// TLS 1.2 and 1.3 with whatever certificate is the current one. Clients show none.
///
/// # Errors
/// None is known: the versions are fixed when the program is built.
pub fn acceptor(certificate: Arc<dyn ResolvesServerCert>) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `end`; then what is being answered is, within a few seconds, and all connections are closed.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, router: Router, end: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (ending, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let (tls, router, mut ending) = (tls.clone(), router.clone(), ending.subscribe());
        connections.spawn(async move {
            tokio::select! {
                () = connection(stream, tls, router, ending.clone()) => {}
                // A handshake is not waited for; a connection ends by itself, and before its time is over.
                () = async { let _ = ending.changed().await; tokio::time::sleep(FAREWELL_TIMEOUT).await } => {}
            }
            drop(place);
        });
    }
    drop(listener);
    let _ = ending.send(());
    while connections.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, router: Router, mut ending: watch::Receiver<()>) {
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)) => handshake,
        _ = ending.changed() => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        // A probe that only opens a connection.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return,
        Ok(Err(error)) => {
            // A client that refuses our certificate says so here, and nowhere else on our side.
            tracing::warn!("a TLS connection failed: {error}; does the caBundle fit the certificate?");
            return;
        }
        Err(_) => return,
    };
    let service = TowerToHyperService::new(router);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        _ = ending.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended");
    }
}
