//! Every output of the reference `kgctl`, byte for byte, from the real binary against a real API.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use apiserver::Server;
use serde_json::{Value, json};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/golden")
}

/// The definition of Peers under which the reference's objects were stored: it lets more pass than ours.
fn reference_crd() -> Value {
    let transcript = data().join("../apiserver/transcript.json");
    let pairs: Value = serde_json::from_str(&fs::read_to_string(transcript).unwrap()).unwrap();
    let pair = pairs.as_array().unwrap().iter().find(|pair| pair["title"] == "crd get").unwrap();
    let body = &pair["response"]["body"];
    let mut crd = json!({ "apiVersion": body["apiVersion"], "kind": body["kind"], "spec": body["spec"] });
    crd["metadata"] = json!({ "name": body["metadata"]["name"] });
    crd
}

/// An API with the objects of a case; lives as long as the value.
struct Api {
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn server(case: &Path) -> Server {
    let server = Server::new();
    server.apply_object(reference_crd()).unwrap();
    for file in ["nodes.json", "peers.json"] {
        let list: Value = serde_json::from_str(&fs::read_to_string(case.join(file)).unwrap()).unwrap();
        for object in list["items"].as_array().unwrap() {
            server.apply_object(object.clone()).unwrap();
        }
    }
    server
}

impl Api {
    fn with(case: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // The reference knows no age, so it has to be the same for all nodes: they are made within one second.
        let servers = std::iter::repeat_with(|| server(case));
        let age = |node: &Value| node["metadata"]["creationTimestamp"].clone();
        let server = servers.take(10).find(|server| {
            let nodes = server.list("nodes");
            nodes.windows(2).all(|pair| age(&pair[0]) == age(&pair[1]))
        });
        let server = server.expect("all nodes can be made within one second");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(server.serve(listener));
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("kubeconfig"), Server::kubeconfig(&address)).unwrap();
        Self { directory, _runtime: runtime }
    }

    fn kgctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kgctl"))
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .args(arguments)
            .output()
            .unwrap()
    }
}

/// The arguments that made a file of `expected/`, from the file's name: `node-NAME.as-peer.yaml` and so on.
fn arguments(file: &str) -> Vec<String> {
    if file == "graph.dot" {
        return vec!["graph".to_owned()];
    }
    let (kind, rest) = file.split_once('-').unwrap();
    let (name, form) = rest.split_once('.').unwrap();
    let mut arguments = vec!["showconf".to_owned(), kind.to_owned(), name.to_owned()];
    let more: &[&str] = match form {
        "conf" => &[],
        "as-peer.conf" => &["--as-peer"],
        "as-peer.json" => &["--as-peer", "-o", "json"],
        "as-peer.yaml" => &["--as-peer", "-o", "yaml", "--allowed-ips", "10.43.0.0/16"],
        other => panic!("{file}: what made a file ending in {other}?"),
    };
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    arguments
}

/// What has to be printed in place of an object that no API server takes or no agent uses: without an endpoint, with a DNS
/// name, or with a keepalive, which the reference gives in nanoseconds. The configuration beside it tells what is right.
fn usable(path: &Path, wanted: &str) -> Option<String> {
    let (stem, form) = path.to_str().unwrap().rsplit_once('.').unwrap();
    if !["json", "yaml"].contains(&form)
        || !(wanted.contains("nil") || wanted.contains("persistentKeepalive"))
    {
        return None;
    }
    let conf = fs::read_to_string(format!("{stem}.conf")).unwrap();
    let value = |key: &str| conf.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
    let mut object: Value = match form {
        "json" => serde_json::from_str(wanted).unwrap(),
        _ => serde_norway::from_str(wanted).unwrap(),
    };
    let spec = object["spec"].as_object_mut().unwrap();
    if let Some(keepalive) = spec.get_mut("persistentKeepalive") {
        *keepalive = json!(value("PersistentKeepalive").unwrap().parse::<u16>().unwrap());
    }
    match value("Endpoint").map(|endpoint| endpoint.rsplit_once(':').unwrap().0) {
        None => drop(spec.remove("endpoint")),
        Some(host)
            if spec.get("endpoint").is_some_and(|endpoint| endpoint["dnsOrIP"].get("dns").is_some()) =>
        {
            spec["endpoint"]["dnsOrIP"] = json!({ "dns": host });
        }
        Some(_) => {}
    }
    // The fields of the reference's JSON are in another order than a parsed object's.
    Some(match form {
        "yaml" => serde_norway::to_string(&object).unwrap(),
        _ => in_order(&object),
    })
}

