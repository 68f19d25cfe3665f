//! The layers of a client. They are those of [`kube::Client`] without its retries; that one cannot be given a connector.

use std::time::Duration;

use http::Request;
use hyper_timeout::TimeoutConnector;
use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::{
    Client, Config, Error,
    client::{Body, ClientBuilder, ConfigExt},
};
use tower::{BoxError, ServiceBuilder, util::AndThenLayer};
use tower_http::{classify::ServerErrorsFailureClass, trace::TraceLayer};
use tracing::Span;
use underlay::Underlay;

use super::{connector::Connector, retry_after};

/// Composes a client. Requests that fail are not tried again: watches and callers have their own ways to do that, and want
/// to say so while they do.
pub(super) fn client(config: Config, underlay: &Underlay) -> Result<Client, Error> {
    if config.proxy_url.is_some() {
        // It says which protocol is missing.
        return Client::try_from(config);
    }
    let mut connector =
        TimeoutConnector::new(config.rustls_https_connector_with_connector(Connector(underlay.clone()))?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
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
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .layer(AndThenLayer::new(retry_after::into_status))
        .layer(trace)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
