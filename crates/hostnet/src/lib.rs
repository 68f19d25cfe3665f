//! One host's network as data: what it is, what it should be for the node's place in the mesh, and the changes that
//! lead from one to the other.
//!
//! Links are named; whoever applies a change finds their indices. Nothing here talks to a kernel.

pub mod compatibility;
pub mod firewall;
pub mod guard;
pub mod link;
pub mod mark;
pub mod observation;
pub mod plan;
pub mod render;
pub mod route;
mod show;
pub mod state;
pub mod uplink;
pub mod wireguard;

pub use compatibility::Compatibility;
pub use firewall::{EncapsulationFilter, Firewall, Outer};
pub use guard::Lifeline;
pub use link::{Link, LinkKind, LinkName};
pub use mark::MarkBits;
pub use observation::{Handshake, HostFacts, HostRoute, Interface, LegacyTable, Observation};
pub use plan::{Change, plan};
pub use render::{
    Encapsulation, EncapsulationType, RenderConfig, RenderInput, Rendered, Responsible, render,
};
pub use route::{MarkMatch, NextHop, Route, Rule};
pub use state::{Address, HostState, Leftover};
pub use uplink::Uplinks;
pub use wireguard::{Wireguard, WireguardPeer};

/// The protocol number that marks routes and rules as ours (`rtm_protocol`, `FRA_PROTOCOL`). It is not among those
/// that `linux/rtnetlink.h` or iproute2's `rt_protos` give to others.
pub const ROUTE_PROTOCOL: u8 = 107;

/// The routing table for traffic that is encapsulated inside of a location; the Go implementation's number.
pub const KILO_TABLE: u32 = 1107;

/// The routing table of the mesh. It is looked up before the host's own tables, which nothing of ours is ever in: so no
/// route of the host is replaced, and none comes before a more general one of the host by accident.
pub const MESH_TABLE: u32 = 1108;

/// The routing table of clients, hosts outside of the cluster.
pub const CLIENT_TABLE: u32 = 1109;

/// The routing table for what pods send to leaders that are reached where their tunnels end. The host's own packets, and so
/// the tunnels', do not look into it.
pub const LEADER_TABLE: u32 = 1110;

/// The name of our VXLAN interface.
pub const VXLAN_LINK: &str = "kilo-vxlan";

/// The UDP port of our VXLAN: that of VXLAN-GPE at IANA. Another CNI's VXLAN has 4789 or 8472.
pub const VXLAN_PORT: u16 = 4790;

/// The number of the network in our VXLAN packets (VNI).
pub const VXLAN_NETWORK: u32 = 1107;

/// The kernel's main routing table. Go agents, and agents of version 0.1, have routes in it.
pub const MAIN_TABLE: u32 = 254;

/// The tables that we have routes in.
pub const TABLES: [u32; 4] = [KILO_TABLE, MESH_TABLE, CLIENT_TABLE, LEADER_TABLE];

/// The name of our nftables table, of family `inet`.
pub const NFT_TABLE: &str = "kilo";
