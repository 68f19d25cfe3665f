//! Peers that are valid and peers that are not, and the secrecy of their preshared keys.

#![allow(clippy::unwrap_used, reason = "a test")]

use kubernetes::{
    PeerObject, decode_peer,
    peer::{Peer, PeerSpec, Secret},
};
use mesh::{PresharedKeySource, SecretRef};
use serde_json::{Value, json};

const KEY: &str = "rEzswSMXSD5vdP615McU88sC0C8vm29cjELTG+RKVK4=";
const PSK: &str = "X5iEdx2IJEvQ3kYRZ09X33bW1Q4IMvQiaL5X1LuCiqQ=";

fn object(change: impl FnOnce(&mut Value)) -> PeerObject {
    let mut spec = json!({ "allowedIPs": ["10.5.0.1/32"], "publicKey": KEY });
    change(&mut spec);
    let text = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": "p" }, "spec": spec,
    });
    serde_json::from_value(text).unwrap()
}

fn accept(change: impl FnOnce(&mut Value)) -> mesh::Peer {
    let (peer, problems) = decode_peer(&object(change));
    assert_eq!(problems, []);
    peer.unwrap()
}

/// Expects that the peer is left out, with one problem that names all of this.
fn refuse(change: impl FnOnce(&mut Value), named: &[&str]) {
    let (peer, problems) = decode_peer(&object(change));
    assert_eq!(peer, None);
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!((problem.reason, &problem.object), ("InvalidPeer", &mesh::Object::Peer("p".to_owned())));
    for name in named {
        assert!(problem.message.contains(name), "{name:?} is not in {problem}");
    }
}

#[test]
fn a_whole_peer() {
    let peer = accept(|spec| {
        spec["allowedIPs"] = json!(["10.5.0.1/32", "10.6.0.7/24", "fd00::/64"]);
        spec["endpoint"] = json!({ "dnsOrIP": { "ip": "192.0.2.7" }, "port": 51821 });
        spec["persistentKeepalive"] = json!(21);
        spec["presharedKey"] = json!(PSK);
    });
    assert_eq!(
        (peer.name.as_str(), peer.key.to_string().as_str(), peer.persistent_keepalive),
        ("p", KEY, 21)
    );
    let ips: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.5.0.1/32", "10.6.0.7/24", "fd00::/64"]);
    assert_eq!(peer.endpoint.unwrap().to_string(), "192.0.2.7:51821");
    assert_eq!(peer.preshared_key, Some(PresharedKeySource::Inline(PSK.parse().unwrap())));
}

#[test]
fn endpoints() {
    let endpoint = |dns_or_ip: Value| {
        let peer = accept(|spec| spec["endpoint"] = json!({ "dnsOrIP": dns_or_ip, "port": 4000 }));
        peer.endpoint.unwrap().to_string()
    };
    assert_eq!(endpoint(json!({ "ip": "2001:db8::1" })), "[2001:db8::1]:4000");
    assert_eq!(endpoint(json!({ "dns": "vpn.example.com" })), "vpn.example.com:4000");
    assert_eq!(endpoint(json!({ "dns": "x.example.com", "ip": "192.0.2.8" })), "x.example.com:4000");
    assert_eq!(endpoint(json!({ "dns": "", "ip": "192.0.2.8" })), "192.0.2.8:4000");
    assert_eq!(endpoint(json!({ "dns": "192.0.2.9" })), "192.0.2.9:4000");

    for (endpoint, named) in [
        (json!({ "dnsOrIP": {}, "port": 1 }), "dnsOrIP is empty"),
        (json!({ "port": 1 }), "dnsOrIP is empty"),
        (json!({ "dnsOrIP": { "dns": "UPPER" }, "port": 1 }), "dns is \"UPPER\""),
        (json!({ "dnsOrIP": { "dns": "2001:db8::1" }, "port": 1 }), "dns is \"2001"),
        (json!({ "dnsOrIP": { "ip": "a.example" }, "port": 1 }), "ip is \"a.example\""),
        (json!({ "dnsOrIP": { "ip": "x", "dns": "a.example" }, "port": 1 }), "ip is \"x\""),
        (json!({ "dnsOrIP": { "ip": "192.0.2.8" }, "port": 0 }), "port is 0"),
        (json!({ "dnsOrIP": { "ip": "192.0.2.8" }, "port": 65536 }), "port is 65536"),
        (json!({ "dnsOrIP": { "ip": "192.0.2.8" } }), "port is 0"),
    ] {
        refuse(|spec| spec["endpoint"] = endpoint, &[named]);
    }
}

