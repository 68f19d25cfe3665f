//! What the policy of Nodes has against addresses in annotations of operators, and what the decoder has.

use kubernetes::{PodCidrSource, decode_node};
use serde_json::{Value, json};

use crate::cel::{Manifest, Policy, Request};

fn policy() -> Policy {
    let manifest = Manifest::read("peer-validation-policy.yaml");
    Policy::compile(&manifest.policies[2])
}

fn node(annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(key, value)| (format!("kilo.squat.ai/{key}"), json!(value))).collect();
    json!({ "metadata": { "name": "a1", "annotations": annotations } })
}

fn refused(object: &Value, old: Option<&Value>) -> Vec<String> {
    policy().refusals(&Request { object: Some(object), old, ..Request::default() })
}

/// Whether the decoder finds an address of no use.
fn is_unusable(object: &Value) -> bool {
    let object = serde_json::from_value(object.clone()).unwrap();
    let (_, problems) = decode_node(&object, "region", PodCidrSource::Annotation);
    problems.iter().any(|problem| problem.reason == "UnusableAddress")
}

#[test]
fn both_refuse_the_same() {
    let addresses = [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.7.7",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "10.1.0.5",
        "203.0.113.7",
        "::",
        "::1",
        "::7",
        "fe80::1",
        "ff02::1",
        "fd00::5",
        "2001:db8::5",
        "64:ff9b::203.0.113.1",
    ];
    let mut seen = [0, 0];
    let mut check = |key: &str, value: &str| {
        let object = node(&[(key, value)]);
        let refusals = refused(&object, None);
        assert_eq!(!refusals.is_empty(), is_unusable(&object), "{key}={value}: {refusals:?}");
        seen[usize::from(refusals.is_empty())] += 1;
    };
    for address in addresses {
        let (bracketed, length, short) = match address.contains(':') {
            true => (format!("[{address}]"), 128, 64),
            false => (address.to_owned(), 32, 24),
        };
        check("force-endpoint", &format!("{bracketed}:4000"));
        check("force-external-ip", address);
        for length in [length, short] {
            let net = format!("{address}/{length}");
            check("force-external-ip", &net);
            check("force-internal-ip", &net);
            check("allowed-location-ips", &format!("10.9.0.0/16,{net}"));
            check("pod-cidrs", &format!("{net}, 10.9.0.0/16"));
        }
    }
    for value in [
        "10.1.0.0/24",
        "10.1.0.0/31",
        "10.1.0.0/32",
        "fd00::/64",
        "fd00::/127",
        "10.1.0.1/24, fe80::1/64",
        "-",
        "",
    ] {
        check("force-internal-ip", value);
    }
    for value in ["vpn.example.com:4000", "garbage", "[::1", ":", "", "127.0.0.1"] {
        check("force-endpoint", value);
    }
    for value in ["0.0.0.0/0", "128.0.0.0/1", "::/0", "x", ""] {
        check("allowed-location-ips", value);
    }
    assert!(seen.iter().all(|count| *count > 30), "{seen:?}");
}

#[test]
fn what_was_there_before_stays() {
    let old = node(&[("force-internal-ip", "127.0.0.1/8"), ("last-seen", "1")]);
    let beat = node(&[("force-internal-ip", "127.0.0.1/8"), ("last-seen", "2")]);
    assert_eq!(refused(&beat, Some(&old)), [""; 0]);
    let worse = node(&[("force-internal-ip", "127.0.0.2/8"), ("last-seen", "2")]);
    let said = refused(&worse, Some(&old));
    assert!(said[0].contains("127.0.0.2/8"), "{said:?}");
    assert_eq!(refused(&node(&[]), Some(&old)), [""; 0], "it can be removed");
}
