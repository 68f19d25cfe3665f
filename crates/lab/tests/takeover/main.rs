//! Our agent starts on hosts that an agent of Go Kilo has left, while packets pass every 10 ms.

#[path = "../common/mod.rs"]
mod common;
mod go_host;

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use go_host::{GoHost, Inside, add_peer};
use kilo_lab::{Family, Lab, NodeRef, Report, Spec, Stream};

/// How often a packet is sent.
const EVERY: Duration = Duration::from_millis(10);
/// How long before and after an exchange packets are counted.
const AROUND: Duration = Duration::from_secs(1);
/// A packet that is sent this long before a device ends may be on its way when it does.
const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// What a leader, a member and a node behind NAT send and receive.
const FLOWS: [(&str, &str); 3] = [("a1-p1", "b1-p1"), ("a2-p1", "c1-p1"), ("b2-p1", "a2-p1")];

/// A lab in which the agents of `go` are Go's: nothing runs on these nodes any more.
fn left_by_go<'a>(lab: &'a Lab, go: &[&str], inside: Inside) -> Vec<GoHost<'a>> {
    add_peer(lab);
    for node in lab.nodes().filter(|node| !go.contains(&node.layout().name.as_str())) {
        node.start_agent(&[]).expect("it starts");
    }
    common::eventually("the others in the mesh", common::patiently(Duration::from_secs(20)), || {
        let mut led = BTreeSet::new();
        let others = lab.layout().nodes.iter().filter(|node| !go.contains(&node.name.as_str()));
        for node in others {
            let object = lab.api().get(&format!("/api/v1/nodes/{}", node.name))?;
            let told = |key: &str| {
                object["metadata"]["annotations"][key].as_str().is_some_and(|text| !text.is_empty())
            };
            let leads = led.insert(node.site);
            if !told("kilo.squat.ai/key") || told("kilo.squat.ai/wireguard-ip") != leads {
                return Ok(Some(format!("{}: {}", node.name, object["metadata"]["annotations"])));
            }
        }
        Ok(None)
    });
    let hosts = go.iter().map(|name| GoHost::make(lab, name, inside)).collect();
    reaches_all(lab, Duration::from_secs(45));
    hosts
}

fn spec(theme: &str, inside: Inside) -> Spec {
    let mut spec = common::without_agents(theme);
    spec.mesh.subnet = "10.4.0.0/16".into();
    // Nobody beats for the nodes whose agent is gone.
    spec.mesh.liveness_timeout = 600;
    spec.mesh.encapsulate = if inside == Inside::Ipip { "always" } else { "never" }.into();
    let flags = ["--cni=true", "--cni-path=/var/empty/none.conflist", "--iptables-forward-rules"];
    spec.mesh.agent_args = flags.map(str::to_owned).to_vec();
    spec
}

/// Go agents carry IPv4 alone.
fn reaches_all(lab: &Lab, within: Duration) -> Duration {
    let begin = Instant::now();
    common::eventually("every pod reaching every other", common::patiently(within), || {
        let matrix = lab.matrix_of(&lab.pods(), Family::V4, Duration::from_millis(300))?;
        Ok((!matrix.is_complete())
            .then(|| format!("{}; {}", matrix.failures().join(", "), lab.health().join("; "))))
    });
    begin.elapsed()
}

fn streams(lab: &Lab) -> Vec<((&'static str, &'static str), Stream)> {
    let start = |flow: (&'static str, &'static str)| {
        (flow, lab.stream(flow.0, flow.1, Family::V4, EVERY).expect("sockets can be opened"))
    };
    let streams = FLOWS.map(start).into();
    thread::sleep(AROUND);
    streams
}

/// Ends streams, and prints what became of them.
fn reports(streams: Vec<((&'static str, &'static str), Stream)>, what: &str) -> Vec<Report> {
    thread::sleep(AROUND);
    let report = |((from, to), stream): (_, Stream)| {
        let report = stream.stop();
        println!("{what}: {from} → {to}: {report:?}; longest gap {} ms", report.longest_gap().as_millis());
        report
    };
    streams.into_iter().map(report).collect()
}

/// Waits until what was Go's is gone and ours is there.
fn assert_taken_over(node: NodeRef<'_>) {
    let name = &node.layout().name;
    common::eventually(
        &format!("the end of Go's traces on {name}"),
        common::patiently(Duration::from_secs(20)),
        || {
            let traces = GoHost::traces(node);
            Ok((!traces.is_empty()).then(|| traces.join("\n")))
        },
    );
    let own = node.read(&["ip", "-4", "route", "show", "table", "all", "proto", "107"]).expect("ip runs");
    for destination in ["10.42.3.0/24", "10.42.5.0/24", "10.102.0.11", "10.99.0.1"] {
        assert!(own.contains(destination), "{name} has no route to {destination}: {own}");
    }
    assert!(common::filter(node).contains("10.99.0.1"), "the Peer is masqueraded: {}", common::filter(node));
    let accepted = node.read(&["iptables-save", "-t", "filter"]).expect("iptables runs");
    assert!(accepted.contains("kilo forward from 10.42."), "forwarding is accepted: {accepted}");
    let (Ok(health), log) = (node.http_get("/health"), node.agent_log()) else {
        panic!("{name} does not answer")
    };
    assert_eq!(health.status, 200, "{}\n{log}", health.body);
}

