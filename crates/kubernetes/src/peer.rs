//! The Peer custom resource: `peers.kilo.squat.ai`, version `v1alpha1`, the same that the Go implementation has.
//!
//! The rules in its schema refuse on `kubectl apply` what no agent could use; objects that were stored before
//! there were rules are still read, and judged in [`crate::decode`].

#![allow(clippy::duplicated_attributes, reason = "every column of the table repeats the words type and path")]

use std::fmt;

use kube::{CustomResource, CustomResourceExt as _};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::Value;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What a WireGuard client outside of the cluster is, and what is reached through it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "kilo.squat.ai",
    version = "v1alpha1",
    kind = "Peer",
    plural = "peers",
    singular = "peer",
    shortname = "kp",
    derive = "PartialEq",
    doc = "A WireGuard client outside of the cluster that takes part in the mesh.",
    printcolumn(name = "Public Key", type_ = "string", json_path = ".spec.publicKey"),
    printcolumn(name = "Allowed IPs", type_ = "string", json_path = ".spec.allowedIPs"),
    printcolumn(name = "DNS", type_ = "string", json_path = ".spec.endpoint.dnsOrIP.dns"),
    printcolumn(name = "IP", type_ = "string", json_path = ".spec.endpoint.dnsOrIP.ip"),
    printcolumn(name = "Port", type_ = "integer", json_path = ".spec.endpoint.port"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PeerSpec {
    /// The addresses that are reached through the peer, as CIDRs.
    // `camelCase` would make it `allowedIps`.
    #[serde(rename = "allowedIPs", default, deserialize_with = "bounded_list")]
    pub allowed_ips: Vec<String>,
    /// Where the peer listens; none for a peer behind NAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<PeerEndpoint>,
    /// Seconds between keepalives; 0 = none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub persistent_keepalive: i64,
    /// A key shared with the peer, in base64; empty = none.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub preshared_key: Secret,
    /// The Secret that holds the key shared with the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key_secret_ref: Option<PresharedKeySecretRef>,
    /// The peer's WireGuard public key in base64.
    #[serde(default)]
    pub public_key: String,
}

/// An entry of a Secret in the namespace [`NAMESPACE`](crate::preshared_keys::NAMESPACE).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresharedKeySecretRef {
    /// The name of the Secret.
    #[serde(default)]
    pub name: String,
    /// The key of the entry in its data; empty = [`DEFAULT_KEY`](crate::preshared_keys::DEFAULT_KEY).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// Where a peer listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEndpoint {
    /// The host.
    #[serde(rename = "dnsOrIP", default)]
    pub dns_or_ip: DnsOrIp,
    /// The UDP port, 1 to 65535.
    #[serde(default)]
    pub port: i64,
}

/// A DNS name or an address. When both are given, the name is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOrIp {
    /// A DNS-1123 subdomain; empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dns: String,
    /// An IPv4 or IPv6 address; empty = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
}

/// How many allowed IPs the schema lets a Peer have. Nothing that is routed by a Peer comes near, short of a list of all
/// networks of a country; without a bound one object makes every agent handle 70,000. API servers from Kubernetes 1.30 on
/// keep a stored Peer that has more, and let everything else of it be changed.
pub const MOST_ALLOWED_IPS: usize = 4096;

/// How many allowed IPs of a Peer are read at all, with or without the schema. An object of 1.5 MiB, the largest that is
/// stored, has no more as long as each takes 12 bytes, and `"10.5.0.1/32",` takes 14.
pub const MOST_READ_ALLOWED_IPS: usize = 131_072;

/// Reads a list of texts up to [`MOST_READ_ALLOWED_IPS`]. Empty texts take eight times as much memory as in JSON.
fn bounded_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Reader;

    impl<'de> Visitor<'de> for Reader {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                if texts.len() == MOST_READ_ALLOWED_IPS {
                    return Err(A::Error::custom(format_args!(
                        "allowedIPs has more than {MOST_READ_ALLOWED_IPS} entries: write at most {MOST_ALLOWED_IPS}, \
                         and join neighbouring ranges to wider ones"
                    )));
                }
                texts.push(text);
            }
            Ok(texts)
        }
    }

    deserializer.deserialize_seq(Reader)
}

/// A text that is never shown and is overwritten when dropped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text. Whoever takes it keeps it secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "secret" })
    }
}

/// The definition of the Peer resource, as it is installed in a cluster.
pub fn custom_resource_definition() -> Value {
    let mut definition = serde_json::to_value(Peer::crd()).expect("a resource definition is JSON");
    tidy(&mut definition);
    definition
}

