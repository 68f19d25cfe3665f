//! The policy that API servers evaluate says the same as the webhook, and both as the decoder, wherever they can.

#![allow(clippy::unwrap_used, reason = "a test")]

mod addresses;
mod cel;
#[path = "../common/mod.rs"]
mod common;
mod nodes;

use std::sync::Arc;

use cel::{Manifest, Policy, Request};
use kubernetes::{
    PodCidrSource, Update,
    admission::{self, Surroundings, judge},
    decode_node, decode_peer,
    watch::WatchedNode,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const KEY: &str = "rEzswSMXSD5vdP615McU88sC0C8vm29cjELTG+RKVK4=";
const ZERO_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// Everything that judges.
struct Judges {
    shape: Policy,
    overlaps: Policy,
    params: Value,
    surroundings: Surroundings,
}

impl Judges {
    /// The ranges of the parameters are those of two nodes.
    fn new() -> Self {
        let manifest = Manifest::read("peer-validation-policy.yaml");
        let [shape, overlaps, _] = manifest.policies.as_slice() else { panic!("there are three policies") };
        let mut params = serde_json::to_value(&manifest.params[0]).unwrap();
        params["data"]["pod-subnets"] = json!("10.42.1.0/24, 10.42.2.0/24,fd42::/48");
        params["data"]["node-subnets"] = json!("10.1.0.1/32,fd01::1/128");
        let mut surroundings = Surroundings::unknown("nothing has been read");
        let node = |name: &str, internal: &str, pods: &[&str]| {
            let annotations = json!({
                "kilo.squat.ai/internal-ip": internal, "kilo.squat.ai/wireguard-ip": "10.4.0.1/16",
            });
            json!({ "metadata": { "name": name, "annotations": annotations }, "spec": { "podCIDRs": pods } })
        };
        for object in [
            node("a", "10.1.0.1/16", &["10.42.1.0/24", "fd42::/48"]),
            node("b", "fd01::1/64", &["10.42.2.0/24"]),
        ] {
            let (node, problems) =
                decode_node(&serde_json::from_value(object).unwrap(), "region", PodCidrSource::Node);
            let name = node.name.clone();
            let watched = WatchedNode { node: Arc::new(node), problems, own: None };
            surroundings.take(Update::Node(name, Some(watched)));
        }
        surroundings.take(Update::Synced);
        Self { shape: Policy::compile(shape), overlaps: Policy::compile(overlaps), params, surroundings }
    }

    /// What the policies have against an object.
    fn policy(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut refusals = self.shape.refusals(&Request { object: Some(object), old, ..Request::default() });
        refusals.extend(self.overlaps.refusals(&Request {
            object: Some(object),
            old,
            params: Some(&self.params),
            user: None,
        }));
        refusals
    }

    /// What the webhook has against it.
    fn webhook(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let request = Self::review(object, old);
        judge(&request, &self.surroundings).unwrap().faults
    }

    fn review(object: &Value, old: Option<&Value>) -> admission::Request {
        let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "operation": operation, "object": object, "oldObject": old,
                "resource": { "group": "kilo.squat.ai", "version": "v1alpha1", "resource": "peers" },
            },
        });
        admission::Request::decode(review.to_string().as_bytes()).unwrap()
    }

    /// Both say the same; whether the object is allowed.
    fn agree(&self, object: &Value, old: Option<&Value>) -> bool {
        let (policy, webhook) = (self.policy(object, old), self.webhook(object, old));
        assert_eq!(
            policy.is_empty(),
            webhook.is_empty(),
            "{object}\npolicy: {policy:?}\nwebhook: {webhook:?}"
        );
        if webhook.is_empty() && old.is_none() {
            let (peer, problems) = decode_peer(&serde_json::from_value(object.clone()).unwrap());
            assert!(peer.is_some() && problems.is_empty(), "{object} is allowed, and left out: {problems:?}");
        }
        webhook.is_empty()
    }
}

fn peer(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY });
    change(&mut spec);
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": "new" }, "spec": spec,
    })
}

fn with(field: &str, value: Value) -> Value {
    peer(|spec| spec[field] = value)
}

fn with_endpoint(dns_or_ip: Value, port: i64) -> Value {
    with("endpoint", json!({ "dnsOrIP": dns_or_ip, "port": port }))
}

