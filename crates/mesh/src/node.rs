//! A node of the mesh: what its Node object says, decoded.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

use crate::{Endpoint, PublicKey, Settings, prefix::Family};

/// How nodes are grouped into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Granularity {
    /// One segment per location.
    Location,
    /// Every node is its own segment.
    Full,
}

impl FromStr for Granularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "location" => Ok(Self::Location),
            "full" => Ok(Self::Full),
            other => Err(format!("a granularity is \"location\" or \"full\", this is {other:?}")),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Location => "location",
            Self::Full => "full",
        })
    }
}

/// What the operator of a node decides in place of its agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forced {
    /// The endpoint.
    pub endpoint: Option<Endpoint>,
    /// The internal addresses; an empty list: the node has none.
    pub internal_ips: Option<Vec<IpNet>>,
}

/// A node as its object describes it. Empty fields are those that its agent or its operator has not filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name of the Node object.
    pub name: String,
    /// When the API server made the Node object, in Unix seconds; 0 when unknown. Of two nodes that claim the same, the
    /// older one has it.
    pub created: i64,
    /// The location; `""` when none was given.
    pub location: String,
    /// Whether the operator asks for this node to lead.
    pub leader: bool,
    /// Where the node's WireGuard listens.
    pub endpoint: Option<Endpoint>,
    /// The node's WireGuard public key.
    pub key: Option<PublicKey>,
    /// The node's private addresses with their prefix lengths, at most one per family, the Go agent's one first.
    pub internal_ips: Vec<IpNet>,
    /// Whether the operator gave the node its private addresses. Else it is the node that says so.
    pub internal_ips_forced: bool,
    /// The node's pod subnets, in the order in which they were given.
    pub pod_subnets: Vec<IpNet>,
    /// Whether the node takes part also while it has no pod subnet: what gives it one may need the mesh first.
    pub joins_without_pods: bool,
    /// Seconds between keepalives that this node sends; 0 = none. Non-zero marks a node behind NAT.
    pub persistent_keepalive: u16,
    /// Ranges outside of the cluster that are reachable through this node's location.
    pub allowed_location_ips: Vec<IpNet>,
    /// The WireGuard addresses that the node's agent last wrote, with the length of the subnet.
    pub wireguard_ips: Vec<IpNet>,
    /// Endpoints of peers behind NAT, as this node's WireGuard sees them.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// The granularity that the node's agent works with.
    pub granularity: Option<Granularity>,
    /// Where the node's agent takes pod subnets from: a word of `--pod-cidr-source`.
    pub pod_cidr_source: Option<String>,
    /// What the node's agent was started with, as far as it tells.
    pub settings: Settings,
    /// The addresses of another CNI's device on the node, at most one per family: how packets get to the node inside of
    /// that CNI's network.
    pub cni_compatibility_ips: Vec<IpNet>,
    /// Unix seconds, as the node's own clock last wrote them; 0 when never.
    pub last_seen: i64,
}

impl Node {
    /// A node of which nothing but the name is known.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            created: 0,
            location: String::new(),
            leader: false,
            endpoint: None,
            key: None,
            internal_ips: Vec::new(),
            internal_ips_forced: false,
            pod_subnets: Vec::new(),
            joins_without_pods: false,
            persistent_keepalive: 0,
            allowed_location_ips: Vec::new(),
            wireguard_ips: Vec::new(),
            discovered_endpoints: BTreeMap::new(),
            granularity: None,
            pod_cidr_source: None,
            settings: Settings::default(),
            cni_compatibility_ips: Vec::new(),
            last_seen: 0,
        }
    }

    /// What the node still lacks before it can be in a mesh; empty when nothing. Liveness is not judged here.
    pub fn lacks(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.endpoint.is_none() {
            missing.push("an endpoint");
        }
        if self.key.is_none() {
            missing.push("a key");
        }
        if self.pod_subnets.is_empty() && !self.joins_without_pods {
            missing.push("a pod subnet (spec.podCIDR)");
        }
        missing
    }

    /// The order in which nodes get what several claim: the older one first, then by name. Nodes of unknown age come last.
    pub fn seniority(&self) -> (i64, &str) {
        (age(self.created), &self.name)
    }

    /// Whether this node is known to be older than something of this [`age`].
    pub fn is_older_than(&self, other: i64) -> bool {
        self.created != 0 && self.created < other
    }

    /// The internal address of one family.
    pub fn internal_ip(&self, family: Family) -> Option<IpAddr> {
        self.internal_net(family).map(|net| net.addr())
    }

    /// The internal address of one family with its prefix length.
    pub fn internal_net(&self, family: Family) -> Option<IpNet> {
        self.internal_ips.iter().copied().find(|net| Family::of_prefix(net) == family)
    }

    /// Whether another agent would count this node as live at `now` (Unix seconds) by its `last-seen` alone. Only
    /// one-shot tools ask this; an agent judges by when it saw `last-seen` change.
    pub fn seen_within(&self, seconds: i64, now: i64) -> bool {
        now.saturating_sub(self.last_seen) < seconds
    }
}

/// For comparing: when an object was made, in Unix seconds, where 0 is unknown. What is unknown is the youngest.
pub fn age(created: i64) -> i64 {
    if created == 0 { i64::MAX } else { created }
}
