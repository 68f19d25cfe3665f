//! Tests that the checked-in manifests fit this program: flags, metrics, permissions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use clap::Parser;
use hostnet::Compatibility;
use kubernetes::PodCidrSource;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cli::{Cli, Command},
    metrics::Metrics,
    setup::Setup,
};

/// File names and documents of `manifests/`.
fn documents() -> Vec<(String, Value)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    let mut documents = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for document in serde_norway::Deserializer::from_str(&fs::read_to_string(&path).unwrap()) {
            documents.push((name.clone(), Value::deserialize(document).unwrap()));
        }
    }
    documents
}

#[test]
fn kg_takes_the_arguments_of_every_container() {
    let mut seen = BTreeSet::new();
    for (file, document) in documents() {
        let Some(pod) = document.pointer("/spec/template/spec") else { continue };
        let containers = ["containers", "initContainers"].iter().filter_map(|list| pod[list].as_array());
        for container in containers.flatten() {
            let image = container["image"].as_str().unwrap();
            if !image.starts_with("localhost/kilo:") {
                continue;
            }
            assert_eq!(image, concat!("localhost/kilo:", env!("CARGO_PKG_VERSION")), "{file}");
            let mut arguments = vec!["kg".to_owned()];
            for argument in container["args"].as_array().unwrap() {
                arguments.push(expanded(argument));
            }
            let from_environment = container.to_string().contains("CNI_NETWORK_CONFIG");
            if from_environment {
                arguments.push("--network-config={}".to_owned());
            }
            let cli = Cli::try_parse_from(&arguments).unwrap_or_else(|error| panic!("{file}: {error}"));
            let install = matches!(cli.command, Some(Command::InstallCni(_)));
            assert_eq!(install, from_environment, "{file}");
            seen.insert(container["name"].as_str().unwrap().to_owned());
            if cli.command.is_none() {
                assert_eq!(cli.agent.hostname.as_deref(), Some("node-1"), "{file}");
                assert_eq!(container["ports"][0]["containerPort"], cli.agent.listen.port(), "{file}");
                let mounts = container["volumeMounts"].to_string();
                let cni = cli.agent.cni.then(|| cli.agent.cni_path.parent().unwrap());
                for needed in [cli.agent.state_dir.as_path()].into_iter().chain(cni) {
                    assert!(
                        mounts.contains(needed.to_str().unwrap()),
                        "{file} does not mount {}",
                        needed.display()
                    );
                }
            }
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["install-cni", "kilo", "server"]);
}

/// An argument as the kubelet expands it.
fn expanded(argument: &Value) -> String {
    argument.as_str().unwrap().replace("$(NODE_NAME)", "node-1").replace("$(NODE_IP)", "192.0.2.1")
}

/// The agent of every manifest that has one, by the name of the file, with what its account may do: group, resource and
/// verbs.
fn agents() -> BTreeMap<String, (Setup, BTreeSet<String>)> {
    let mut agents = BTreeMap::new();
    let mut roles: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, document) in documents() {
        let words = |value: &Value| {
            let words: Vec<_> = value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
            words.join(",")
        };
        if document["kind"] == "ClusterRole" {
            let rules = document["rules"].as_array().unwrap().iter();
            let rules = rules.map(|rule| {
                let only = rule.get("resourceNames").map(|names| format!(" {}", words(names)));
                format!(
                    "{}/{}{}: {}",
                    words(&rule["apiGroups"]),
                    words(&rule["resources"]),
                    only.unwrap_or_default(),
                    words(&rule["verbs"])
                )
            });
            roles.entry(file).or_default().extend(rules);
        } else if document["kind"] == "DaemonSet" {
            let arguments = document.pointer("/spec/template/spec/containers/0/args").unwrap();
            let arguments = arguments.as_array().unwrap().iter().map(expanded);
            let cli =
                Cli::try_parse_from(["kg".to_owned(), "--dry-run".to_owned()].into_iter().chain(arguments));
            agents.insert(file, Setup::of(cli.unwrap().agent).unwrap());
        }
    }
    agents.into_iter().map(|(file, setup)| (file.clone(), (setup, roles.remove(&file).unwrap()))).collect()
}

/// Least privilege: what the agent asks for, and nothing else.
#[test]
fn accounts_may_do_what_their_agents_do() {
    let agents = agents();
    assert_eq!(agents.len(), 19, "{:?}", agents.keys());
    for (file, (setup, allowed)) in agents {
        let mut needed = vec![
            "/endpoints kubernetes: get",
            "/nodes: get,list,patch,watch",
            "discovery.k8s.io/endpointslices kubernetes: get",
            "events.k8s.io/events: create",
            "kilo.squat.ai/peers: get,list,watch",
            "networking.k8s.io/servicecidrs: list",
        ];
        needed.extend(match setup.pod_cidr_source {
            PodCidrSource::Node | PodCidrSource::Annotation => None,
            PodCidrSource::Cilium => Some("cilium.io/ciliumnodes: get,list,watch"),
            PodCidrSource::Calico => Some("crd.projectcalico.org/blockaffinities: get,list,watch"),
        });
        needed.sort_unstable();
        assert_eq!(allowed.iter().collect::<Vec<_>>(), needed, "{file}");
    }
}

