//! `/health`, `/metrics` and `/graph`.
//!
//! They are served by a thread of their own: the agent's loop waits for no reader, and a probe for no reconcile.

mod graph;
mod health;
mod scrape;
mod shown;
mod svg;
mod visitor;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{FromRef, State},
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::serve::{Limits, Server, is_not_there, listen};
pub use shown::Shown;

/// What all requests share.
#[derive(Clone)]
struct Pages {
    shown: Arc<Shown>,
    picture: Arc<graph::Picture>,
    scrape: Arc<scrape::Scrape>,
}

impl FromRef<Pages> for Arc<Shown> {
    fn from_ref(pages: &Pages) -> Self {
        pages.shown.clone()
    }
}

/// Listens, and serves until the process ends.
///
/// # Errors
/// When nobody can listen there.
pub async fn start(address: SocketAddr, shown: Arc<Shown>) -> Result<()> {
    let first = listen(address, "--listen").await?;
    let bound = first.local_addr().context("cannot read the address that --listen led to")?;
    let mut listeners = vec![first];
    for address in beside(bound) {
        match listen(address, "--listen").await {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_not_there(&error) => tracing::debug!("{error:#}"),
            Err(error) => tracing::warn!("details of /health, and /graph, are not served there: {error:#}"),
        }
    }
    tracing::debug!(address = %bound, "/health and /metrics are served");
    let listeners = listeners.into_iter().map(TcpListener::into_std).collect::<Result<Vec<_>, _>>();
    let listeners = listeners.context("cannot hand the listener of --listen over")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // It draws pictures.
        .max_blocking_threads(1)
        .build()
        .context("cannot start to serve /health and /metrics")?;
    let router = router(shown);
    let serving = move || runtime.block_on(serve(listeners, router));
    let thread = thread::Builder::new().name("http".to_owned()).spawn(serving);
    thread.context("cannot start the thread that serves /health and /metrics")?;
    Ok(())
}

/// The loopback addresses that a listener does not have. What is for those on the node is asked for there.
fn beside(bound: SocketAddr) -> Vec<SocketAddr> {
    let ip = bound.ip().to_canonical();
    if ip.is_unspecified() || ip.is_loopback() {
        return Vec::new();
    }
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        .map(|ip| SocketAddr::new(ip, bound.port()))
        .to_vec()
}

async fn serve(listeners: Vec<std::net::TcpListener>, router: Router) {
    let mut serving = tokio::task::JoinSet::new();
    for listener in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let server = Server::plain(router.clone(), Limits::default());
                serving.spawn(server.serve(listener, std::future::pending()));
            }
            Err(error) => tracing::error!(%error, "a listener of --listen cannot be used"),
        }
    }
    while serving.join_next().await.is_some() {}
    tracing::error!("the HTTP server has ended");
}

fn router(shown: Arc<Shown>) -> Router {
    let pages = Pages { shown, picture: Arc::default(), scrape: Arc::default() };
    Router::new()
        .route("/", get(index))
        .route("/health", get(health::health))
        .route("/metrics", get(metrics))
        .route("/graph", get(graph::graph))
        .with_state(pages)
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let accepted =
        headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    let text = pages.scrape.get(Instant::now(), || {
        pages.shown.metrics.set_healthy(pages.shown.unhealthy().is_empty());
        pages.shown.metrics.open_metrics()
    });
    if accepted.contains("application/openmetrics-text") {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        return ([(header::CONTENT_TYPE, kind)], text.open_metrics).into_response();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.classic).into_response()
}

/// What there is, for people who open the address, as the Go agent shows it.
async fn index() -> Html<&'static str> {
    Html(
        "<html><head><title>Kilo</title></head><body>\n<h1>Kilo</h1>\n\
         <p><a href='/graph'>/graph - the topology of the mesh (on the node)</a></p>\n\
         <p><a href='/health'>/health - whether all is well, and on the node what is not</a></p>\n\
         <p><a href='/metrics'>/metrics - for Prometheus</a></p>\n</body></html>\n",
    )
}

#[cfg(test)]
mod odd_texts;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_served_on_loopback_wherever_else_the_agent_listens() {
        for (bound, beside_it) in [
            ("[::]:1107", ""),
            ("0.0.0.0:1107", ""),
            ("127.0.0.1:1234", ""),
            ("192.0.2.1:1234", "127.0.0.1:1234 [::1]:1234"),
            ("[2001:db8::1]:1107", "127.0.0.1:1107 [::1]:1107"),
        ] {
            let found: Vec<_> = beside(bound.parse().unwrap()).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), beside_it, "{bound}");
        }
    }
}
