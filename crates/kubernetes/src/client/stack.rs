//! The layers of a client for one set of connections. They are those of [`kube::Client`] without its retries; that one
//! cannot be given a connector.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, header::PROXY_AUTHORIZATION};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::body::Bytes;
use hyper_timeout::TimeoutConnector;
use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::client::{Body, middleware::BaseUriLayer};
use tower::{BoxError, ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};
use tower_http::{classify::ServerErrorsFailureClass, trace::TraceLayer};
use tracing::Span;
use underlay::Underlay;

use super::{
    CONNECT_TIMEOUT, WRITE_TIMEOUT, connector::Connector, identity::basic, proxy::Kind, settings::Transport,
    tls::Tls,
};

/// What an answer consists of.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// Sends requests over connections of its own.
pub(super) type Stack = BoxCloneSyncService<Request<Body>, Response<AnswerBody>, BoxError>;

/// Composes the layers. Requests that fail are not tried again: watches and callers have their own ways to do that, and
/// want to say so while they do.
///
/// # Errors
/// Which certificates or keys cannot be used, and why.
pub(super) fn stack(transport: &Transport, underlay: &Underlay) -> Result<Stack, String> {
    let is_encrypted = |url: &http::Uri| url.scheme_str() == Some("https");
    let proxy = transport.proxy.clone();
    // Where nothing is encrypted there may be no authorities, and a minimal system has none.
    let wanted =
        is_encrypted(&transport.server) || proxy.as_ref().is_some_and(|proxy| is_encrypted(&proxy.url));
    let tls = wanted.then(|| Tls::new(transport)).transpose()?;
    let further = proxy_headers(transport)?;
    let mut connector = TimeoutConnector::new(Connector { underlay: underlay.clone(), proxy, tls });
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_write_timeout(Some(WRITE_TIMEOUT));
    // Watches and requests have their own timeouts for silence. One for each read of a connection would be armed and
    // disarmed with every event, which wakes the runtime twice more: a third of what a heartbeat costs in all.
    connector.set_read_timeout(None);
    let client: legacy::Client<_, Body> = legacy::Builder::new(TokioExecutor::new()).build(connector);
    let trace = TraceLayer::new_for_http()
        // With a target that is not ours: requests show only where libraries log at debug level.
        .make_span_with(|request: &Request<Body>| {
            tracing::debug_span!(target: "kube", "HTTP", method = %request.method(), url = %request.uri())
        })
        .on_request(|_: &Request<Body>, _: &Span| tracing::debug!(target: "kube", "requesting"))
        .on_response(())
        .on_body_chunk(())
        .on_eos(())
        .on_failure(|why: ServerErrorsFailureClass, _: Duration, _: &Span| match why {
            // Whoever asked gets it as an error, and says it once.
            ServerErrorsFailureClass::StatusCode(status) => {
                tracing::debug!(target: "kube", "failed with status {status}")
            }
            ServerErrorsFailureClass::Error(error) => {
                tracing::debug!(target: "kube", "failed with error {error}")
            }
        });
    let service = ServiceBuilder::new()
        .layer(BaseUriLayer::new(transport.server.clone()))
        .map_request(move |mut request: Request<Body>| {
            request.headers_mut().extend(further.clone());
            request
        })
        .layer(trace)
        .service(client);
    let service = service
        .map_response(|answer| answer.map(|body| body.map_err(BoxError::from).boxed_unsync()))
        .map_err(BoxError::from);
    Ok(BoxCloneSyncService::new(service))
}

/// What a proxy wants to see with each request that it reads.
fn proxy_headers(transport: &Transport) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    if let Some(proxy) = &transport.proxy
        && let Some(login) = &proxy.login
        && proxy.kind == Kind::Http
        && transport.server.scheme_str() == Some("http")
    {
        let mut value = HeaderValue::from_str(&basic(login)).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        headers.insert(PROXY_AUTHORIZATION, value);
    }
    Ok(headers)
}
