//! What an agent may not write, and where.

use super::*;

/// Their number bounds the time that an API server takes.
#[test]
fn a_node_with_very_many_annotations_is_refused_unread() {
    let policies = Policies::read();
    let of = |count: usize| {
        let annotations: BTreeMap<String, &str> =
            (0..count).map(|index| (format!("example.com/{index}"), "")).collect();
        with(&node(), |node| node["metadata"]["annotations"] = json!(annotations))
    };
    let words = "the Node has more than 1000 annotations";
    for user in [agent_on(NODE), kubelet()] {
        let [most, over] = [of(999), of(1001)];
        policies.allows(&user, &most, &annotated(&most, annotations::KEY, Some("x")));
        policies.refuses(&user, &over, &annotated(&over, annotations::KEY, Some("x")), words);
        policies.refuses(&user, &most, &annotated(&over, annotations::LOCATION, Some("x")), words);
        policies.refuses(&user, &over, &most, words);
        // A heartbeat goes on.
        policies.allows(&kubelet(), &over, &with(&over, |node| node["status"] = json!({})));
    }
}

/// Each value of a Node that has all fields: changed, removed, and something beside it that no version has yet.
#[test]
fn an_agent_changes_nothing_but_annotations() {
    let policies = Policies::read();
    let agent = agent_on(NODE);
    let old = node();
    let mut all = Vec::new();
    pointers(&old, "", &mut all);
    let by_the_api = [
        "/apiVersion",
        "/kind",
        "/metadata/generation",
        "/metadata/managedFields",
        "/metadata/resourceVersion",
    ];
    let allowed = |pointer: &str| {
        pointer == "/metadata/name" // The own Node is known by it.
            || pointer.starts_with("/metadata/annotations")
            || by_the_api.iter().any(|allowed| pointer.starts_with(allowed))
    };
    let mut refused = 0;
    for pointer in &all {
        let changed = with(&old, |node| *node.pointer_mut(pointer).unwrap() = json!("something else"));
        let removed = with(&old, |node| remove(node, pointer));
        let mut changes = vec![changed, removed];
        if let Value::Object(_) = old.pointer(pointer).unwrap() {
            changes.push(with(&old, |node| node.pointer_mut(pointer).unwrap()["something"] = json!("new")));
        }
        if pointer == "/metadata" || allowed(pointer) {
            continue;
        }
        let field: Vec<&str> = pointer.split('/').collect();
        let field =
            if field[1] == "metadata" { format!("metadata.{}", field[2]) } else { field[1].to_owned() };
        for new in changes {
            policies.refuses(
                &agent,
                &old,
                &new,
                &format!("writes annotations only, and would change {field}"),
            );
            // The other way round: a field that was not there.
            policies.refuses(&agent, &new, &old, &field);
            assert!(policies.update(&admin(), &old, &new).is_empty(), "{pointer}");
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
    let unknown = [
        with(&old, |node| node["something"] = json!({})),
        with(&old, |node| node["metadata"]["something"] = json!({})),
    ];
    for new in unknown {
        policies.refuses(&agent, &old, &new, "something");
    }
    for pointer in by_the_api {
        policies.allows(&agent, &old, &with(&old, |node| *node.pointer_mut(pointer).unwrap() = json!("new")));
    }
    let several = with(&old, |node| {
        node["spec"]["unschedulable"] = json!(false);
        node["metadata"]["labels"] = json!({});
    });
    policies.refuses(&agent, &old, &several, "would change spec, metadata.labels");
}

#[test]
fn an_agent_writes_its_own_node() {
    let policies = Policies::read();
    let (old, new) = (node(), annotated(&node(), annotations::LAST_SEEN, Some("1700000030")));
    policies.refuses(&agent_on("b"), &old, &new, "the agent of node b writes only its own Node");
    policies.allows(&agent_on(NODE), &old, &new);
    for unbound in [
        account(json!({})),
        account(json!({ "authentication.kubernetes.io/credential-id": ["JTI=1"] })),
        json!({ "username": "system:serviceaccount:kube-system:kilo" }),
    ] {
        policies.refuses(&unbound, &old, &new, "the token of the service account kilo is not bound to a Pod");
    }
    // An API server that does not say the node: still only the annotations of agents.
    let without_node = account(json!({ "authentication.kubernetes.io/pod-name": ["kilo-x2x9b"] }));
    policies.allows(&without_node, &old, &new);
    for key in annotations::OF_OPERATOR {
        policies.refuses(&without_node, &old, &annotated(&old, key, None), key);
    }
    policies.refuses(&without_node, &old, &with(&old, |node| node["spec"] = json!({})), "spec");
    for (object, old) in [(Some(&new), None), (None, Some(&old))] {
        for (user, refused) in [(agent_on(NODE), true), (admin(), false), (kubelet(), object.is_some())] {
            let refusals = policies.refusals(Request { object, old, params: None, user: Some(&user) });
            assert_eq!(!refusals.is_empty(), refused, "{refusals:?}");
            let words = "an agent of Kilo neither creates nor deletes Nodes";
            assert!(user != agent_on(NODE) || refusals[0].ends_with(words), "{refusals:?}");
        }
    }
}
