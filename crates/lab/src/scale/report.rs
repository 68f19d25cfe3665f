//! What was measured, as data and as a table for people.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

/// What was measured with one agent.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The agent's program, as it was given.
    pub agent: String,
    /// Nodes, the agent's own included.
    pub nodes: usize,
    /// Locations.
    pub locations: usize,
    /// `location` or `full`.
    pub granularity: &'static str,
    /// Peers.
    pub peers: usize,
    /// The machine.
    pub machine: Machine,
    /// From exec to the last route.
    pub start: Start,
    /// The time afterwards, in which only heartbeats happened.
    pub steady: Option<Steady>,
    /// `kgctl graph` over the same cluster.
    pub graph: Option<Graph>,
    /// Single changes, each from the write of the API object to the kernel.
    pub changes: Vec<Change>,
}

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors that may be used.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The load of the last minute, when the measurement began: what others did.
    pub load: String,
}

/// From exec to the last route.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// Seconds; `None`: it was not complete in time.
    pub seconds: Option<f64>,
    /// Routes that the agent has to set.
    pub routes: usize,
    /// Those that it had not when the measurement ended.
    pub missing: usize,
    /// Processor seconds until then, children included.
    pub cpu_seconds: f64,
    /// The most memory at once until then, in bytes.
    pub peak_memory: u64,
    /// Bytes of API answers until then.
    pub api_bytes: u64,
    /// API requests by verb until then.
    pub api_requests: BTreeMap<String, u64>,
    /// Processes started until then; `None`: the kernel does not tell.
    pub processes: Option<usize>,
}

/// A time in which only heartbeats happened.
#[derive(Debug, Clone, Serialize)]
pub struct Steady {
    /// How long, in seconds.
    pub seconds: f64,
    /// Heartbeats that the other nodes wrote per second.
    pub heartbeats_per_second: f64,
    /// Processor time in percent of one processor.
    pub cpu_percent: f64,
    /// Memory at the end, in bytes.
    pub memory: u64,
    /// The most memory at once since the start, in bytes.
    pub peak_memory: u64,
    /// Bytes of API answers per second.
    pub api_bytes_per_second: f64,
    /// Writes of the agent by verb.
    pub api_writes: BTreeMap<String, u64>,
    /// Writes of the agent in an hour at this rate.
    pub writes_per_node_hour: f64,
    /// Routes that were set or removed in that time; heartbeats are no reason for one.
    pub route_changes: u64,
    /// Processes started in that time; `None`: the kernel does not tell.
    pub processes: Option<usize>,
}

/// One run of `kgctl graph`.
#[derive(Debug, Clone, Serialize)]
pub struct Graph {
    /// From the start of the process to its end, in seconds.
    pub seconds: f64,
    /// Processor seconds.
    pub cpu_seconds: f64,
    /// The most memory at once, in bytes.
    pub peak_memory: u64,
    /// Bytes of the graph.
    pub bytes: u64,
}

/// Repetitions of one kind of change.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// What changed.
    pub what: &'static str,
    /// How often it was measured.
    pub samples: usize,
    /// The median in milliseconds.
    pub median: f64,
    /// The 99th percentile in milliseconds (nearest rank).
    pub p99: f64,
    /// The longest in milliseconds.
    pub longest: f64,
}

impl Change {
    /// Sums up samples.
    pub fn of(what: &'static str, mut samples: Vec<Duration>) -> Self {
        samples.sort();
        let rank = |share: f64| {
            let rank = (share * samples.len() as f64).ceil() as usize;
            samples.get(rank.saturating_sub(1)).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        Self { what, samples: samples.len(), median: rank(0.5), p99: rank(0.99), longest: rank(1.0) }
    }
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: name.map_or("unknown", |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, processors, kernel, load } = &self.machine;
        writeln!(f, "{}", self.agent)?;
        writeln!(
            f,
            "  on             {processors} × {processor}, Linux {kernel}, load {load} at the beginning"
        )?;
        writeln!(
            f,
            "  cluster        {} nodes in {} locations, {} peers, granularity {}",
            self.nodes, self.locations, self.peers, self.granularity
        )?;
        self.start.fmt(f)?;
        if let Some(steady) = &self.steady {
            steady.fmt(f)?;
        }
        if let Some(Graph { seconds, cpu_seconds, peak_memory, bytes }) = &self.graph {
            let (memory, bytes) = (megabytes(*peak_memory), megabytes(*bytes));
            writeln!(
                f,
                "  kgctl graph    {seconds:.3} s, cpu {cpu_seconds:.3} s, peak memory {memory}, {bytes} of text"
            )?;
        }
        if !self.changes.is_empty() {
            writeln!(f, "  {:<24} {:>9} {:>9} {:>9}  samples", "change, in ms", "median", "p99", "longest")?;
        }
        for Change { what, samples, median, p99, longest } in &self.changes {
            writeln!(f, "    {what:<22} {median:>9.1} {p99:>9.1} {longest:>9.1}  {samples:>7}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds {
            Some(seconds) => {
                writeln!(f, "  converged      {seconds:.3} s after exec, {} routes", self.routes)?
            }
            None => writeln!(f, "  not converged  {} of {} routes missing", self.missing, self.routes)?,
        }
        writeln!(
            f,
            "    cpu          {:.3} s, peak memory {}, processes started {}",
            self.cpu_seconds,
            megabytes(self.peak_memory),
            number(self.processes)
        )?;
        writeln!(f, "    api          {}, requests {}", megabytes(self.api_bytes), verbs(&self.api_requests))
    }
}

impl fmt::Display for Steady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  steady state   {:.2} % of a core over {:.0} s, {:.1} heartbeats per second",
            self.cpu_percent, self.seconds, self.heartbeats_per_second
        )?;
        writeln!(
            f,
            "    memory       {}, peak {}, processes started {}, routes changed {}",
            megabytes(self.memory),
            megabytes(self.peak_memory),
            number(self.processes),
            self.route_changes
        )?;
        writeln!(
            f,
            "    api          {} per second, writes {}: {:.0} per node-hour",
            megabytes(self.api_bytes_per_second as u64),
            verbs(&self.api_writes),
            self.writes_per_node_hour
        )
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

fn number(count: Option<usize>) -> String {
    count.map_or_else(|| "unknown".to_owned(), |count| count.to_string())
}

fn verbs(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.iter().map(|(verb, count)| format!("{verb} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let change = Change::of("x", (1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((change.median, change.p99, change.longest), (100.0, 198.0, 200.0));
    }
}
