//! A cluster of a thousand nodes in a hundred locations, all but five of them on paper.

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use kilo_lab::{Lab, NodeRef};
use serde_json::{Value, json};

const LOCATIONS: usize = 100;
const NODES_EACH: usize = 10;
/// What a fresh leader promises.
const ROUTES_WITHIN: Duration = Duration::from_secs(2);
const MEMORY_KIB: u64 = 60 * 1024;

#[test]
fn a_fresh_leader_has_all_its_routes_at_once() {
    let mut spec = common::with_agents("many");
    spec.mesh.log_level = "info".into();
    // Nodes on paper do not beat. On a busy machine it takes a while until all of them are there.
    spec.mesh.liveness_timeout = 600;
    let lab = common::converged(spec);
    let leader = lab.node("a1").expect("the demo has it");
    leader.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    for location in 0..LOCATIONS {
        for node in 0..NODES_EACH {
            lab.api().apply(&paper_node(location, node)).unwrap_or_else(|error| panic!("{error}"));
        }
    }
    wait_until_others_know(&lab);
    let begin = Instant::now();
    leader.start_agent(&[]).expect("it starts");
    let expected = LOCATIONS * NODES_EACH;
    let mut children = 0;
    common::eventually("a route to every node's pods", common::patiently(ROUTES_WITHIN), || {
        children += children_of(leader);
        let routes = paper_routes(leader);
        Ok((routes < expected).then(|| format!("{routes} of {expected} routes after {:?}", begin.elapsed())))
    });
    let took = begin.elapsed();
    common::assert_converges(&lab);
    children += children_of(leader);
    let memory = peak_memory_kib(leader);
    println!("{expected} routes after {took:?}, {memory} KiB");
    assert!(memory < MEMORY_KIB, "the agent took {memory} KiB");
    assert_eq!(children, 0, "the agent started processes");
}

/// The other agents are busy with the new nodes; what is measured is the fresh one.
fn wait_until_others_know(lab: &Lab) {
    common::eventually(
        "the other agents knowing all nodes",
        common::patiently(Duration::from_secs(60)),
        || {
            let routes = paper_routes(lab.node("b1")?);
            Ok((routes < LOCATIONS * NODES_EACH).then(|| format!("{routes} routes")))
        },
    );
}

/// Routes to the pods of nodes on paper: 10.64.0.0 and up.
fn paper_routes(node: NodeRef<'_>) -> usize {
    let routes =
        node.read(&["ip", "-4", "route", "show", "table", "all", "root", "10.64.0.0/10", "dev", "kilo0"]);
    // The device may not be there yet.
    routes.map_or(0, |routes| routes.lines().count())
}

fn paper_node(location: usize, node: usize) -> Value {
    let number = location * NODES_EACH + node;
    let (high, low) = (number / 250, number % 250 + 1);
    let pods = format!("10.{}.{}.0/24", 64 + number / 256, number % 256);
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": format!("paper-{location:02}-{node}"),
            "labels": {"topology.kubernetes.io/region": format!("paper-{location:02}")},
            "annotations": {
                "kilo.squat.ai/endpoint": format!("192.0.{}.{low}:51820", 2 + high),
                "kilo.squat.ai/force-endpoint": format!("192.0.{}.{low}:51820", 2 + high),
                "kilo.squat.ai/internal-ip": format!("172.16.{high}.{low}/12"),
                "kilo.squat.ai/key": key(number),
                "kilo.squat.ai/last-seen": "4102444800",
                "kilo.squat.ai/granularity": "location",
            },
        },
        "spec": {"podCIDR": pods, "podCIDRs": [pods]},
    })
}

/// A public key that belongs to nobody: base64 of 32 bytes that begin with the number.
fn key(number: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |shift: usize| char::from(DIGITS[(number >> shift) & 63]);
    format!("{}{}{}{}=", digit(12), digit(6), digit(0), "A".repeat(40))
}

fn children_of(node: NodeRef<'_>) -> usize {
    let Some(agent) = node.agent() else { return 0 };
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", agent.pid)) else { return 0 };
    let children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    children.map(|children| children.split_whitespace().count()).sum()
}

fn peak_memory_kib(node: NodeRef<'_>) -> u64 {
    let agent = node.agent().expect("it runs");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid)).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts memory");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}
