//! Every annotation of a Node, with values that make sense and values that make none.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use kubernetes::{NodeObject, PodCidrSource, decode_node, missing_pod_subnet};
use mesh::{Node, Problem};
use serde_json::{Value, json};

const REGION: &str = "topology.kubernetes.io/region";
const KEY: &str = "9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=";

fn object(annotations: &[(&str, &str)]) -> NodeObject {
    let annotations: BTreeMap<String, &str> =
        annotations.iter().map(|(key, value)| (format!("kilo.squat.ai/{key}"), *value)).collect();
    from_json(json!({ "metadata": { "name": "a1", "annotations": annotations } }))
}

fn from_json(value: Value) -> NodeObject {
    serde_json::from_value(value).unwrap()
}

fn decode(annotations: &[(&str, &str)]) -> (Node, Vec<Problem>) {
    decode_node(&object(annotations), REGION, PodCidrSource::Node)
}

/// Decodes annotations, expects one problem of this reason that names the value, and gives the node.
fn refuse(annotations: &[(&str, &str)], reason: &str) -> Node {
    let (node, problems) = decode(annotations);
    let [problem] = problems.as_slice() else { panic!("{annotations:?}: {problems:?}") };
    assert_eq!(problem.reason, reason, "{annotations:?}");
    assert_eq!(problem.object, mesh::Object::Node("a1".to_owned()));
    let (key, value) = annotations[0];
    assert!(problem.message.contains(key) && problem.message.contains(value), "{problem}");
    node
}

/// Decodes annotations and expects no problem.
fn accept(annotations: &[(&str, &str)]) -> Node {
    let (node, problems) = decode(annotations);
    assert_eq!(problems, [], "{annotations:?}");
    node
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}

#[test]
fn a_bare_node_is_no_problem() {
    for value in [
        json!({ "metadata": { "name": "a1" } }),
        json!({ "metadata": { "name": "a1", "annotations": null, "labels": null }, "spec": {} }),
        json!({ "metadata": { "name": "a1", "annotations": {} }, "spec": null }),
    ] {
        assert_eq!(decode_node(&from_json(value), REGION, PodCidrSource::Node), (Node::named("a1"), vec![]));
    }
}

#[test]
fn endpoints_in_their_order() {
    let endpoint = |annotations: &[(&str, &str)]| accept(annotations).endpoint.unwrap().to_string();
    let written = ("endpoint", "203.0.113.1:51820");
    assert_eq!(endpoint(&[written]), "203.0.113.1:51820");
    assert_eq!(endpoint(&[written, ("force-external-ip", "198.51.100.7")]), "198.51.100.7:51820");
    assert_eq!(endpoint(&[written, ("force-external-ip", "198.51.100.7/24")]), "198.51.100.7:51820");
    let forced = ("force-endpoint", "[2001:db8::1]:4500");
    assert_eq!(endpoint(&[written, forced, ("force-external-ip", "198.51.100.7")]), "[2001:db8::1]:4500");
    assert_eq!(endpoint(&[("force-endpoint", "vpn.example.com:1"), written]), "vpn.example.com:1");
    assert_eq!(accept(&[("endpoint", "")]).endpoint, None);
}

#[test]
fn an_endpoint_that_is_none_falls_back() {
    let written = ("endpoint", "203.0.113.1:51820");
    for bad in ["garbage", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "::1:51820", "A.example:1"] {
        let node = refuse(&[("force-endpoint", bad), written], "InvalidForceEndpoint");
        assert_eq!(node.endpoint.unwrap().to_string(), "203.0.113.1:51820", "{bad}");
    }
    let node = refuse(&[("force-external-ip", "203.0.113"), written], "InvalidForceExternalIP");
    assert_eq!(node.endpoint.unwrap().to_string(), "203.0.113.1:51820");
    assert_eq!(refuse(&[("endpoint", "nonsense")], "InvalidEndpoint").endpoint, None);
}

