//! The server as the rest of the program uses it: starting it, and reading and writing objects without HTTP.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::auth::{Access, Deny};
use crate::counters::{Counters, Tally};
use crate::http;
use crate::patch;
use crate::resource::{Kind, builtin_kinds};
use crate::status::Status;
use crate::store::State;
use crate::write::{Changed, Effect, FieldValidation, Options, Part, Preconditions, Target};

/// How many changes are kept per resource for watches to catch up.
const HISTORY: usize = 4096;

/// How often a watch that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// A Kubernetes API server. Clones share the same content.
#[derive(Debug, Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    state: RwLock<State>,
    access: RwLock<Access>,
    pub(crate) counters: Tally,
    pub(crate) bookmark_interval: Duration,
}

impl Inner {
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn access(&self) -> RwLockReadGuard<'_, Access> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Server {
    fn default() -> Server {
        Server::new()
    }
}

impl Server {
    /// A server with the namespaces `default` and `kube-system`, without any custom resource definition.
    pub fn new() -> Server {
        Server::with_bookmarks_every(BOOKMARK_INTERVAL)
    }

    /// A new server whose watches get bookmarks more, or less, often than once a minute.
    pub fn with_bookmarks_every(interval: Duration) -> Server {
        let inner = Inner {
            state: RwLock::new(State::new(builtin_kinds(), HISTORY)),
            access: RwLock::default(),
            counters: Tally::default(),
            bookmark_interval: interval,
        };
        let server = Server { inner: Arc::new(inner) };
        for name in ["default", "kube-system"] {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            server.apply_object(namespace).expect("invariant: a plain namespace is valid");
        }
        server
    }

    /// The HTTP side, to be served by any axum server.
    pub fn router(&self) -> Router {
        http::router(self.inner.clone())
    }

