//! The kubeconfigs, and what has to become of each.

mod connections;
mod credentials;
mod files;
mod plugins;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{server::TOKEN, world::World};

/// What a program has to make of a kubeconfig.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    Works,
    /// With these words from kgctl and kg; kubectl has its own.
    Refused(&'static str),
}

/// How programs get the kubeconfig.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `--kubeconfig config`
    Flag,
    /// `$KUBECONFIG`
    List(&'static str),
}

pub struct Case {
    pub name: String,
    pub files: Vec<(&'static str, String)>,
    pub environment: Vec<(String, String)>,
    pub source: Source,
    pub exception: &'static str,
    expected: [Expected; 3],
}

impl Case {
    fn new(name: impl Into<String>, config: impl Into<String>, expected: Expected) -> Self {
        let files = vec![("config", config.into())];
        let (environment, source, exception) = (Vec::new(), Source::Flag, "");
        Self { name: name.into(), files, environment, source, exception, expected: [expected; 3] }
    }

    fn file(mut self, name: &'static str, content: impl Into<String>) -> Self {
        self.files.push((name, content.into()));
        self
    }

    fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    fn list(mut self, list: &'static str) -> Self {
        self.source = Source::List(list);
        self
    }

    /// kg starts no programs.
    fn of_plugin(mut self) -> Self {
        self.expected[2] = Expected::Refused("an agent starts no programs");
        self.exception = "kg starts no programs";
        self
    }

    /// kubectl does not take it.
    fn but_kubectl(mut self, why: &'static str) -> Self {
        self.expected[0] = Expected::Refused("");
        self.exception = why;
        self
    }

    pub fn expected(&self) -> [Expected; 3] {
        self.expected
    }
}

pub fn all(world: &World) -> Vec<Case> {
    let kinds = [
        credentials::users,
        credentials::certificates,
        connections::authorities,
        connections::addresses,
        connections::proxies,
        connections::environment,
        files::lists,
        files::forms,
        files::mistakes,
        plugins::plugins,
    ];
    kinds.into_iter().flat_map(|kind| kind(world)).collect()
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// A kubeconfig of one cluster and one user.
fn config(cluster: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x", "preferences": {},
        "clusters": [{ "name": "c", "cluster": cluster }],
        "users": [{ "name": "u", "user": user }],
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
    })
}

fn yaml(config: &Value) -> String {
    serde_norway::to_string(config).unwrap()
}

fn text(cluster: &Value, user: &Value) -> String {
    yaml(&config(cluster, user))
}

fn token() -> Value {
    json!({ "token": TOKEN })
}

/// The cluster as most cases have it.
fn cluster(world: &World) -> Value {
    at(world, &format!("https://{}", world.api))
}

fn at(world: &World, server: &str) -> Value {
    json!({ "server": server, "certificate-authority-data": base64(&world.authority.pem) })
}

fn trusting(address: std::net::SocketAddr, pem: &str) -> Value {
    json!({ "server": format!("https://{address}"), "certificate-authority-data": base64(pem) })
}

fn with(mut object: Value, further: Value) -> Value {
    object.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    object
}

impl Case {
    /// It is wrong before it matters whether programs may be run.
    fn said_by_all(mut self, words: &'static str) -> Self {
        self.expected[2] = Expected::Refused(words);
        self.exception = "";
        self
    }
}