#[test]
fn internal_ips() {
    let ips = |annotations: &[(&str, &str)]| texts(&accept(annotations).internal_ips);
    let written = ("internal-ip", "10.1.0.1/16");
    assert_eq!(ips(&[written]), ["10.1.0.1/16"]);
    assert_eq!(ips(&[("internal-ip", "")]), [""; 0]);
    assert_eq!(ips(&[written, ("internal-ips", "fd00::1/64,10.1.0.1/16")]), ["10.1.0.1/16", "fd00::1/64"]);
    // A list from before a Go agent wrote another address.
    assert_eq!(ips(&[written, ("internal-ips", "10.9.0.1/16,fd00::1/64")]), ["10.1.0.1/16"]);
    assert_eq!(ips(&[("internal-ips", "10.9.0.1/16,fd00::1/64")]), [""; 0]);
    for none in ["", "-"] {
        assert_eq!(ips(&[written, ("force-internal-ip", none)]), [""; 0]);
    }
    assert_eq!(ips(&[written, ("force-internal-ip", "192.168.7.7/24")]), ["192.168.7.7/24"]);
    let both = ("force-internal-ip", "fd00::7/64, 192.168.7.7/24");
    assert_eq!(ips(&[written, both]), ["fd00::7/64", "192.168.7.7/24"]);

    for bad in ["x", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/8,10.0.0.2/8", "10.0.0.1/8,"] {
        let node = refuse(&[("force-internal-ip", bad), written], "InvalidForceInternalIP");
        assert_eq!(texts(&node.internal_ips), ["10.1.0.1/16"], "{bad}");
        let node = refuse(&[("internal-ips", bad), written], "InvalidAddress");
        assert_eq!(texts(&node.internal_ips), ["10.1.0.1/16"], "{bad}");
    }
    assert_eq!(refuse(&[("internal-ip", "10.1.0.1")], "InvalidAddress").internal_ips, []);
}

#[test]
fn wireguard_ips() {
    let single = ("wireguard-ip", "10.4.0.1/16");
    assert_eq!(texts(&accept(&[single]).wireguard_ips), ["10.4.0.1/16"]);
    let both = accept(&[single, ("wireguard-ips", "10.4.0.1/16,fd00:4::1/112")]);
    assert_eq!(texts(&both.wireguard_ips), ["10.4.0.1/16", "fd00:4::1/112"]);
    assert_eq!(accept(&[("wireguard-ip", "")]).wireguard_ips, []);
    assert_eq!(refuse(&[("wireguard-ip", "10.4.0.1")], "InvalidAddress").wireguard_ips, []);
}

#[test]
fn persistent_keepalives() {
    for (text, seconds) in [("0", 0), ("25", 25), ("65535", 65_535)] {
        assert_eq!(accept(&[("persistent-keepalive", text)]).persistent_keepalive, seconds);
    }
    for bad in ["-1", "65536", "25s", "1.5", " 5"] {
        let node = refuse(&[("persistent-keepalive", bad)], "InvalidPersistentKeepalive");
        assert_eq!(node.persistent_keepalive, 0, "{bad}");
    }
}

#[test]
fn allowed_location_ips() {
    let key = "allowed-location-ips";
    let good = accept(&[(key, "10.9.0.1/16,2001:db8::/32")]);
    assert_eq!(texts(&good.allowed_location_ips), ["10.9.0.1/16", "2001:db8::/32"]);
    assert_eq!(accept(&[(key, "")]).allowed_location_ips, []);
    // The Go agents of the mesh do not take the entry after the blank either.
    for bad in ["10.9.0.0/16, 10.1.0.2/32", "10.9.0.0/16,bogus", "10.51.0.5,10.9.0.0/16", "10.9.0.0/16,"] {
        let node = refuse(&[(key, bad)], "InvalidAllowedLocationIP");
        assert_eq!(texts(&node.allowed_location_ips), ["10.9.0.0/16"], "{bad}");
    }
}

