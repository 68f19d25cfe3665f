//! What `/metrics` tells: the Go agent's metrics, and ours.

mod wireguard;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use mesh::Problem;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use reconciler::View;
pub use wireguard::Seen;
use wireguard::Sessions;

use crate::process::Process;

/// How many pairs of object and reason have series of their own. Whoever writes objects must not fill a database.
const NAMED_PROBLEMS: usize = 200;
/// Stands for all other objects.
const OTHERS: &str = "others";

/// The metrics of an agent.
pub struct Metrics {
    registry: Registry,
    errors: Family<EventLabel, Counter>,
    leader: Gauge,
    nodes: Gauge,
    peers: Gauge,
    segments: Gauge,
    problems: Family<ProblemLabel, Gauge>,
    /// The problems that these are about.
    shown: Mutex<Arc<[mesh::Problem]>>,
    reconciles: Counter<u64, AtomicU64>,
    healthy: Gauge,
    sessions: Sessions,
}

/// What an error was about: `apply`, `event`, `patch`, `observe`, `resolve`, `watch`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: String,
}

/// Which object is wrong, and in a word why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct ProblemLabel {
    object: String,
    reason: &'static str,
}

impl Metrics {
    /// Metrics of an agent that has done nothing yet.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            errors: Family::default(),
            leader: Gauge::default(),
            nodes: Gauge::default(),
            peers: Gauge::default(),
            segments: Gauge::default(),
            problems: Family::default(),
            shown: Mutex::default(),
            reconciles: Counter::default(),
            healthy: Gauge::default(),
            sessions: Sessions::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "kilo_errors",
            "Number of errors that occurred while administering the mesh",
            metrics.errors.clone(),
        );
        registry.register("kilo_leader", "Leadership status of the node", metrics.leader.clone());
        registry.register("kilo_nodes", "Number of nodes in the mesh", metrics.nodes.clone());
        registry.register("kilo_peers", "Number of peers in the mesh", metrics.peers.clone());
        registry.register("kilo_reconciles", "Number of reconciliation attempts", metrics.reconciles.clone());
        registry.register("kilo_segments", "Number of segments in the mesh", metrics.segments.clone());
        registry.register(
            "kilo_healthy",
            "Whether the last reconcile succeeded and the watch is alive",
            metrics.healthy.clone(),
        );
        registry.register(
            "kilo_problems",
            "Objects that are wrong and left out, by object and reason",
            metrics.problems.clone(),
        );
        registry.register_collector(Box::new(metrics.sessions.clone()));
        registry.register_collector(Box::new(Process));
        metrics
    }

    /// Counts an error.
    pub fn error(&self, event: &str) {
        self.errors.get_or_create(&EventLabel { event: event.to_owned() }).inc();
    }

    /// Takes over what was seen of WireGuard's peers.
    pub fn see(&self, seen: Seen) {
        self.sessions.set(seen);
    }

    /// Takes over what is shown.
    pub fn update(&self, view: &View) {
        self.leader.set((view.role == Some(mesh::Role::Leader)).into());
        self.nodes.set(view.counts.nodes as i64);
        self.peers.set(view.counts.peers as i64);
        self.segments.set(view.counts.segments as i64);
        self.reconciles.inc_by(view.reconciles.saturating_sub(self.reconciles.get()));
        let mut before = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&before, &view.problems) {
            return;
        }
        before.clone_from(&view.problems);
        self.problems.clear();
        for (label, count) in counted(view.problems.iter()) {
            self.problems.get_or_create(&label).set(count);
        }
    }

    /// Whether the agent is healthy now.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.set(healthy.into());
    }

    /// As OpenMetrics, for who asks for it.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// How many problems there are of each object and reason; beyond the first ones, of each reason.
fn counted<'a>(problems: impl Iterator<Item = &'a Problem>) -> BTreeMap<ProblemLabel, i64> {
    let mut counted: BTreeMap<ProblemLabel, i64> = BTreeMap::new();
    let mut named = 0;
    for problem in problems {
        let label = ProblemLabel { object: problem.object.to_string(), reason: problem.reason };
        let found = problem.further.saturating_add(1) as i64;
        if let Some(count) = counted.get_mut(&label) {
            *count += found;
        } else if named < NAMED_PROBLEMS {
            named += 1;
            counted.insert(label, found);
        } else {
            *counted.entry(ProblemLabel { object: OTHERS.to_owned(), ..label }).or_default() += found;
        }
    }
    counted
}

/// OpenMetrics in Prometheus' own text format, which the Go agent serves to all who do not ask for another. In this older
/// one a counter is named as its samples are, and the text has no end mark.
pub fn classic(open_metrics: &str) -> String {
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let line = |line: &str| {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF"), ..) => String::new(),
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                format!("# {kind} {name}_total {rest}\n")
            }
            _ => format!("{line}\n"),
        }
    };
    open_metrics.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wrong_objects_have_a_bounded_number_of_series() {
        let of = |number: usize, reason| {
            Problem::new(mesh::Object::Peer(format!("p{number:04}")), reason, format!("fault {number}"))
        };
        let problems: Vec<_> =
            (0..500).flat_map(|number| [of(number, "A"), of(number, "A"), of(number, "B")]).collect();
        let counted = counted(problems.iter());
        let label = |object: &str, reason| ProblemLabel { object: object.to_owned(), reason };
        assert_eq!(counted.len(), NAMED_PROBLEMS + 2);
        assert_eq!(counted[&label("peer p0000", "A")], 2);
        assert_eq!((counted[&label(OTHERS, "A")], counted[&label(OTHERS, "B")]), (800, 400));
    }

    #[test]
    fn whoever_reads_the_go_agents_metrics_reads_these() {
        let metrics = Metrics::new();
        metrics.error("apply");
        let text = classic(&metrics.open_metrics());
        let expected = [
            "# HELP kilo_errors_total Number of errors that occurred while administering the mesh.",
            "# TYPE kilo_errors_total counter",
            "kilo_errors_total{event=\"apply\"} 1",
            "# TYPE kilo_leader gauge",
            "kilo_leader 0",
            "kilo_nodes 0",
            "kilo_peers 0",
            "# TYPE kilo_reconciles_total counter",
            "kilo_reconciles_total 0",
            "# TYPE process_cpu_seconds_total counter",
        ];
        for line in expected {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        for name in
            ["open_fds", "max_fds", "virtual_memory_bytes", "resident_memory_bytes", "start_time_seconds"]
        {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("process_{name} ")));
            assert!(
                value.is_some_and(|value| value.parse::<f64>().is_ok_and(|value| value > 0.0)),
                "{name}\n{text}"
            );
        }
        assert!(!text.contains("# EOF"));
        assert!(metrics.open_metrics().ends_with("# EOF\n"));
    }
}
