//! `/health`, `/metrics` and `/graph`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use reconciler::View;
use serde::Deserialize;

use crate::{metrics::Metrics, svg};

/// What is shown, shared with the agent's loop.
pub struct Shown {
    /// The metrics.
    pub metrics: Metrics,
    view: Mutex<View>,
}

impl Shown {
    /// Nothing to show yet.
    pub fn new() -> Self {
        let view = View { unhealthy: vec!["the agent is starting".to_owned()], ..View::default() };
        Self { metrics: Metrics::new(), view: Mutex::new(view) }
    }

    /// Shows something new.
    pub fn set(&self, view: View) {
        self.metrics.update(&view);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Listens, and serves until the process ends.
pub async fn serve(listen: SocketAddr, shown: Arc<Shown>) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen} for /health and /metrics; see --listen"))?;
    let router = Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/graph", get(graph))
        .with_state(shown);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP server has ended");
        }
    });
    Ok(())
}

/// 200 while the last reconcile succeeded and the watch is alive; else 503. The body has the reasons, and the objects
/// that are left out.
async fn health(State(shown): State<Arc<Shown>>) -> Response {
    let view = shown.view();
    let healthy = view.unhealthy.is_empty();
    let mut text = String::from(if healthy { "healthy\n" } else { "unhealthy\n" });
    for reason in &view.unhealthy {
        text.push_str(&format!("- {reason}\n"));
    }
    if !view.problems.is_empty() {
        text.push_str("objects that are left out, or parts of them:\n");
        for problem in view.problems.iter() {
            text.push_str(&format!("- {problem}\n"));
        }
    }
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, text).into_response()
}

async fn metrics(State(shown): State<Arc<Shown>>, headers: HeaderMap) -> Response {
    let accepted =
        headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    let (kind, text) = if accepted.contains("application/openmetrics-text") {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", shown.metrics.open_metrics())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", shown.metrics.text())
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// What there is, for people who open the address, as the Go agent shows it.
async fn index() -> Html<&'static str> {
    Html(
        "<html><head><title>Kilo</title></head><body>\n<h1>Kilo</h1>\n\
         <p><a href='/graph'>/graph - the topology of the mesh</a></p>\n\
         <p><a href='/health'>/health - whether all is well, and what is not</a></p>\n\
         <p><a href='/metrics'>/metrics - for Prometheus</a></p>\n</body></html>\n",
    )
}

#[derive(Deserialize)]
struct GraphQuery {
    format: Option<String>,
    layout: Option<String>,
}

/// The topology: `?format=svg` (the default) or `dot`. Layouts are Graphviz' names; there is one of our own, a circle,
/// which the names of circular and radial ones stand for.
async fn graph(State(shown): State<Arc<Shown>>, Query(query): Query<GraphQuery>) -> Response {
    const LAYOUTS: [&str; 7] = ["circo", "dot", "fdp", "neato", "osage", "sfdp", "twopi"];
    if let Some(layout) =
        query.layout.as_deref().filter(|layout| !layout.is_empty() && !LAYOUTS.contains(layout))
    {
        let text = format!("the layout {layout:?} is not one of {}\n", LAYOUTS.join(", "));
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let Some(topology) = shown.view().topology else {
        return (StatusCode::SERVICE_UNAVAILABLE, "there is no topology yet\n").into_response();
    };
    match query.format.as_deref().unwrap_or("svg") {
        "" | "svg" => ([(header::CONTENT_TYPE, "image/svg+xml")], svg::draw(&topology)).into_response(),
        "dot" | "gv" => ([(header::CONTENT_TYPE, "text/vnd.graphviz")], topology.to_dot()).into_response(),
        other => (StatusCode::BAD_REQUEST, format!("the format {other:?} is not one of svg, dot\n"))
            .into_response(),
    }
}
