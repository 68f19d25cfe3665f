//! The policies of the agents' manifests: what agents, Go agents and kubelets write passes, everything else on a Node is
//! refused.

mod agents;
mod events;
mod kubelets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use kubernetes::{
    NodeObject, annotations,
    encode::patch,
    patch::{CONTROLLER, REPORTED_KINDS, Reporter, patch_node, report, take_back},
    permission::Permission,
};
use mesh::{Granularity, Object, Problem, PublicKey, Published};
use serde_json::{Map, Value, json};

use crate::{
    cel::{DIRECTORY, Manifest, Policy, Request},
    common::{TestApi, peer},
};

const NODE: &str = "a";

/// The policies of one manifest; `every_agent_manifest_has_the_same_policies` says that it does not matter which.
struct Policies(Vec<Policy>);

impl Policies {
    fn read() -> Self {
        Self(Manifest::read("kilo-k3s.yaml").policies.iter().map(Policy::compile).collect())
    }

    /// The policies that match Nodes, or Events.
    fn of(&self, events: bool) -> impl Iterator<Item = &Policy> {
        self.0.iter().filter(move |policy| (policy.name() == "agent-events.kilo.squat.ai") == events)
    }

    /// The refusals of a request on a Node, with the policies that refuse.
    fn refusals(&self, request: Request<'_>) -> Vec<String> {
        let refuse = |policy: &Policy| {
            let first = policy.refusals(&request).into_iter().next();
            // These do not match other operations.
            let matches = match policy.name() {
                "node-regions.kilo.squat.ai" => request.object.is_some() && request.old.is_some(),
                "kubelets.kilo.squat.ai" | "node-pods.kilo.squat.ai" => request.object.is_some(),
                _ => true,
            };
            first.filter(|_| matches).map(|why| format!("{}: {why}", policy.name()))
        };
        self.of(false).filter_map(refuse).collect()
    }

    fn update(&self, user: &Value, old: &Value, new: &Value) -> Vec<String> {
        self.refusals(Request { object: Some(new), old: Some(old), user: Some(user), params: None })
    }

    #[track_caller]
    fn allows(&self, user: &Value, old: &Value, new: &Value) {
        let refusals = self.update(user, old, new);
        assert!(refusals.is_empty(), "{refusals:?}");
    }

    #[track_caller]
    fn refuses(&self, user: &Value, old: &Value, new: &Value, words: &str) {
        let refusals = self.update(user, old, new);
        assert!(matches!(refusals.as_slice(), [one] if one.contains(words)), "{words:?}: {refusals:?}");
    }
}

/// The account of the agents, with what the API server knows of its token.
fn account(extra: Value) -> Value {
    json!({
        "username": "system:serviceaccount:kube-system:kilo",
        "uid": "0c8a3c2a-7f8c-4a52-8a5e-6c1f1a3f0d11",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
        "extra": extra,
    })
}

/// The agent on a node, where the token says so.
fn agent_on(node: &str) -> Value {
    account(json!({
        "authentication.kubernetes.io/credential-id": ["JTI=7a1f2c0e-4f0e-4bb8-9a0f-2f6a3c1d5e77"],
        "authentication.kubernetes.io/node-name": [node],
        "authentication.kubernetes.io/node-uid": ["5b6c9a0e-0c4e-4a5e-8f0e-3e6f4b1d2c33"],
        "authentication.kubernetes.io/pod-name": ["kilo-x2x9b"],
        "authentication.kubernetes.io/pod-uid": ["9f3d8a52-4c3e-4b7a-8e2d-1a2b3c4d5e6f"],
    }))
}

fn kubelet() -> Value {
    json!({ "username": format!("system:node:{NODE}"), "groups": ["system:nodes", "system:authenticated"] })
}

fn admin() -> Value {
    json!({ "username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"] })
}

