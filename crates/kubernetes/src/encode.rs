//! What an agent tells the others, as annotations on its own Node: texts exactly as the Go agent writes them.
//!
//! When to write is decided by the caller; that what has not changed is not written, here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use mesh::{Endpoint, PublicKey, Published};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{annotations as name, permission::Annotations, settings};

/// The annotations that say this. `None` is an annotation that is not to be there.
pub fn encode(facts: &Published) -> Annotations {
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
        (name::POD_CIDR_SOURCE, unless_go_reads_it_too(&facts.pod_cidr_source)),
    ])
}

/// What of [`encode`] a Node with these annotations does not say yet.
pub fn changed(current: &BTreeMap<String, String>, facts: &Published) -> Annotations {
    encode(facts).into_iter().filter(|(key, value)| current.get(*key) != value.as_ref()).collect()
}

/// The merge patch (RFC 7386) that takes a Node with these annotations to what [`encode`] says. `None` when nothing
/// differs.
pub fn patch(current: &BTreeMap<String, String>, facts: &Published) -> Option<Value> {
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

/// Where Go agents take pod subnets from.
const GO_POD_CIDR_SOURCE: &str = "node";

/// What a Go agent reads is not told: it does not tell it either.
fn unless_go_reads_it_too(source: &str) -> Option<String> {
    (source != GO_POD_CIDR_SOURCE).then(|| source.to_owned())
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