fn good() -> Vec<Value> {
    vec![
        peer(|_| {}),
        with(
            "allowedIPs",
            json!(["10.5.0.1/32", "10.6.0.7/24", "fd05::/64", "192.0.2.0/8", "2001:DB8::1.2.3.4/128"]),
        ),
        with(
            "allowedIPs",
            json!(["10.42.3.0/24", "10.1.0.2/32", "10.3.0.0/16", "fd42:1::/48", "fd01::2/128"]),
        ),
        with("publicKey", json!(format!("{KEY}\n"))),
        with("presharedKey", json!(KEY)),
        with("presharedKey", json!("")),
        with("presharedKeySecretRef", json!({ "name": "laptop" })),
        with("presharedKeySecretRef", json!({ "name": "laptop.example", "key": "psk_1.txt" })),
        with("presharedKeySecretRef", json!({ "name": "a".repeat(253), "key": "" })),
        peer(|spec| {
            spec["presharedKey"] = json!("");
            spec["presharedKeySecretRef"] = json!({ "name": "laptop" });
        }),
        with("persistentKeepalive", json!(0)),
        with("persistentKeepalive", json!(65_535)),
        with_endpoint(json!({ "ip": "192.0.2.7" }), 1),
        with_endpoint(json!({ "ip": "2001:db8::7" }), 65_535),
        with_endpoint(json!({ "dns": "vpn.example.com" }), 51_820),
        with_endpoint(json!({ "dns": "192.0.2.7" }), 51_820),
        with_endpoint(json!({ "dns": "vpn.example.com", "ip": "192.0.2.7" }), 51_820),
        with_endpoint(json!({ "dns": "", "ip": "2001:db8::" }), 51_820),
        // What counts is the name.
        with_endpoint(json!({ "dns": "vpn.example.com", "ip": "127.0.0.1" }), 51_820),
        with_endpoint(json!({ "ip": "64:ff9b::203.0.113.1" }), 51_820),
        with_endpoint(json!({ "dns": "a".repeat(253) }), 51_820),
    ]
}

fn bad() -> Vec<Value> {
    let allowed_ips = [
        "10.5.0.1",
        "nonsense",
        "",
        "/",
        "10.5.0.1/",
        "10.5.0.1/33",
        "10.5.0.1/-1",
        "10.5.0.1/+8",
        "10.5.0.1/8 ",
        "10.5.0.256/32",
        "010.5.0.1/32",
        "192.0.2.0/08",
        "fd05::/129",
        "fd05::/064",
        "fd05::%eth0/64",
        "::ffff:10.5.0.1/128",
        "1.2.3/24",
        // Of no use.
        "127.0.0.1/8",
        // Overlaps.
        "10.42.1.9/32",
        "10.42.0.0/16",
        "0.0.0.0/0",
        "::/0",
        "fd42::1/128",
        "10.1.0.1/32",
        "10.1.0.0/24",
        "10.1.77.77/16",
        "fd01::/64",
        "10.4.0.0/16",
        "10.4.9.9/32",
        "10.0.0.0/8",
    ];
    let keys = [
        "",
        "short",
        "c2hvcnQ=",
        ZERO_KEY,
        &KEY[..43],
        &KEY.replace("K4=", "K5="),
        &format!(" {KEY}"),
        &format!("\n{KEY}"),
        &format!("{KEY}="),
        &format!("{KEY} "),
    ]
    .map(str::to_owned);
    let mut all: Vec<Value> =
        allowed_ips.iter().map(|ip| with("allowedIPs", json!(["10.5.0.1/32", ip]))).collect();
    all.extend(keys.iter().map(|key| with("publicKey", json!(key))));
    all.extend(keys.iter().skip(1).map(|key| with("presharedKey", json!(key))));
    all.extend([-1, 65_536, i64::MIN, i64::MAX].map(|seconds| with("persistentKeepalive", json!(seconds))));
    all.extend([0, -1, 65_536].map(|port| with_endpoint(json!({ "ip": "192.0.2.7" }), port)));
    let secrets =
        ["", "UPPER", "a/b", "..", "../../kube-system/secrets/token", "a b", "-a", "a\n", &"a".repeat(254)];
    all.extend(secrets.map(|name| with("presharedKeySecretRef", json!({ "name": name }))));
    let entries = ["a/b", "a b", "ä", "a\n", &"a".repeat(254)];
    all.extend(entries.map(|key| with("presharedKeySecretRef", json!({ "name": "laptop", "key": key }))));
    let ips =
        ["a.example", "192.0.2.256", "01.2.3.4", "192.0.2.7/32", "fe80::1%eth0", "::ffff:192.0.2.7", "1.2.3"];
    all.extend(ips.map(|ip| with_endpoint(json!({ "ip": ip }), 1)));
    all.push(with_endpoint(json!({ "ip": "fe80::1" }), 1));
    let names = ["UPPER", "-a", "a-", "a..b", ".a", "a.", "a_b", "2001:db8::1", "a b", "a\n"];
    all.extend(names.map(|dns| with_endpoint(json!({ "dns": dns, "ip": "192.0.2.7" }), 1)));
    all.extend([
        with_endpoint(json!({ "dns": "a".repeat(254) }), 1),
        with_endpoint(json!({}), 1),
        with_endpoint(json!({ "dns": "", "ip": "" }), 1),
        with("presharedKeySecretRef", json!({})),
        with("presharedKeySecretRef", json!({ "key": "k" })),
        peer(|spec| {
            spec["presharedKey"] = json!(KEY);
            spec["presharedKeySecretRef"] = json!({ "name": "laptop" });
        }),
        with("endpoint", json!({})),
        with("endpoint", json!({ "port": 1 })),
        with("endpoint", json!({ "dnsOrIP": { "ip": "192.0.2.7" } })),
        with("allowedIPs", json!([])),
        with("allowedIPs", json!("10.5.0.1/32")),
        with("publicKey", json!(7)),
        peer(|spec| *spec = json!({})),
        peer(|spec| *spec = json!({ "publicKey": KEY })),
        peer(|spec| *spec = json!({ "allowedIPs": ["10.5.0.1/32"] })),
    ]);
    all
}

