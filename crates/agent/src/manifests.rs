//! Tests that the checked-in manifests fit this program: flags, metrics, permissions.

use std::{collections::BTreeSet, fs, path::PathBuf};

use clap::Parser;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    cli::{Cli, Command},
    metrics::Metrics,
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
                arguments.push(argument.as_str().unwrap().replace("$(NODE_NAME)", "node-1"));
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
                for needed in
                    [&cli.agent.state_dir, cli.agent.cni_path.parent().unwrap()] as [&std::path::Path; 2]
                {
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

#[test]
fn the_dashboard_shows_what_is_exported() {
    let metrics = Metrics::new();
    // Families without a member are not shown.
    metrics.error("apply");
    let problem = mesh::Problem { object: mesh::Object::Host, reason: "Test", message: String::new() };
    metrics.update(&reconciler::View { problems: [problem].into(), ..Default::default() });
    let text = metrics.text();
    let map = documents()
        .into_iter()
        .find(|(file, document)| file == "grafana-dashboard.yaml" && !document.is_null());
    let (_, map) = map.unwrap();
    let dashboard: Value = serde_json::from_str(map["data"]["kilo.json"].as_str().unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut shown = BTreeSet::new();
    for panel in panels {
        let query = panel["targets"][0]["expr"].as_str().unwrap();
        for word in query.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()) {
            if let Some(name) = word.strip_prefix("kilo_") {
                let name = format!("kilo_{}", name.trim_end_matches("_total"));
                assert!(text.contains(&format!("# HELP {name} ")), "{query}: {name} is not exported");
                shown.insert(name);
            }
        }
    }
    let exported: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(shown, exported, "every metric has its panel");
}
