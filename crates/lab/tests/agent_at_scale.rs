//! The agent in a cluster of a thousand nodes with all their heartbeats, as `kilo-lab scale` measures it. The limits hold
//! for a build without optimisation on a busy machine: they catch what grows the wrong way, not what is a little
//! slower. What a released agent does is in docs/performance.md.

mod common;

use std::time::Duration;

use kilo_lab::{
    programs,
    scale::{Granularity, Measurement, Report},
};

/// What is asserted of each cluster.
struct Limits {
    seconds: f64,
    memory: u64,
    /// Percent of a core.
    steady: f64,
    /// Milliseconds, of each kind of change.
    median: f64,
}

fn measure(granularity: Granularity, limits: &Limits) -> Report {
    // The debug or release agent that was built together with this test.
    let agent = programs::find("kg", None).expect("it is built");
    let measurement = Measurement {
        granularity,
        peers: 20,
        agent: Some(agent),
        steady: common::patiently(Duration::from_secs(10)),
        graph: false,
        repetitions: 5,
        deadline: common::patiently(Duration::from_secs(60)),
        ..Measurement::default()
    };
    let report = measurement.run(|_| {}).unwrap_or_else(|error| panic!("{error}"));
    println!("{report}");
    let patience = common::patiently(Duration::from_secs(1)).as_secs_f64();
    let seconds = report.start.seconds.expect("it has all its routes");
    assert!(seconds < limits.seconds * patience, "it took {seconds} s");
    let steady = report.steady.as_ref().expect("it was watched");
    assert!(steady.peak_memory < limits.memory, "it took {} bytes", steady.peak_memory);
    assert!(steady.cpu_percent < limits.steady * patience, "at rest it took {} %", steady.cpu_percent);
    assert_eq!(steady.route_changes, 0, "heartbeats change nothing");
    for change in &report.changes {
        assert!(change.median < limits.median * patience, "{change:?}");
    }
    report
}

/// One after the other: both at once would measure who gets the processors.
#[test]
fn a_thousand_nodes_and_their_heartbeats() {
    let limits = Limits { seconds: 5.0, memory: 45_000_000, steady: 30.0, median: 1000.0 };
    let report = measure(Granularity::Location, &limits);
    assert_eq!(report.changes.len(), 8, "{:?}", report.changes);
    // Everything is read once: a Node is 13 KB.
    assert!(report.start.api_bytes < 20_000_000, "{} bytes", report.start.api_bytes);
    assert_eq!(report.start.api_requests.get("watch"), Some(&3), "{:?}", report.start.api_requests);
    assert_eq!(report.start.processes, Some(0));
    let steady = report.steady.expect("it was watched");
    assert_eq!(steady.processes, Some(0));
    let per_heartbeat = steady.api_bytes_per_second / steady.heartbeats_per_second;
    assert!(per_heartbeat < 5000.0, "a heartbeat takes {per_heartbeat} bytes: it is read as metadata alone");
    let writes: u64 = steady.api_writes.values().sum();
    assert!(writes <= 2, "the heartbeat, and once what it leads with: {:?}", steady.api_writes);

    let limits = Limits { seconds: 15.0, memory: 60_000_000, steady: 100.0, median: 2000.0 };
    let report = measure(Granularity::Full, &limits);
    assert_eq!(report.start.processes, Some(0));
}
