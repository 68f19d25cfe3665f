//! A whole cluster in one thread: an API, agents with their hosts, and time that passes as fast as it is computed.
//!
//! Every agent is the real reconciler on a model of a kernel. The API has delays and outages; hosts and agents stop
//! and start; clocks are wrong; some nodes are behind NAT. What happens follows from a seed.

mod agent;
mod api;
mod chaos;
mod check;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{Granularity, Node, TopologyConfig};
use reconciler::Now;

use self::{agent::Agent, api::Api};
use crate::{
    random::Random,
    synthetic::{self, Size, Stack},
};

/// The step of time. Reconcilers gather events for 10 ms.
const STEP: Duration = Duration::from_millis(50);

/// How often WireGuard sessions are tried.
const HANDSHAKES: Duration = Duration::from_secs(5);

/// 2023-11-14, in Unix seconds.
const START: i64 = 1_700_000_000;

/// What a run follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Everything random.
    pub seed: u64,
    /// Nodes at the beginning.
    pub nodes: usize,
    /// Locations.
    pub locations: usize,
    /// How often there is trouble and then quiet.
    pub rounds: usize,
    /// What goes wrong in a round.
    pub troubles: usize,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, nodes, locations, rounds, troubles } = self;
        write!(
            f,
            "SIMULATION_SEED={seed} SIMULATION_NODES={nodes} SIMULATION_LOCATIONS={locations} \
             SIMULATION_ROUNDS={rounds} SIMULATION_TROUBLES={troubles}"
        )
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Ordered pairs of pods between which a packet was followed.
    pub paths: usize,
    /// Changes that agents made to their hosts.
    pub changes: usize,
    /// Events that agents were told.
    pub events: usize,
}

/// Runs a scenario to its end.
///
/// # Panics
/// When anything is not as it should be; the message says how to run it again.
pub fn run(scenario: Scenario) -> Summary {
    let mut simulation = Simulation::new(scenario);
    simulation.settle("the start", Duration::from_secs(70));
    for round in 0..scenario.rounds {
        simulation.round(round);
    }
    simulation.outage();
    simulation.summary
}

/// A cluster in the course of time.
struct Simulation {
    scenario: Scenario,
    random: Random,
    size: Size,
    config: TopologyConfig,
    start: Instant,
    /// Since the start.
    time: Duration,
    api: Api,
    agents: Vec<Agent>,
    /// The pairs of hosts between which no packet gets through.
    cut: BTreeSet<(usize, usize)>,
    sessions_at: Duration,
    peers_made: usize,
    summary: Summary,
    /// What has gone wrong on purpose.
    log: Vec<String>,
}

impl Simulation {
    fn new(scenario: Scenario) -> Self {
        let mut random = Random::new(scenario.seed);
        let stack = if random.chance(50) { Stack::Dual } else { Stack::Single };
        let granularity = if random.chance(75) { Granularity::Location } else { Granularity::Full };
        let size = Size { nodes: scenario.nodes, locations: scenario.locations, peers: 0, stack };
        let config = synthetic::Cluster::new(Size { nodes: 0, ..size }, granularity).config;
        let mut simulation = Self {
            scenario,
            random,
            size,
            config,
            start: Instant::now(),
            time: Duration::ZERO,
            api: Api::default(),
            agents: Vec::new(),
            cut: BTreeSet::new(),
            sessions_at: Duration::ZERO,
            peers_made: 0,
            summary: Summary::default(),
            log: vec![format!("{granularity} {stack:?}")],
        };
        for _ in 0..scenario.nodes {
            simulation.join();
        }
        simulation
    }

    /// A new node, its host and its agent.
    fn join(&mut self) -> usize {
        let index = self.agents.len();
        let mut node = synthetic::node(index, self.size);
        node.location = format!("location-{:04}", self.random.below(self.scenario.locations as u64));
        let random = Random::new(self.random.number());
        let agent = Agent::new(index, &node, random, self.config.clone());
        // What an agent tells is not there before it has started.
        let object = Node {
            endpoint: None,
            key: None,
            internal_ips: Vec::new(),
            granularity: None,
            last_seen: 0,
            leader: self.random.chance(10),
            persistent_keepalive: if agent.nat { 25 } else { 0 },
            ..node
        };
        self.api.set_node(self.time, object);
        self.agents.push(agent);
        let time = self.time;
        self.agents[index].start(time);
        index
    }

    /// Time passes.
    fn pass(&mut self, duration: Duration) {
        let end = self.time + duration;
        while self.time < end {
            self.time += STEP;
            if self.sessions_at <= self.time {
                self.sessions_at = self.time + HANDSHAKES;
                sessions::update(&mut self.agents, &self.cut, self.time);
            }
            for index in 0..self.agents.len() {
                let now = self.now(index);
                let agent = &mut self.agents[index];
                let before = (agent.changes, agent.events);
                agent.step(now, self.time, &mut self.api);
                self.summary.changes += agent.changes - before.0;
                self.summary.events += agent.events - before.1;
            }
            self.api.forget();
        }
    }

    fn now(&self, index: usize) -> Now {
        let unix = START + self.time.as_secs() as i64 + self.agents[index].skew;
        Now { instant: self.start + self.time, unix }
    }

    /// Trouble, and then quiet.
    fn round(&mut self, round: usize) {
        for _ in 0..self.scenario.troubles {
            self.trouble();
            let pause = Duration::from_millis(self.random.below(20_000));
            self.pass(pause);
        }
        self.heal();
        // A session that was is believed for three minutes.
        self.settle(&format!("round {round}"), Duration::from_secs(270));
    }

    /// After long enough all is as it should be, and stays so over two looks at the host.
    fn settle(&mut self, when: &str, enough: Duration) {
        self.pass(enough);
        let before = self.changes();
        self.pass(Duration::from_secs(65));
        self.check(when, &before);
    }

    /// The API is away for minutes: nobody loses anything.
    fn outage(&mut self) {
        let before = self.changes();
        self.log.push(format!("{:?}: outage", self.time));
        self.api.away = true;
        self.pass(Duration::from_secs(200));
        self.check_unchanged("the API is away", &before);
        self.api.away = false;
        self.pass(Duration::from_secs(100));
        self.check("the API is back", &before);
    }

    fn changes(&self) -> BTreeMap<String, usize> {
        self.agents.iter().map(|agent| (agent.name.clone(), agent.changes)).collect()
    }

    /// The nodes that take part when all is well.
    fn truth(&self) -> Vec<Arc<Node>> {
        let running = self.agents.iter().filter(|agent| agent.is_running());
        running.filter_map(|agent| self.api.node(&agent.name).cloned()).collect()
    }

    fn fail(&self, what: &str) -> ! {
        panic!(
            "{what}\n\nwhat happened before:\n  {}\n\nrun it again with:\n  {} cargo test --release -p simulation \
             --test cluster replay\n",
            self.log.join("\n  "),
            self.scenario
        );
    }
}
