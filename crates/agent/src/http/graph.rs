//! `/graph`: the topology as a picture, or as text for Graphviz.
//!
//! Every leader has a tunnel to every other one, so both are quadratic in the number of segments. A picture of hundreds
//! of them shows nothing, so there is none; it is drawn once for each topology, beside the thread that serves. The text is made
//! while it is read, piece by piece.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use mesh::Topology;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{Pages, svg, visitor::Insider};

/// Layouts are Graphviz' names; there is one of our own, a circle, which the names of circular and radial ones stand for.
const LAYOUTS: [&str; 7] = ["circo", "dot", "fdp", "neato", "osage", "sfdp", "twopi"];

/// How much of the text is made at a time, in bytes and roughly.
const PIECE: usize = 32 << 10;

/// The picture of a topology.
#[derive(Default)]
pub(super) struct Picture(Mutex<Option<(Arc<Topology>, Bytes)>>);

impl Picture {
    /// The picture; all who ask share it, and one of them waits for it to be drawn.
    async fn of(&self, topology: Arc<Topology>) -> Result<Bytes, tokio::task::JoinError> {
        let mut drawn = self.0.lock().await;
        if let Some((_, picture)) = drawn.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &topology)) {
            return Ok(picture.clone());
        }
        let drawing = topology.clone();
        let picture = tokio::task::spawn_blocking(move || Bytes::from(svg::draw(&drawing))).await?;
        *drawn = Some((topology, picture.clone()));
        Ok(picture)
    }
}

#[derive(Deserialize)]
pub(super) struct GraphQuery {
    format: Option<String>,
    layout: Option<String>,
}

/// The topology: `?format=svg` (the default) or `dot`.
pub(super) async fn graph(
    _: Insider,
    State(pages): State<Pages>,
    Query(query): Query<GraphQuery>,
) -> Response {
    if let Some(layout) =
        query.layout.as_deref().filter(|layout| !layout.is_empty() && !LAYOUTS.contains(layout))
    {
        let text = format!("the layout {layout:?} is not one of {}\n", LAYOUTS.join(", "));
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let Some(topology) = pages.shown.view().topology.clone() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "there is no topology yet\n").into_response();
    };
    match query.format.as_deref().unwrap_or_default() {
        "" | "svg" => picture(&pages.picture, topology).await,
        "dot" | "gv" => ([(header::CONTENT_TYPE, "text/vnd.graphviz")], dot(topology)).into_response(),
        other => (StatusCode::BAD_REQUEST, format!("the format {other:?} is not one of svg, dot\n"))
            .into_response(),
    }
}

async fn picture(picture: &Picture, topology: Arc<Topology>) -> Response {
    if let Some(size) = svg::too_large(&topology) {
        let text = format!(
            "{size} are too many for a picture; ask for /graph?format=dot, which is the same as text, or run kgctl \
             graph\n"
        );
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    match picture.of(topology).await {
        Ok(picture) => ([(header::CONTENT_TYPE, "image/svg+xml")], picture).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot draw the picture: {error}\n")).into_response()
        }
    }
}

/// The text, made as fast as it is read.
fn dot(topology: Arc<Topology>) -> Body {
    let pieces = stream::try_unfold(0, move |part| {
        let topology = topology.clone();
        async move {
            if part >= topology.dot_parts() {
                return Ok::<_, tokio::task::JoinError>(None);
            }
            tokio::task::spawn_blocking(move || Some(piece(&topology, part))).await
        }
    });
    Body::from_stream(pieces)
}

/// Parts of the text from one on, and the number of the next one.
fn piece(topology: &Topology, from: usize) -> (String, usize) {
    let (mut text, mut part) = (String::new(), from);
    while part < topology.dot_parts() && text.len() < PIECE {
        text.push_str(&topology.dot_part(part));
        part += 1;
    }
    (text, part)
}
