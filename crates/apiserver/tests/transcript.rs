//! Replays what a kube-apiserver 1.36 was asked and answered, and compares our answers with its.
//!
//! Compared are status code, content type, warnings and the whole body, except for what cannot be the same in two
//! clusters (uids, versions, times, generated names: these are mapped, and must map consistently) and what
//! [`normalise`] lists.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use apiserver::{Deny, Server};
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use common::{Answer, Cluster, request, send};

const WEAK: &str = "system:serviceaccount:kube-system:weak";

/// Values of the recorded cluster and what they are in ours.
#[derive(Default)]
struct Names(BTreeMap<(&'static str, String), String>);

impl Names {
    /// Notes that `recorded` is `ours`; false if it was something else before.
    fn learn(&mut self, what: &'static str, recorded: &str, ours: &str) -> bool {
        let known = self.0.entry((what, recorded.to_owned())).or_insert_with(|| ours.to_owned());
        known == ours
    }

    fn ours(&self, what: &'static str, recorded: &str) -> String {
        self.0.get(&(what, recorded.to_owned())).cloned().unwrap_or_else(|| recorded.to_owned())
    }

    /// A recorded request path as we have to send it.
    fn path(&self, recorded: &str) -> String {
        let Some((path, query)) = recorded.split_once('?') else { return recorded.to_owned() };
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some(("resourceVersion", version)) => {
                    format!("resourceVersion={}", self.ours("resourceVersion", version))
                }
                Some(("continue", token)) => format!("continue={}", self.ours("continue", token)),
                _ => pair.to_owned(),
            })
            .collect();
        format!("{path}?{}", pairs.join("&"))
    }

    /// A recorded request body as we have to send it.
    fn body(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, field) in map {
                    match (mapped(key), field.as_str()) {
                        (Some(what), Some(recorded)) => *field = json!(self.ours(what, recorded)),
                        _ => self.body(field),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|element| self.body(element)),
            _ => {}
        }
    }

    /// Compares and learns; what differs is added to `differences` with its path.
    fn compare(&mut self, recorded: &Value, ours: &Value, path: &str, differences: &mut Vec<String>) {
        match (recorded, ours) {
            (Value::Object(recorded), Value::Object(ours)) => {
                for key in ours.keys().filter(|key| !recorded.contains_key(*key)) {
                    differences.push(format!("{path}.{key}: only ours: {}", ours[key]));
                }
                for (key, field) in recorded {
                    let below = format!("{path}.{key}");
                    let Some(found) = ours.get(key) else {
                        differences.push(format!("{below}: missing, recorded {field}"));
                        continue;
                    };
                    match (mapped(key), field.as_str(), found.as_str()) {
                        (Some(what), Some(recorded), Some(ours)) => {
                            if !self.learn(what, recorded, ours) {
                                differences.push(format!("{below}: {ours} does not stand for {recorded}"));
                            }
                        }
                        _ => self.compare(field, found, &below, differences),
                    }
                }
            }
            (Value::Array(recorded), Value::Array(ours)) if recorded.len() == ours.len() => {
                for (index, (recorded, ours)) in recorded.iter().zip(ours).enumerate() {
                    self.compare(recorded, ours, &format!("{path}[{index}]"), differences);
                }
            }
            _ if recorded == ours => {}
            _ => differences.push(format!("{path}: {ours}, recorded {recorded}")),
        }
    }
}

/// Fields whose values differ between clusters but must stand for each other throughout.
fn mapped(key: &str) -> Option<&'static str> {
    ["uid", "resourceVersion", "continue"].into_iter().find(|what| *what == key)
}

/// Takes out what need not be equal.
fn normalise(title: &str, body: &mut Value) {
    match title {
        // The build of a server; clients read major and minor.
        "discovery /version" => {
            let map = body.as_object_mut().unwrap();
            map.retain(|key, _| {
                key.to_lowercase().ends_with("major") || key.to_lowercase().ends_with("minor")
            });
        }
        // Where the server was reached.
        "discovery /api" => body["serverAddressByClientCIDRs"][0]["serverAddress"] = json!("<address>"),
        // Read by the storage migrator alone.
        "discovery /apis/kilo.squat.ai/v1alpha1" => {
            body["resources"][0].as_object_mut().unwrap().remove("storageVersionHash");
        }
        // The name ends in random characters.
        "event create" => {
            let name = body["metadata"]["name"].as_str().unwrap();
            assert_eq!(name.len(), "kilo-qjhd6".len(), "{name}");
            assert!(name.starts_with("kilo-"), "{name}");
            body["metadata"]["name"] = json!("<generated>");
        }
        // The oldest version each server still knows.
        "watch from a too old resourceVersion" => {
            let message = body["object"]["message"].as_str().unwrap();
            let known = message.split_once(" (").unwrap().0.to_owned();
            body["object"]["message"] = json!(known);
        }
        _ => {}
    }
    // They are in the order of their times, and whether two writes are in the same second is chance.
    if let Some(managers) = body.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
        managers.sort_by_key(|entry| entry["manager"].to_string() + &entry["subresource"].to_string());
    }
    blur(body);
}

