//! Nodes and Peers of the Kubernetes API, decoded, watched and patched.
//!
//! The objects become [`mesh::Node`] and [`mesh::Peer`]; nothing that belongs to Kubernetes goes further than this
//! crate. It decides nothing about the mesh.

pub mod annotations;
pub mod decode;
pub mod encode;
pub mod object;
pub mod peer;

pub use decode::{decode_node, decode_peer, missing_pod_subnet};
pub use object::{NodeObject, PeerObject};
