//! The definition of the Peer resource, and that the file users install is the one of this version.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;

use kubernetes::peer::{
    custom_resource_definition, custom_resource_definition_without_rules, custom_resource_definition_yaml,
};
use serde_json::{Value, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/crds.yaml");

/// After a change: `KILO_WRITE_MANIFESTS=1 cargo test -p kubernetes --test resource_definition`.
#[test]
fn the_file_is_up_to_date() {
    let wanted = custom_resource_definition_yaml().unwrap();
    if std::env::var_os("KILO_WRITE_MANIFESTS").is_some() {
        fs::write(FILE, &wanted).unwrap();
    }
    let found = fs::read_to_string(FILE).unwrap();
    assert_eq!(
        found, wanted,
        "manifests/crds.yaml is not what this version needs; see the comment of this test"
    );
}

#[test]
fn it_is_the_resource_of_the_go_implementation() {
    let definition = custom_resource_definition();
    assert_eq!(definition["metadata"]["name"], "peers.kilo.squat.ai");
    let spec = &definition["spec"];
    assert_eq!((&spec["group"], &spec["scope"]), (&json!("kilo.squat.ai"), &json!("Cluster")));
    assert_eq!((&spec["names"]["kind"], &spec["names"]["plural"]), (&json!("Peer"), &json!("peers")));
    let versions = spec["versions"].as_array().unwrap();
    let [version] = versions.as_slice() else { panic!("{versions:?}") };
    assert_eq!(
        (&version["name"], &version["served"], &version["storage"]),
        (&json!("v1alpha1"), &json!(true), &json!(true))
    );
    let schema = &version["schema"]["openAPIV3Schema"];
    assert_eq!(schema["required"], json!(["spec"]));
    let spec = &schema["properties"]["spec"];
    assert_eq!(spec["required"], json!(["allowedIPs", "publicKey"]));
    let fields: Vec<_> = spec["properties"].as_object().unwrap().keys().collect();
    // All but presharedKeySecretRef is Go's.
    assert_eq!(
        fields,
        [
            "allowedIPs",
            "endpoint",
            "persistentKeepalive",
            "presharedKey",
            "presharedKeySecretRef",
            "publicKey"
        ]
    );
    assert_eq!(spec["properties"]["endpoint"]["required"], json!(["dnsOrIP", "port"]));
}

/// Each list and each text is bounded, and the bounds leave room for the longest that is used.
#[test]
fn every_size_is_bounded() {
    fn bounds(schema: &Value, path: &str, found: &mut Vec<(String, Option<u64>)>) {
        match schema["type"].as_str() {
            Some("array") => found.push((path.to_owned(), schema["maxItems"].as_u64())),
            Some("string") => found.push((path.to_owned(), schema["maxLength"].as_u64())),
            _ => {}
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            bounds(property, &format!("{path}.{name}"), found);
        }
        if let Some(items) = schema.get("items") {
            bounds(items, &format!("{path}[]"), found);
        }
    }
    let mut found = Vec::new();
    let definition = custom_resource_definition();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    bounds(schema, "spec", &mut found);
    assert!(found.len() >= 6, "{found:?}");
    let without: Vec<_> = found.iter().filter(|(_, bound)| bound.is_none()).collect();
    assert!(without.is_empty(), "{without:?}");
    let bound = |path: &str| found.iter().find(|(name, _)| name == path).unwrap().1.unwrap();
    let longest = "0000:0000:0000:0000:0000:ffff:255.255.255.255";
    assert_eq!(bound("spec.endpoint.dnsOrIP.ip"), longest.len() as u64);
    assert_eq!(bound("spec.allowedIPs[]"), format!("{longest}/128").len() as u64);
    assert!(bound("spec.allowedIPs") >= 1000 && bound("spec.publicKey") > 44);
}

#[test]
fn the_rules_can_be_left_out() {
    let text = custom_resource_definition_without_rules().to_string();
    for rule in ["pattern", "minimum", "maximum", "maxItems", "maxLength", "anyOf"] {
        assert!(!text.contains(&format!("\"{rule}\"")), "{rule} is in {text}");
    }
    assert!(text.contains("presharedKey"));
}