/// Replaces times and ages, and drops the prose of table columns.
fn blur(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for list in map.get_mut("columnDefinitions").and_then(Value::as_array_mut).into_iter().flatten() {
                list.as_object_mut().unwrap().remove("description");
            }
            for cell in map.get_mut("cells").and_then(Value::as_array_mut).into_iter().flatten() {
                let age = cell
                    .as_str()
                    .and_then(|text| text.strip_suffix('s'))
                    .is_some_and(|s| s.parse::<u8>().is_ok());
                if age {
                    *cell = json!("<age>");
                }
            }
            for (key, field) in map {
                let time = matches!(key.as_str(), "creationTimestamp" | "time" | "lastTransitionTime");
                if time && field.is_string() {
                    *field = json!("<time>");
                } else {
                    blur(field);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(blur),
        _ => {}
    }
}

/// Sets the cluster up as the recorded one was.
async fn prepared(pairs: &[Value]) -> Cluster {
    let server = Server::new();
    server.add_token("admin-token", "admin");
    server.add_token("weak-token", WEAK);
    server.deny(Deny::new("*", "*").for_user("system:anonymous"));
    server.deny(Deny::new("*", "*").for_user(WEAK));
    let cluster = Cluster::start(server).await;
    let recorded = pairs.iter().find(|pair| pair["title"] == "crd get").unwrap();
    let mut definition = recorded["response"]["body"].clone();
    definition.as_object_mut().unwrap().remove("status");
    definition["metadata"].as_object_mut().unwrap().retain(|key, _| key == "name" || key == "annotations");
    let path =
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?fieldManager=kubectl-client-side-apply";
    let mut request = request("POST", path, &definition);
    request.headers_mut().insert("authorization", "Bearer admin-token".parse().unwrap());
    let answer = send(cluster.address, request).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    cluster
}

/// The recorded request, in our cluster's terms.
fn recorded_request(pair: &Value, names: &Names) -> Request<Full<hyper::body::Bytes>> {
    let recorded = &pair["request"];
    let mut builder = Request::builder()
        .method(recorded["method"].as_str().unwrap())
        .uri(names.path(recorded["path"].as_str().unwrap()))
        .header("host", "cluster");
    for (name, value) in recorded["headers"].as_object().unwrap() {
        builder = builder.header(name, value.as_str().unwrap());
    }
    // The recording leaves credentials out.
    let token = match pair["title"].as_str().unwrap() {
        "no credentials" => None,
        "bad token" => Some("Bearer no-such-token"),
        "forbidden list" | "forbidden patch" => Some("Bearer weak-token"),
        _ => Some("Bearer admin-token"),
    };
    if let Some(token) = token {
        builder = builder.header("authorization", token);
    }
    let mut body = recorded["body"].clone();
    names.body(&mut body);
    let text = match &body {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        body => body.to_string(),
    };
    builder.body(Full::from(text)).unwrap()
}

/// Our body in the form the recording has it: text, an object, or the lines of a watch.
fn body_like(recorded: &Value, answer: &Answer) -> Value {
    match recorded {
        Value::Array(_) => json!(answer.lines()),
        Value::String(_) => json!(answer.body),
        _ => answer.json(),
    }
}

fn expected_body(pairs: &[Value], index: usize) -> Value {
    let mut body = pairs[index]["response"]["body"].clone();
    if pairs[index]["title"] == "lease get" {
        // The recorder changed the object it had read before it wrote it down: the version is that of the
        // created lease, the time that of the update which follows.
        assert_eq!(
            body["metadata"]["resourceVersion"],
            pairs[index - 1]["response"]["body"]["metadata"]["resourceVersion"]
        );
        assert_eq!(body["spec"]["renewTime"], pairs[index + 1]["request"]["body"]["spec"]["renewTime"]);
        body["spec"]["renewTime"] = pairs[index - 1]["response"]["body"]["spec"]["renewTime"].clone();
    }
    body
}

#[tokio::test]
async fn answers_are_those_of_a_kube_apiserver() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/apiserver/transcript.json");
    let pairs: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(pairs.len(), 79);
    let cluster = prepared(&pairs).await;
    let mut names = Names::default();
    let mut failures = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        let title = pair["title"].as_str().unwrap();
        let answer = send(cluster.address, recorded_request(pair, &names)).await;
        let mut differences = Vec::new();
        let recorded = &pair["response"];
        if recorded["status"] != answer.status {
            differences
                .push(format!("status {}, recorded {}: {}", answer.status, recorded["status"], answer.body));
        } else {
            let mut wanted = expected_body(&pairs, index);
            let mut ours = body_like(&wanted, &answer);
            normalise(title, &mut wanted);
            normalise(title, &mut ours);
            names.compare(&wanted, &ours, "", &mut differences);
        }
        for header in ["Content-Type", "Warning"] {
            let wanted = recorded["headers"][header].as_str();
            if answer.header(header) != wanted {
                differences.push(format!("{header} {:?}, recorded {wanted:?}", answer.header(header)));
            }
        }
        if !differences.is_empty() {
            failures.push(format!("{index} {title}\n    {}", differences.join("\n    ")));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} pairs differ:\n{}",
        failures.len(),
        pairs.len(),
        failures.join("\n")
    );
}