/// A Node with something in every field that the API has for it.
fn node() -> Value {
    let owned = annotations::OF_AGENT.iter().chain(&annotations::OF_OPERATOR);
    let mut annotations: Map<String, Value> = owned.map(|key| ((*key).to_owned(), json!("old"))).collect();
    annotations.insert("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), json!("true"));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": NODE, "uid": "u-1", "resourceVersion": "7", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
            "deletionGracePeriodSeconds": 30, "generateName": "n-", "selfLink": "/api/v1/nodes/a",
            "labels": {
                "kubernetes.io/hostname": NODE, annotations::REGION_LABEL: "eu",
                annotations::OLD_REGION_LABEL: "eu", "topology.kubernetes.io/zone": "eu-1",
            },
            "annotations": annotations,
            "finalizers": ["example.com/keep"],
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Machine", "name": "m", "uid": "u-2" }],
            "managedFields": [{ "manager": "kubelet", "operation": "Update" }],
        },
        "spec": {
            "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd42::/64"], "providerID": "cloud://a",
            "unschedulable": true, "externalID": "a",
            "taints": [{ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }],
            "configSource": { "configMap": { "name": "c", "namespace": "kube-system", "kubeletConfigKey": "k" } },
        },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": "10.1.0.1" }],
            "allocatable": { "cpu": "4" }, "capacity": { "cpu": "4" },
            "conditions": [{ "type": "Ready", "status": "True" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 10_250 } },
            "images": [{ "names": ["localhost/kilo:0.1.0"], "sizeBytes": 1 }],
            "nodeInfo": { "kubeletVersion": "v1.34.0" }, "phase": "Running",
            "volumesAttached": [{ "name": "v", "devicePath": "" }], "volumesInUse": ["v"],
        },
    })
}

fn with(node: &Value, change: impl FnOnce(&mut Value)) -> Value {
    let mut changed = node.clone();
    change(&mut changed);
    changed
}

/// The Node with the annotation set, or without it.
fn annotated(node: &Value, key: &str, value: Option<&str>) -> Value {
    with(node, |node| {
        let annotations = node["metadata"]["annotations"].as_object_mut().unwrap();
        match value {
            Some(value) => annotations.insert(key.to_owned(), json!(value)),
            None => annotations.remove(key),
        };
    })
}

/// A Node before and after: the annotation set, changed and removed.
fn changes_of(key: &str) -> [(Value, Value); 3] {
    let without = annotated(&node(), key, None);
    let [old, new] = ["old", "new"].map(|value| annotated(&without, key, Some(value)));
    [(without.clone(), old.clone()), (old.clone(), new), (old, without)]
}

/// The JSON pointers of all values below `value`, itself not among them.
fn pointers(value: &Value, path: &str, found: &mut Vec<String>) {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(key, field)| (escaped(key), field)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
        }
        _ => return,
    };
    for (key, child) in children {
        let path = format!("{path}/{key}");
        pointers(child, &path, found);
        found.push(path);
    }
}

fn remove(node: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match node.pointer_mut(parent).unwrap() {
        Value::Object(fields) => drop(fields.remove(&key.replace("~1", "/").replace("~0", "~"))),
        Value::Array(items) => drop(items.remove(key.parse().unwrap())),
        other => panic!("{other} has no parts"),
    }
}

#[test]
fn every_agent_manifest_has_the_same_policies() {
    let of = |file: &str| {
        let Manifest { policies, bindings, .. } = Manifest::read(file);
        (policies, bindings)
    };
    let (policies, bindings) = of("kilo-k3s.yaml");
    let names: Vec<_> = policies.iter().map(|policy| policy.metadata.name.clone().unwrap()).collect();
    assert_eq!(
        names,
        ["agents", "agent-events", "kubelets", "node-pods", "node-regions"]
            .map(|name| format!("{name}.kilo.squat.ai"))
    );
    for (binding, name) in bindings.iter().zip(&names) {
        let spec = binding.spec.as_ref().unwrap();
        assert_eq!(spec.policy_name.as_ref(), Some(name));
        assert_eq!(spec.validation_actions, Some(vec!["Deny".to_owned()]));
        assert!(spec.match_resources.is_none() && spec.param_ref.is_none(), "{name} is bound to a part");
    }
    let mut agents = 0;
    for entry in fs::read_dir(DIRECTORY).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if file.starts_with("kilo-") {
            assert_eq!(of(&file), (policies.clone(), bindings.clone()), "{file}");
            agents += 1;
        }
    }
    assert_eq!(agents, 19);
}

