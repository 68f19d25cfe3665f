//! The Events that an agent may create.

use super::*;

/// What [`report`] creates passes; anything else of an Event that misleads does not.
#[tokio::test]
async fn an_agent_reports_in_its_own_name() {
    let policies = Policies::read();
    let api = TestApi::new().await;
    api.apply(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE } }));
    api.apply(peer("p", "10.5.0.1/32"));
    let client = api.client().await;
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: NODE.to_owned() };
    let objects = REPORTED_KINDS.map(|kind| match kind {
        "Node" => Object::Node(NODE.to_owned()),
        "Peer" => Object::Peer("p".to_owned()),
        kind => Object::Foreign { kind, name: "x".to_owned() },
    });
    for object in objects {
        report(&client, &reporter, &Problem::new(object, "SomeReason", "is wrong")).await.unwrap();
    }
    let events = api.server.list("events.events.k8s.io");
    assert_eq!(events.len(), REPORTED_KINDS.len());
    let policy = policies.of(true).next().unwrap();
    let refusals = |user: &Value, event: &Value| {
        policy.refusals(&Request { object: Some(event), user: Some(user), ..Request::default() })
    };
    for event in &events {
        assert!(refusals(&agent_on(NODE), event).is_empty(), "{event}");
        for (pointer, value) in [
            ("/metadata/namespace", "kube-system"),
            ("/reportingController", "kubelet"),
            ("/type", "Normal"),
            ("/regarding/kind", "Pod"),
        ] {
            let forged = with(event, |event| *event.pointer_mut(pointer).unwrap() = json!(value));
            let removed = with(event, |event| remove(event, pointer));
            assert!(
                refusals(&agent_on(NODE), &forged)[0].starts_with("an agent of Kilo reports Events of type")
            );
            assert!(!refusals(&agent_on(NODE), &removed).is_empty(), "{pointer}");
            assert!(refusals(&kubelet(), &forged).is_empty(), "{pointer}");
        }
        let of_another = with(event, |event| event["reportingInstance"] = json!("b"));
        let refused = refusals(&agent_on(NODE), &of_another);
        assert!(refused[0].contains("reports Events in its own name only"), "{refused:?}");
        assert!(refusals(&account(json!({})), &of_another).is_empty(), "the token does not say");
    }
}
