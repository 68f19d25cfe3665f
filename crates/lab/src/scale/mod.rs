//! One agent in a large cluster: the real program in a namespace of its own, against an API with thousands of Nodes
//! that only exist on paper. Measured is what an operator pays: time, processor, memory, requests, processes.
//!
//! Nothing of the agent is known but its flags, which are Go Kilo's, and what it leaves in the kernel; so every
//! agent can be measured the same way.

mod agent;
mod api;
mod changes;
mod clock;
mod cluster;
mod graph;
mod host;
mod processes;
mod report;
mod routes;
mod wireguard;

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{LabError, interrupt};
use agent::Agent;
use api::Api;
use changes::Changes;
use clock::Moment;
use cluster::{Cluster, MOST_NODES};
use host::Host;
use processes::Processes;
pub use report::{Change, Graph, Machine, Report, Start, Steady};
use routes::{Routes, Wanted};

/// How long the agent is left alone before what it does is measured.
const REST: Duration = Duration::from_secs(3);

/// How nodes are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// By location.
    Location,
    /// Not at all.
    Full,
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Nodes, the agent's own included; at least 2, at most 16,384.
    pub nodes: usize,
    /// Locations; at least 1, at most as many as nodes.
    pub locations: usize,
    /// How nodes are grouped.
    pub granularity: Granularity,
    /// Peers.
    pub peers: usize,
    /// The agent's program; `None`: ours.
    pub agent: Option<PathBuf>,
    /// More arguments for it.
    pub arguments: Vec<String>,
    /// Whether the WireGuard interface is made beforehand, in user space, for an agent that cannot make one where the
    /// kernel has no WireGuard.
    pub device_beforehand: bool,
    /// Every node's kubelet and agent write a heartbeat this often.
    pub heartbeat: Duration,
    /// How long after its last route the agent counts as being in the steady state.
    pub settle: Duration,
    /// How long the steady state is observed; zero: not at all.
    pub steady: Duration,
    /// Whether `kgctl graph` is measured, too.
    pub graph: bool,
    /// How often each single change is made, there and back; zero: none.
    pub repetitions: usize,
    /// How long the start, and each change, may take.
    pub deadline: Duration,
}

impl Granularity {
    /// As the agents' flag says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Location => "location",
            Self::Full => "full",
        }
    }
}

impl Default for Measurement {
    fn default() -> Self {
        Self {
            nodes: 1000,
            locations: 100,
            granularity: Granularity::Location,
            peers: 0,
            agent: None,
            arguments: Vec::new(),
            device_beforehand: false,
            heartbeat: Duration::from_secs(30),
            settle: REST,
            steady: Duration::from_secs(60),
            graph: true,
            repetitions: 50,
            deadline: Duration::from_secs(60),
        }
    }
}

impl Measurement {
    /// Measures; `progress` is told what comes next.
    ///
    /// # Errors
    /// When the cluster cannot be made, or the agent ends or applies a change too late. That it has not all routes
    /// in time is no error but in the report.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> Result<Report, LabError> {
        self.check()?;
        let machine = Machine::here();
        let cluster = Cluster::new(self.granularity, self.nodes, self.locations, self.peers);
        progress("making the cluster");
        let host = Host::create()?;
        let mut api = Api::serve(&host, &cluster)?;
        api.beat(&cluster, self.heartbeat);
        let routes = Routes::follow(host.namespace())?;
        let processes = Processes::follow().ok();
        progress("starting the agent");
        let mut agent = Agent::start(self, &host)?;
        let run = Run { measurement: self, host: &host, api: &api, routes: &routes, processes: &processes };
        let start = run.start(&mut agent, &cluster)?;
        let (mut steady, mut graph, mut changes) = (None, None, Vec::new());
        if start.seconds.is_some() {
            if !self.steady.is_zero() {
                progress("waiting for the steady state, and watching it");
                steady = Some(run.steady(&mut agent)?);
            }
            if self.graph {
                progress("drawing the graph");
                // The agent has to have told its granularity.
                run.pause(&mut agent, REST)?;
                graph = graph::measure(&host)?;
            }
            if self.repetitions > 0 {
                progress("making single changes");
                run.pause(&mut agent, REST)?;
                let mut single =
                    Changes { host: &host, api: &api, routes: &routes, cluster, deadline: self.deadline };
                changes = single.run(self.repetitions)?;
            }
        }
        let agent = self.agent.as_ref().map_or_else(|| "kg".to_owned(), |path| path.display().to_string());
        let (nodes, locations, peers) = (self.nodes, self.locations, self.peers);
        let granularity = self.granularity.name();
        Ok(Report { agent, nodes, locations, granularity, peers, machine, start, steady, graph, changes })
    }

    fn check(&self) -> Result<(), LabError> {
        let Self { nodes, locations, .. } = self;
        if !(2..=MOST_NODES).contains(nodes) {
            return Err(LabError::Spec(format!("{nodes} nodes are not between 2 and {MOST_NODES}")));
        }
        if !(1..=*nodes).contains(locations) {
            return Err(LabError::Spec(format!(
                "{locations} locations are not between 1 and {nodes}, the nodes"
            )));
        }
        if self.peers > 10_000 {
            return Err(LabError::Spec(format!("{} Peers are more than 10,000", self.peers)));
        }
        Ok(())
    }
}

