//! Pod subnets that another CNI's objects give: real agents follow them.

mod common;

use std::time::{Duration, Instant};

use kilo_lab::{Family, Lab};
use serde_json::{Value, json};

/// The nodes of the demonstration.
const NODES: [&str; 5] = ["a1", "a2", "b1", "b2", "c1"];

fn definition() -> Value {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": anything}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "blockaffinities.crd.projectcalico.org"},
        "spec": {
            "group": "crd.projectcalico.org",
            "scope": "Cluster",
            "names": {"kind": "BlockAffinity", "plural": "blockaffinities", "singular": "blockaffinity"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    })
}

fn block(name: &str, node: &str, cidr: &str, state: &str) -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "BlockAffinity",
        "metadata": {"name": name},
        "spec": {"node": node, "cidr": cidr, "state": state, "deleted": "false"},
    })
}

/// Without Calico's objects the mesh is that of the Nodes; with them it is theirs, and pods reach each other both times. A
/// block that comes, goes or is wrong changes what it names.
#[test]
fn blocks_of_calico_are_routed() {
    let mut spec = common::with_agents("calic");
    spec.mesh.agent_args.push("--pod-cidr-source=calico".into());
    let lab = common::converged(spec);
    told(&lab, "MissingDefinition", true);

    lab.api().apply(&definition()).expect("the API takes definitions");
    // No block yet: nodes reach each other, pods do not.
    routes(&lab, "a1", &["10.42.3.0/24"], false);
    routes(&lab, "a1", &[&lab.node("b2").expect("the demo has it").layout().lan.v4.to_string()], true);
    for node in NODES {
        let described = lab.node(node).expect("the demo has it");
        let layout = described.layout();
        let v4 = layout.pods_v4().to_string();
        let halves = [v4.replace("0/24", "0/25"), v4.replace("0/24", "128/25"), layout.pods_v6().to_string()];
        for (number, cidr) in halves.iter().enumerate() {
            let block = block(&format!("{node}-{number}"), node, cidr, "confirmed");
            lab.api().apply(&block).expect("the definition is there");
        }
    }
    common::assert_converges(&lab);
    told(&lab, "MissingDefinition", false);
    routes(&lab, "a1", &["10.42.3.0/25", "10.42.3.128/25", "10.42.4.0/25"], true);
    routes(&lab, "a1", &["10.42.3.0/24"], false);

    for wrong in [
        block("stray", "nobody", "10.77.1.0/26", "confirmed"),
        block("nonsense", "b1", "10.77.2.0", "confirmed"),
        block("b1-0-again", "c1", "10.42.3.0/25", "confirmed"),
        block("pending", "b1", "10.77.3.0/26", "pending"),
    ] {
        lab.api().apply(&wrong).expect("the definition is there");
    }
    for reason in ["UnknownNode", "InvalidPodCIDR", "OverlappingPodSubnet"] {
        told(&lab, reason, true);
    }
    lab.api().apply(&block("one-more", "b1", "10.77.4.0/26", "confirmed")).expect("the definition is there");
    let begun = Instant::now();
    routes(&lab, "a1", &["10.77.4.0/26"], true);
    println!("a block is a route after {} ms", begun.elapsed().as_millis());
    routes(&lab, "a1", &["10.77.1.0/26", "10.77.3.0/26"], false);
    for family in [Family::V4, Family::V6] {
        let matrix = lab.matrix(family).expect("sockets can be opened");
        assert!(matrix.is_complete(), "{family}: {:?}", matrix.failures());
    }
    lab.api().delete("BlockAffinity", "one-more").expect("it is there");
    routes(&lab, "a1", &["10.77.4.0/26"], false);
    same_mesh_for_kgctl(&lab);
}

/// `kgctl` reads what the agents read, without being told.
fn same_mesh_for_kgctl(lab: &Lab) {
    let kgctl = kilo_lab::programs::find("kgctl", None).expect("it is built with the tests");
    let output =
        lab.exec("api", &[&kgctl.display().to_string(), "showconf", "node", "a1"]).expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("10.42.3.0/25") && !text.contains("10.42.3.0/24"), "{text}");
}

/// Waits until a node has, or has not, a route to each of these.
fn routes(lab: &Lab, node: &str, destinations: &[&str], wanted: bool) {
    let node = lab.node(node).expect("the demo has it");
    common::eventually("the routes", common::patiently(Duration::from_secs(20)), || {
        let text = node.read(&["ip", "-4", "route", "show", "table", "all", "proto", "107"])?;
        let has = |destination: &str| text.lines().any(|line| line.split(' ').next() == Some(destination));
        let wrong: Vec<_> = destinations.iter().filter(|destination| has(destination) != wanted).collect();
        Ok((!wrong.is_empty()).then(|| format!("{wrong:?} wanted: {wanted}\n{text}")))
    });
}

/// Waits until an agent's health page names a reason, or no longer does.
fn told(lab: &Lab, reason: &str, wanted: bool) {
    let node = lab.node("a1").expect("the demo has it");
    common::eventually("the health page", common::patiently(Duration::from_secs(20)), || {
        let health = node.http_get("/health")?;
        Ok((health.body.contains(reason) != wanted).then_some(health.body))
    });
}
