//! Objects of a real cluster, and what a Go agent wrote on its Nodes there.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use kubernetes::{
    NodeObject, PeerObject, PodCidrSource, annotations, decode_node, decode_peer,
    encode::{encode, patch},
    peer::{custom_resource_definition, custom_resource_definition_without_rules},
};
use mesh::Published;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn golden() -> Vec<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/golden");
    let mut folders: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 10, "{folders:?}");
    folders
}

fn items<T: DeserializeOwned>(file: &PathBuf) -> Vec<T> {
    #[derive(serde::Deserialize)]
    struct List<T> {
        items: Vec<T>,
    }
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let list: List<T> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    list.items
}

#[test]
fn every_object_decodes() {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut nodes, mut peers) = (0, 0);
    for folder in golden() {
        for object in items::<NodeObject>(&folder.join("nodes.json")) {
            let (node, problems) = decode_node(&object, annotations::REGION_LABEL, PodCidrSource::Node);
            assert!(!node.name.is_empty());
            nodes += 1;
            problems.iter().for_each(|problem| *reasons.entry(problem.reason).or_default() += 1);
        }
        for object in items::<PeerObject>(&folder.join("peers.json")) {
            let (peer, problems) = decode_peer(&object);
            peers += usize::from(peer.is_some());
            assert!(peer.is_some() || !problems.is_empty(), "{}", object.name());
            problems.iter().for_each(|problem| *reasons.entry(problem.reason).or_default() += 1);
        }
    }
    assert!(nodes > 50 && peers > 10, "{nodes} nodes, {peers} peers");
    let expected = ["InvalidAllowedLocationIP", "InvalidForceEndpoint", "InvalidPeer"];
    for reason in expected {
        assert!(reasons.contains_key(reason), "{reasons:?}");
    }
}

/// What a Go agent wrote, decoded and encoded again, is the same text.
#[test]
fn annotations_are_written_as_go_writes_them() {
    let mut count = 0;
    for folder in golden() {
        let Ok(hosts) = fs::read_dir(folder.join("host")) else { continue };
        for host in hosts {
            let file = host.unwrap().path().join("annotations.json");
            let text = fs::read_to_string(&file).unwrap();
            let mut written: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
            written.insert(annotations::LAST_SEEN.to_owned(), "1700000000".to_owned());
            let metadata = json!({ "name": "a1", "annotations": written });
            let object: NodeObject = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
            let (node, _) = decode_node(&object, annotations::REGION_LABEL, PodCidrSource::Node);
            let facts = Published::of(&node).unwrap();
            assert_eq!(patch(&written, &facts), None, "{}", file.display());
            for (key, value) in encode(&facts) {
                assert_eq!(written.get(key), value.as_ref(), "{}: {key}", file.display());
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

/// The rules of the definition refuse nothing that an agent can use, and what they refuse is still read when it was
/// stored before there were rules.
#[test]
fn rules_and_decoding_agree() {
    let strict = apiserver::Server::new();
    strict.apply_object(custom_resource_definition()).unwrap();
    let (mut accepted, mut refused, mut stored) = (0, 0, 0);
    for folder in golden() {
        let lenient = apiserver::Server::new();
        lenient.apply_object(custom_resource_definition_without_rules()).unwrap();
        for object in items::<Value>(&folder.join("peers.json")) {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let (peer, _) = decode_peer(&serde_json::from_value(object.clone()).unwrap());
            match strict.apply_object(object.clone()) {
                Ok(_) => accepted += 1,
                Err(status) => {
                    refused += 1;
                    assert_eq!(peer, None, "{name} of {}: {status:?}", folder.display());
                }
            }
            lenient.apply_object(object).unwrap();
        }
        let before = lenient.list("peers");
        lenient.apply_object(custom_resource_definition()).unwrap();
        assert_eq!(lenient.list("peers"), before);
        stored += before.len();
    }
    assert!(accepted > 10 && refused > 2, "{accepted} accepted, {refused} refused");
    assert_eq!(stored, accepted + refused);
}
