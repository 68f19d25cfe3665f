//! The objects by which other CNIs give pod subnets: what they mean, and how they are joined with Nodes.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, sync::Arc};

use kubernetes::{
    NodeObject, PodCidrSource,
    decode::{decode_block_affinity, decode_cilium_node},
    decode_node,
    object::{BlockAffinityObject, CiliumNodeObject},
    pod_cidrs::join::{Grant, Join, Joined, join_once},
    watch::WatchedNode,
};
use mesh::{Node, Object, Problem};
use proptest::prelude::*;
use serde_json::{Value, json};

const KEY: &str = "9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=";

fn cilium(spec: Value) -> Grant {
    let object = json!({ "metadata": { "name": "a" }, "spec": spec });
    decode_cilium_node(&serde_json::from_value::<CiliumNodeObject>(object).unwrap())
}

fn calico(spec: Value) -> Grant {
    let object = json!({ "metadata": { "name": "a-block" }, "spec": spec });
    decode_block_affinity(&serde_json::from_value::<BlockAffinityObject>(object).unwrap())
}

fn subnets(grant: &Grant) -> String {
    grant.subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Expects nothing wrong and these subnets.
fn accept(grant: &Grant, node: &str, expected: &str) {
    assert_eq!(
        (grant.node.as_str(), subnets(grant).as_str(), grant.problems.as_slice()),
        (node, expected, &[][..])
    );
}

/// Expects one problem of this reason whose message has this in it, and these subnets.
fn refuse(grant: &Grant, reason: &str, words: &str, expected: &str) {
    let [problem] = grant.problems.as_slice() else { panic!("{grant:?}") };
    assert_eq!((problem.reason, subnets(grant).as_str()), (reason, expected));
    assert!(problem.message.contains(words), "{problem}");
    assert!(matches!(problem.object, Object::Foreign { .. }), "{problem}");
}

#[test]
fn what_cilium_gives() {
    accept(
        &cilium(json!({ "ipam": { "podCIDRs": ["10.0.1.0/24", "fd00:1::/64"] } })),
        "a",
        "10.0.1.0/24 fd00:1::/64",
    );
    let pools = json!({ "allocated": [
        { "pool": "default", "cidrs": ["10.0.1.0/27", "10.0.1.64/27"] }, { "pool": "empty" }, { "cidrs": ["fd00:1::/96"] },
    ] });
    accept(&cilium(json!({ "ipam": { "pools": pools } })), "a", "10.0.1.0/27 10.0.1.64/27 fd00:1::/96");
    for nothing in
        [json!({}), json!({ "ipam": {} }), json!({ "ipam": { "podCIDRs": [] } }), json!(null), json!("x")]
    {
        accept(&cilium(nothing), "a", "");
    }
    let wrong = json!({ "ipam": { "podCIDRs": ["10.0.1.0", "10.0.2.0/24"] } });
    refuse(
        &cilium(wrong),
        "InvalidPodCIDR",
        r#"spec.ipam.podCIDRs holds "10.0.1.0", no CIDR"#,
        "10.0.2.0/24",
    );
    refuse(&cilium(json!({ "ipam": { "podCIDRs": [5] } })), "InvalidPodCIDR", "holds 5, no CIDR", "");
    refuse(&cilium(json!({ "ipam": { "podCIDRs": "x" } })), "InvalidPodCIDR", "no list of CIDRs", "");
}

#[test]
fn what_calico_gives() {
    let affinity = |state: &str, deleted: Value, more: Value| {
        let mut spec = json!({ "cidr": "10.244.1.0/26", "node": "a", "state": state, "deleted": deleted });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        calico(spec)
    };
    let given = "10.244.1.0/26";
    for deleted in [json!("false"), json!(""), json!(false), json!(null), json!("F")] {
        accept(&affinity("confirmed", deleted, json!({})), "a", given);
    }
    for deleted in [json!("true"), json!(true), json!("T")] {
        accept(&affinity("confirmed", deleted, json!({})), "a", "");
    }
    for state in ["pending", "pendingDeletion", "", "another"] {
        accept(&affinity(state, json!("false"), json!({})), "a", "");
    }
    accept(&affinity("confirmed", json!("false"), json!({ "type": "host" })), "a", given);
    accept(
        &affinity("confirmed", json!("false"), json!({ "type": "virtual", "node": "load-balancer" })),
        "load-balancer",
        "",
    );
    let cidr = |cidr: Value| affinity("confirmed", json!("false"), json!({ "cidr": cidr }));
    accept(&cidr(json!("fd00:1::/122")), "a", "fd00:1::/122");
    refuse(
        &cidr(json!("10.244.1.0/99")),
        "InvalidPodCIDR",
        r#"spec.cidr holds "10.244.1.0/99", no CIDR"#,
        "",
    );
    refuse(&cidr(json!(null)), "InvalidPodCIDR", "holds null", "");
    refuse(&affinity("confirmed", json!("maybe"), json!({})), "InvalidBlockAffinity", "spec.deleted", "");
    refuse(
        &affinity("confirmed", json!("false"), json!({ "node": "" })),
        "InvalidBlockAffinity",
        "spec.node",
        "",
    );
    accept(&calico(json!("x")), "", "");
}

fn watched(name: &str, keepalive: u16) -> WatchedNode {
    let annotations =
        json!({ "kilo.squat.ai/key": KEY, "kilo.squat.ai/persistent-keepalive": keepalive.to_string() });
    let spec = json!({ "podCIDRs": ["10.42.1.0/24"] });
    let object = json!({ "metadata": { "name": name, "annotations": annotations }, "spec": spec });
    let object: NodeObject = serde_json::from_value(object).unwrap();
    let (node, problems) = decode_node(&object, "region", PodCidrSource::Calico);
    WatchedNode { node: Arc::new(node), problems, own: None }
}

fn grant(node: &str, subnets: &[&str]) -> Grant {
    let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
    Grant { node: node.to_owned(), subnets, problems: Vec::new() }
}

/// A join of which both sides are complete.
fn complete() -> Join {
    let mut join = Join::new(PodCidrSource::Calico);
    assert_eq!((join.complete_nodes(), join.complete_grants()), (vec![], vec![]));
    join
}

/// What was told, shortened: `a: SUBNETS [REASONS]`, `no a`, `object x [REASONS]`.
fn told(joined: Vec<Joined>) -> Vec<String> {
    let reasons =
        |problems: &[Problem]| problems.iter().map(|problem| problem.reason).collect::<Vec<_>>().join(", ");
    let text = |joined| match joined {
        Joined::Node(name, None) => format!("no {name}"),
        Joined::Node(name, Some(watched)) => {
            let subnets: Vec<_> = watched.node.pod_subnets.iter().map(ToString::to_string).collect();
            format!("{name}: {} [{}]", subnets.join(" "), reasons(&watched.problems))
        }
        Joined::Object(name, problems) => format!("object {name} [{}]", reasons(&problems)),
    };
    joined.into_iter().map(text).collect()
}

#[test]
fn blocks_come_change_move_and_go() {
    let mut join = complete();
    assert_eq!(told(join.set_node("a", Some(watched("a", 0)))), ["a:  [MissingPodCIDR]"]);
    assert_eq!(told(join.set_node("b", Some(watched("b", 0)))), ["b:  [MissingPodCIDR]"]);
    let first = || Some(grant("a", &["10.1.0.64/26"]));
    assert_eq!(told(join.set_grant("x", first())), ["a: 10.1.0.64/26 []"]);
    assert_eq!(told(join.set_grant("x", first())), [""; 0], "nothing new");
    assert_eq!(
        told(join.set_grant("v6", Some(grant("a", &["fd00::/122"])))),
        ["a: 10.1.0.64/26 fd00::/122 []"]
    );
    assert_eq!(
        told(join.set_grant("z", Some(grant("a", &["10.1.0.0/26"])))),
        ["a: 10.1.0.0/26 10.1.0.64/26 fd00::/122 []"],
        "several are sorted"
    );
    assert_eq!(
        told(join.set_grant("y", Some(grant("a", &["10.1.0.0/26"])))),
        [""; 0],
        "one that is there already changes nothing"
    );
    assert_eq!(told(join.set_grant("z", None)), [""; 0]);
    assert_eq!(told(join.set_grant("y", None)), ["a: 10.1.0.64/26 fd00::/122 []"]);
    assert_eq!(
        told(join.set_grant("x", Some(grant("b", &["10.1.0.64/26"])))),
        ["a: fd00::/122 []", "b: 10.1.0.64/26 []"],
        "it moves"
    );
    assert_eq!(
        told(join.set_grant("x", Some(grant("b", &[])))),
        ["b:  [MissingPodCIDR]"],
        "it is being deleted"
    );
    assert_eq!(told(join.set_grant("x", None)), [""; 0]);
    assert_eq!(told(join.set_node("a", Some(watched("a", 25)))), ["a: fd00::/122 []"]);
    assert_eq!(told(join.set_node("b", None)), ["no b"]);
}

/// Otherwise another subnet would be told with an old heartbeat, which is another one, and make a dead node alive.
#[test]
fn a_node_is_told_with_the_heartbeat_that_was_heard_last() {
    let mut join = complete();
    join.set_node("a", Some(watched("a", 0)));
    join.hear("a", 130);
    join.hear("unknown", 130);
    let joined = join.set_grant("x", Some(grant("a", &["10.1.0.0/26"])));
    let [Joined::Node(_, Some(told))] = joined.as_slice() else { panic!("{joined:?}") };
    assert_eq!(told.node.last_seen, 130);
}

#[test]
fn one_objects_own_order_is_kept() {
    let mut join = complete();
    join.set_node("a", Some(watched("a", 0)));
    let both = grant("a", &["fd00:1::/64", "10.1.0.0/24", "fd00:1::/64"]);
    assert_eq!(told(join.set_grant("a", Some(both))), ["a: fd00:1::/64 10.1.0.0/24 []"]);
}

#[test]
fn what_is_given_to_an_unknown_node_is_a_problem_until_the_node_is_there() {
    let mut join = complete();
    assert_eq!(told(join.set_grant("x", Some(grant("a", &["10.1.0.0/26"])))), ["object x [UnknownNode]"]);
    assert_eq!(told(join.set_grant("empty", Some(grant("a", &[])))), [""; 0]);
    assert_eq!(told(join.set_node("a", Some(watched("a", 0)))), ["a: 10.1.0.0/26 []", "object x []"]);
    assert_eq!(told(join.set_node("a", None)), ["no a", "object x [UnknownNode]"]);
    assert_eq!(told(join.set_grant("x", None)), ["object x []"]);
}

/// Nobody is warned about what is merely not known yet.
#[test]
fn nothing_is_missing_before_all_is_known() {
    let mut join = Join::new(PodCidrSource::Cilium);
    assert_eq!(told(join.set_grant("stray", Some(grant("stray", &["10.1.9.0/24"])))), [""; 0]);
    assert_eq!(told(join.set_node("a", Some(watched("a", 0)))), ["a:  []"]);
    assert_eq!(told(join.set_node("b", Some(watched("b", 0)))), ["b:  []"]);
    assert_eq!(told(join.set_grant("b", Some(grant("b", &["10.1.2.0/24"])))), ["b: 10.1.2.0/24 []"]);
    assert_eq!(told(join.complete_grants()), ["a:  [MissingPodCIDR]"]);
    assert_eq!(told(join.complete_nodes()), ["object stray [UnknownNode]"]);
    assert_eq!((join.complete_grants(), join.complete_nodes()), (vec![], vec![]));
}

/// Who may not read the objects, or has none to read, has what a Go agent has, until there is more to know.
#[test]
fn until_objects_can_be_read_nodes_speak_for_themselves() {
    let mut join = Join::new(PodCidrSource::Cilium);
    assert_eq!(told(join.set_node("a", Some(watched("a", 0)))), ["a:  []"]);
    assert_eq!(told(join.cannot_read_grants()), ["a: 10.42.1.0/24 []"]);
    assert_eq!(told(join.cannot_read_grants()), [""; 0]);
    assert_eq!(told(join.set_node("b", Some(watched("b", 0)))), ["b: 10.42.1.0/24 []"]);
    join.set_grant("b", Some(grant("b", &["10.1.2.0/24"])));
    assert_eq!(told(join.complete_grants()), ["a:  [MissingPodCIDR]", "b: 10.1.2.0/24 []"]);
    assert_eq!(told(join.cannot_read_grants()), [""; 0], "what was read is kept");
    assert_eq!(told(join.set_node("b", Some(watched("b", 25)))), ["b: 10.1.2.0/24 []"]);
}

/// What happens to a join.
#[derive(Debug, Clone)]
enum Event {
    Node(usize, Option<u16>),
    Grant(usize, Option<(usize, Vec<usize>)>),
    NodesComplete,
    GrantsComplete,
    GrantsUnreadable,
}

fn event() -> impl Strategy<Value = Event> {
    let node = (0..4usize, prop::option::of(0..3u16)).prop_map(|(node, state)| Event::Node(node, state));
    let given = (0..5usize, prop::collection::vec(0..6usize, 0..3));
    let grant =
        (0..6usize, prop::option::weighted(0.7, given)).prop_map(|(name, grant)| Event::Grant(name, grant));
    prop_oneof![4 => node, 6 => grant, 1 => Just(Event::NodesComplete), 1 => Just(Event::GrantsComplete), 1 => Just(Event::GrantsUnreadable)]
}

const SUBNETS: [&str; 6] =
    ["10.1.0.0/26", "10.1.0.64/26", "10.1.0.0/24", "10.1.9.0/24", "fd00::/122", "fd00:1::/64"];

fn feed(join: &mut Join, event: &Event) -> Vec<Joined> {
    match event {
        Event::Node(node, state) => {
            let name = format!("n{node}");
            let node = state.map(|keepalive| watched(&name, keepalive));
            join.set_node(&name, node)
        }
        Event::Grant(object, given) => {
            let grant = given.as_ref().map(|(node, subnets)| {
                let subnets: Vec<_> = subnets.iter().map(|index| SUBNETS[*index]).collect();
                grant(&format!("n{node}"), &subnets)
            });
            join.set_grant(&format!("o{object}"), grant)
        }
        Event::NodesComplete => join.complete_nodes(),
        Event::GrantsComplete => join.complete_grants(),
        Event::GrantsUnreadable => join.cannot_read_grants(),
    }
}

/// What somebody knows who has heard everything.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    nodes: BTreeMap<String, WatchedNode>,
    objects: BTreeMap<String, Vec<Problem>>,
}

