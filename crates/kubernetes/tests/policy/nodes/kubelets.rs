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
    let schedulable = with(&old, |node| node["spec"] = json!({}));
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
