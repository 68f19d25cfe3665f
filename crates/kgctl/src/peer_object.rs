//! A WireGuard peer as a Peer object in JSON or YAML: one that `kubectl apply` takes and agents use, byte for byte as the
//! Go `kgctl` prints it wherever that prints such an object.
//!
//! It does not without an endpoint (`ip: <nil>`, port 0), with a DNS name (the port stands in its place), and with a
//! keepalive, which it gives in nanoseconds.

use anyhow::Result;
use kubernetes::peer::{PresharedKeySecretRef, Secret};
use mesh::{Host, SecretRef, conf::ConfPeer};
use serde::Serialize;

use crate::yaml;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    kind: &'a str,
    api_version: &'a str,
    metadata: Metadata<'a>,
    spec: Spec,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "allowedIPs")]
    allowed_ips: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent_keepalive: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preshared_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preshared_key_secret_ref: Option<PresharedKeySecretRef>,
    public_key: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(rename = "dnsOrIP")]
    dns_or_ip: DnsOrIp,
    port: u16,
}

#[derive(Serialize)]
struct DnsOrIp {
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
}

/// Two spaces of indentation, no line break at the end; Go's encoder escapes what HTML would take for markup.
pub fn json(name: &str, peer: &ConfPeer, preshared_key: Option<&SecretRef>) -> Result<String> {
    let text = serde_json::to_string_pretty(&object(name, peer, preshared_key))?;
    Ok(text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e"))
}

/// Keys sorted, a line break at the end.
pub fn yaml(name: &str, peer: &ConfPeer, preshared_key: Option<&SecretRef>) -> Result<String> {
    // A JSON value sorts its keys.
    Ok(yaml::print(&serde_json::to_value(object(name, peer, preshared_key))?))
}

fn object<'a>(name: &'a str, peer: &ConfPeer, preshared_key: Option<&SecretRef>) -> Object<'a> {
    Object {
        kind: "Peer",
        api_version: "kilo.squat.ai/v1alpha1",
        metadata: Metadata { name },
        spec: Spec {
            allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
            endpoint: peer.endpoint.as_ref().map(endpoint),
            persistent_keepalive: (peer.persistent_keepalive != 0).then_some(peer.persistent_keepalive),
            preshared_key: peer.preshared_key.as_ref().map(|key| Secret::new(key.expose_base64().as_str())),
            preshared_key_secret_ref: preshared_key.map(|reference| PresharedKeySecretRef {
                name: reference.name().to_owned(),
                key: reference.key().to_owned(),
            }),
            public_key: peer.key.to_string(),
        },
    }
}

fn endpoint(endpoint: &mesh::Endpoint) -> Endpoint {
    let (dns, ip) = match &endpoint.host {
        Host::Ip(address) => (None, Some(address.to_string())),
        Host::Dns(name) => (Some(name.clone()), None),
    };
    Endpoint { dns_or_ip: DnsOrIp { dns, ip }, port: endpoint.port }
}
