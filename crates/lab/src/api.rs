//! The lab's Kubernetes API as tests and commands use it: objects in and out, and outages of several kinds.
//! The server is a process of its own inside the lab (see [`crate::server`]); requests go to it over that
//! namespace's loopback, which no outage touches, so objects can be changed while the agents cannot see it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;

use crate::{
    LabError,
    fabric::set_port,
    http::Request,
    layout::{API_PORT, Layout},
    reach::wait_until,
    server::Mode,
    state::State,
};

/// The name of the server's process in the lab's records.
pub(crate) const SERVER: &str = "apiserver";

/// How the API is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// The server's cable is out: packets to it vanish.
    Unplugged,
    /// Connections are refused, established ones are reset.
    Refusing,
    /// Every request is answered with 403.
    Forbidding,
}

/// The API of a lab.
#[derive(Debug)]
pub struct Api<'a> {
    layout: &'a Layout,
    state: &'a State,
}

impl<'a> Api<'a> {
    pub(crate) fn new(layout: &'a Layout, state: &'a State) -> Self {
        Self { layout, state }
    }

    /// Reads the object or list at a path, such as `/api/v1/nodes/a1`.
    ///
    /// # Errors
    /// [`LabError::Api`] when it is refused or absent, [`LabError::Http`] when there is no answer.
    pub fn get(&self, path: &str) -> Result<Value, LabError> {
        self.request(&Request::get(path))
    }

    /// All Node objects, sorted by name.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn nodes(&self) -> Result<Vec<Value>, LabError> {
        let mut list = self.get("/api/v1/nodes")?;
        let mut nodes = match list["items"].take() {
            Value::Array(nodes) => nodes,
            _ => Vec::new(),
        };
        nodes.sort_by(|a, b| a["metadata"]["name"].as_str().cmp(&b["metadata"]["name"].as_str()));
        Ok(nodes)
    }

    /// Creates a Node, a Peer, a Secret of one, a Namespace, a CustomResourceDefinition or an object of another CNI, or replaces the one of the same
    /// name.
    ///
    /// # Errors
    /// [`LabError::Api`] when it is refused, [`LabError::Http`] when there is no answer.
    pub fn apply(&self, object: &Value) -> Result<Value, LabError> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let collection = collection(kind)?;
        let path = format!("{collection}/{name}");
        let (method, path, object) = match self.get(&path) {
            Ok(old) => {
                let mut new = object.clone();
                new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
                ("PUT", path, new)
            }
            Err(LabError::Api { status: 404, .. }) => ("POST", collection.to_owned(), object.clone()),
            Err(error) => return Err(error),
        };
        let body = object.to_string();
        self.request(&Request { method, path: &path, content_type: "application/json", body: Some(&body) })
    }

    /// Changes fields of an object of these kinds by a merge patch (RFC 7386).
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn patch(&self, kind: &str, name: &str, patch: &Value) -> Result<Value, LabError> {
        let path = format!("{}/{name}", collection(kind)?);
        let body = patch.to_string();
        let content_type = "application/merge-patch+json";
        self.request(&Request { method: "PATCH", path: &path, content_type, body: Some(&body) })
    }

    /// Sets an annotation of a Node, or removes it.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn annotate(&self, node: &str, key: &str, value: Option<&str>) -> Result<Value, LabError> {
        self.patch("Node", node, &serde_json::json!({"metadata": {"annotations": {key: value}}}))
    }

    /// Deletes an object of these kinds.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn delete(&self, kind: &str, name: &str) -> Result<(), LabError> {
        let path = format!("{}/{name}", collection(kind)?);
        self.request(&Request { method: "DELETE", ..Request::get(&path) }).map(drop)
    }

    /// Begins an outage, and returns once it has begun. The server keeps its objects; requests from the lab itself still
    /// work.
    ///
    /// # Errors
    /// When the server does not do as it is told.
    pub fn pause(&self, outage: Outage) -> Result<(), LabError> {
        match outage {
            Outage::Unplugged => set_port(&self.layout.wan(), self.layout.api_port(), false),
            Outage::Refusing => self.take(Mode::Gone),
            Outage::Forbidding => self.take(Mode::Forbidding),
        }
    }

    /// Ends every outage, and returns once the nodes are served again.
    ///
    /// # Errors
    /// When the server does not do as it is told.
    pub fn resume(&self) -> Result<(), LabError> {
        set_port(&self.layout.wan(), self.layout.api_port(), true)?;
        self.take(Mode::Serving)
    }

    /// Tells the server what to do, and looks at its outer address, from its own namespace, until it does.
    fn take(&self, mode: Mode) -> Result<(), LabError> {
        let server = self.state.recorded(SERVER).ok_or_else(|| LabError::NotUp(self.layout.lab.clone()))?;
        server.signal(mode.signal());
        wait_until("the API server doing as told", Duration::from_secs(10), || {
            let outside = SocketAddr::from((self.layout.api_address().v4, API_PORT));
            let answer = Request::get("/readyz").send(&self.layout.api(), outside);
            let seen = answer.as_ref().map(|answer| answer.status).ok();
            let done = match mode {
                Mode::Serving => seen == Some(200),
                Mode::Gone => seen.is_none(),
                Mode::Forbidding => seen == Some(403),
            };
            Ok((!done).then(|| format!("{answer:?}")))
        })
    }

    /// The namespace that `kubectl` must run in.
    pub fn namespace(&self) -> String {
        self.layout.api()
    }

    fn request(&self, request: &Request<'_>) -> Result<Value, LabError> {
        let response = request.send(&self.layout.api(), SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT)))?;
        let body: Value = serde_json::from_str(&response.body).unwrap_or(Value::Null);
        if (200..300).contains(&response.status) {
            return Ok(body);
        }
        Err(LabError::Api {
            status: response.status,
            method: request.method.into(),
            path: request.path.into(),
            message: body["message"].as_str().unwrap_or(&response.body).into(),
        })
    }
}

fn collection(kind: &str) -> Result<&'static str, LabError> {
    match kind {
        "Node" => Ok("/api/v1/nodes"),
        "Peer" => Ok("/apis/kilo.squat.ai/v1alpha1/peers"),
        "CustomResourceDefinition" => Ok("/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        "Namespace" => Ok("/api/v1/namespaces"),
        // Those of Peers; the lab has no others.
        "Secret" => Ok("/api/v1/namespaces/kilo-preshared-keys/secrets"),
        "CiliumNode" => Ok("/apis/cilium.io/v2/ciliumnodes"),
        "BlockAffinity" => Ok("/apis/crd.projectcalico.org/v1/blockaffinities"),
        _ => Err(LabError::Spec(format!(
            "the lab handles Nodes, Peers, Secrets of Peers, Namespaces, CustomResourceDefinitions, CiliumNodes and \
             BlockAffinities, not {kind:?}"
        ))),
    }
}
