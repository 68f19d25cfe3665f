//! HTTP for as long as the process runs: listeners, connections, their limits, and their end. The agent and the webhook
//! both serve with it.
//!
//! What is asked and answered is not known here.

mod listen;
mod place;
mod seldom;
mod slots;

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use axum::{Router, body::Body, extract::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::server::ResolvesServerCert;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

pub use listen::{is_not_there, listen};
use place::{Pending, Place, Shared, Watched, arriving, leaving};
pub use seldom::Seldom;
use slots::Slots;
pub use slots::{Ends, Limits};

/// How long requests may take that are being answered when the end comes, as in the Go implementation.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a connection could not be accepted: mostly there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// How much of requests and answers is buffered per connection, in bytes.
const BUFFER: usize = 64 << 10;

/// Serves a router on listeners.
pub struct Server {
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    /// TLS connections that failed. Anybody can make many.
    failures: Seldom,
}

impl Server {
    /// Serves without TLS.
    pub fn plain(router: Router, limits: Limits) -> Self {
        Self { router, tls: None, limits, failures: Seldom::default() }
    }

    /// Serves over TLS 1.2 and 1.3 with whatever certificate is the current one. Clients show none.
    ///
    /// # Errors
    /// None is known: the versions are fixed when the program is built.
    pub fn tls(router: Router, limits: Limits, certificate: Arc<dyn ResolvesServerCert>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Some(TlsAcceptor::from(Arc::new(config))), ..Self::plain(router, limits) })
    }

    /// Serves until `end`; then what is being answered is, within a few seconds, and all connections are closed.
    pub async fn serve(self, listener: TcpListener, end: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let slots: Shared = Arc::new(Mutex::new(Slots::new(server.limits)));
        let (ending, _) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut end = pin!(end);
        let refusals = Seldom::default();
        loop {
            let accepted = tokio::select! {
                () = &mut end => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let (stream, ends) = match accepted
                .and_then(|(stream, peer)| Ok((Ends::new(stream.local_addr()?, peer), stream)))
            {
                Ok((ends, stream)) => (stream, ends),
                Err(error) => {
                    refusals.tell(|more| tracing::warn!(%error, "a connection could not be accepted{more}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = Place::take(&slots, ends) else { continue };
            let (server, ending) = (server.clone(), ending.subscribe());
            connections.spawn(async move { server.connection(stream, ends, place, ending).await });
        }
        drop(listener);
        let _ = ending.send(());
        while connections.join_next().await.is_some() {}
    }

    async fn connection(
        &self,
        stream: TcpStream,
        ends: Ends,
        place: Arc<Place>,
        ending: watch::Receiver<()>,
    ) {
        let mut farewell = ending.clone();
        tokio::select! {
            () = self.speak(stream, ends, &place, ending) => {}
            () = place.over() => {}
            () = async { let _ = farewell.changed().await; tokio::time::sleep(FAREWELL_TIMEOUT).await } => {}
        }
    }

    async fn speak(&self, stream: TcpStream, ends: Ends, place: &Arc<Place>, ending: watch::Receiver<()>) {
        let Some(acceptor) = &self.tls else { return self.requests(stream, ends, place, ending).await };
        let mut begun = ending.clone();
        let handshake = tokio::select! {
            handshake = acceptor.accept(stream) => handshake,
            // A handshake is not waited for.
            _ = begun.changed() => return,
        };
        match handshake {
            Ok(stream) => self.requests(stream, ends, place, ending).await,
            // A probe that only opens a connection.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            // A client that refuses our certificate says so here, and nowhere else on our side.
            Err(error) => self.failures.tell(|more| {
                tracing::warn!(
                    "a TLS connection failed: {error}; does the caBundle fit the certificate?{more}"
                );
            }),
        }
    }

    async fn requests<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        ends: Ends,
        place: &Arc<Place>,
        mut ending: watch::Receiver<()>,
    ) {
        let pending = Pending::default();
        let service = hyper::service::service_fn(|request| self.answer(request, ends, place, &pending));
        let watched = Watched { stream, place: place.clone(), pending: pending.clone() };
        let mut builder = http1::Builder::new();
        // The time that a head may take is limited by the connection's place.
        builder.header_read_timeout(None).max_header_size(LONGEST_HEAD).max_buf_size(BUFFER);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(watched), service));
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

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        ends: Ends,
        place: &Arc<Place>,
        pending: &Pending,
    ) -> Result<Response, Infallible> {
        request.extensions_mut().insert(ends);
        let request = request.map(|body| arriving(body, place));
        let router = TowerToHyperService::new(self.router.clone());
        let Ok(answer) = Service::<Request<Body>>::call(&router, request).await;
        // Who sends many requests at once waits for its turn with each of them.
        tokio::task::yield_now().await;
        Ok(answer.map(|body| leaving(body, place, pending)))
    }
}
