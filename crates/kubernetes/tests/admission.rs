//! What the webhook answers: which Peers are refused and why, and which requests cannot be answered.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use kubernetes::{
    PodCidrSource, Update,
    admission::{Request, Surroundings, Verdict, judge},
    decode_node, decode_peer,
    watch::{WatchedNode, WatchedPeer},
};
use mesh::{Object, Problem};
use proptest::prelude::*;
use serde_json::{Value, json};

const KEY: &str = "rEzswSMXSD5vdP615McU88sC0C8vm29cjELTG+RKVK4=";
const OTHER_KEY: &str = "9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=";
const NODE_KEY: &str = "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=";
const PSK: &str = "X5iEdx2IJEvQ3kYRZ09X33bW1Q4IMvQiaL5X1LuCiqQ=";

fn peer(name: &str, key: &str, allowed_ips: &[&str]) -> Value {
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": name },
        "spec": { "allowedIPs": allowed_ips, "publicKey": key },
    })
}

fn review(operation: &str, object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "operation": operation, "userInfo": { "username": "someone" },
            "kind": { "group": "kilo.squat.ai", "version": "v1alpha1", "kind": "Peer" },
            "resource": { "group": "kilo.squat.ai", "version": "v1alpha1", "resource": "peers" },
            "object": object, "oldObject": old,
        },
    })
}

/// Node `a`, Peer `p`, and a Peer that makes no sense.
fn cluster() -> Surroundings {
    let mut surroundings = Surroundings::unknown("nothing has been read");
    let node = json!({
        "metadata": { "name": "a", "annotations": {
            "kilo.squat.ai/key": NODE_KEY, "kilo.squat.ai/internal-ip": "10.1.0.1/16", "kilo.squat.ai/wireguard-ip": "10.4.0.1/16",
        } },
        "spec": { "podCIDR": "10.42.1.0/24" },
    });
    let (node, problems) = decode_node(&serde_json::from_value(node).unwrap(), "region", PodCidrSource::Node);
    let watched = WatchedNode { node: Arc::new(node), problems, own: None };
    surroundings.take(Update::Node("a".to_owned(), Some(watched)));
    for object in [peer("p", OTHER_KEY, &["10.5.0.1/32"]), peer("broken", KEY, &["10.9.0.1"])] {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let (peer, problems) = decode_peer(&serde_json::from_value(object).unwrap());
        surroundings.take(Update::Peer(name, Some(WatchedPeer { peer, problems })));
    }
    surroundings.take(Update::Synced);
    surroundings
}

fn verdict(review: &Value, surroundings: &Surroundings) -> Verdict {
    judge(&Request::decode(review.to_string().as_bytes()).unwrap(), surroundings).unwrap()
}

fn created(object: &Value) -> Verdict {
    verdict(&review("CREATE", object, &Value::Null), &cluster())
}

/// Expects as many faults as there are texts, each with its text.
fn refused(verdict: &Verdict, named: &[&str]) {
    assert_eq!(verdict.faults.len(), named.len(), "{verdict:?}");
    for (fault, named) in verdict.faults.iter().zip(named) {
        assert!(fault.contains(named), "{named:?} is not in {fault:?}");
    }
}

fn warned(verdict: &Verdict, named: &[&str]) {
    assert!(verdict.is_allowed(), "{verdict:?}");
    assert_eq!(verdict.warnings.len(), named.len(), "{verdict:?}");
    for (warning, named) in verdict.warnings.iter().zip(named) {
        assert!(warning.contains(named), "{named:?} is not in {warning:?}");
    }
}

#[test]
fn a_good_peer_is_allowed() {
    assert_eq!(created(&peer("new", KEY, &["10.5.0.2/32", "fd05::2/128"])), Verdict::default());
    // The same Peer again is no conflict with itself.
    assert_eq!(created(&peer("p", OTHER_KEY, &["10.5.0.1/32"])), Verdict::default());
}

#[test]
fn what_agents_would_leave_out_is_refused() {
    refused(
        &created(&peer("new", "short", &["10.5.0.2", "nonsense"])),
        &["write 10.5.0.2/32", "nonsense", "publicKey"],
    );
    refused(&created(&json!({ "metadata": { "name": "new" } })), &["its spec cannot be read"]);
    refused(&created(&json!({ "metadata": 7 })), &["it cannot be read"]);
    let mut secret = peer("new", KEY, &["10.5.0.2/32"]);
    secret["spec"]["presharedKey"] = json!("hunter2");
    let verdict = created(&secret);
    refused(&verdict, &["spec.presharedKey is no key"]);
    assert!(!verdict.faults[0].contains("hunter2"));
    secret["spec"]["presharedKey"] = json!(PSK);
    secret["spec"]["presharedKeySecretRef"] = json!({ "name": "laptop" });
    let verdict = created(&secret);
    refused(&verdict, &["both presharedKey and presharedKeySecretRef"]);
    assert!(!verdict.faults[0].contains(PSK));
}