/// Addresses and ranges where nobody is.
fn useless() -> Vec<Value> {
    let ranges = [
        "0.0.0.0/32",
        "169.254.169.254/32",
        "224.0.0.0/4",
        "239.1.2.3/24",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "::203.0.113.1/128",
        "fe80::/64",
        "ff02::1/128",
    ];
    let v4 = ["0.0.0.0", "127.0.0.53", "169.254.1.1", "224.0.0.1", "255.255.255.255"];
    let v6 = ["::", "::1", "::7", "fe80::1", "ff02::1"];
    let mut all: Vec<Value> =
        ranges.iter().map(|ip| with("allowedIPs", json!(["10.5.0.1/32", ip]))).collect();
    all.extend(v4.iter().chain(&v6).map(|ip| with_endpoint(json!({ "ip": ip }), 1)));
    all.extend(v4.iter().map(|ip| with_endpoint(json!({ "dns": ip, "ip": "192.0.2.7" }), 1)));
    all
}

#[test]
fn the_manifest_binds_what_it_defines() {
    let manifest = Manifest::read("peer-validation-policy.yaml");
    let names: Vec<_> = manifest.policies.iter().map(|policy| policy.metadata.name.clone()).collect();
    let bound: Vec<_> =
        manifest.bindings.iter().map(|binding| binding.spec.as_ref().unwrap().policy_name.clone()).collect();
    assert_eq!(names, bound);
    let spec = manifest.bindings[1].spec.as_ref().unwrap();
    let reference = spec.param_ref.as_ref().unwrap();
    assert_eq!(
        (&reference.name, &reference.namespace),
        (&manifest.params[0].metadata.name, &manifest.params[0].metadata.namespace)
    );
    assert_eq!(spec.validation_actions, Some(vec!["Deny".to_owned()]));
}

/// The policies cannot ask the table of the agents, so they have it in writing.
#[test]
fn special_ranges_are_those_of_the_agents() {
    let ours = mesh::special::SPECIAL.iter().filter(|special| !special.translated);
    let ours: Vec<String> = ours.map(|special| format!("'{}'", special.range)).collect();
    let manifest = Manifest::read("peer-validation-policy.yaml");
    let variables =
        manifest.policies.iter().flat_map(|policy| policy.spec.clone().unwrap().variables.unwrap());
    let written: Vec<String> =
        variables.filter(|variable| variable.name == "special").map(|variable| variable.expression).collect();
    assert_eq!(written.len(), 2, "one in the policy of Peers, one in that of Nodes");
    for text in written {
        assert_eq!(text, format!("[{}]", ours.join(", ")));
    }
}

