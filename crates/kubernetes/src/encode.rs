//! What an agent tells the others, as annotations on its own Node: texts exactly as the Go agent writes them.
//!
//! When to write is decided by the caller; that what has not changed is not written, here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use mesh::{Endpoint, Granularity, Node, PublicKey, Settings};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{NodeObject, PodCidrSource, annotations as name, permission::Annotations, settings};

/// What an agent tells the others about its own node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFacts {
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
    /// Endpoints of peers behind NAT, as the node's WireGuard sees them.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// The addresses of another CNI's device, at most one per family. The first is the one that Go agents see.
    pub cni_compatibility_ips: Vec<IpNet>,
    /// Where the agent takes pod subnets from.
    pub pod_cidr_source: PodCidrSource,
    /// What the agent was started with, as far as others have to have the same.
    pub settings: Settings,
}

impl AgentFacts {
    /// What a Node already tells, and the same decoded; `None` when it has no key or no granularity yet, so no agent has
    /// been there.
    pub fn of(object: &NodeObject, node: &Node) -> Option<Self> {
        Some(Self {
            endpoint: node.endpoint.clone(),
            internal_ips: node.internal_ips.clone(),
            key: node.key?,
            wireguard_ips: node.wireguard_ips.clone(),
            granularity: node.granularity?,
            last_seen: node.last_seen,
            discovered_endpoints: node.discovered_endpoints.clone(),
            cni_compatibility_ips: node.cni_compatibility_ips.clone(),
            pod_cidr_source: PodCidrSource::published(object)?.ok()?,
            settings: node.settings.clone(),
        })
    }
}

/// The annotations that say this. `None` is an annotation that is not to be there.
pub fn encode(facts: &AgentFacts) -> Annotations {
    let text_of = |cidr: Option<&IpNet>| cidr.map(IpNet::to_string).unwrap_or_default();
    let endpoint = facts.endpoint.as_ref().map(Endpoint::to_string).unwrap_or_default();
    BTreeMap::from([
        (name::ENDPOINT, Some(endpoint)),
        (name::INTERNAL_IP, Some(text_of(facts.internal_ips.first()))),
        (name::INTERNAL_IPS, list_of_several(&facts.internal_ips)),
        (name::KEY, Some(facts.key.to_string())),
        (name::WIREGUARD_IP, Some(text_of(facts.wireguard_ips.first()))),
        (name::WIREGUARD_IPS, list_of_several(&facts.wireguard_ips)),
        (name::GRANULARITY, Some(facts.granularity.to_string())),
        (name::LAST_SEEN, Some(facts.last_seen.to_string())),
        (name::DISCOVERED_ENDPOINTS, Some(encode_discovered_endpoints(&facts.discovered_endpoints))),
        (name::CNI_COMPATIBILITY_IP, Some(text_of(facts.cni_compatibility_ips.first()))),
        (name::CNI_COMPATIBILITY_IPS, list_of_several(&facts.cni_compatibility_ips)),
        (name::SETTINGS, settings::encode(&facts.settings)),
        (name::POD_CIDR_SOURCE, unless_go_reads_it_too(facts.pod_cidr_source)),
    ])
}

/// What of [`encode`] a Node with these annotations does not say yet.
pub fn changed(current: &BTreeMap<String, String>, facts: &AgentFacts) -> Annotations {
    encode(facts).into_iter().filter(|(key, value)| current.get(*key) != value.as_ref()).collect()
}

/// The merge patch (RFC 7386) that takes a Node with these annotations to what [`encode`] says. `None` when nothing
/// differs.
pub fn patch(current: &BTreeMap<String, String>, facts: &AgentFacts) -> Option<Value> {
    let changed = changed(current, facts);
    (!changed.is_empty()).then(|| annotations_patch(&changed))
}

/// What removes everything an agent writes, for the shutdown of an agent that leaves for good. The
/// Go agent leaves `cni-compatibility-ip` behind; nobody reads it of a node without a key.
pub fn cleared() -> Annotations {
    name::OF_AGENT.into_iter().chain([name::SETTINGS]).map(|key| (key, None)).collect()
}

pub(crate) fn annotations_patch(changed: &Annotations) -> Value {
    json!({ "metadata": { "annotations": changed } })
}

/// What a Go agent reads is not told: it does not tell it either.
fn unless_go_reads_it_too(source: PodCidrSource) -> Option<String> {
    (source != PodCidrSource::Node).then(|| source.to_string())
}

fn list_of_several(cidrs: &[IpNet]) -> Option<String> {
    (cidrs.len() > 1).then(|| cidrs.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","))
}

/// Go's `net.UDPAddr` as its JSON encoder writes it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UdpAddr {
    #[serde(rename = "IP")]
    ip: IpAddr,
    port: u16,
    zone: &'static str,
}

/// Sorted by the text of the keys, as Go sorts; the order of the bytes is another.
fn encode_discovered_endpoints(endpoints: &BTreeMap<PublicKey, SocketAddr>) -> String {
    if endpoints.is_empty() {
        return String::new();
    }
    let by_text: BTreeMap<String, UdpAddr> = endpoints
        .iter()
        .map(|(key, address)| {
            (key.to_string(), UdpAddr { ip: address.ip().to_canonical(), port: address.port(), zone: "" })
        })
        .collect();
    serde_json::to_string(&by_text).expect("a map from strings to addresses is JSON")
}