#[test]
fn what_agents_read_but_others_do_not_is_refused() {
    refused(
        &created(&peer("new", KEY, &["::ffff:10.5.0.2/128", "192.0.2.0/08"])),
        &["write it as IPv4", "\"192.0.2.0/08\""],
    );
    let mut endpoint = peer("new", KEY, &["10.5.0.2/32"]);
    endpoint["spec"]["endpoint"] = json!({ "dnsOrIP": { "ip": "::ffff:192.0.2.1" }, "port": 1 });
    refused(&created(&endpoint), &["dnsOrIP.ip is \"::ffff:192.0.2.1\""]);
}

#[test]
fn conflicts_name_the_other_object() {
    for (allowed_ip, named) in [
        ("10.42.1.9/32", "the pod subnet 10.42.1.0/24 of node a"),
        ("10.1.0.0/24", "the internal address 10.1.0.1/32 of node a"),
        ("10.4.7.7/32", "the WireGuard subnet 10.4.0.0/16 of node a"),
        ("10.5.0.0/24", "the allowed IP 10.5.0.1/32 of peer p"),
    ] {
        refused(&created(&peer("new", KEY, &["10.8.0.1/32", allowed_ip])), &[named]);
    }
    refused(&created(&peer("new", NODE_KEY, &["10.8.0.1/32"])), &["node a has the same public key"]);
    refused(&created(&peer("new", OTHER_KEY, &["10.8.0.1/32"])), &["peer p has the same public key"]);
    // One that is left out by all agents has nothing that could be taken from it.
    assert!(created(&peer("new", KEY, &["10.9.0.1/32"])).is_allowed());
}

#[test]
fn of_many_conflicts_some_are_told() {
    let mut surroundings = cluster();
    for number in 0..20 {
        let object = peer(&format!("p{number:02}"), OTHER_KEY, &[&format!("10.77.0.{number}/32")]);
        let (peer, problems) = decode_peer(&serde_json::from_value(object.clone()).unwrap());
        let name = format!("p{number:02}");
        surroundings.take(Update::Peer(name, Some(WatchedPeer { peer, problems })));
    }
    let verdict =
        verdict(&review("CREATE", &peer("new", KEY, &["10.77.0.0/16"]), &Value::Null), &surroundings);
    assert_eq!(verdict.faults.len(), 9, "{verdict:?}");
    assert_eq!(verdict.faults[8], "and 12 more of this kind");
}

#[test]
fn what_was_there_before_is_not_held_against_an_update() {
    let surroundings = cluster();
    let update = |object: &Value, old: &Value| verdict(&review("UPDATE", object, old), &surroundings);
    // A label on a Peer that is all wrong.
    let old = peer("x", "short", &["10.5.0.1/32", "10.9.0.1"]);
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    warned(&update(&labelled, &old), &["10.9.0.1", "publicKey"]);
    // When its specification changes, the result has to be right.
    refused(&update(&peer("x", "short", &["10.5.0.1/32"]), &old), &["publicKey"]);
    // Old overlaps may stay, new ones may not be added.
    let old = peer("x", NODE_KEY, &["10.5.0.1/32"]);
    let more = |ip| peer("x", NODE_KEY, &["10.5.0.1/32", ip]);
    warned(&update(&more("10.8.0.1/32"), &old), &["node a has the same public key", "of peer p"]);
    refused(&update(&more("10.42.1.1/32"), &old), &["the pod subnet"]);
    refused(&update(&peer("x", OTHER_KEY, &["10.5.0.1/32"]), &old), &["peer p has the same public key"]);
    // On a creation there is nothing before, whatever is sent along.
    refused(&verdict(&review("CREATE", &old, &old), &surroundings), &["node a has", "of peer p"]);
}

#[test]
fn while_the_cluster_is_not_known_overlaps_are_let_through() {
    let unknown = Surroundings::unknown("the API does not answer");
    let request = |object: &Value| review("CREATE", object, &Value::Null);
    warned(
        &verdict(&request(&peer("new", KEY, &["10.42.1.9/32"])), &unknown),
        &["not checked for now: the API does not answer"],
    );
    refused(&verdict(&request(&peer("new", KEY, &["10.5.0.2"])), &unknown), &["write 10.5.0.2/32"]);

    let problem = || Problem::new(Object::Host, "Unreachable", "the connection is gone");
    for lost in [Update::Broken(problem()), Update::Access(vec![problem()])] {
        let mut surroundings = cluster();
        surroundings.take(lost);
        let overlapping = request(&peer("new", KEY, &["10.42.1.9/32"]));
        warned(
            &verdict(&overlapping, &surroundings),
            &["the connection is gone", "the pod subnet 10.42.1.0/24 of node a"],
        );
        surroundings.take(Update::Synced);
        surroundings.take(Update::Access(Vec::new()));
        refused(&verdict(&overlapping, &surroundings), &["the pod subnet"]);
    }
}

