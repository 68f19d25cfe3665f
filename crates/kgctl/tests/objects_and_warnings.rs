//! Objects that `kgctl` prints are objects to the real `kubectl`, and what it warns of is what differs.
//!
//! `kubectl` is taken from `$KUBECTL`, else from the `PATH`; `scripts/install-kubectl` installs one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use apiserver::Server;
use serde_json::{Value, json};

const KEYS: [&str; 4] = [
    "rEzswSMXSD5vdP615McU88sC0C8vm29cjELTG+RKVK4=",
    "5oxx9DpQgVSxbkPS8wQ0nnWYVfhuWlnvFhCo4zTHJhQ=",
    "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=",
    "X5iEdx2IJEvQ3kYRZ09X33bW1Q4IMvQiaL5X1LuCiqQ=",
];

/// An API with the definition of Peers.
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
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(server.clone().serve(listener));
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("kubeconfig"), Server::kubeconfig(&address)).unwrap();
        Self { server, directory, _runtime: runtime }
    }

    /// The nodes of a reference case.
    fn with_nodes() -> Self {
        let api = Self::new();
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/golden/two-locations");
        let list: Value =
            serde_json::from_str(&fs::read_to_string(case.join("nodes.json")).unwrap()).unwrap();
        for object in list["items"].as_array().unwrap() {
            api.server.apply_object(object.clone()).unwrap();
        }
        api
    }

    fn annotate(&self, node: &str, annotations: &Value) {
        let mut object = (*self.server.get("nodes", node).unwrap()).clone();
        for (key, value) in annotations.as_object().unwrap() {
            object["metadata"]["annotations"][key] = value.clone();
        }
        self.server.apply_object(object).unwrap();
    }

    /// Standard output and standard error.
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> (bool, String, String) {
        let mut child = Command::new(program)
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .env("HOME", self.directory.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    fn kgctl(&self, arguments: &[&str]) -> (bool, String, String) {
        self.run(env!("CARGO_BIN_EXE_kgctl"), arguments, "")
    }

    fn warnings(&self, arguments: &[&str]) -> String {
        let (ok, _, said) = self.kgctl(arguments);
        assert!(ok, "{said}");
        said
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Names that YAML reads as something else, and Peers without an endpoint, with a DNS name, with a keepalive.
#[test]
fn objects_that_are_printed_can_be_applied() {
    let (source, target) = (Api::with_nodes(), Api::new());
    let names = ["on", "y", "null", "2026-01-01", "1e3", "0x10", "123", "no", "1.5", "plain"];
    let endpoints = [
        Value::Null,
        json!({ "dnsOrIP": { "dns": "vpn.example.com" }, "port": 4000 }),
        json!({ "dnsOrIP": { "ip": "2001:10:20:30:40:50:1:2" }, "port": 4000 }),
        json!({ "dnsOrIP": { "ip": "fd00::" }, "port": 4000 }),
    ];
    let mut printed = String::new();
    for (index, name) in names.iter().enumerate() {
        let mut spec = json!({ "allowedIPs": [format!("10.5.0.{index}/32")], "publicKey": KEYS[index % 4] });
        spec["endpoint"] = endpoints[index % endpoints.len()].clone();
        spec["presharedKeySecretRef"] = json!({ "name": name, "key": "yes" });
        if spec["endpoint"].is_null() {
            spec.as_object_mut().unwrap().remove("endpoint");
            spec["persistentKeepalive"] = json!(25);
        }
        let object = json!({
            "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": name }, "spec": spec,
        });
        source.server.apply_object(object).unwrap();
        for format in ["yaml", "json"] {
            let (ok, text, said) = source.kgctl(&["showconf", "peer", name, "--as-peer", "-o", format]);
            assert!(ok && !said.contains("before you apply"), "{name}: {said}");
            if format == "json" {
                let object: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(object["spec"], spec, "{name}");
            } else {
                printed += &format!("---\n{text}");
            }
        }
    }
    let (ok, node, said) = source.kgctl(&["showconf", "node", "a1", "--as-peer", "-o", "yaml"]);
    assert!(ok, "{said}");
    printed += &format!("---\n{node}");
    let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let (ok, _, said) = target.run(&kubectl, &["apply", "-f", "-"], &printed);
    assert!(ok, "{said}\n{printed}");
    for name in names {
        let applied = target.server.get("peers", name).unwrap();
        let wanted = source.server.get("peers", name).unwrap();
        assert_eq!((&applied["metadata"]["name"], &applied["spec"]), (&json!(name), &wanted["spec"]));
    }
}

#[test]
fn what_differs_is_warned_of_and_who_it_is() {
    let api = Api::with_nodes();
    assert_eq!(api.warnings(&["graph"]), "");
    api.annotate(
        "b1",
        &json!({ "kilo.squat.ai/granularity": "full", "kilo.squat.ai/wireguard-ip": "10.9.0.1/16" }),
    );
    let settings = r#"{"version":1,"topologyLabel":"zone","port":4000}"#;
    for node in ["a1", "a2"] {
        api.annotate(node, &json!({ "agent.kilo.squat.ai/settings": settings }));
    }
    let said = api.warnings(&["graph"]);
    for warning in [
        "node b1: its agent has --mesh-granularity full, most agents have location",
        "this host: this program has --topology-label \"topology.kubernetes.io/region\", most agents \"zone\"",
        "(OtherPort)",
    ] {
        assert!(said.contains(warning), "{warning:?} is not in {said}");
    }
    // With the label that the agents have, the nodes are in other locations, and that is all.
    let said = api.warnings(&["--topology-label", "zone", "graph"]);
    assert!(!said.contains("OtherTopologyLabel"), "{said}");
}

#[test]
fn clocks_are_named() {
    let api = Api::with_nodes();
    let beat = |node: &str, ahead: i64| {
        api.annotate(node, &json!({ "kilo.squat.ai/last-seen": (now() + ahead).to_string() }));
    };
    let nodes = ["a1", "a2", "b1", "b2"];
    nodes.iter().for_each(|node| beat(node, 0));
    assert_eq!(api.warnings(&["graph"]), "");
    beat("b1", 600);
    let said = api.warnings(&["graph"]);
    assert!(said.contains("node b1: its clock is") && !said.contains("this host"), "{said}");
    nodes.iter().for_each(|node| beat(node, 600));
    let said = api.warnings(&["graph"]);
    assert!(said.contains("this host: its clock is") && !said.contains("node b1"), "{said}");
    nodes.iter().for_each(|node| beat(node, -7300));
    let (ok, _, said) = api.kgctl(&["graph"]);
    assert!(!ok && said.contains("did not find any valid Kilo nodes in the cluster"), "{said}");
    assert!(said.contains("last heard 2 h ago by the clock of this machine"), "{said}");
}
