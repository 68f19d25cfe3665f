//! The command `kilo-lab scale`: its arguments and what it prints. What is measured, and how, is in the library.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use kilo_lab::{
    interrupt,
    scale::{Granularity, Measurement},
};

/// The arguments.
#[derive(Args)]
pub struct Scale {
    /// Nodes, the agent's own included.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Locations.
    #[arg(long, default_value_t = 100)]
    locations: usize,
    /// How nodes are grouped.
    #[arg(long, default_value = "location", value_enum)]
    granularity: Grouping,
    /// Peers.
    #[arg(long, default_value_t = 0)]
    peers: usize,
    /// Another agent that takes Go Kilo's flags; may be given several times [default: the kg beside kilo-lab].
    #[arg(long, value_name = "PATH")]
    agent: Vec<PathBuf>,
    /// A further argument for the agent; may be given several times.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    agent_arg: Vec<String>,
    /// Make the WireGuard interface beforehand, in user space, and let the agent use it.
    #[arg(long)]
    device_beforehand: bool,
    /// How many seconds after the last route the steady state begins; WireGuard tries for 90 s to reach gateways that exist on
    /// paper only.
    #[arg(long, value_name = "SECONDS", default_value_t = 95)]
    settle: u64,
    /// How many seconds the steady state is observed; 0: not at all.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    steady: u64,
    /// How often each single change is made, there and back; 0: none.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    repetitions: usize,
    /// Every node's kubelet and agent write a heartbeat this often.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    heartbeat: u64,
    /// How many seconds the start, and each change, may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    deadline: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Grouping {
    /// By location.
    Location,
    /// Not at all.
    Full,
}

impl Scale {
    /// Measures, and prints.
    ///
    /// # Errors
    /// When something cannot be measured, or an agent does not get its routes in time.
    pub fn run(&self) -> anyhow::Result<()> {
        interrupt::listen();
        let agents: Vec<Option<PathBuf>> =
            if self.agent.is_empty() { vec![None] } else { self.agent.iter().cloned().map(Some).collect() };
        let mut reports = Vec::new();
        for agent in agents {
            let report = self.measurement(agent).run(|what| eprintln!("{what}"))?;
            if !self.json {
                say!("{report}\n");
            }
            reports.push(report);
        }
        if self.json {
            say!("{}\n", serde_json::to_string_pretty(&reports).context("writing the reports as JSON")?);
        }
        let late: Vec<&str> = reports
            .iter()
            .filter(|report| report.start.seconds.is_none())
            .map(|report| report.agent.as_str())
            .collect();
        anyhow::ensure!(late.is_empty(), "not all routes within {} s: {}", self.deadline, late.join(", "));
        Ok(())
    }

    fn measurement(&self, agent: Option<PathBuf>) -> Measurement {
        Measurement {
            nodes: self.nodes,
            locations: self.locations,
            granularity: match self.granularity {
                Grouping::Location => Granularity::Location,
                Grouping::Full => Granularity::Full,
            },
            peers: self.peers,
            agent,
            arguments: self.agent_arg.clone(),
            device_beforehand: self.device_beforehand,
            heartbeat: Duration::from_secs(self.heartbeat),
            settle: Duration::from_secs(self.settle),
            steady: Duration::from_secs(self.steady),
            graph: true,
            repetitions: self.repetitions,
            deadline: Duration::from_secs(self.deadline),
        }
    }
}
