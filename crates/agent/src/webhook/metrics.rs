//! What the webhook's `/metrics` tells: the Go webhook's metrics, and ours.

use std::sync::{Arc, atomic::AtomicI64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The metrics of a webhook. A clone is the same metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reviews: Family<ReviewLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    errors: Counter,
    not_after: Gauge<i64, AtomicI64>,
    complete: Gauge,
}

/// What was asked for and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    operation: &'static str,
    response: &'static str,
}

/// Where a request went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    handler: &'static str,
    method: &'static str,
}

/// What was answered to a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// The object may be stored.
    Allowed,
    /// It may not.
    Denied,
}

impl Metrics {
    /// Metrics of a webhook that was asked nothing yet.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let reviews = Family::default();
        let requests = Family::default();
        let errors = Counter::default();
        let not_after = Gauge::default();
        let complete = Gauge::default();
        registry.register(
            "admission_requests",
            "The number of received admission reviews requests",
            Family::clone(&reviews),
        );
        registry.register("http_requests", "The number of received http requests", Family::clone(&requests));
        registry.register("errors", "The total number of errors", Counter::clone(&errors));
        registry.register(
            "kilo_webhook_certificate_not_after_seconds",
            "Until when the certificate is valid, in Unix seconds",
            Gauge::clone(&not_after),
        );
        registry.register(
            "kilo_webhook_overlaps_checked",
            "Whether all Nodes and Peers are known, so that overlaps are refused",
            Gauge::clone(&complete),
        );
        Self { registry: Arc::new(registry), reviews, requests, errors, not_after, complete }
    }

    /// Counts a review that was answered.
    pub fn review(&self, operation: &'static str, response: Response) {
        let response = match response {
            Response::Allowed => "allowed",
            Response::Denied => "denied",
        };
        self.reviews.get_or_create(&ReviewLabels { operation, response }).inc();
    }

    /// Counts a request for `/validate`.
    pub fn request(&self, method: &axum::http::Method) {
        // Any word may come as a method; the metrics hold those that exist.
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let method = known.into_iter().find(|known| *known == method.as_str()).unwrap_or("OTHER");
        self.requests.get_or_create(&RequestLabels { handler: "/validate", method }).inc();
    }

    /// Counts a request that could not be answered.
    pub fn error(&self) {
        self.errors.inc();
    }

    /// Shows until when the certificate is valid, in Unix seconds.
    pub fn certificate(&self, not_after: i64) {
        self.not_after.set(not_after);
    }

    /// Shows whether overlaps are refused.
    pub fn overlaps_checked(&self, checked: bool) {
        self.complete.set(checked.into());
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
