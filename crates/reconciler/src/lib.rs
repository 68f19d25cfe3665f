//! What an agent does next, as a state machine without input or output.
//!
//! Whoever runs it feeds it what happened (`handle_*`, with the time), asks what to do (`poll_action`) and when to
//! come back (`poll_timeout`), carries out the action and reports. So the same code runs in an agent, against a
//! simulated cluster, and in a test that steps through a day in milliseconds.
//!
//! Here is decided: who is alive, what this node tells the others about itself, when the host is looked at and
//! changed, which learned endpoints are kept, what counts as healthy. How a route gets into a kernel or an
//! annotation to an API server is not known here.

mod agreement;
mod announced;
mod client;
mod cycle;
pub mod discovery;
mod endpoints;
mod intended;
mod keys;
mod known;
mod liveness;
mod lookups;
mod machine;
mod names;
mod nat;
mod neighbours;
mod objects;
mod rounds;
mod sessions;
mod shown;
mod telling;
mod tunnel_ends;
mod view;
mod watchdog;

pub use client::{Client, ClientAction, ClientSettings, ClientView};
pub use machine::{Action, Config, Mtu, Reconciler, Removal};
pub use view::{Counts, View};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::Lifeline;
use ipnet::IpNet;
use mesh::{Forced, Node, Peer, Problem};

/// The time, by both clocks: decisions use the first, what is written for others the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Never goes back, never jumps.
    pub instant: Instant,
    /// Seconds since 1970, as this host believes.
    pub unix: i64,
}

impl Now {
    /// The time a while later, by both clocks.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self { instant: self.instant + duration, unix: self.unix + duration.as_secs() as i64 }
    }
}

/// A Node of the cluster, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeUpdate {
    /// What could be read.
    pub node: Arc<Node>,
    /// What could not.
    pub problems: Vec<Problem>,
    /// What its operator forces, when it is the own node.
    pub forced: Option<Forced>,
}

/// A Peer of the cluster, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerUpdate {
    /// The peer; `None`: it is not valid and is left out.
    pub peer: Option<Peer>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// The addresses that programs of this host need, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// Those that answer without the mesh, or may: nobody has asked them yet.
    pub lifelines: BTreeMap<IpAddr, Lifeline>,
    /// The addresses of the API servers, wherever they answer; empty: they are behind something else.
    pub api_servers: BTreeSet<IpAddr>,
    /// Where the services of the cluster are, as the API says.
    pub services: Vec<IpNet>,
}

/// The state of the connection to the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watch {
    /// Everything there is has been seen, and changes arrive.
    Synced,
    /// No changes arrive, and why. What was seen stays.
    Broken(String),
}

/// Why this node could not tell the others about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchFailure {
    /// In a sentence.
    pub why: String,
    /// How long the API asks to be left alone.
    pub retry_after: Option<Duration>,
}

impl From<String> for PatchFailure {
    fn from(why: String) -> Self {
        Self { why, retry_after: None }
    }
}
