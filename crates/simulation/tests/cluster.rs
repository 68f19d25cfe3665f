//! Many reconcilers in one cluster, with trouble of every kind, and what has to be true when it is quiet again.
//!
//! A failure prints what happened and how to run it again. `SIMULATION_SEED`, `SIMULATION_NODES`,
//! `SIMULATION_LOCATIONS`, `SIMULATION_ROUNDS` and `SIMULATION_TROUBLES` decide what `replay` runs: so it is also the
//! way to run it larger or longer.

#![allow(clippy::unwrap_used, reason = "a test")]

use simulation::cluster::{Scenario, run};

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(format!("SIMULATION_{name}")) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("SIMULATION_{name} is no number: {text:?}")),
        Err(_) => default,
    }
}

#[test]
fn small_clusters() {
    let mut paths = 0;
    for seed in 1..=variable("SEEDS", 30) {
        let nodes = 2 + seed as usize % 9;
        paths +=
            run(Scenario { seed, nodes, locations: 1 + seed as usize % 4, rounds: 2, troubles: 8 }).paths;
    }
    assert!(paths > 3_000, "{paths}");
}

/// Without variables this is the largest cluster that every run of the tests has time for.
#[test]
fn replay() {
    let scenario = Scenario {
        seed: variable("SEED", 1),
        nodes: variable("NODES", 200) as usize,
        locations: variable("LOCATIONS", 20) as usize,
        rounds: variable("ROUNDS", 1) as usize,
        troubles: variable("TROUBLES", 5) as usize,
    };
    let begun = std::time::Instant::now();
    let summary = run(scenario);
    println!("{summary:?} in {:?}", begun.elapsed());
    assert!(summary.paths >= scenario.nodes, "{summary:?}");
}