impl Heard {
    fn take(&mut self, joined: Vec<Joined>) {
        for joined in joined {
            match joined {
                Joined::Node(name, Some(node)) => drop(self.nodes.insert(name, node)),
                Joined::Node(name, None) => drop(self.nodes.remove(&name)),
                Joined::Object(name, problems) if problems.is_empty() => drop(self.objects.remove(&name)),
                Joined::Object(name, problems) => drop(self.objects.insert(name, problems)),
            }
        }
    }

    /// All of these, then both sides complete.
    fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut join = Join::new(PodCidrSource::Calico);
        let mut heard = Self::default();
        for event in events.into_iter().chain([&Event::NodesComplete, &Event::GrantsComplete]) {
            heard.take(feed(&mut join, event));
        }
        heard
    }
}

/// The last event of every Node and object, if it says that there is one.
fn last_of_each(events: &[Event]) -> Vec<Event> {
    let mut last = BTreeMap::new();
    for event in events {
        match event {
            Event::Node(node, _) => drop(last.insert((0, *node), event.clone())),
            Event::Grant(object, _) => drop(last.insert((1, *object), event.clone())),
            Event::NodesComplete | Event::GrantsComplete | Event::GrantsUnreadable => {}
        }
    }
    let is_there = |event: &Event| matches!(event, Event::Node(_, Some(_)) | Event::Grant(_, Some(_)));
    last.into_values().filter(is_there).collect()
}

