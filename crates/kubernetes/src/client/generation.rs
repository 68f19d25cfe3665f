//! What requests go with from one change of the credentials to the next.

use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::sync::watch;
use tower::{BoxError, ServiceExt as _};
use underlay::Underlay;

use super::{
    ending::Ending,
    identity::Identity,
    plugin::Credential,
    settings::{Settings, Transport},
    stack::{AnswerBody, Stack, stack},
};

/// What requests go with, for a time.
pub(super) struct Generation {
    transport: Transport,
    identity: Identity,
    stack: Stack,
    /// Tells when connections are no longer to be used; shared by generations that have the same.
    alive: Arc<watch::Sender<()>>,
}

impl Generation {
    /// Lets watches end, because newer ones have other connections.
    pub fn end(&self, newer: &Self) -> bool {
        let other = !Arc::ptr_eq(&self.alive, &newer.alive);
        if other {
            self.alive.send_replace(());
        }
        other
    }

    /// Sends a request. If it is a watch, its answer ends with the connections.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<AnswerBody>, BoxError> {
        self.identity.introduce(request.headers_mut());
        let watches = is_watch(&request);
        let mut alive = self.alive.subscribe();
        let answer = self.stack.clone().oneshot(request).await?;
        if !watches {
            return Ok(answer);
        }
        let end = async move {
            if alive.changed().await.is_err() {
                // The client is gone, and nobody renews anything.
                std::future::pending::<()>().await;
            }
        };
        Ok(answer.map(|body| Ending::new(body, end).boxed_unsync()))
    }

    /// With the connections of an older one, if they do.
    ///
    /// # Errors
    /// Which certificates, keys or tokens cannot be used, and why.
    pub fn new(
        settings: &Settings,
        credential: Option<&Credential>,
        underlay: &Underlay,
        older: Option<&Arc<Generation>>,
    ) -> Result<Self, String> {
        let (mut transport, mut identity) = (settings.transport.clone(), settings.identity.clone());
        if let Some(credential) = credential {
            if let Some(token) = &credential.token {
                identity.bear(token).map_err(|()| "the exec plugin's token has signs that no token has")?;
            }
            if let Some(certificate) = &credential.certificate {
                transport.certificate = Some(certificate.clone());
            }
        }
        let (stack, alive) = match older.filter(|older| older.transport == transport) {
            Some(older) => (older.stack.clone(), older.alive.clone()),
            None => (stack(&transport, underlay)?, Arc::new(watch::Sender::new(()))),
        };
        Ok(Self { transport, identity, stack, alive })
    }
}

/// The same request, if it changes nothing and so can be sent twice.
pub(super) fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    if request.method() != Method::GET {
        return None;
    }
    let mut again = Request::new(Body::empty());
    again.method_mut().clone_from(request.method());
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    Some(again)
}

fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|part| matches!(part, "watch=true" | "watch=1"))
}
