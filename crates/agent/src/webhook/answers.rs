//! `/validate`, `/health` and `/metrics`: from HTTP to a judgement and back.
//!
//! Which Peers are good is not known here.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::to_bytes,
    extract::{Request as HttpRequest, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use kubernetes::admission::{Request, judge};

use super::{Webhook, metrics};

/// The largest request, in bytes. An API server sends an object twice, and takes none of more than 3 MiB.
const LARGEST: usize = 8 << 20;
/// How long a request may take to arrive. API servers wait for 30 s at most.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What API servers ask.
pub fn reviews(webhook: Arc<Webhook>) -> Router {
    Router::new().route("/validate", any(validate)).route("/health", get(health)).with_state(webhook)
}

/// What others ask.
pub fn measurements(webhook: Arc<Webhook>) -> Router {
    Router::new().route("/metrics", get(show_metrics)).route("/health", get(health)).with_state(webhook)
}

/// The answer to a review, or what is wrong with the request.
async fn review(webhook: &Webhook, request: HttpRequest) -> Result<String, (StatusCode, String)> {
    if request.method() != Method::POST {
        let text = format!("AdmissionReviews are sent by POST, this is {}", request.method());
        return Err((StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let kind = request.headers().get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("unreadable"));
    let media = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        let text = format!("received Content-Type={}, expected application/json", kind.unwrap_or_default());
        return Err((StatusCode::BAD_REQUEST, text));
    }
    let body = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), LARGEST)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Err(unreadable(&error)),
        Err(_) => {
            let text = format!("the request did not arrive within {} s", BODY_TIMEOUT.as_secs());
            return Err((StatusCode::REQUEST_TIMEOUT, text));
        }
    };
    let bad = |error: kubernetes::Error| (StatusCode::BAD_REQUEST, error.to_string());
    let review = Request::decode(&body).map_err(bad)?;
    let verdict = judge(&review, &webhook.cluster.surroundings()).map_err(bad)?;
    let response = if verdict.is_allowed() { metrics::Response::Allowed } else { metrics::Response::Denied };
    webhook.metrics.review(review.operation.name(), response);
    tracing::debug!(
        operation = review.operation.name(),
        resource = %review.resource,
        name = review.name(),
        faults = ?verdict.faults,
        warnings = ?verdict.warnings,
        "judged"
    );
    Ok(review.answer(&verdict).to_string())
}

/// A body that is too large, or a connection that broke.
fn unreadable(error: &axum::Error) -> (StatusCode, String) {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            let text = format!("the request has more than {LARGEST} bytes, which no Peer needs");
            return (StatusCode::PAYLOAD_TOO_LARGE, text);
        }
        cause = error.source();
    }
    (StatusCode::BAD_REQUEST, format!("the request could not be read: {error}"))
}

async fn validate(State(webhook): State<Arc<Webhook>>, request: HttpRequest) -> Response {
    webhook.metrics.request(request.method());
    match review(&webhook, request).await {
        Ok(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err((status, text)) => {
            webhook.metrics.error();
            tracing::warn!(status = status.as_u16(), "a request could not be answered: {text}");
            (status, format!("{text}\n")).into_response()
        }
    }
}

/// 200 while API servers accept the certificate, else 503. What is not known of the cluster is told; no restart would
/// mend it.
async fn health(State(webhook): State<Arc<Webhook>>) -> Response {
    let trouble = webhook.certificate.trouble();
    let status = if trouble.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = match trouble {
        None => format!("healthy\nthe certificate is valid until {}\n", webhook.certificate.not_after()),
        Some(trouble) => format!("unhealthy\n- {trouble}\n"),
    };
    if let Some(gap) = webhook.cluster.surroundings().gap() {
        text.push_str(&format!("overlaps with nodes and other Peers are not checked: {gap}\n"));
    }
    (status, text).into_response()
}

async fn show_metrics(State(webhook): State<Arc<Webhook>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], webhook.metrics.text()).into_response()
}