proptest! {
    /// Whatever happened, and in whatever order the last of it, those who listened know the same: what is there now.
    #[test]
    fn the_order_of_events_does_not_matter(
        events in prop::collection::vec(event(), 0..40),
        order in any::<prop::sample::Index>(),
    ) {
        let mut last = last_of_each(&events);
        let expected = Heard::of(&events);
        prop_assert_eq!(&Heard::of(&last), &expected);
        last.reverse();
        prop_assert_eq!(&Heard::of(&last), &expected);
        if !last.is_empty() {
            let middle = order.index(last.len());
            last.rotate_left(middle);
            prop_assert_eq!(&Heard::of(&last), &expected);
        }
    }

    /// Who looks once sees what those see who listen.
    #[test]
    fn looking_once_sees_the_same(events in prop::collection::vec(event(), 0..30)) {
        let expected = Heard::of(&events);
        let mut nodes: Vec<Node> = Vec::new();
        let mut grants = Vec::new();
        for event in last_of_each(&events) {
            match event {
                Event::Node(node, Some(keepalive)) => {
                    nodes.push((*watched(&format!("n{node}"), keepalive).node).clone());
                }
                Event::Grant(object, Some((node, subnets))) => {
                    let subnets: Vec<_> = subnets.iter().map(|index| SUBNETS[*index]).collect();
                    grants.push((format!("o{object}"), grant(&format!("n{node}"), &subnets)));
                }
                _ => {}
            }
        }
        let problems = join_once(PodCidrSource::Calico, &mut nodes, grants);
        let heard: Vec<Node> = expected.nodes.values().map(|watched| (*watched.node).clone()).collect();
        prop_assert_eq!(nodes, heard);
        prop_assert_eq!(problems, expected.objects.into_values().flatten().collect::<Vec<_>>());
    }

    /// A change is told of what it touches only: a Node, the object, the nodes that it named and names.
    #[test]
    fn a_change_touches_only_what_it_names(events in prop::collection::vec(event(), 1..40)) {
        let mut join = complete();
        let mut named: BTreeMap<usize, usize> = BTreeMap::new();
        for event in &events {
            let joined = feed(&mut join, event);
            match event {
                Event::Node(..) => prop_assert!(joined.len() <= 1 + 6),
                Event::Grant(object, given) => {
                    let nodes = [named.get(object).copied(), given.as_ref().map(|(node, _)| *node)];
                    for joined in &joined {
                        match joined {
                            Joined::Node(name, _) => {
                                let known = nodes.iter().flatten().any(|node| format!("n{node}") == *name);
                                prop_assert!(known, "{}", name)
                            }
                            Joined::Object(name, _) => prop_assert_eq!(name, &format!("o{object}")),
                        }
                    }
                    match given {
                        Some((node, _)) => named.insert(*object, *node),
                        None => named.remove(object),
                    };
                }
                Event::NodesComplete | Event::GrantsComplete | Event::GrantsUnreadable => prop_assert_eq!(joined, vec![]),
            }
        }
    }

    /// No object makes decoding panic, or its neighbours unreadable.
    #[test]
    fn any_specification_is_read(spec in any_json()) {
        cilium(spec.clone());
        cilium(json!({ "ipam": spec.clone() }));
        cilium(json!({ "ipam": { "podCIDRs": spec.clone(), "pools": { "allocated": spec.clone() } } }));
        calico(spec.clone());
        calico(json!({ "state": "confirmed", "node": spec.clone(), "cidr": spec.clone(), "deleted": spec }));
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[0-9a-f:./]{0,20}", any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}
