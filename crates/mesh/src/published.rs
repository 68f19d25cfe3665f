//! What an agent publishes about its own node, for all others to read.

use std::{collections::BTreeMap, net::SocketAddr};

use ipnet::IpNet;

use crate::{Endpoint, Granularity, Node, PublicKey, Settings};

/// What an agent publishes about its own node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where the node's WireGuard listens.
    pub endpoint: Option<Endpoint>,
    /// The node's private addresses with their prefix lengths, at most one per family. The first is the one that Go
    /// agents see.
    pub internal_ips: Vec<IpNet>,
    /// The node's WireGuard public key.
    pub key: PublicKey,
    /// The node's WireGuard addresses with the length of the subnet, at most one per family; none when it does not
    /// lead. The first is the one that Go agents see.
    pub wireguard_ips: Vec<IpNet>,
    /// The granularity the agent works with.
    pub granularity: Granularity,
    /// Unix seconds.
    pub last_seen: i64,
    /// Where the node's WireGuard sees others: those behind NAT, and leaders at their own addresses.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// The addresses of another CNI's device, at most one per family. The first is the one that Go agents see.
    pub cni_compatibility_ips: Vec<IpNet>,
    /// Where the agent takes pod subnets from, as `--pod-cidr-source` names it. Go agents know `node` only.
    pub pod_cidr_source: String,
    /// What the agent was started with, as far as others need the same.
    pub settings: Box<Settings>,
}

impl Published {
    /// What a node publishes; `None` while it has no key or no granularity, so no agent has been there.
    pub fn of(node: &Node) -> Option<Self> {
        Some(Self {
            endpoint: node.endpoint.clone(),
            internal_ips: node.internal_ips.clone(),
            key: node.key?,
            wireguard_ips: node.wireguard_ips.clone(),
            granularity: node.granularity?,
            last_seen: node.last_seen,
            discovered_endpoints: node.discovered_endpoints.clone(),
            cni_compatibility_ips: node.cni_compatibility_ips.clone(),
            pod_cidr_source: node.pod_cidr_source.clone()?,
            settings: Box::new(node.settings.clone()),
        })
    }
}

impl Node {
    /// Takes in what the node's agent publishes.
    pub fn publish(&mut self, published: &Published) {
        let Published {
            endpoint,
            internal_ips,
            key,
            wireguard_ips,
            granularity,
            last_seen,
            discovered_endpoints,
            cni_compatibility_ips,
            pod_cidr_source,
            settings,
        } = published;
        self.endpoint.clone_from(endpoint);
        self.internal_ips.clone_from(internal_ips);
        self.key = Some(*key);
        self.wireguard_ips.clone_from(wireguard_ips);
        self.granularity = Some(*granularity);
        self.last_seen = *last_seen;
        self.discovered_endpoints.clone_from(discovered_endpoints);
        self.cni_compatibility_ips.clone_from(cni_compatibility_ips);
        self.pod_cidr_source = Some(pod_cidr_source.clone());
        self.settings.clone_from(settings);
    }
}
