//! An agent that dies, or is asked to end, and comes back.

mod common;

use std::{
    thread,
    time::{Duration, Instant},
};

use kilo_lab::{Family, Stream};

/// How long the leader is gone.
const AWAY: Duration = Duration::from_secs(3);
/// What was sent this long before the kill may still have been on its way.
const ON_THE_WAY: Duration = Duration::from_millis(200);
/// How long a new embedded device may take until packets flow again: its start and the handshakes.
const FLOWING_WITHIN: Duration = Duration::from_secs(3);

#[test]
fn a_killed_leader_comes_back_without_a_trace() {
    let lab = common::converged(common::with_agents("die"));
    let leader = lab.node("a1").expect("the demo has it");
    let kernel = common::has_kernel_wireguard(leader);
    wait_until_endpoints_are_kept(&lab);
    let before = common::host_state(leader);
    let filter = common::filter(leader);
    assert!(!filter.is_empty(), "the agent has a table of its own");
    let streams =
        [("a1-p1", "b1-p1", Family::V4), ("a2-p1", "c1-p1", Family::V6), ("b2-p1", "a2-p1", Family::V4)].map(
            |(from, to, family)| {
                lab.stream(from, to, family, Duration::from_millis(50)).expect("sockets can be opened")
            },
        );
    thread::sleep(Duration::from_secs(1));
    let killed = Instant::now();
    leader.kill9().expect("it runs");
    thread::sleep(AWAY);
    let started = Instant::now();
    leader.start_agent(&[]).expect("it starts");
    common::assert_same_state(leader, &before, common::patiently(Duration::from_secs(10)));
    common::assert_converges(&lab);
    thread::sleep(common::patiently(FLOWING_WITHIN));
    let flowing = started + common::patiently(FLOWING_WITHIN);
    for report in streams.map(Stream::stop) {
        let facts = format!(
            "{report:?}; killed at {:.2} s, started at {:.2} s",
            (killed - report.begin).as_secs_f32(),
            (started - report.begin).as_secs_f32()
        );
        if kernel {
            assert_eq!(report.lost(), 0, "the kernel carries packets without the agent: {facts}");
        }
        let arrived = killed - common::patiently(ON_THE_WAY);
        assert_eq!(report.lost_between(report.begin, arrived), 0, "before the kill: {facts}");
        assert_eq!(report.lost_between(flowing, Instant::now()), 0, "after the restart: {facts}");
        println!("{facts}");
    }
    // Once more, at once: whatever a restart adds would be there twice by now.
    leader.kill9().expect("it runs");
    leader.start_agent(&[]).expect("it starts");
    common::assert_same_state(leader, &before, common::patiently(Duration::from_secs(10)));
    common::assert_converges(&lab);
}

#[test]
fn an_agent_that_is_asked_to_end_takes_everything_with_it() {
    let lab = common::converged(common::with_agents("term"));
    for name in ["b1", "b2"] {
        let node = lab.node(name).expect("the demo has it");
        node.stop_agent().unwrap_or_else(|error| panic!("{error}\n{}", node.agent_log()));
        let left: Vec<String> = common::host_state(node)
            .into_iter()
            .filter(|line| line.contains("kilo0") || line.starts_with("nft:") || line.contains("110"))
            .filter(|line| !line.contains("scope link"))
            .collect();
        assert!(left.is_empty(), "{name} still has {left:?}");
        let routes = node.read(&["ip", "route", "show", "table", "all"]).expect("ip runs");
        assert!(!routes.contains("10.42.1.0"), "{name} still routes to other nodes: {routes}");
        let object = lab.api().get(&format!("/api/v1/nodes/{name}")).expect("the API answers");
        let told = object["metadata"]["annotations"].to_string();
        assert!(!told.contains("kilo.squat.ai/key"), "{name} still says it is in the mesh: {told}");
    }
    for name in ["b1", "b2"] {
        lab.node(name).expect("the demo has it").start_agent(&[]).expect("it starts");
    }
    common::assert_converges(&lab);
}

/// Much sooner than its heartbeat would be missed.
#[test]
fn a_leader_that_ends_hands_over_at_once() {
    let mut spec = common::with_agents("hand");
    spec.mesh.liveness_timeout = 60;
    let lab = common::converged(spec);
    lab.node("b1").expect("the demo has it").stop_agent().unwrap_or_else(|error| panic!("{error}"));
    let others = ["a1-p1", "a2-p1", "b2-p1", "c1-p1"];
    common::eventually("b2 leading", common::patiently(Duration::from_secs(8)), || {
        let matrix = lab.matrix_of(&others, Family::V4, Duration::from_millis(300))?;
        Ok((!matrix.is_complete()).then(|| matrix.failures().join(", ")))
    });
}

#[test]
fn a_dry_run_changes_nothing() {
    let lab = common::converged(common::with_agents("dry"));
    let node = lab.node("a1").expect("the demo has it");
    node.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    let (host, object) = (common::host_state(node), annotations(&lab));
    let mut command = node.agent_command().expect("kg is built");
    command.push("--dry-run".into());
    let output = node.exec(&command).expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("10.42.3.0/24"), "it would route to b1's pods: {said}");
    assert_eq!(common::difference(&host, &common::host_state(node)), "", "the host is unchanged");
    assert_eq!(annotations(&lab), object, "and so is the Node");
}

/// A new embedded device knows nothing. Where a site behind NAT is, the agent remembers in its annotation.
fn wait_until_endpoints_are_kept(lab: &kilo_lab::Lab) {
    let router = lab.layout().sites[2].wan();
    common::eventually("a1 publishing where c1 is", common::patiently(Duration::from_secs(40)), || {
        let seen = annotations(lab)["kilo.squat.ai/discovered-endpoints"].to_string();
        let known =
            [router.v4.to_string(), router.v6.to_string()].iter().any(|address| seen.contains(address));
        Ok((!known).then_some(seen))
    });
}

fn annotations(lab: &kilo_lab::Lab) -> serde_json::Value {
    lab.api().get("/api/v1/nodes/a1").expect("the API answers")["metadata"]["annotations"].clone()
}