#[test]
fn discovered_endpoints() {
    let key = "discovered-endpoints";
    let entry = |ip: &str, port: &str| format!(r#"{{"{KEY}":{{"IP":{ip},"Port":{port},"Zone":""}}}}"#);
    let read =
        |text: &str| texts(&accept(&[(key, text)]).discovered_endpoints.into_values().collect::<Vec<_>>());
    assert_eq!(read(&entry(r#""192.0.2.5""#, "1005")), ["192.0.2.5:1005"]);
    assert_eq!(read(&entry(r#""2001:db8::5""#, "1005")), ["[2001:db8::5]:1005"]);
    for none in ["", "{}", "null", &entry("null", "5"), &entry(r#""""#, "5")] {
        assert_eq!(read(none), [""; 0], "{none:?}");
    }
    let other = format!(r#"{{"bad":{{"IP":"192.0.2.5","Port":1}},"{KEY}":{{"IP":"192.0.2.5","Port":1}}}}"#);
    for (text, left) in [
        ("x".to_owned(), 0),
        ("[]".to_owned(), 0),
        (entry(r#""192.0.2""#, "1005"), 0),
        (entry(r#""192.0.2.5""#, "0"), 0),
        (entry(r#""192.0.2.5""#, "70000"), 0),
        (entry(r#""192.0.2.5""#, r#""1""#), 0),
        (other, 1),
    ] {
        let (node, problems) = decode(&[(key, &text)]);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert_eq!(problems[0].reason, "InvalidDiscoveredEndpoints");
        assert_eq!(node.discovered_endpoints.len(), left, "{text}");
    }
}

#[test]
fn small_values() {
    assert_eq!(accept(&[("key", KEY)]).key.unwrap().to_string(), KEY);
    for bad in ["x", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        assert_eq!(refuse(&[("key", bad)], "InvalidKey").key, None);
    }
    assert_eq!(accept(&[("granularity", "full")]).granularity, Some(mesh::Granularity::Full));
    assert_eq!(refuse(&[("granularity", "auto")], "InvalidGranularity").granularity, None);
    assert_eq!(accept(&[("last-seen", "4102444800")]).last_seen, 4_102_444_800);
    assert_eq!(refuse(&[("last-seen", "now")], "InvalidLastSeen").last_seen, 0);
    for value in ["", "true", "false"] {
        assert!(accept(&[("leader", value)]).leader);
    }
    let compatible = accept(&[("cni-compatibility-ip", "10.0.0.1/32")]).cni_compatibility_ips;
    assert_eq!(compatible[0].to_string(), "10.0.0.1/32");
    assert_eq!(refuse(&[("cni-compatibility-ip", "x")], "InvalidAddress").cni_compatibility_ips, []);
}

#[test]
fn locations_in_their_order() {
    let location = |annotation: Option<&str>, labels: Value, topology_label: &str| {
        let mut metadata = json!({ "name": "a1", "labels": labels });
        if let Some(text) = annotation {
            metadata["annotations"] = json!({ "kilo.squat.ai/location": text });
        }
        decode_node(&from_json(json!({ "metadata": metadata })), topology_label, PodCidrSource::Node)
            .0
            .location
    };
    let old = "failure-domain.beta.kubernetes.io/region";
    assert_eq!(location(None, json!({}), REGION), "");
    assert_eq!(location(None, json!({ REGION: "new", old: "old" }), REGION), "new");
    assert_eq!(location(None, json!({ old: "old" }), REGION), "old");
    assert_eq!(location(None, json!({ old: "old", REGION: "new" }), "rack"), "");
    assert_eq!(location(None, json!({ "rack": "r1", REGION: "new" }), "rack"), "r1");
    assert_eq!(location(Some("own"), json!({ REGION: "new" }), REGION), "own");
    assert_eq!(location(Some(""), json!({ REGION: "new" }), REGION), "");
}

#[test]
fn pod_subnets() {
    let node = |spec: Value| {
        let metadata = json!({ "name": "a1", "annotations": { "kilo.squat.ai/key": KEY } });
        decode_node(&from_json(json!({ "metadata": metadata, "spec": spec })), REGION, PodCidrSource::Node)
    };
    let (both, problems) =
        node(json!({ "podCIDR": "10.2.1.0/24", "podCIDRs": ["10.2.1.0/24", "fd00:2:1::/64"] }));
    assert_eq!(
        (texts(&both.pod_subnets), problems.len()),
        (vec!["10.2.1.0/24".into(), "fd00:2:1::/64".into()], 0)
    );
    let (one, _) = node(json!({ "podCIDR": "10.2.1.7/24" }));
    assert_eq!(texts(&one.pod_subnets), ["10.2.1.0/24"]);
    assert_eq!(missing_pod_subnet(&one, PodCidrSource::Node), None);

    let (bad, problems) = node(json!({ "podCIDR": "10.2.1.0", "podCIDRs": ["10.2.1.0"] }));
    assert_eq!(problems[0].reason, "InvalidPodCIDR");
    assert_eq!(missing_pod_subnet(&bad, PodCidrSource::Node).unwrap().reason, "MissingPodCIDR");
    let (none, problems) = node(json!({}));
    assert_eq!(problems, []);
    assert_eq!(missing_pod_subnet(&none, PodCidrSource::Node).unwrap().reason, "MissingPodCIDR");
    assert_eq!(missing_pod_subnet(&Node::named("without-agent"), PodCidrSource::Node), None);
}

#[test]
fn annotated_pod_subnets() {
    let decode = |pod_cidrs: &str| {
        let annotations = json!({ "kilo.squat.ai/key": KEY, "kilo.squat.ai/pod-cidrs": pod_cidrs });
        let spec = json!({ "podCIDR": "10.2.1.0/24" });
        let object =
            from_json(json!({ "metadata": { "name": "a1", "annotations": annotations }, "spec": spec }));
        decode_node(&object, REGION, PodCidrSource::Annotation)
    };
    let (node, problems) = decode("10.42.1.7/24, fd42:1::/64,10.42.1.0/24");
    assert_eq!(
        (texts(&node.pod_subnets), problems),
        (vec!["10.42.1.0/24".into(), "fd42:1::/64".into()], vec![])
    );
    let (node, problems) = decode("10.42.1.0,10.42.2.0/24");
    assert_eq!(texts(&node.pod_subnets), ["10.42.2.0/24"]);
    assert_eq!(problems[0].reason, "InvalidPodCIDR");
    assert!(problems[0].message.contains("\"10.42.1.0\" is no CIDR"), "{}", problems[0]);
    let (node, problems) = decode("");
    assert_eq!((node.pod_subnets.len(), node.joins_without_pods, problems), (0, true, vec![]));
    let missing = missing_pod_subnet(&node, PodCidrSource::Annotation).unwrap();
    assert!(missing.message.contains("kubectl annotate node"), "{missing}");
}

/// Where another CNI gives pod subnets, those of the Node are a stopgap, and what is wrong with them harms nobody.
#[test]
fn pod_subnets_that_another_cni_replaces() {
    for source in [PodCidrSource::Cilium, PodCidrSource::Calico] {
        let annotations = json!({ "kilo.squat.ai/key": KEY, "kilo.squat.ai/pod-cidrs": "10.42.1.0/24" });
        let spec = json!({ "podCIDRs": ["no CIDR", "10.2.1.0/24"] });
        let object =
            from_json(json!({ "metadata": { "name": "a1", "annotations": annotations }, "spec": spec }));
        let (mut node, problems) = decode_node(&object, REGION, source);
        assert_eq!((texts(&node.pod_subnets), problems), (vec!["10.2.1.0/24".into()], vec![]));
        assert!(node.joins_without_pods);
        node.pod_subnets.clear();
        assert_eq!(missing_pod_subnet(&node, source).unwrap().reason, "MissingPodCIDR");
    }
}

/// Go agents take any text, and the order of the names decides addresses: what counts must not change.
#[test]
fn an_odd_location_counts_and_is_told() {
    let longest = "l".repeat(63);
    for location in ["", "eu-west-1", "Büro 北京", longest.as_str()] {
        assert_eq!(accept(&[("location", location)]).location, location);
    }
    for location in
        ["eu\n2026 INFO forged", "\u{1b}]0;title\u{7}", "a\u{202e}b", "\u{200b}", &"l".repeat(200_000)]
    {
        let (node, problems) = decode(&[("location", location)]);
        let [problem] = problems.as_slice() else { panic!("{location:?}: {problems:?}") };
        assert_eq!((node.location.as_str(), problem.reason), (location, "OddLocation"));
        let shown = problem.to_string();
        assert!(shown.chars().all(mesh::text::is_plain) && shown.len() < 500, "{shown}");
    }
}

#[test]
fn addresses_are_those_of_the_status_that_are_addresses_of_the_host() {
    let addresses = |status: Value| {
        let object = from_json(json!({ "metadata": { "name": "a1" }, "status": status }));
        object.addresses.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let status = json!({ "addresses": [
        { "type": "InternalIP", "address": "10.0.0.5" },
        { "type": "InternalIP", "address": "fd00:1::5" },
        { "type": "ExternalIP", "address": "203.0.113.9" },
        { "type": "ExternalIP", "address": "not an address" },
        { "type": "Hostname", "address": "192.0.2.1" },
        { "type": "ExternalDNS", "address": "a1.example" },
        {},
    ] });
    assert_eq!(addresses(status).unwrap(), ["10.0.0.5", "203.0.113.9", "fd00:1::5"]);
    assert_eq!(addresses(json!({ "conditions": [] })), Some(Vec::new()));
    assert_eq!(addresses(json!({ "addresses": null })), Some(Vec::new()));
    assert_eq!(addresses(Value::Null), None, "the metadata alone says nothing of it");
    let many = (0..1000)
        .map(|n| json!({ "type": "InternalIP", "address": format!("10.0.{}.{}", n / 250, n % 250) }));
    let many = json!({ "addresses": many.collect::<Vec<_>>() });
    assert_eq!(addresses(many).unwrap().len(), kubernetes::object::MOST_ADDRESSES);
}
