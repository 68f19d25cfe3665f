//! Clusters, an API and kernels in memory: what tests and benchmarks of several crates share. No program is built
//! with it.
//!
//! Everything follows from a seed: there is no clock, no thread and no random number of the system's.

#![allow(clippy::unwrap_used, reason = "only tests are built with it, and they fail by panicking")]

pub mod alone;
pub mod cluster;
pub mod forwarding;
pub mod machine;
pub mod network;
pub mod random;
pub mod synthetic;