/// JSON as the reference prints it.
fn in_order(object: &Value) -> String {
    let spec = &object["spec"];
    let mut fields = Vec::new();
    for key in ["allowedIPs", "endpoint", "persistentKeepalive", "presharedKey", "publicKey"] {
        if let Some(value) = spec.get(key) {
            let value = serde_json::to_string_pretty(value).unwrap().replace('\n', "\n    ");
            fields.push(format!("    \"{key}\": {value}"));
        }
    }
    format!(
        "{{\n  \"kind\": \"Peer\",\n  \"apiVersion\": {},\n  \"metadata\": {{\n    \"name\": {}\n  }},\n  \"spec\": {{\n{}\n  }}\n}}",
        object["apiVersion"],
        object["metadata"]["name"],
        fields.join(",\n")
    )
}

/// Runs all commands of a case. Returns how many there were, and what differed.
fn check_case(case: &Path) -> (usize, Vec<String>) {
    let api = Api::with(case);
    let flags = fs::read_to_string(case.join("flags")).unwrap();
    let mut differences = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(case.join("expected")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if file.ends_with(".err") {
            continue;
        }
        count += 1;
        let mut words: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        words.extend(arguments(&file));
        let output = api.kgctl(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let mut differ = |what: &str, wanted: &str, got: &str| {
            if wanted != got {
                differences.push(format!("{file}: {what}\n--- wanted\n{wanted}\n--- got\n{got}"));
            }
        };
        let stderr = String::from_utf8(output.stderr).unwrap();
        let wanted = fs::read_to_string(&path).unwrap();
        let wanted = usable(&path, &wanted).unwrap_or(wanted);
        differ("output", &wanted, &String::from_utf8(output.stdout).unwrap());
        // A .err file has the last line of standard error, and the exit code when it was not 0.
        let error = fs::read_to_string(path.with_file_name(format!("{file}.err"))).unwrap_or_default();
        let code = error.lines().find_map(|line| line.strip_prefix("rc=")).unwrap_or("0");
        differ("exit code", code, &output.status.code().unwrap().to_string());
        if let Some(message) = error.lines().find(|line| !line.starts_with("rc=")) {
            differ("last line of standard error", message, stderr.lines().last().unwrap_or_default());
        }
    }
    (count, differences)
}

#[test]
fn every_golden_is_met() {
    let mut cases: Vec<PathBuf> = fs::read_dir(data()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert_eq!(cases.len(), 22, "the cases in {}", data().display());
    let mut total = 0;
    let mut differences = Vec::new();
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = cases
            .chunks(cases.len().div_ceil(4))
            .map(|cases| {
                scope.spawn(|| cases.iter().map(|case| (case, check_case(case))).collect::<Vec<_>>())
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    for (case, (count, found)) in results {
        total += count;
        differences.extend(found.into_iter().map(|text| format!("{}: {text}", case.display())));
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n\n"));
    assert_eq!(total, 22 + 4 * 152 + 3 * 35, "commands");
    println!("{total} outputs are those of the reference");
}

#[test]
fn wrong_use_says_what_is_wrong() {
    let api = Api::with(&data().join("one-location"));
    let stderr = |arguments: &[&str]| {
        let output = api.kgctl(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(stderr(&["--kubeconfig", "/nonexistent/config", "graph"]).contains("/nonexistent/config"));
    assert!(
        stderr(&["--mesh-granularity", "half", "graph"]).contains("possible values: auto, location, full")
    );
    assert!(stderr(&["showconf", "node", "n1", "--as-peer", "-o", "toml"]).contains("wireguard, json, yaml"));
    assert!(stderr(&["--port", "0", "graph"]).contains("--port"));
    assert!(stderr(&["showconf", "node", "n1", "--allowed-ips", "10.0.0.1"]).contains("--allowed-ips"));
}

#[test]
fn graphviz_draws_the_graph() {
    let api = Api::with(&data().join("peers"));
    let graph = api.kgctl(&["graph"]);
    let file = api.directory.path().join("graph.dot");
    fs::write(&file, graph.stdout).unwrap();
    let drawn =
        Command::new("twopi").arg("-Tsvg").arg(&file).output().expect("Graphviz: apt-get install graphviz");
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let svg = String::from_utf8(drawn.stdout).unwrap();
    assert!(svg.contains("<svg") && svg.contains("location:b"), "{svg}");
}
