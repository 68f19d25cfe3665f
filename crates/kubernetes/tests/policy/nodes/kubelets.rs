//! What a kubelet may and may not write.

use super::*;

#[test]
fn a_kubelet_does_its_work() {
    let policies = Policies::read();
    let old = node();
    let create = |object: &Value| {
        policies.refusals(Request { object: Some(object), user: Some(&kubelet()), ..Request::default() })
    };
    let heartbeat = with(&old, |node| node["status"]["conditions"][0]["lastHeartbeatTime"] = json!("now"));
    let labelled =
        with(&old, |node| node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("eu-2"));
    let schedulable = with(&old, |node| {
        let pods = ["podCIDR", "podCIDRs"].map(|field| (field.to_owned(), node["spec"][field].clone()));
        node["spec"] = Value::Object(pods.into_iter().collect());
    });
    for new in [heartbeat, labelled, schedulable] {
        policies.allows(&kubelet(), &old, &new);
    }
    let mut new = json!({ "metadata": { "name": NODE, "labels": { annotations::REGION_LABEL: "eu" } } });
    assert!(create(&new).is_empty());
    new["metadata"]["annotations"] =
        json!({ "volumes.kubernetes.io/controller-managed-attach-detach": "true" });
    assert!(create(&new).is_empty());
    for key in annotations::OF_OPERATOR {
        let refusals = create(&annotated(&new, key, Some("x")));
        assert!(matches!(refusals.as_slice(), [one] if one.contains(key)), "{refusals:?}");
    }
    // No annotations and no labels before, or after.
    let bare = with(&old, |node| node["metadata"] = json!({ "name": NODE }));
    policies.refuses(&kubelet(), &old, &bare, "a kubelet may not write annotations of Kilo");
    let bare = with(&bare, |node| node["metadata"]["annotations"] = json!({}));
    policies.allows(&kubelet(), &bare, &annotated(&bare, annotations::KEY, Some("x")));
}

/// Neither at its creation nor later, and not by taking them away either.
#[test]
fn a_kubelet_does_not_choose_its_pod_subnets() {
    let policies = Policies::read();
    let words = "a kubelet may not choose the pod subnets of its node";
    let old = node();
    let without = with(&old, |node| drop(node.as_object_mut().unwrap().remove("spec")));
    let empty = with(&old, |node| node["spec"] = json!({}));
    let one = with(&old, |node| node["spec"]["podCIDR"] = json!("10.100.0.0/14"));
    let all = with(&old, |node| node["spec"]["podCIDRs"] = json!(["10.100.0.0/14"]));
    for (before, after) in [
        (&empty, &old),
        (&without, &old),
        (&old, &empty),
        (&old, &without),
        (&old, &one),
        (&old, &all),
        (&empty, &one),
    ] {
        policies.refuses(&kubelet(), before, after, words);
        policies.allows(&admin(), before, after);
    }
    policies.allows(&kubelet(), &without, &empty);
    for (spec, refused) in [
        (json!({ "podCIDR": "10.100.0.0/14" }), true),
        (json!({ "podCIDRs": ["10.100.0.0/14"] }), true),
        (json!({ "providerID": "cloud://a" }), false),
    ] {
        let new = json!({ "metadata": { "name": NODE }, "spec": spec });
        let user = kubelet();
        let refusals =
            policies.refusals(Request { object: Some(&new), user: Some(&user), ..Request::default() });
        assert_eq!(refusals.iter().any(|refusal| refusal.contains(words)), refused, "{spec}: {refusals:?}");
    }
}

#[test]
fn a_kubelet_does_not_move_its_node() {
    let policies = Policies::read();
    let old = annotated(&node(), annotations::LOCATION, None);
    for label in [annotations::REGION_LABEL, annotations::OLD_REGION_LABEL] {
        let moved = with(&old, |node| node["metadata"]["labels"][label] = json!("us"));
        let removed =
            with(&old, |node| drop(node["metadata"]["labels"].as_object_mut().unwrap().remove(label)));
        let bare = with(&old, |node| drop(node["metadata"].as_object_mut().unwrap().remove("labels")));
        for (before, after) in
            [(&old, &moved), (&old, &removed), (&removed, &old), (&old, &bare), (&bare, &old)]
        {
            let words = "a kubelet may not move a node to another location of Kilo: ";
            policies.refuses(&kubelet(), before, after, words);
            policies.allows(&admin(), before, after);
            // The annotation decides, and a kubelet cannot remove it.
            let [before, after] =
                [before, after].map(|node| annotated(node, annotations::LOCATION, Some("x")));
            policies.allows(&kubelet(), &before, &after);
        }
        policies.refuses(&kubelet(), &old, &moved, label);
    }
}
