//! Nodes and Peers of the Kubernetes API, decoded, watched and patched.
//!
//! The objects become [`mesh::Node`] and [`mesh::Peer`], with the pod subnets that other CNIs' objects give; nothing that belongs to Kubernetes goes further than this
//! crate. It decides nothing about the mesh.

pub mod admission;
pub mod annotations;
pub mod api_servers;
pub mod client;
pub mod decode;
pub mod encode;
mod error;
mod explain;
pub mod list;
pub mod object;
pub mod patch;
pub mod peer;
pub mod permission;
pub mod pod_cidrs;
pub mod preshared_keys;
pub mod registration;
pub mod services;
mod settings;
pub mod watch;

pub use client::{ApiAccess, Credentials, connect};
pub use decode::{decode_forced, decode_node, decode_peer};
pub use error::Error;
pub use explain::{Explanation, Resource};
pub use list::{list_nodes, list_peers, published_source};
pub use object::{NodeObject, PeerObject};
pub use patch::{Reporter, patch_node, report};
pub use pod_cidrs::{PodCidrSource, missing_pod_subnet};
pub use watch::{Update, Updates, WatchConfig, watch};