    /// Serves HTTP/1.1 on a listener until the future is dropped; that also closes all connections.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let router = self.router();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = match accepted {
                        Ok(accepted) => accepted,
                        Err(error) if is_passing(&error) => {
                            tracing::warn!(%error, "a connection was not accepted");
                            tokio::time::sleep(Duration::from_millis(50)).await;
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    // Without this, a watch event may wait for the delayed acknowledgement of the one before.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY was not set");
                    }
                    let service = TowerToHyperService::new(router.clone());
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.half_close(false);
                    connections.spawn(http.serve_connection(TokioIo::new(stream), service));
                }
                Some(ended) = connections.join_next() => {
                    if let Ok(Err(error)) = ended {
                        tracing::debug!(%error, "a connection ended");
                    }
                }
            }
        }
    }

    /// Creates an object of any known kind, or replaces it, status included. A namespaced object without
    /// namespace goes to `default`. The result is the stored object.
    ///
    /// # Errors
    /// 404 for an unknown kind or namespace, 422 for an invalid object, as the API would answer.
    pub fn apply_object(&self, object: Value) -> Result<Value, Status> {
        let kind = self.kind_of(&object)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let namespace = match object["metadata"]["namespace"].as_str() {
            _ if !kind.namespaced() => "",
            None | Some("") => "default",
            Some(namespace) => namespace,
        };
        let namespace = namespace.to_owned();
        let target = Target { kind: &kind, namespace: &namespace, name: &name, part: Part::Whole };
        let options = internal();
        let exists = self.inner.state().object(&kind, &namespace, &name).is_some();
        let written = if exists {
            self.inner.update(target, &options, &|_| Ok(Changed { value: object.clone(), owners: None }))
        } else {
            self.inner.create(target, Changed { value: object, owners: None }, &options)
        };
        Ok(written?.object.value(&kind))
    }

    /// Applies a JSON merge patch to an object. `resource` and `name` as for [`Server::get`].
    ///
    /// # Errors
    /// 404 if there is no such object, 422 if the result is invalid.
    pub fn patch(&self, resource: &str, name: &str, patch: &Value) -> Result<Value, Status> {
        let kind = self.find_kind(resource)?;
        let (namespace, name) = split_name(&kind, name);
        let target = Target { kind: &kind, namespace, name, part: Part::Whole };
        let change = |live: &Value| Ok(Changed { value: patch::merge::apply(live, patch), owners: None });
        Ok(self.inner.update(target, &internal(), &change)?.object.value(&kind))
    }

    /// One object. `resource` is a plural, a kind, a short name, or `plural.group`; `name` is `namespace/name` for
    /// namespaced kinds, where the namespace `default` may be left out.
    pub fn get(&self, resource: &str, name: &str) -> Option<Arc<Value>> {
        let kind = self.find_kind(resource).ok()?;
        let (namespace, name) = split_name(&kind, name);
        let object = self.inner.state().object(&kind, namespace, name).cloned();
        object.map(|object| Arc::new(object.value(&kind)))
    }

    /// All objects of a resource, ordered by namespace and name; none for an unknown resource.
    pub fn list(&self, resource: &str) -> Vec<Value> {
        let Ok(kind) = self.find_kind(resource) else { return Vec::new() };
        let state = self.inner.state();
        let objects: Vec<_> =
            state.collection(&kind).into_iter().flat_map(|c| c.objects.values().cloned()).collect();
        drop(state);
        objects.iter().map(|object| object.value(&kind)).collect()
    }

    /// Deletes an object. `resource` and `name` as for [`Server::get`].
    ///
    /// # Errors
    /// 404 if there is no such object or resource.
    pub fn delete(&self, resource: &str, name: &str) -> Result<(), Status> {
        let kind = self.find_kind(resource)?;
        let (namespace, name) = split_name(&kind, name);
        let target = Target { kind: &kind, namespace, name, part: Part::Whole };
        self.inner.delete(target, &Preconditions::default(), Effect::Store).map(|_| ())
    }

    /// Forgets the history: watches and list continuations from before now are answered with 410.
    pub fn compact(&self) {
        self.inner.state_mut().compact();
    }

    /// Makes requests with this bearer token those of `user`. From the first one on, unknown tokens get a 401.
    pub fn add_token(&self, token: &str, user: &str) {
        let mut access = self.inner.access.write().unwrap_or_else(PoisonError::into_inner);
        access.tokens.insert(token.to_owned(), user.to_owned());
    }

    /// Answers matching requests with 403 from now on; watches that are open stay open.
    pub fn deny(&self, rule: Deny) {
        self.inner.access.write().unwrap_or_else(PoisonError::into_inner).denied.push(rule);
    }

    /// Drops all deny rules.
    pub fn allow_all(&self) {
        self.inner.access.write().unwrap_or_else(PoisonError::into_inner).denied.clear();
    }

    /// A reading of the counters.
    pub fn counters(&self) -> Counters {
        self.inner.counters.read()
    }

    /// A kubeconfig file for `addr` (`host:port`).
    pub fn kubeconfig(addr: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters:\n- name: lab\n  cluster:\n    \
             server: http://{addr}\nusers:\n- name: lab\n  user: {{}}\ncontexts:\n- name: lab\n  context:\n    \
             cluster: lab\n    user: lab\n"
        )
    }

    fn kind_of(&self, object: &Value) -> Result<Arc<Kind>, Status> {
        let (version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
        let state = self.inner.state();
        let mut kinds = state.kinds.iter();
        let found =
            kinds.find(|k| Some(k.kind.as_str()) == kind && Some(k.api_version().as_str()) == version);
        found.cloned().ok_or_else(|| {
            let (version, kind) = (version.unwrap_or_default(), kind.unwrap_or_default());
            let message =
                format!("no matches for kind {kind:?} in version {version:?}; is its definition installed?");
            Status::new(404, "NotFound", message)
        })
    }

    fn find_kind(&self, resource: &str) -> Result<Arc<Kind>, Status> {
        let found = self.inner.state().kinds.iter().find(|kind| kind.answers_to(resource)).cloned();
        found.ok_or_else(|| {
            let message = format!("the server doesn't have a resource type {resource:?}");
            Status::new(404, "NotFound", message)
        })
    }
}

fn internal() -> Options {
    Options { manager: "apiserver".to_owned(), validation: FieldValidation::Ignore, effect: Effect::Store }
}

fn split_name<'a>(kind: &Kind, name: &'a str) -> (&'a str, &'a str) {
    match name.split_once('/') {
        Some(split) => split,
        None if kind.namespaced() => ("default", name),
        None => ("", name),
    }
}

/// Failures of `accept` that concern one connection, or pass when descriptors are free again.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    // EMFILE and ENFILE have no ErrorKind of their own.
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || matches!(error.raw_os_error(), Some(23 | 24))
}
