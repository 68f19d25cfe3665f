//! A multi-site cluster in the network namespaces of one machine: sites with their own LAN, router and WAN,
//! nodes that run the real agent, pods behind a bridge, and a Kubernetes API, dual stack throughout.
//!
//! ```no_run
//! use std::time::Duration;
//! use kilo_lab::{Family, Lab, Spec};
//!
//! let lab = Lab::up(Spec::demo().named("example"))?;
//! lab.wait_converged(Duration::from_secs(60))?;
//! assert!(lab.matrix(Family::V6)?.is_complete());
//! # Ok::<(), kilo_lab::LabError>(())
//! ```
//! The lab is torn down when the value ends; should the process be killed, the next lab that is brought up
//! does it.

pub mod api;
mod command;
mod error;
mod fabric;
mod http;
pub mod interrupt;
mod lab;
pub mod layout;
mod matrix;
mod netns;
mod node;
mod objects;
pub mod probe;
mod process;
pub mod programs;
mod reach;
pub mod scale;
pub mod server;
pub mod spec;
mod state;
pub mod topology;

pub use api::{Api, Outage};
pub use error::LabError;
pub use http::{Request, Response};
pub use lab::{Ending, Lab, Lifetime};
pub use layout::{Family, Layout};
pub use matrix::{Matrix, Paint};
pub use node::{INTERFACE, NodeRef, WireGuardPeer};
pub use objects::node as node_object;
pub use probe::{Outcome, Report, Stream};
pub use process::{Place, Running};
pub use reach::wait_until;
pub use spec::{Access, Node, Site, Spec};
pub use state::{State, labs};
