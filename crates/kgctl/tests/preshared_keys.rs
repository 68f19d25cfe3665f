//! Preshared keys that are in Secrets: `kgctl` reads them with the rights of the user, and only those that it shows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use apiserver::{Deny, Server};
use kubernetes::preshared_keys::{NAMESPACE, SECRET_TYPE};
use serde_json::{Value, json};

const PSK: &str = "X5iEdx2IJEvQ3kYRZ09X33bW1Q4IMvQiaL5X1LuCiqQ=";
const KEY: &str = "rEzswSMXSD5vdP615McU88sC0C8vm29cjELTG+RKVK4=";

/// An API with the nodes of a reference case, a Peer that refers to a Secret, and one that does not.
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
        let peer = |name: &str, spec: Value| {
            json!({
                "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": name }, "spec": spec,
            })
        };
        let laptop = json!({
            "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY, "presharedKeySecretRef": { "name": "of-laptop" },
        });
        let phone = json!({
            "allowedIPs": ["10.5.0.2/32"], "publicKey": "5oxx9DpQgVSxbkPS8wQ0nnWYVfhuWlnvFhCo4zTHJhQ=",
        });
        for object in [
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
                "metadata": { "name": "of-laptop", "namespace": NAMESPACE },
                "data": { "presharedKey": "WDVpRWR4MklKRXZRM2tZUlowOVgzM2JXMVE0SU12UWlhTDVYMUx1Q2lxUT0=" },
            }),
            peer("laptop", laptop),
            peer("phone", phone),
        ] {
            server.apply_object(object).unwrap();
        }
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(server.clone().serve(listener));
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("kubeconfig"), Server::kubeconfig(&address)).unwrap();
        Self { server, directory, _runtime: runtime }
    }

    fn kgctl(&self, words: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kgctl"))
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .args(words.split(' '))
            .output()
            .unwrap()
    }

    fn shows(&self, words: &str) -> String {
        let output = self.kgctl(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said on standard error; nothing is shown.
    fn fails(&self, words: &str) -> String {
        let output = self.kgctl(words);
        assert!(!output.status.success() && output.stdout.is_empty(), "{words}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn secrets_read(&self) -> usize {
        let requests = self.server.counters().requests;
        requests.get("get").copied().unwrap_or_default() as usize
    }
}

#[test]
fn configurations_have_the_key_in_the_secret() {
    let api = Api::new();
    let line = format!("PresharedKey = {PSK}\n");
    let leader = api.shows("showconf node a1");
    assert!(leader.contains(&format!("{line}PublicKey = {KEY}\n")), "{leader}");
    assert_eq!(leader.matches("PresharedKey").count(), 1, "{leader}");
    let laptop = api.shows("showconf peer laptop");
    let segments = laptop.matches("Endpoint = ").count();
    assert_eq!(
        laptop.matches(&line).count(),
        segments,
        "every segment shares it, and no other Peer: {laptop}"
    );
    assert!(api.shows("showconf peer laptop --as-peer").contains(&line));
}

#[test]
fn only_the_keys_that_are_shown_are_read() {
    let api = Api::new();
    api.server.deny(Deny::new("get", "secrets"));
    let phone = api.shows("showconf peer phone");
    assert!(!phone.contains("PresharedKey"), "{phone}");
    api.shows("graph");
    // An object keeps the reference.
    for output in ["yaml", "json"] {
        let object = api.shows(&format!("showconf peer laptop --as-peer -o {output}"));
        assert!(object.contains("of-laptop") && object.contains("presharedKeySecretRef"), "{object}");
    }
    assert_eq!(api.secrets_read(), 0);
    for words in ["showconf node a1", "showconf peer laptop", "showconf peer laptop --as-peer"] {
        let said = api.fails(words);
        for part in
            ["preshared key of peer \"laptop\"", "may not get secrets", "Role of the namespace", NAMESPACE]
        {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
}

#[test]
fn nothing_is_shown_without_a_key_that_there_should_be() {
    let api = Api::new();
    api.server.apply_object(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": { "name": "other", "namespace": NAMESPACE }, "data": { "presharedKey": "aHVudGVyMg==" },
    })).unwrap();
    for (name, part) in [("gone", "not found"), ("other", "its type is not kilo.squat.ai/preshared-key")] {
        let patch = json!({ "spec": { "presharedKeySecretRef": { "name": name } } });
        api.server.patch("peers.kilo.squat.ai", "laptop", &patch).unwrap();
        for words in ["showconf node a1", "showconf peer laptop"] {
            let said = api.fails(words);
            assert!(said.contains(part) && said.contains(name) && !said.contains("hunter2"), "{said}");
        }
    }
}
