//! Labs in which some agents are Go's. Ours stands in for them: it knows every flag that a Go agent knows.

mod common;

use std::time::Duration;

use kilo_lab::{Ending, Lab, Spec};

/// The flags that `kg --help` of Go Kilo 0.7 lists.
const FLAGS: [&str; 25] = [
    "backend",
    "clean-up",
    "clean-up-interface",
    "cni",
    "cni-path",
    "compatibility",
    "create-interface",
    "encapsulate",
    "hostname",
    "interface",
    "internal-cidr",
    "iptables-forward-rules",
    "kubeconfig",
    "listen",
    "local",
    "log-level",
    "master",
    "mesh-granularity",
    "mtu",
    "port",
    "prioritise-private-addresses",
    "resync-period",
    "service-cidr",
    "subnet",
    "topology-label",
];

/// The agents of `go` are started as Go agents are.
fn mixed(theme: &str, go: &[&str]) -> Spec {
    let kg = kilo_lab::programs::find("kg", None).expect("it is built");
    let mut spec = common::with_agents(theme);
    spec.mesh.subnet = "10.4.0.0/16".into();
    spec.mesh.liveness_timeout = 60;
    for name in go {
        spec.node_mut(name).expect("the demo has it").go_agent = Some(kg.clone());
    }
    spec
}

fn flags(lab: &Lab, node: &str) -> Vec<String> {
    let command = lab.node(node).expect("the demo has it").agent_command().expect("it is built");
    let name = |flag: &String| flag.trim_start_matches("--").split('=').next().unwrap_or_default().to_owned();
    command.iter().skip(1).map(name).collect()
}

#[test]
fn a_go_agent_gets_the_flags_it_knows_and_its_key_where_it_wants_it() {
    let lab = common::converged(mixed("flags", &["a1", "c1"]));
    for node in ["a1", "c1"] {
        let unknown: Vec<_> =
            flags(&lab, node).into_iter().filter(|flag| !FLAGS.contains(&flag.as_str())).collect();
        assert_eq!(unknown, Vec::<String>::new());
        let node = lab.node(node).expect("the demo has it");
        let seen = node.read(&["cat", "/var/lib/kilo/key"]).expect("the agent made it");
        assert!(node.agent_directory().join("key").is_file() && seen.trim().len() == 44, "a key in base64");
    }
    assert!(flags(&lab, "b1").contains(&"state-dir".to_owned()), "ours get all");
}

#[test]
fn agents_are_exchanged_while_the_lab_is_up() {
    let mut lab = common::converged(mixed("swap", &["a1", "a2"]));
    let kg = kilo_lab::programs::find("kg", None).expect("it is built");
    let key = |lab: &Lab| {
        let node = lab.api().get("/api/v1/nodes/a1").expect("the API answers");
        node["metadata"]["annotations"]["kilo.squat.ai/key"].clone()
    };
    let before = key(&lab);
    for (node, go, ending) in [
        ("a1", false, Ending::Kill),
        ("b1", true, Ending::Ask),
        ("a2", false, Ending::Ask),
        ("a1", true, Ending::Ask),
    ] {
        let go = go.then(|| kg.clone());
        lab.exchange(node, go.clone(), ending).unwrap_or_else(|error| panic!("{node}: {error}"));
        assert_eq!(lab.node(node).expect("the demo has it").go_agent(), go.as_deref());
        // Whoever opens the lab by its name, as the command line does, sees it too.
        let again = Lab::open(&lab.spec().name).expect("it is up");
        assert_eq!(again.node(node).expect("the demo has it").go_agent(), go.as_deref());
        common::assert_converges(&lab);
    }
    common::eventually("a1 in the mesh", common::patiently(Duration::from_secs(10)), || {
        let now = key(&lab);
        Ok((now != before).then(|| format!("{before} became {now}")))
    });
}
