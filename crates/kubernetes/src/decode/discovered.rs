//! The annotation `discovered-endpoints`: a JSON object from public key to what Go's `net.UDPAddr` becomes in JSON.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use mesh::{PublicKey, special::check_address};
use serde::Deserialize;

use super::Problems;
use crate::annotations::DISCOVERED_ENDPOINTS;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "IP", default)]
    ip: Option<String>,
    #[serde(default)]
    port: i64,
}

/// Decodes the annotation. Text that is not such an object, or that holds an address that is none, gives nothing at
/// all, as in the Go implementation; an entry with a wrong key or port is left out.
pub(super) fn decode_discovered_endpoints(
    text: &str,
    problems: &mut Problems,
) -> BTreeMap<PublicKey, SocketAddr> {
    const REASON: &str = "InvalidDiscoveredEndpoints";
    const REMEDY: &str = "the node's agent writes it, restart the agent";
    let mut endpoints = BTreeMap::new();
    if text.is_empty() {
        return endpoints;
    }
    let entries: Option<BTreeMap<String, Option<Entry>>> = match serde_json::from_str(text) {
        Ok(entries) => entries,
        Err(error) => {
            let instead = format!("it is not read at all: {error}; {REMEDY}");
            problems.annotation(REASON, DISCOVERED_ENDPOINTS, text, &instead);
            return endpoints;
        }
    };
    for (key_text, entry) in entries.unwrap_or_default() {
        let Some(entry) = entry else { continue };
        let ip = match entry.ip.as_deref().unwrap_or_default() {
            "" => continue,
            text_of_ip => match text_of_ip.parse::<IpAddr>() {
                Ok(ip) => ip,
                Err(_) => {
                    let instead = format!(
                        "it is not read at all: {:?} is no IP address; {REMEDY}",
                        super::shortened(text_of_ip)
                    );
                    problems.annotation(REASON, DISCOVERED_ENDPOINTS, text, &instead);
                    return BTreeMap::new();
                }
            },
        };
        let key = key_text.parse::<PublicKey>();
        let port = u16::try_from(entry.port).ok().filter(|port| *port != 0);
        match (key, port) {
            (Ok(key), Some(port)) => match check_address(ip.to_canonical()) {
                Ok(()) => {
                    endpoints.insert(key, SocketAddr::new(ip.to_canonical(), port));
                }
                // An agent writes what WireGuard shows. The others reach it there no more than anybody else.
                Err(why) => {
                    let instead =
                        format!("the endpoint of {key} is left out; give it an endpoint or another network");
                    problems.unusable(DISCOVERED_ENDPOINTS, &why, &instead);
                }
            },
            (Err(error), _) => {
                let shown = super::shortened(&key_text);
                let instead = format!("the entry of {shown:?} is left out: {error}; {REMEDY}");
                problems.annotation(REASON, DISCOVERED_ENDPOINTS, text, &instead);
            }
            (Ok(key), None) => {
                let instead = format!("the entry of {key} is left out: {} is no port; {REMEDY}", entry.port);
                problems.annotation(REASON, DISCOVERED_ENDPOINTS, text, &instead);
            }
        }
    }
    endpoints
}
