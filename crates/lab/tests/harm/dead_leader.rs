//! An agent that is restarted while the first node of a location by name is dead: it does not believe in the dead one.

use std::{
    thread,
    time::{Duration, Instant},
};

use kilo_lab::Family;

use crate::common;

/// How long an agent with an embedded device may take until packets flow again: its start and the handshakes. Whoever
/// believes in the dead leader takes the liveness timeout, which is 15 s here.
const FLOWING_WITHIN: Duration = Duration::from_secs(3);

#[test]
fn a_restart_beside_a_dead_leader_costs_no_more_than_any_other() {
    let lab = common::converged(common::with_agents("hdead"));
    let dead = lab.node("a1").expect("the demo has it");
    dead.kill9().expect("it runs");
    common::published(&lab, "a2 leading alone", |rows| {
        kilo_lab::topology::leaders(rows, "a").map(|row| row.node.as_str()).eq(["a2"])
    });
    let flows = || {
        let pods = ["a2-p1", "b1-p1", "b2-p1", "c1-p1"];
        common::eventually(
            "the others reaching each other",
            common::patiently(Duration::from_secs(30)),
            || {
                let matrix = lab.matrix_of(&pods, Family::V4, Duration::from_secs(2))?;
                Ok((!matrix.is_complete()).then(|| format!("{matrix:?}")))
            },
        );
    };
    flows();
    for restarted in ["b1", "b2", "a2", "c1"] {
        let partner = if restarted == "a2" { "b2" } else { "a2" };
        let (from, to) = (format!("{restarted}-p1"), format!("{partner}-p1"));
        let stream =
            lab.stream(&from, &to, Family::V4, Duration::from_millis(50)).expect("sockets can be opened");
        thread::sleep(Duration::from_secs(1));
        let node = lab.node(restarted).expect("the demo has it");
        node.kill9().expect("it runs");
        let started = Instant::now();
        node.start_agent(&[]).expect("it starts");
        thread::sleep(common::patiently(FLOWING_WITHIN) + Duration::from_secs(2));
        let report = stream.stop();
        let late = started + common::patiently(FLOWING_WITHIN);
        println!("{restarted} restarted beside a dead leader: longest gap {:?}", report.longest_gap());
        let lost = report.lost_between(late, started + Duration::from_secs(60));
        assert_eq!(lost, 0, "{restarted}: {report:?}\n{}", node.agent_log());
        flows();
    }
}