#[test]
fn the_annotations_of_agents_and_operators_are_those_of_the_documentation() {
    let documentation = fs::read_to_string(PathBuf::from(DIRECTORY).join("../docs/annotations.md")).unwrap();
    let names_of = |heading: &str| -> BTreeSet<String> {
        let (_, section) = documentation.split_once(&format!("## {heading}\n")).unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        rows.map(|name| format!("{}{name}", annotations::PREFIX)).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names_of("Written by you"), set(&annotations::OF_OPERATOR));
    assert_eq!(names_of("Written by the agent"), set(&annotations::OF_AGENT));
    assert!(documentation.contains(annotations::AGENT_PREFIX));
}

fn facts() -> Published {
    Published {
        endpoint: Some("203.0.113.1:51820".parse().unwrap()),
        internal_ips: vec!["10.1.0.1/16".parse().unwrap(), "fd00::1/64".parse().unwrap()],
        key: PublicKey::from_bytes([7; 32]).unwrap(),
        wireguard_ips: vec!["10.4.0.1/16".parse().unwrap(), "fd10::1/64".parse().unwrap()],
        granularity: Granularity::Location,
        last_seen: 1_700_000_000,
        discovered_endpoints: [(PublicKey::from_bytes([8; 32]).unwrap(), "192.0.2.1:4444".parse().unwrap())]
            .into(),
        cni_compatibility_ips: vec!["10.42.0.1/24".parse().unwrap(), "fd42::1/64".parse().unwrap()],
        pod_cidr_source: "cilium".to_owned(),
        settings: Default::default(),
    }
}

/// What a kube-apiserver 1.36 with these policies answered agents and a kubelet, word for word.
#[test]
fn an_api_server_says_the_same() {
    let text = fs::read_to_string(PathBuf::from(DIRECTORY).join("../tests/data/apiserver/policies.json"));
    let cases: Vec<Value> = serde_json::from_str(&text.unwrap()).unwrap();
    let policies = Policies::read();
    for case in &cases {
        let title = case["title"].as_str().unwrap();
        let (old, answer) = (&case["oldObject"], &case["response"]["body"]);
        let refused = case["response"]["status"] == 403;
        let new = if refused {
            with(old, |node| json_patch::merge(node, &case["request"]["body"]))
        } else {
            answer.clone()
        };
        let refusals = policies.update(&case["userInfo"], old, &new);
        let said: Vec<_> = answer["details"]["causes"].as_array().into_iter().flatten().collect();
        assert_eq!(
            (said.len(), refusals.len()),
            (usize::from(refused), usize::from(refused)),
            "{title}: {refusals:?}"
        );
        for (said, refusal) in said.iter().zip(&refusals) {
            let (name, why) = refusal.split_once(": ").unwrap();
            let words =
                format!("ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: {why}");
            assert_eq!(said["message"], words, "{title}");
            assert!(answer["message"].as_str().unwrap().ends_with(&words), "{title}");
            assert_eq!(answer["reason"], "Forbidden", "{title}");
        }
    }
    assert_eq!(cases.iter().filter(|case| case["response"]["status"] == 403).count(), 10);
    assert_eq!(cases.len(), 14);
}

