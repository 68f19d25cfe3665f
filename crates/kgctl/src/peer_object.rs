//! A WireGuard peer as a Peer object in JSON or YAML, byte for byte as the Go `kgctl` prints it.
//!
//! That includes two faults which scripts may have learned to live with: the name of a DNS endpoint is lost (the
//! port stands in its place), and a keepalive is given in nanoseconds. Whoever asks is warned.

use anyhow::Result;
use kubernetes::peer::{PresharedKeySecretRef, Secret};
use mesh::{Host, SecretRef, conf::ConfPeer};
use program::print::say;
use serde::Serialize;

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
    endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent_keepalive: Option<u64>,
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
    ip: String,
}

/// Two spaces of indentation, no line break at the end; Go's encoder escapes what HTML would take for markup.
pub fn json(name: &str, peer: &ConfPeer, preshared_key: Option<&SecretRef>) -> Result<String> {
    let text = serde_json::to_string_pretty(&object(name, peer, preshared_key))?;
    Ok(text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e"))
}

/// Keys sorted, a line break at the end, texts that look like numbers in double quotes.
pub fn yaml(name: &str, peer: &ConfPeer, preshared_key: Option<&SecretRef>) -> Result<String> {
    // A JSON value sorts its keys. No value holds a quote: they are names, addresses and keys.
    let text = serde_norway::to_string(&serde_json::to_value(object(name, peer, preshared_key))?)?;
    Ok(text.replace('\'', "\""))
}

fn object<'a>(name: &'a str, peer: &ConfPeer, preshared_key: Option<&SecretRef>) -> Object<'a> {
    let keepalive = u64::from(peer.persistent_keepalive);
    if keepalive != 0 {
        say(format_args!(
            "warning: persistentKeepalive is printed in nanoseconds, as the Go kgctl does; change it to {keepalive} \
             before you apply the object"
        ));
    }
    Object {
        kind: "Peer",
        api_version: "kilo.squat.ai/v1alpha1",
        metadata: Metadata { name },
        spec: Spec {
            allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
            endpoint: endpoint(peer.endpoint.as_ref()),
            persistent_keepalive: (keepalive != 0).then_some(keepalive * 1_000_000_000),
            preshared_key: peer.preshared_key.as_ref().map(|key| Secret::new(key.expose_base64().as_str())),
            preshared_key_secret_ref: preshared_key.map(|reference| PresharedKeySecretRef {
                name: reference.name().to_owned(),
                key: reference.key().to_owned(),
            }),
            public_key: peer.key.to_string(),
        },
    }
}

fn endpoint(endpoint: Option<&mesh::Endpoint>) -> Endpoint {
    const NO_IP: &str = "<nil>";
    let (dns, ip, port) = match endpoint {
        None => (None, NO_IP.to_owned(), 0),
        Some(mesh::Endpoint { host: Host::Ip(address), port }) => (None, address.to_string(), *port),
        Some(mesh::Endpoint { host: Host::Dns(name), port }) => {
            say(format_args!(
                "warning: the DNS name of the endpoint is not printed, as in the Go kgctl; change dnsOrIP to \
                 {{dns: {name}}} before you apply the object"
            ));
            (Some(port.to_string()), NO_IP.to_owned(), *port)
        }
    };
    Endpoint { dns_or_ip: DnsOrIp { dns, ip }, port }
}
