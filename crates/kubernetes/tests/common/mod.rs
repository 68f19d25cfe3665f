//! An embedded API that can go away, and a reader of a watch's updates.

#![allow(dead_code, reason = "every test program uses another part")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use kube::Client;
use kubernetes::{
    ApiAccess, PodCidrSource, Update, Updates, WatchConfig, connect,
    peer::custom_resource_definition,
    watch,
    watch::{WatchedNode, WatchedPeer},
};
use mesh::Problem;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

/// How long anything may take before a test fails, unless it says otherwise.
const DEADLINE: Duration = Duration::from_secs(30);

pub const KEY: &str = "9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=";

/// An API server on a port of its own.
pub struct TestApi {
    pub server: apiserver::Server,
    pub address: SocketAddr,
    serving: Option<JoinHandle<()>>,
}

impl TestApi {
    /// One that does not know Peers.
    pub async fn without_peers() -> Self {
        Self::serve(apiserver::Server::new()).await
    }

    pub async fn new() -> Self {
        let api = Self::without_peers().await;
        api.apply(custom_resource_definition());
        api
    }

    async fn serve(server: apiserver::Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut api = Self { server, address, serving: None };
        api.serve_on(listener);
        api
    }

    fn serve_on(&mut self, listener: TcpListener) {
        let server = self.server.clone();
        self.serving = Some(tokio::spawn(async move { server.serve(listener).await.unwrap() }));
    }

    /// Closes all connections and the port.
    pub async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
    }

    /// Serves on the same port again.
    pub async fn start(&mut self) {
        self.serve_on(TcpListener::bind(self.address).await.unwrap());
    }

    pub fn apply(&self, object: Value) {
        self.server.apply_object(object).unwrap();
    }

    pub fn access(&self) -> ApiAccess {
        ApiAccess::from_flags(None, Some(format!("http://{}", self.address)), "kilo-test")
    }

    pub async fn client(&self) -> Client {
        connect(&self.access()).await.unwrap()
    }

    pub async fn watch(&self) -> Reader {
        self.watch_with(PodCidrSource::Node).await
    }

    pub async fn watch_with(&self, pod_cidr_source: PodCidrSource) -> Reader {
        let config = WatchConfig {
            topology_label: "topology.kubernetes.io/region".to_owned(),
            own_node: Some("own".to_owned()),
            pod_cidr_source,
        };
        Reader::of(watch(&self.client().await, config))
    }
}

pub fn node(name: &str, annotations: &[(&str, &str)]) -> Value {
    let annotations: BTreeMap<String, &str> =
        annotations.iter().map(|(key, value)| (format!("kilo.squat.ai/{key}"), *value)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "annotations": annotations },
        "spec": { "podCIDR": "10.2.1.0/24", "podCIDRs": ["10.2.1.0/24"] },
    })
}

pub fn peer(name: &str, allowed_ip: &str) -> Value {
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": { "name": name },
        "spec": { "allowedIPs": [allowed_ip], "publicKey": KEY },
    })
}

/// What a watch has told so far.
pub struct Reader {
    pub updates: Updates,
    pub nodes: BTreeMap<String, WatchedNode>,
    pub peers: BTreeMap<String, WatchedPeer>,
    pub access: Vec<Problem>,
    /// What is wrong with objects of another CNI.
    pub objects: BTreeMap<String, Vec<Problem>>,
    /// Everything in its order, shortened.
    pub log: Vec<String>,
    /// How long anything may take before the test fails.
    pub patience: Duration,
}

impl Reader {
    pub fn of(updates: Updates) -> Self {
        Self {
            updates,
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            access: Vec::new(),
            objects: BTreeMap::new(),
            log: Vec::new(),
            patience: DEADLINE,
        }
    }

    /// Reads until one entry of the log from here on is this, and gives what came up to it.
    pub async fn until(&mut self, entry: &str) -> Vec<String> {
        self.log.clear();
        let deadline = Instant::now() + self.patience;
        while self.log.last().is_none_or(|last| last != entry) {
            let Ok(update) = tokio::time::timeout_at(deadline, self.updates.next()).await else {
                panic!("no {entry:?} within {:?}; there was {:?}", self.patience, self.log);
            };
            self.take(update);
        }
        self.log.clone()
    }

    /// Reads one update.
    pub async fn next(&mut self) {
        let Ok(update) = tokio::time::timeout(self.patience, self.updates.next()).await else {
            panic!("nothing within {:?}; there was {:?}", self.patience, self.log);
        };
        self.take(update);
    }

    fn take(&mut self, update: Update) {
        let entry = match update {
            Update::Node(name, Some(node)) => {
                let entry = format!("node {name}");
                self.nodes.insert(name, node);
                entry
            }
            Update::Node(name, None) => {
                assert!(self.nodes.remove(&name).is_some(), "{name} was not there");
                format!("no node {name}")
            }
            Update::Heartbeat(name, last_seen) => {
                let node = self.nodes.get_mut(&name).unwrap_or_else(|| panic!("{name} was not there"));
                Arc::make_mut(&mut node.node).last_seen = last_seen;
                format!("heartbeat {name}")
            }
            Update::Peer(name, Some(peer)) => {
                let entry = format!("peer {name}");
                self.peers.insert(name, peer);
                entry
            }
            Update::Peer(name, None) => {
                assert!(self.peers.remove(&name).is_some(), "{name} was not there");
                format!("no peer {name}")
            }
            Update::SubnetObject(name, problems) => {
                let reasons: Vec<_> = problems.iter().map(|problem| problem.reason).collect();
                let entry = format!("object {name} [{}]", reasons.join(", "));
                match problems.is_empty() {
                    true => assert!(self.objects.remove(&name).is_some(), "nothing was wrong with {name}"),
                    false => drop(self.objects.insert(name, problems)),
                }
                entry
            }
            Update::Synced => "synced".to_owned(),
            Update::Broken(problem) => format!("broken {}", problem.reason),
            Update::Access(problems) => {
                let reasons: Vec<_> = problems.iter().map(|problem| problem.reason).collect();
                self.access = problems;
                format!("access [{}]", reasons.join(", "))
            }
        };
        self.log.push(entry);
    }

    pub fn node_names(&self) -> Vec<&str> {
        self.nodes.keys().map(String::as_str).collect()
    }
}

/// A definition of a cluster-scoped resource that takes anything, as other CNIs bring one.
pub fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    let anything = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": anything } } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group,
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "scope": "Cluster",
            "versions": [{ "name": version, "served": true, "storage": true, "schema": schema }],
        },
    })
}

pub fn cilium_definition() -> Value {
    definition("cilium.io", "v2", "CiliumNode", "ciliumnodes")
}

pub fn calico_definition() -> Value {
    definition("crd.projectcalico.org", "v1", "BlockAffinity", "blockaffinities")
}

pub fn cilium_node(name: &str, pod_cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": { "name": name },
        "spec": { "ipam": { "podCIDRs": pod_cidrs } },
    })
}

pub fn block_affinity(name: &str, node: &str, cidr: &str, state: &str) -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "BlockAffinity",
        "metadata": { "name": name },
        "spec": { "cidr": cidr, "node": node, "state": state, "deleted": "false" },
    })
}
