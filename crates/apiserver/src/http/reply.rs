//! Responses: bodies, content types, warnings, and which representation a client asked for.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use serde_json::Value;

use super::Call;
use crate::Inner;
use crate::status::Status;
use crate::table::RowObject;
use crate::watch::View;

const JSON: &str = "application/json";

pub(super) fn bytes(code: u16, media: &str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code.try_into().expect("invariant: our status codes are valid");
    if let Ok(media) = HeaderValue::from_str(media) {
        response.headers_mut().insert(header::CONTENT_TYPE, media);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub(super) fn json(code: u16, body: &Value) -> Response {
    json_as(code, body, JSON)
}

pub(super) fn json_as(code: u16, body: &Value, media: &str) -> Response {
    bytes(code, media, format!("{body}\n"))
}

pub(super) fn json_text(code: u16, body: Vec<u8>) -> Response {
    bytes(code, JSON, body)
}

pub(super) fn plain(code: u16, text: &'static str) -> Response {
    bytes(code, "text/plain; charset=utf-8", text)
}

pub(super) fn page_not_found() -> Response {
    plain(404, "404 page not found\n")
}

pub(super) fn failure(status: &Status) -> Response {
    json(status.code, &status.to_value())
}

/// A watch: its lines are sent as they come.
pub(super) fn stream(lines: impl futures::Stream<Item = Bytes> + Send + 'static) -> Response {
    bytes(200, JSON, Body::from_stream(lines.map(Ok::<Bytes, std::convert::Infallible>)))
}

/// Adds warnings, each as RFC 7234 says.
pub(super) fn warn(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// Counts the body of a response as it is sent.
pub(super) fn counted(server: &Arc<Inner>, response: Response) -> Response {
    let server = server.clone();
    let (parts, body) = response.into_parts();
    if let Some(size) = axum::body::HttpBody::size_hint(&body).exact() {
        server.counters.sent(usize::try_from(size).unwrap_or(usize::MAX));
        return Response::from_parts(parts, body);
    }
    let counted = body.into_data_stream().inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            server.counters.sent(chunk.len());
        }
    });
    Response::from_parts(parts, Body::from_stream(counted))
}

/// The representation a client asks for, the first it names that we have.
pub(super) fn view(call: &Call) -> Result<View, Status> {
    let accept = call.header(header::ACCEPT);
    if accept.is_empty() {
        return Ok(View::Object);
    }
    for media in accept.split(',') {
        let mut parts = media.split(';').map(str::trim);
        if !matches!(parts.next(), Some("application/json" | "application/*" | "*/*")) {
            continue;
        }
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let parameter = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        match (parameter("as"), parameter("v")) {
            (None, _) => return Ok(View::Object),
            (Some("Table"), Some("v1")) => {
                return Ok(View::Table(match call.query("includeObject") {
                    "None" => RowObject::None,
                    "Object" => RowObject::Whole,
                    _ => RowObject::Metadata,
                }));
            }
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1")) => {
                return Ok(View::Metadata);
            }
            _ => {}
        }
    }
    let message = "only the following media types are accepted: application/json";
    Err(Status::new(406, "NotAcceptable", message).with_empty_details())
}