#[test]
fn what_is_wrong_is_listed_whole() {
    refuse(|spec| spec["allowedIPs"] = json!(["10.5.0.9"]), &["\"10.5.0.9\"", "write 10.5.0.9/32"]);
    refuse(|spec| spec["allowedIPs"] = json!(["nonsense", "10.5.0.10/32"]), &["\"nonsense\""]);
    refuse(|spec| spec["allowedIPs"] = json!(["010.5.0.1/32"]), &["\"010.5.0.1/32\""]);
    refuse(|spec| spec["allowedIPs"] = json!([]), &["allowedIPs is empty"]);
    refuse(|spec| spec["persistentKeepalive"] = json!(-1), &["persistentKeepalive is -1"]);
    refuse(|spec| spec["persistentKeepalive"] = json!(65_536), &["persistentKeepalive is 65536"]);
    refuse(|spec| spec["publicKey"] = json!("c2hvcnQ="), &["publicKey", "32 bytes", "has 5"]);
    refuse(|spec| *spec = json!({}), &["allowedIPs is empty", "publicKey"]);
    refuse(|spec| *spec = json!({ "allowedIPs": "10.5.0.1/32" }), &["spec cannot be read"]);
    refuse(|spec| *spec = Value::Null, &["spec cannot be read"]);
    refuse(
        |spec| {
            spec["allowedIPs"] = json!(["x"]);
            spec["persistentKeepalive"] = json!(-5);
            spec["publicKey"] = json!("y");
            spec["endpoint"] = json!({ "dnsOrIP": {}, "port": 0 });
        },
        &["\"x\"", "-5", "\"y\"", "dnsOrIP is empty", "port is 0"],
    );
    let without_spec: PeerObject = serde_json::from_value(json!({ "metadata": { "name": "p" } })).unwrap();
    assert_eq!(decode_peer(&without_spec).1[0].reason, "InvalidPeer");
}

#[test]
fn a_key_from_a_yaml_block_ends_in_a_newline() {
    let peer = accept(|spec| {
        spec["publicKey"] = json!(format!("{KEY}\n"));
        spec["presharedKey"] = json!(format!("{PSK}\n"));
    });
    assert_eq!(peer.key.to_string(), KEY);
    assert!(peer.preshared_key.is_some());
}

#[test]
fn a_wrong_preshared_key_is_left_out_and_not_shown() {
    let (peer, problems) = decode_peer(&object(|spec| spec["presharedKey"] = json!("hunter2")));
    assert_eq!(peer.unwrap().preshared_key, None);
    assert_eq!(problems[0].reason, "InvalidPresharedKey");
    assert!(!problems[0].message.contains("hunter2"), "{}", problems[0]);
}

#[test]
fn a_preshared_key_can_be_in_a_secret() {
    for (written, key) in
        [(json!({ "name": "s" }), "presharedKey"), (json!({ "name": "s", "key": "k" }), "k")]
    {
        let peer = accept(|spec| spec["presharedKeySecretRef"] = written);
        assert_eq!(peer.secret(), Some(&SecretRef::new("s", key).unwrap()));
        assert_eq!(
            peer.shared_key(&Default::default()),
            None,
            "it is not known, which is not the same as none"
        );
    }
    refuse(
        |spec| spec["presharedKeySecretRef"] = json!({ "name": "../x" }),
        &["presharedKeySecretRef", "\"../x\""],
    );
    refuse(|spec| spec["presharedKeySecretRef"] = json!({ "name": "s", "key": "a/b" }), &["\"a/b\""]);
    refuse(|spec| spec["presharedKeySecretRef"] = json!({}), &["the name of a Secret is"]);
}

#[test]
fn a_reference_takes_precedence_over_a_key_in_the_object() {
    let (peer, problems) = decode_peer(&object(|spec| {
        spec["presharedKey"] = json!(PSK);
        spec["presharedKeySecretRef"] = json!({ "name": "s" });
    }));
    assert_eq!(peer.unwrap().secret().unwrap().name(), "s");
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!(problem.reason, "AmbiguousPresharedKey");
    assert!(problem.message.contains("remove presharedKey") && !problem.message.contains(PSK), "{problem}");
}

#[test]
fn preshared_keys_stay_out_of_debug() {
    let object = object(|spec| spec["presharedKey"] = json!(PSK));
    let spec = PeerSpec { preshared_key: Secret::new(PSK), ..PeerSpec::default() };
    let whole = Peer::new("p", spec.clone());
    for shown in [
        format!("{object:?}"),
        format!("{spec:?}"),
        format!("{whole:?}"),
        format!("{:?}", decode_peer(&object)),
    ] {
        assert!(!shown.contains(PSK) && !shown.contains("X5iEdx2"), "{shown}");
    }
    // It is still there for whoever writes the object.
    assert_eq!(serde_json::to_value(&spec).unwrap()["presharedKey"], PSK);
}