/// The definition without the rules for the values, like that of the Go implementation: it takes objects that
/// [`custom_resource_definition`] refuses. For tests with objects from clusters that have not had the rules.
pub fn custom_resource_definition_without_rules() -> Value {
    let mut definition = custom_resource_definition();
    remove_rules(&mut definition["spec"]["versions"][0]["schema"]);
    definition
}

/// [`custom_resource_definition`] as YAML: the content of `manifests/crds.yaml`.
///
/// # Errors
/// None is known: the definition is fixed when the program is built.
pub fn custom_resource_definition_yaml() -> Result<String, serde_norway::Error> {
    serde_norway::to_string(&custom_resource_definition())
}

/// Bounds are floating-point numbers in the types of the API; as such they look odd in YAML.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match field.as_f64() {
                    #[expect(clippy::cast_possible_truncation, reason = "the bounds are small whole numbers")]
                    Some(bound) if key == "minimum" || key == "maximum" => *field = Value::from(bound as i64),
                    _ => tidy(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn remove_rules(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for rule in ["pattern", "minimum", "maximum", "maxItems", "maxLength", "anyOf"] {
                fields.remove(rule);
            }
            fields.values_mut().for_each(remove_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_rules),
        _ => {}
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl JsonSchema for PeerSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PeerSpec".into()
    }

    /// Every rule here holds for all objects that the Go implementation's own validation accepts, but for a keepalive
    /// of more than 65535 s, which WireGuard cannot express, a preshared key that is none, and the bounds of sizes:
    /// [`MOST_ALLOWED_IPS`], and 64 characters for a key with line ends. Only rules that every API server since Kubernetes
    /// 1.16 knows are used.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "What the peer is and what is reached through it.",
            "required": ["allowedIPs", "publicKey"],
            "properties": {
                "allowedIPs": {
                    "description": "The addresses that are reached through the peer, in CIDR notation; a single \
                                    address ends in /32 or /128.",
                    "type": "array",
                    "maxItems": MOST_ALLOWED_IPS,
                    "items": {
                        "type": "string",
                        // The longest text of an IPv6 address has 45 characters, and `/128` four.
                        "maxLength": 49,
                        "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$",
                    },
                },
                "endpoint": {
                    "description": "Where the peer listens. Leave it out for a peer that is behind NAT or moves.",
                    "type": "object",
                    "required": ["dnsOrIP", "port"],
                    "properties": {
                        "dnsOrIP": {
                            "description": "A DNS name or an IP address. When both are given, the name is used.",
                            "type": "object",
                            "anyOf": [{ "required": ["dns"] }, { "required": ["ip"] }],
                            "properties": {
                                "dns": {
                                    "description": "A DNS name in lower case (RFC 1123 subdomain).",
                                    "type": "string",
                                    "maxLength": 253,
                                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$",
                                },
                                "ip": {
                                    "description": "An IPv4 or IPv6 address.",
                                    "type": "string",
                                    "maxLength": 45,
                                    "pattern": "^[0-9A-Fa-f:.]*$",
                                },
                            },
                        },
                        "port": {
                            "description": "The UDP port.",
                            "type": "integer",
                            "format": "int32",
                            "minimum": 1,
                            "maximum": 65535,
                        },
                    },
                },
                "persistentKeepalive": {
                    "description": "Seconds between keepalives that the peer sends; 0, the default, switches them off. \
                                    Set it on a peer behind NAT.",
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 65535,
                },
                "presharedKey": {
                    "description": "An optional key shared with the peer: base64 of 32 bytes, as `wg genpsk` prints it.",
                    "type": "string",
                    "maxLength": 64,
                    "pattern": "^([A-Za-z0-9+/]{43}=\\s*)?$",
                },
                "presharedKeySecretRef": {
                    "description": "Where the key shared with the peer is kept, instead of presharedKey: an entry of a \
                                    Secret of the type kilo.squat.ai/preshared-key in the namespace \
                                    kilo-preshared-keys.",
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {
                            "description": "The name of the Secret.",
                            "type": "string",
                            "maxLength": 253,
                            "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
                        },
                        "key": {
                            "description": "The key of the entry in the data of the Secret; presharedKey, the default, \
                                            if it is left out.",
                            "type": "string",
                            "maxLength": 253,
                            "pattern": "^[-._a-zA-Z0-9]*$",
                        },
                    },
                },
                "publicKey": {
                    "description": "The peer's WireGuard public key: base64 of 32 bytes, as `wg pubkey` prints it.",
                    "type": "string",
                    "maxLength": 64,
                    "pattern": "^[A-Za-z0-9+/]{43}=\\s*$",
                },
            },
        })
    }
}