#[test]
fn the_policy_and_the_webhook_agree() {
    let judges = Judges::new();
    for object in good() {
        assert!(judges.agree(&object, None), "{object}: {:?}", judges.webhook(&object, None));
    }
    for object in bad().into_iter().chain(useless()) {
        assert!(!judges.agree(&object, None), "{object} is allowed");
    }
}

#[test]
fn they_agree_about_updates() {
    let judges = Judges::new();
    let all: Vec<Value> = good().into_iter().chain(bad()).collect();
    // No schema ever took a text for a list.
    for old in all.iter().filter(|old| !old["spec"]["allowedIPs"].is_string()) {
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({ "a": "b" });
        assert!(judges.agree(&labelled, Some(old)), "{old}");
        for new in &all {
            judges.agree(new, Some(old));
        }
    }
    // What was there before stays, also when something else changes.
    let old = with("allowedIPs", json!(["10.42.1.9/32"]));
    let mut changed = old.clone();
    changed["spec"]["persistentKeepalive"] = json!(5);
    assert!(judges.agree(&changed, Some(&old)));
    changed["spec"]["allowedIPs"] = json!(["10.42.1.9/32", "10.42.1.10/32"]);
    assert!(!judges.agree(&changed, Some(&old)));
}

#[test]
fn refusals_say_what_is_wrong() {
    let judges = Judges::new();
    for (object, named) in [
        (
            with("allowedIPs", json!(["10.5.0.1", "10.5.0.2/32"])),
            "spec.allowedIPs holds 10.5.0.1: write CIDRs",
        ),
        (
            with("allowedIPs", json!(["10.4.0.9/32"])),
            "spec.allowedIPs (10.4.0.9/32) overlaps the WireGuard subnet 10.4.0.0/16",
        ),
        (
            with("allowedIPs", json!(["10.42.1.0/24"])),
            "overlaps the pod subnets 10.42.1.0/24, 10.42.2.0/24, fd42::/48",
        ),
        (with("allowedIPs", json!(["10.1.0.1/32"])), "overlaps the node addresses 10.1.0.1/32, fd01::1/128"),
    ] {
        let refusals = judges.policy(&object, None);
        assert!(matches!(refusals.as_slice(), [one] if one.contains(named)), "{named:?}: {refusals:?}");
    }
    let secret = judges.policy(&with("presharedKey", json!("hunter2")), None);
    assert!(secret.len() == 1 && !secret[0].contains("hunter2"), "{secret:?}");
}

/// What `kgctl showconf node d1 --as-peer` prints in a cluster of the same ranges, with the services' among them. Who
/// applies it reads both names: the webhook writes the Peer's, before a policy's words the API server does.
#[test]
fn a_leader_of_a_cluster_with_the_same_ranges_is_refused_by_both() {
    let mut judges = Judges::new();
    judges.params["data"]["service-subnets"] = json!("10.43.0.0/16");
    let ranges = ["10.42.1.0/24", "fd42::/64", "10.1.0.1/32", "fd01::1/128", "10.4.0.1/32", "10.43.0.0/16"];
    let mut leader = with("allowedIPs", json!(ranges));
    leader["metadata"]["name"] = json!("d1");
    assert!(!judges.agree(&leader, None));
    let request = Judges::review(&leader, None);
    let answer = request.answer(&judge(&request, &judges.surroundings).unwrap());
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    for named in [
        "peer d1 cannot be used: ",
        "10.42.1.0/24 overlaps the pod subnet 10.42.1.0/24 of node a",
        "10.1.0.1/32 overlaps the internal address 10.1.0.1/32 of node a",
        "fd01::1/128 overlaps the internal address fd01::1/128 of node b",
        "10.4.0.1/32 overlaps the WireGuard subnet 10.4.0.0/16 of node a",
    ] {
        assert!(message.contains(named), "{named:?} is not in {message}");
    }
    let said = judges.policy(&leader, None);
    for named in ["the WireGuard subnet", "the pod subnets", "the service subnets", "the node addresses"] {
        assert!(said.iter().any(|text| text.contains(named)), "{named:?} is not in {said:?}");
    }
}

