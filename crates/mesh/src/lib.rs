//! What the mesh is, as pure data and pure functions: nodes and peers, how they form segments, who leads,
//! which addresses each segment gets, and the WireGuard configuration that follows.
//!
//! Nothing here knows Kubernetes, the kernel, a clock, a file or the network. Whoever calls decides which nodes
//! are alive and passes them in; the same nodes and peers give every caller the same [`Topology`].

pub mod agreement;
pub mod allocation;
pub mod conf;
pub mod conflict;
pub mod endpoint;
pub mod graph;
pub mod key;
pub mod leader;
pub mod node;
pub mod overlap;
pub mod peer;
pub mod perspective;
pub mod prefix;
pub mod preshared;
pub mod problem;
mod published;
pub mod segment;
pub mod special;
pub mod text;
pub mod topology;

pub use agreement::{Observer, Settings};
pub use endpoint::{Endpoint, Host};
pub use key::{PresharedKey, PrivateKey, PublicKey};
pub use node::{Forced, Granularity, Node};
pub use peer::Peer;
pub use perspective::{Perspective, Role};
pub use preshared::{PresharedKeySource, PresharedKeys, SecretRef};
pub use problem::{Excerpt, Object, Problem, Problems};
pub use published::Published;
pub use segment::{Segment, SegmentName};
pub use topology::{Topology, TopologyConfig};

/// The UDP port WireGuard listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 51820;