fn take_over(theme: &str, inside: Inside) {
    let lab = common::up(spec(theme, inside));
    // a1 leads, a2 is a member; the device of each stays up, be it the kernel's or one that outlives agents.
    drop(left_by_go(&lab, &["a1", "a2"], inside));
    let a1 = lab.node("a1").expect("the demo has it");
    let endpoints = |node: NodeRef<'_>| -> Vec<_> {
        let peers = node.wireguard_peers().expect("wg runs").into_iter();
        peers.map(|peer| (peer.public_key, peer.endpoint)).collect()
    };
    let before =
        (endpoints(a1), a1.read(&["ip", "-o", "link", "show", kilo_lab::INTERFACE]).expect("it is there"));
    for name in ["a1", "a2"] {
        let node = lab.node(name).expect("the demo has it");
        assert!(GoHost::traces(node).len() > 20, "a Go agent has been on {name}");
        let streams = streams(&lab);
        let from = Instant::now() - ON_ITS_WAY;
        node.start_agent(&[]).expect("it starts");
        assert_taken_over(node);
        for report in reports(streams, name) {
            let lost = report.lost_between(from, Instant::now());
            assert_eq!(
                lost,
                0,
                "{name}: {report:?}, started {:?} after the begin\n{}",
                from - report.begin,
                node.agent_log()
            );
        }
    }
    let after =
        (endpoints(a1), a1.read(&["ip", "-o", "link", "show", kilo_lab::INTERFACE]).expect("it is there"));
    assert_eq!(after, before, "neither the device nor what it has learned was touched");
    reaches_all(&lab, Duration::from_secs(20));
}

#[test]
fn a_leader_and_a_member_are_taken_over_and_lose_no_packet() {
    take_over("over", Inside::Plain);
}

#[cfg(feature = "stock-kernel")]
#[test]
fn so_are_those_that_encapsulate() {
    take_over("ipip", Inside::Ipip);
}

/// A Go agent's userspace device ends with its pod; the next one knows no sessions.
#[test]
fn a_leader_whose_device_ended_takes_as_long_as_a_new_device() {
    let lab = common::up(spec("embed", Inside::Plain));
    drop(left_by_go(&lab, &["a1"], Inside::Plain));
    let node = lab.node("a1").expect("the demo has it");
    let streams = streams(&lab);
    let gone = Instant::now() - ON_ITS_WAY;
    if node.device().is_some() {
        node.stop_device().unwrap_or_else(|error| panic!("{error}"));
    } else {
        node.read(&["ip", "link", "delete", kilo_lab::INTERFACE]).expect("it is there");
    }
    node.start_agent(&["--wireguard=embedded"]).expect("it starts");
    assert_taken_over(node);
    reaches_all(&lab, Duration::from_secs(10));
    let flowing = Instant::now();
    for report in reports(streams, "a1, whose device ended") {
        assert_eq!(report.lost_between(report.begin, gone), 0, "before: {report:?}");
        assert_eq!(report.lost_between(flowing, Instant::now()), 0, "after: {report:?}");
    }
}

/// The others have forgotten the sessions that the device still has. WireGuard alone would notice after 15 s.
#[test]
fn after_a_go_agent_that_cleaned_up_sessions_are_begun_anew() {
    let lab = common::up(spec("clean", Inside::Plain));
    let hosts = left_by_go(&lab, &["c1"], Inside::Plain);
    let streams = streams(&lab);
    hosts[0].clean_up();
    let a1 = lab.node("a1").expect("the demo has it");
    common::eventually("the end of c1's sessions", common::patiently(Duration::from_secs(10)), || {
        let peers = a1.wireguard_peers()?.len();
        Ok((peers > 2).then(|| format!("a1 has {peers} peers, and b1 and the laptop are two")))
    });
    let node = lab.node("c1").expect("the demo has it");
    node.start_agent(&[]).expect("it starts");
    let took = reaches_all(&lab, Duration::from_secs(5));
    println!("c1 was back after {} ms", took.as_millis());
    drop(reports(streams, "c1, which had cleaned up"));
    assert_eq!(GoHost::traces(node), Vec::<String>::new());
}
