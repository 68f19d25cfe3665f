//! `/validate`, `/health` and `/metrics`: from HTTP to a judgement and back.
//!
//! Which Peers are good is not known here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request as HttpRequest, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use mesh::text::Plain;

use super::{Webhook, metrics};

/// How long a review may take. API servers wait for 5 s, as the ValidatingWebhookConfiguration says, and an answer says
/// more than silence.
const PATIENCE: Duration = Duration::from_secs(4);

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
    let deadline = Instant::now() + PATIENCE;
    let cluster = webhook.cluster.clone();
    let surroundings = move || cluster.surroundings();
    let (review, verdict, answer) = webhook.desk.judge(request.into_body(), surroundings, deadline).await?;
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
    Ok(answer)
}

async fn validate(State(webhook): State<Arc<Webhook>>, request: HttpRequest) -> Response {
    webhook.metrics.request(request.method());
    match review(&webhook, request).await {
        Ok(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err((status, text)) => {
            webhook.metrics.error();
            webhook.failures.tell(|more| {
                tracing::warn!(status = status.as_u16(), "a request could not be answered: {text}{more}");
            });
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
        Some(trouble) => format!("unhealthy\n- {}\n", Plain(trouble)),
    };
    if let Some(gap) = webhook.cluster.surroundings().gap() {
        text.push_str(&format!("overlaps with nodes and other Peers are not checked: {}\n", Plain(gap)));
    }
    (status, text).into_response()
}

async fn show_metrics(State(webhook): State<Arc<Webhook>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], webhook.metrics.text()).into_response()
}