/// Through an API that applies patches, and by everybody who may run an agent: with a token that says the node, with
/// one of an older API server, and with the kubelet's kubeconfig.
#[tokio::test]
async fn what_agents_write_passes() {
    let policies = Policies::read();
    let bound_to_a_pod = account(json!({
        "authentication.kubernetes.io/pod-name": ["kilo-x2x9b"],
        "authentication.kubernetes.io/pod-uid": ["9f3d8a52-4c3e-4b7a-8e2d-1a2b3c4d5e6f"],
    }));
    let users = [agent_on(NODE), bound_to_a_pod, kubelet(), admin()];
    let api = TestApi::new().await;
    api.apply(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
        "spec": { "podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"] },
    }));
    let client = api.client().await;
    let alone = Published {
        internal_ips: Vec::new(),
        wireguard_ips: Vec::new(),
        discovered_endpoints: BTreeMap::new(),
        cni_compatibility_ips: Vec::new(),
        pod_cidr_source: "node".to_owned(),
        settings: Default::default(),
        last_seen: 1_700_000_030,
        ..facts()
    };
    for wanted in [Some(facts()), Some(alone), None, Some(facts())] {
        let before = api.server.get("nodes", NODE).unwrap();
        let read: NodeObject = serde_json::from_value((*before).clone()).unwrap();
        match &wanted {
            Some(facts) => {
                let written = patch(&read.metadata.annotations.unwrap_or_default(), facts).unwrap();
                patch_node(&client, NODE, &written).await.unwrap();
            }
            None => take_back(&client, NODE, &mut Permission::new(b"seed")).await.unwrap(),
        }
        let after = api.server.get("nodes", NODE).unwrap();
        assert_ne!(before["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);
        for user in &users {
            policies.allows(user, &before, &after);
        }
    }
}

/// What each Go agent of the golden clusters left on its Node, set and taken back.
#[test]
fn what_go_agents_write_passes() {
    let golden = PathBuf::from(DIRECTORY).join("../tests/data/golden");
    let policies = Policies::read();
    let mut seen = 0;
    for cluster in fs::read_dir(golden).unwrap() {
        let Ok(hosts) = fs::read_dir(cluster.unwrap().path().join("host")) else { continue };
        for host in hosts {
            let Ok(text) = fs::read_to_string(host.unwrap().path().join("annotations.json")) else {
                continue;
            };
            let mut written: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
            written.retain(|key, _| !annotations::OF_OPERATOR.contains(&key.as_str()));
            written.insert(annotations::LAST_SEEN.to_owned(), "1700000000".to_owned());
            let without = with(&node(), |node| node["metadata"]["annotations"] = json!({ "a": "b" }));
            let with_all =
                written.iter().fold(without.clone(), |node, (key, value)| annotated(&node, key, Some(value)));
            for user in [agent_on(NODE), kubelet()] {
                policies.allows(&user, &without, &with_all);
                policies.allows(&user, &with_all, &without);
            }
            seen += 1;
        }
    }
    assert!(seen >= 30, "{seen} agents");
}

#[test]
fn annotations_are_for_those_who_write_them() {
    let policies = Policies::read();
    let later = format!("{}something", annotations::AGENT_PREFIX);
    let of_agent = annotations::OF_AGENT.iter().copied().chain([later.as_str()]);
    for (old, new) in of_agent.flat_map(changes_of) {
        for user in [agent_on(NODE), kubelet(), admin()] {
            policies.allows(&user, &old, &new);
        }
    }
    // Names that are no annotations of this version among them.
    let others = ["kilo.squat.ai/something", "kilo.squat.ai/Key", "kilo.squat.ai/key-", "kilo.squat.ai/"];
    for key in annotations::OF_OPERATOR.into_iter().chain(others) {
        for (old, new) in changes_of(key) {
            let why = format!("these annotations are not written by an agent of Kilo: {key}");
            policies.refuses(&agent_on(NODE), &old, &new, &why);
            let why =
                format!("a kubelet may not write annotations of Kilo: {key}; write them as an operator");
            policies.refuses(&kubelet(), &old, &new, &why);
            policies.allows(&admin(), &old, &new);
        }
    }
    for key in ["volumes.kubernetes.io/something", "agent.kilo.squat.ai", "key", "x.agent.kilo.squat.ai/key"]
    {
        for (old, new) in changes_of(key) {
            policies.refuses(&agent_on(NODE), &old, &new, key);
            policies.allows(&kubelet(), &old, &new);
        }
    }
    // Among others that are allowed.
    let new = annotated(&annotated(&node(), annotations::KEY, Some("new")), annotations::LEADER, None);
    policies.refuses(&agent_on(NODE), &node(), &new, annotations::LEADER);
    policies.refuses(&kubelet(), &node(), &new, annotations::LEADER);
}