#[test]
fn parameters_can_be_left_out_and_wrong_ones_are_named() {
    let judges = Judges::new();
    let object = peer(|_| {});
    let refusals = |params: Value| {
        judges.overlaps.refusals(&Request {
            object: Some(&object),
            params: Some(&params),
            ..Request::default()
        })
    };
    assert!(refusals(json!({})).is_empty());
    assert!(refusals(json!({ "data": { "pod-subnets": " , ", "something-else": "x" } })).is_empty());
    let services = refusals(json!({ "data": { "service-subnets": "10.5.0.0/16" } }));
    assert!(services[0].contains("overlaps the service subnets 10.5.0.0/16"), "{services:?}");
    let wrong = refusals(json!({ "data": { "pod-subnets": "10.42.0.0", "node-subnets": "x,10.1.0.0/16" } }));
    assert_eq!(
        wrong,
        [
            "the ConfigMap kilo-peer-validation in kube-system holds 10.42.0.0, x: write CIDRs with commas between"
        ]
    );
}

fn text(of: &'static str, longest: usize) -> impl Strategy<Value = String> {
    let characters: Vec<char> = of.chars().collect();
    proptest::collection::vec(proptest::sample::select(characters), 0..=longest)
        .prop_map(|characters| characters.into_iter().collect())
}

fn cidr() -> impl Strategy<Value = String> {
    let v4 = (proptest::sample::select(vec![1_u8, 4, 5, 42, 192]), any::<[u8; 2]>(), 0..=33_u8)
        .prop_map(|(second, [third, fourth], length)| format!("10.{second}.{third}.{fourth}/{length}"));
    let v6 = (any::<u16>(), any::<u16>(), 0..=129_u8)
        .prop_map(|(first, last, length)| format!("fd{:02x}::{last:x}/{length}", first % 256));
    prop_oneof![4 => v4, 2 => v6, 1 => text("0123456789abcdef.:/", 20)]
}

fn key() -> impl Strategy<Value = String> {
    use base64::Engine as _;
    let bytes = proptest::collection::vec(any::<u8>(), 30..34);
    let encoded = bytes.prop_map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes));
    prop_oneof![Just(KEY.to_owned()), encoded, text("ABab01+/=\n ", 50)]
}

fn any_peer() -> impl Strategy<Value = Value> {
    let endpoint = (
        proptest::option::of(prop_oneof![text("ab0-.", 8), text("aB_:. \n", 4)]),
        proptest::option::of(prop_oneof![
            text("0123456789.", 12),
            text("0123456789abcdef:.", 20),
            any::<[u8; 4]>().prop_map(|b| std::net::Ipv4Addr::from(b).to_string())
        ]),
        prop_oneof![1..70_000_i64, any::<i64>()],
    );
    let endpoint = endpoint.prop_map(|(dns, ip, port)| {
        let mut endpoint = json!({ "dnsOrIP": {}, "port": port });
        for (field, text) in [("dns", dns), ("ip", ip)] {
            if let Some(text) = text {
                endpoint["dnsOrIP"][field] = json!(text);
            }
        }
        endpoint
    });
    let spec = (
        proptest::collection::vec(cidr(), 0..3),
        prop_oneof![3 => Just(KEY.to_owned()), 1 => key()],
        proptest::option::weighted(0.2, key()),
        proptest::option::weighted(0.3, endpoint),
        proptest::option::weighted(0.2, prop_oneof![-5..70_000_i64, any::<i64>()]),
    );
    spec.prop_map(|(allowed_ips, key, preshared_key, endpoint, keepalive)| {
        peer(|spec| {
            spec["allowedIPs"] = json!(allowed_ips);
            spec["publicKey"] = json!(key);
            for (field, value) in [
                ("presharedKey", preshared_key.map(Value::from)),
                ("endpoint", endpoint),
                ("persistentKeepalive", keepalive.map(Value::from)),
            ] {
                if let Some(value) = value {
                    spec[field] = value;
                }
            }
        })
    })
}

/// The policies do not end with a test, and compiling them takes longer than a case.
fn judges() -> &'static Judges {
    static JUDGES: std::sync::OnceLock<Judges> = std::sync::OnceLock::new();
    JUDGES.get_or_init(Judges::new)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn they_agree_about_any_peer(object in any_peer(), old in proptest::option::of(any_peer())) {
        judges().agree(&object, old.as_ref());
    }
}
