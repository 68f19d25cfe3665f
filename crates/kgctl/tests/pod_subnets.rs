//! Where `kgctl` takes pod subnets from: what is said, else what the agents read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use apiserver::{Deny, Server};
use serde_json::{Value, json};

/// An API with the objects of a reference case; lives as long as the value.
struct Api {
    server: Server,
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Api {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = Server::new();
        server.apply_object(kubernetes::peer::custom_resource_definition()).unwrap();
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/golden/two-locations");
        let list: Value =
            serde_json::from_str(&fs::read_to_string(case.join("nodes.json")).unwrap()).unwrap();
        for object in list["items"].as_array().unwrap() {
            server.apply_object(object.clone()).unwrap();
        }
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(server.clone().serve(listener));
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("kubeconfig"), Server::kubeconfig(&address)).unwrap();
        Self { server, directory, _runtime: runtime }
    }

    fn kgctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kgctl"))
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The allowed IPs of the other location, as the leader a1 has them, and what is said on standard error.
    fn allowed_ips(&self, source: Option<&str>) -> (String, String) {
        let flag = source.map(|source| format!("--pod-cidr-source={source}"));
        let arguments: Vec<_> = ["showconf", "node", "a1"].into_iter().chain(flag.as_deref()).collect();
        let output = self.kgctl(&arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("AllowedIPs = ")).unwrap_or_default();
        (line.to_owned(), String::from_utf8(output.stderr).unwrap())
    }

    fn annotate(&self, node: &str, key: &str, value: &str) {
        let patch = json!({ "metadata": { "annotations": { format!("kilo.squat.ai/{key}"): value } } });
        self.server.patch("nodes", node, &patch).unwrap();
    }
}

const NODE: &str = "10.2.3.0/24, 192.168.0.1/32, 10.2.4.0/24, 192.168.0.2/32, 10.4.0.2/32";
const CALICO: &str =
    "10.244.1.0/26, 10.244.2.0/26, 192.168.0.1/32, 10.244.3.0/26, 192.168.0.2/32, 10.4.0.2/32";

fn give_blocks(api: &Api) {
    let anything = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": anything } } });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "blockaffinities.crd.projectcalico.org" },
        "spec": {
            "group": "crd.projectcalico.org", "scope": "Cluster",
            "names": { "kind": "BlockAffinity", "plural": "blockaffinities", "singular": "blockaffinity" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }],
        },
    });
    api.server.apply_object(definition).unwrap();
    for (name, node, cidr) in [
        ("one", "b1", "10.244.2.0/26"),
        ("two", "b1", "10.244.1.0/26"),
        ("three", "b2", "10.244.3.0/26"),
        ("four", "nobody", "10.244.4.0/26"),
    ] {
        let spec = json!({ "cidr": cidr, "node": node, "state": "confirmed", "deleted": "false" });
        let metadata = json!({ "name": name });
        let object = json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity", "metadata": metadata, "spec": spec,
        });
        api.server.apply_object(object).unwrap();
    }
}

#[test]
fn pod_subnets_come_from_where_the_agents_take_them() {
    let api = Api::new();
    assert_eq!(api.allowed_ips(None), (NODE.to_owned(), String::new()));
    give_blocks(&api);
    assert_eq!(
        api.allowed_ips(None),
        (NODE.to_owned(), String::new()),
        "that Calico is there does not count"
    );
    let (allowed_ips, said) = api.allowed_ips(Some("calico"));
    assert_eq!(allowed_ips, CALICO);
    assert!(
        said.contains("warning: BlockAffinity four") && said.contains("\"nobody\", which is not there"),
        "{said}"
    );
    assert!(said.contains("OtherPodCIDRSource"), "{said}");

    for node in ["a1", "a2", "b1", "b2"] {
        api.annotate(node, "pod-cidr-source", "calico");
    }
    let (allowed_ips, said) = api.allowed_ips(None);
    assert_eq!(allowed_ips, CALICO);
    assert!(!said.contains("OtherPodCIDRSource"), "{said}");
    assert_eq!(api.allowed_ips(Some("node")).0, NODE);
    let graph = String::from_utf8(api.kgctl(&["graph"]).stdout).unwrap();
    assert!(graph.contains("10.244.3.0/26") && !graph.contains("10.2.3.0/24"), "{graph}");
}

#[test]
fn annotated_subnets_are_read() {
    let api = Api::new();
    for (node, cidrs) in [("a1", "10.50.1.0/24"), ("b1", "10.50.3.0/24,fd50::/64"), ("b2", "10.50.4.0/24")] {
        api.annotate(node, "pod-cidrs", cidrs);
    }
    assert_eq!(
        api.allowed_ips(Some("annotation")).0,
        "10.50.3.0/24, fd50::/64, 192.168.0.1/32, 10.50.4.0/24, 192.168.0.2/32, 10.4.0.2/32"
    );
}

/// Half a configuration is none.
#[test]
fn what_cannot_be_read_is_said() {
    let api = Api::new();
    let (allowed_ips, said) = api.allowed_ips(Some("cilium"));
    assert_eq!(allowed_ips, "");
    assert!(
        said.contains("does not know ciliumnodes.cilium.io; install Cilium, or choose another"),
        "{said}"
    );
    give_blocks(&api);
    api.server.deny(Deny::new("list", "blockaffinities.crd.projectcalico.org"));
    let (allowed_ips, said) = api.allowed_ips(Some("calico"));
    assert_eq!(allowed_ips, "");
    assert!(said.contains("may not list blockaffinities.crd.projectcalico.org"), "{said}");
    assert!(
        String::from_utf8(api.kgctl(&["--pod-cidr-source", "moon", "graph"]).stderr)
            .unwrap()
            .contains("annotation")
    );
}