#[test]
fn only_what_is_stored_as_a_peer_is_judged() {
    let bad = peer("new", "short", &[]);
    for operation in ["DELETE", "CONNECT"] {
        let request = review(operation, &Value::Null, &bad);
        assert_eq!(verdict(&request, &cluster()), Verdict::default(), "{operation}");
    }
    warned(&verdict(&review("RENAME", &bad, &Value::Null), &cluster()), &["CREATE and UPDATE only"]);
    let mut request = review("CREATE", &bad, &Value::Null);
    request["request"]["resource"] = json!({ "group": "apps", "version": "v1", "resource": "deployments" });
    warned(&verdict(&request, &cluster()), &["not deployments.apps"]);
    // Without a resource the kind says it.
    request["request"]["resource"] = Value::Null;
    assert!(!verdict(&request, &cluster()).is_allowed());
    request["request"]["kind"] = Value::Null;
    assert!(verdict(&request, &cluster()).is_allowed());
}

#[test]
fn requests_that_cannot_be_answered_say_why() {
    let whole = review("CREATE", &peer("new", KEY, &[]), &Value::Null);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut changed = whole.clone();
        change(&mut changed);
        changed.to_string()
    };
    let v1beta1 = changed(&|review| review["apiVersion"] = json!("admission.k8s.io/v1beta1"));
    let without_request = changed(&|review| review["request"] = Value::Null);
    let without_uid = changed(&|review| review["request"]["uid"] = json!(""));
    let wrong_type = changed(&|review| review["request"]["operation"] = json!(7));
    for (body, named) in [
        ("", "it has no body"),
        ("  \n", "it has no body"),
        ("peers: []", "not JSON"),
        ("{", "not JSON"),
        ("[]", "only admission.k8s.io/v1 AdmissionReview is supported"),
        (&v1beta1, "admission.k8s.io/v1beta1"),
        (&without_request, "it has no request"),
        (&without_uid, "request.uid is missing"),
        (&wrong_type, "invalid type"),
    ] {
        let error = Request::decode(body.as_bytes()).err().unwrap().to_string();
        assert!(error.contains(named), "{named:?} is not in {error:?}");
    }
    let without_object = review("CREATE", &Value::Null, &Value::Null);
    let request = Request::decode(without_object.to_string().as_bytes()).unwrap();
    let error = judge(&request, &cluster()).unwrap_err().to_string();
    assert!(error.contains("request.object is missing in a CREATE"), "{error}");
}

#[test]
fn answers_are_reviews() {
    let request = |name: &str| {
        let object = peer(name, KEY, &[]);
        Request::decode(review("CREATE", &object, &Value::Null).to_string().as_bytes()).unwrap()
    };
    let allowed = request("new").answer(&Verdict::default());
    let expected = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": { "uid": "u-1", "allowed": true },
    });
    assert_eq!(allowed, expected);
    let verdict = Verdict { faults: vec!["a".to_owned(), "b".to_owned()], warnings: vec!["ä".repeat(300)] };
    let response = request("new").answer(&verdict)["response"].clone();
    assert_eq!(response["status"]["message"], "peer new cannot be used: a; b");
    assert_eq!((&response["status"]["code"], &response["allowed"]), (&json!(422), &json!(false)));
    assert_eq!(response["warnings"][0].as_str().unwrap().chars().count(), 250);
}

#[test]
fn nothing_secret_is_in_an_answer() {
    let mut object = peer("new", "short", &["10.42.1.0/24"]);
    object["spec"]["presharedKey"] = json!(PSK);
    let request = Request::decode(review("CREATE", &object, &Value::Null).to_string().as_bytes()).unwrap();
    let answer = request.answer(&judge(&request, &cluster()).unwrap()).to_string();
    assert!(!answer.contains("X5iEdx2"), "{answer}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is sent is answered or refused with a reason.
    #[test]
    fn no_request_is_too_odd(at in any::<proptest::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 0..8)) {
        let good = review("UPDATE", &peer("new", KEY, &["10.5.0.2/32"]), &peer("new", KEY, &[])).to_string();
        let mut body = good.into_bytes();
        let at = at.index(body.len());
        let end = (at + bytes.len()).min(body.len());
        body.splice(at..end, bytes);
        match Request::decode(&body).and_then(|request| judge(&request, &cluster()).map(|verdict| request.answer(&verdict))) {
            Ok(answer) => prop_assert_eq!(&answer["kind"], "AdmissionReview"),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