/// The parts of a measurement that runs.
struct Run<'a> {
    measurement: &'a Measurement,
    host: &'a Host,
    api: &'a Api,
    routes: &'a Routes,
    processes: &'a Option<Processes>,
}

impl Run<'_> {
    fn start(&self, agent: &mut Agent, cluster: &Cluster) -> Result<Start, LabError> {
        let wanted: Wanted = cluster.routes().into_iter().map(|(prefix, hop)| (prefix, Some(hop))).collect();
        // Where the agent is faster than this line, the table has the routes already and the moment is late, not early.
        self.routes.want(&wanted);
        let outcome = loop {
            let outcome = self.routes.wait(Duration::from_millis(100))?;
            let late = Moment::now().since(agent.executed) > self.measurement.deadline;
            if outcome.is_ok() || late {
                break outcome;
            }
            interrupt::check()?;
            agent.check()?;
        };
        let usage = agent.usage()?;
        let counters = self.api.counters();
        // Routes come last; that the tunnels are there is looked at once.
        let tunnels = wireguard::peers(self.host)?.len();
        if outcome.is_ok() && tunnels != cluster.tunnels() {
            return Err(LabError::Deadline {
                what: "the WireGuard peers before the last route".into(),
                within: self.measurement.deadline,
                seen: format!("{tunnels} of {} peers", cluster.tunnels()),
            });
        }
        Ok(Start {
            seconds: outcome.ok().map(|end| end.since(agent.executed).as_secs_f64()),
            routes: wanted.len(),
            missing: outcome.err().unwrap_or_default(),
            cpu_seconds: usage.processor.as_secs_f64(),
            peak_memory: usage.peak_memory,
            api_bytes: counters.bytes_sent,
            api_requests: counters.requests,
            processes: self.started_by(agent),
        })
    }

    fn steady(&self, agent: &mut Agent) -> Result<Steady, LabError> {
        self.pause(agent, self.measurement.settle)?;
        let (usage, counters, beats) = (agent.usage()?, self.api.counters(), self.api.beats());
        let (begin, processes) = (Instant::now(), self.started_by(agent));
        let route_changes = self.routes.changes();
        self.pause(agent, self.measurement.steady)?;
        let seconds = begin.elapsed().as_secs_f64();
        let (usage_now, counters_now) = (agent.usage()?, self.api.counters());
        let writes = ["create", "update", "patch", "delete"].into_iter().filter_map(|verb| {
            let count =
                |counters: &apiserver::Counters| counters.requests.get(verb).copied().unwrap_or_default();
            let grown = count(&counters_now) - count(&counters);
            (grown > 0).then(|| (verb.to_owned(), grown))
        });
        let api_writes: std::collections::BTreeMap<String, u64> = writes.collect();
        let processor = usage_now.processor.saturating_sub(usage.processor);
        Ok(Steady {
            seconds,
            heartbeats_per_second: (self.api.beats() - beats) as f64 / seconds,
            cpu_percent: processor.as_secs_f64() / seconds * 100.0,
            memory: usage_now.memory,
            peak_memory: usage_now.peak_memory,
            api_bytes_per_second: (counters_now.bytes_sent - counters.bytes_sent) as f64 / seconds,
            writes_per_node_hour: api_writes.values().sum::<u64>() as f64 * 3600.0 / seconds,
            api_writes,
            route_changes: self.routes.changes() - route_changes,
            processes: self.started_by(agent).zip(processes).map(|(now, before)| now - before),
        })
    }

    /// Lets time pass in which the agent has to live.
    fn pause(&self, agent: &mut Agent, time: Duration) -> Result<(), LabError> {
        let end = Instant::now() + time;
        while let Some(rest) = end.checked_duration_since(Instant::now()) {
            interrupt::check()?;
            agent.check()?;
            thread::sleep(rest.min(Duration::from_millis(200)));
        }
        Ok(())
    }

    fn started_by(&self, agent: &Agent) -> Option<usize> {
        self.processes.as_ref()?.started_by(agent.pid())
    }
}