/// Agents may get preshared keys, by name, and no other Secret: the token of a node that was broken into reads no more.
#[test]
fn accounts_may_get_preshared_keys_and_no_other_secret() {
    let secrets = |document: &Value| {
        let rules = document["rules"].as_array().into_iter().flatten();
        let about = rules.filter(|rule| {
            let resources = rule["resources"].as_array().into_iter().flatten();
            resources.into_iter().any(|resource| resource == "secrets" || resource == "*")
        });
        about.cloned().collect::<Vec<_>>()
    };
    let agent = serde_json::json!({ "kind": "ServiceAccount", "name": "kilo", "namespace": "kube-system" });
    let is_bound = |document: &Value| {
        let subjects = document["subjects"].as_array();
        document["kind"] == "RoleBinding" && subjects.is_some_and(|subjects| subjects.contains(&agent))
    };
    let place = |file: String, document: &Value, name: &Value| {
        (file, document["metadata"]["namespace"].to_string(), name.to_string())
    };
    let bound: BTreeSet<_> = documents()
        .into_iter()
        .filter(|(_, document)| is_bound(document))
        .map(|(file, document)| place(file, &document, &document["roleRef"]["name"]))
        .collect();
    let mut granted = 0;
    for (file, document) in documents() {
        if document["kind"] == "ClusterRole" {
            assert!(secrets(&document).is_empty(), "{file}");
        }
        let is_role = document["kind"] == "Role"
            && bound.contains(&place(file.clone(), &document, &document["metadata"]["name"]));
        if is_role && !secrets(&document).is_empty() {
            assert_eq!(document["metadata"]["namespace"], kubernetes::preshared_keys::NAMESPACE, "{file}");
            let rule = serde_json::json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] });
            assert_eq!(secrets(&document), [rule], "{file}");
            granted += 1;
        }
    }
    assert_eq!(granted, agents().len());
}

/// The name of a file says beside which CNI it is, and there everything inside of a location is that CNI's.
#[test]
fn add_ons_leave_the_inside_of_locations_alone() {
    let cnis = [
        ("flannel", Compatibility::Flannel),
        ("cilium", Compatibility::Cilium),
        ("calico", Compatibility::Calico),
    ];
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (file, (setup, _)) in agents() {
        let named = cnis.iter().find(|(name, _)| file.contains(name));
        let compatibility = named.map_or(Compatibility::None, |(_, compatibility)| *compatibility);
        let flags = &setup.flags;
        assert_eq!(flags.compatibility, compatibility, "{file}");
        assert_eq!((flags.cni, flags.local), (named.is_none(), named.is_none()), "{file}");
        let init = documents().into_iter().any(|(other, document)| {
            other == file && document.pointer("/spec/template/spec/initContainers").is_some()
        });
        assert_eq!(init, named.is_none(), "{file}");
        seen.extend(named.map(|(name, _)| *name));
    }
    assert_eq!(seen.len(), cnis.len());
}

/// Kilo's metrics in queries, by the names of their samples. All of them are exported.
fn metrics_of<'a>(queries: impl Iterator<Item = &'a Value>, exported: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for query in queries {
        let query = query.as_str().unwrap();
        for word in query.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()) {
            if word.starts_with("kilo_") {
                assert!(exported.contains(&format!("# HELP {word} ")), "{query}: {word} is not exported");
                names.insert(word.to_owned());
            }
        }
    }
    names
}

#[test]
fn the_dashboard_and_the_alerts_use_what_is_exported() {
    let metrics = Metrics::new();
    // Families without a member are not shown.
    metrics.error("apply");
    let problem = mesh::Problem::new(mesh::Object::Host, "Test", "");
    metrics.update(&reconciler::View { problems: [problem].into(), ..Default::default() });
    let text = crate::metrics::classic(&metrics.open_metrics());
    let of = |file: &str| {
        documents().into_iter().find(|(name, document)| name == file && !document.is_null()).unwrap().1
    };
    let dashboard = of("grafana-dashboard.yaml")["data"]["kilo.json"].as_str().unwrap().to_owned();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let shown = metrics_of(panels.map(|panel| &panel["targets"][0]["expr"]), &text);
    let rules = of("prometheusrule.yaml")["spec"]["groups"][0]["rules"].as_array().unwrap().clone();
    metrics_of(rules.iter().map(|rule| &rule["expr"]), &text);
    let exported: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        // The others are those of any process.
        .filter(|name| name.starts_with("kilo_"))
        .map(str::to_owned)
        .collect();
    assert_eq!(shown, exported, "every metric of Kilo's has its panel");
}
