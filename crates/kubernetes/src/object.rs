//! The few fields of Node and Peer objects that Kilo reads, straight from the JSON of the API.
//!
//! A Node of a real cluster has 10 KB and more of managed fields, images and conditions. They are skipped while the
//! text is read and never kept. Whether the values make sense is decided in [`crate::decode`].

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::IpAddr,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{ClusterResourceScope, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{
    annotations,
    peer::{Peer, PeerSpec},
};

/// A CiliumNode object. Its specification is anything at all, so that one that makes no sense hurts only itself.
#[derive(Debug, Clone, Deserialize)]
pub struct CiliumNodeObject {
    /// The slimmed metadata: `name`, `uid`, `resourceVersion` and `creationTimestamp`.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The specification.
    #[serde(default)]
    pub spec: serde_json::Value,
}

/// A BlockAffinity object of Calico. Its specification is anything at all, so that one that makes no sense hurts only
/// itself.
#[derive(Debug, Clone, Deserialize)]
pub struct BlockAffinityObject {
    /// The slimmed metadata: `name`, `uid`, `resourceVersion` and `creationTimestamp`.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The specification.
    #[serde(default)]
    pub spec: serde_json::Value,
}

/// A Node object: name, labels, annotations of Kilo, pod subnets, addresses.
///
/// Of the metadata only `name`, `uid`, `resourceVersion`, `creationTimestamp`, `labels` and the annotations with Kilo's
/// prefix are there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "WireNode")]
pub struct NodeObject {
    /// The slimmed metadata.
    pub metadata: ObjectMeta,
    /// `spec.podCIDRs`, or `spec.podCIDR` where that is all there is.
    pub pod_cidrs: Vec<String>,
    /// The first [`MOST_ADDRESSES`] of `status.addresses` that are of type `InternalIP` or `ExternalIP`; `None`: nothing is known of
    /// the status, as where only the metadata was read.
    pub addresses: Option<BTreeSet<IpAddr>>,
}

/// How many addresses of a Node count. A host has a handful.
pub const MOST_ADDRESSES: usize = 256;

impl NodeObject {
    /// The name of the Node.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// When the API server made the Node, in Unix seconds; 0 when it does not say.
    pub fn created(&self) -> i64 {
        created(&self.metadata)
    }

    /// The value of one of Kilo's annotations.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }
}

/// A Peer object. Its specification is read leniently, so that one that has the wrong types hurts only itself.
#[derive(Debug, Clone, Deserialize)]
pub struct PeerObject {
    /// The slimmed metadata: `name`, `uid`, `resourceVersion` and `creationTimestamp`.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The specification, or why it cannot be read.
    #[serde(default = "no_spec", deserialize_with = "lenient_spec")]
    pub spec: Result<PeerSpec, String>,
}

impl PeerObject {
    /// The name of the Peer.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// When the API server made the Peer, in Unix seconds; 0 when it does not say.
    pub fn created(&self) -> i64 {
        created(&self.metadata)
    }

    /// Whether the specification may be another one than that with which the Peer was made.
    pub fn is_changed(&self) -> bool {
        self.metadata.generation != Some(1)
    }

    /// Reads a Peer from JSON that may come from anyone: nothing is kept but the fields of a Peer, in whatever shape
    /// the rest is.
    ///
    /// # Errors
    /// Why it cannot be read. An unreadable specification is no error: it is in [`Self::spec`].
    pub(crate) fn from_json(text: &str) -> Result<Self, String> {
        let WirePeer { metadata, spec } = serde_json::from_str(text).map_err(|error| reason(&error))?;
        let spec = spec
            .map_or_else(no_spec, |spec| serde_json::from_str(spec.get()).map_err(|error| reason(&error)));
        Ok(Self { metadata, spec })
    }
}

fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

#[derive(Deserialize)]
struct WirePeer<'a> {
    #[serde(deserialize_with = "slim_metadata")]
    metadata: ObjectMeta,
    #[serde(borrow, default, deserialize_with = "present")]
    spec: Option<&'a RawValue>,
}

/// A field that is there, even if it is `null`.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Why JSON cannot be read, without the position, which is one within an object that nobody sees. An error repeats the
/// value that it is about, so the middle of a long one is left out.
pub(crate) fn reason(error: &serde_json::Error) -> String {
    let mut ends = Ends::default();
    // It never fails.
    let _ = write!(ends, "{error}");
    let Ends { begin, end, is_cut } = ends;
    let text = format!("{begin}{}{end}", if is_cut { "…" } else { "" });
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

/// The beginning and the end of a text that is never there as a whole.
#[derive(Default)]
struct Ends {
    begin: String,
    end: String,
    is_cut: bool,
}

impl Ends {
    /// How many bytes of the text are kept of the beginning and of the end, nearly.
    const LONGEST: usize = 200;
}

impl fmt::Write for Ends {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Self::LONGEST.saturating_sub(self.begin.len() + self.end.len());
        let (begin, rest) = text.split_at(boundary(text, room));
        self.begin.push_str(begin);
        let last = rest.len().saturating_sub(Self::LONGEST);
        self.end.push_str(&rest[boundary(rest, last)..]);
        let excess = boundary(&self.end, self.end.len().saturating_sub(Self::LONGEST));
        self.end.drain(..excess);
        self.is_cut |= last > 0 || excess > 0;
        Ok(())
    }
}

/// Where to cut a text, at this place or up to three bytes before.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

impl From<Peer> for PeerObject {
    fn from(peer: Peer) -> Self {
        Self { metadata: peer.metadata, spec: Ok(peer.spec) }
    }
}

macro_rules! resource {
    ($type:ty, $group:literal, $version:literal, $api_version:literal, $kind:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = ClusterResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn api_version((): &()) -> Cow<'_, str> {
                $api_version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(NodeObject, "", "v1", "v1", "Node", "nodes");
resource!(PeerObject, "kilo.squat.ai", "v1alpha1", "kilo.squat.ai/v1alpha1", "Peer", "peers");
resource!(CiliumNodeObject, "cilium.io", "v2", "cilium.io/v2", "CiliumNode", "ciliumnodes");
resource!(
    BlockAffinityObject,
    "crd.projectcalico.org",
    "v1",
    "crd.projectcalico.org/v1",
    "BlockAffinity",
    "blockaffinities"
);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMetadata {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creation_timestamp: Option<Time>,
}

#[derive(Deserialize)]
struct WireNode {
    metadata: WireMetadata,
    #[serde(default)]
    spec: Option<WireNodeSpec>,
    #[serde(default)]
    status: Option<WireNodeStatus>,
}

#[derive(Deserialize)]
struct WireNodeStatus {
    #[serde(default)]
    addresses: Option<Vec<WireNodeAddress>>,
}

#[derive(Deserialize)]
struct WireNodeAddress {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    address: String,
}

impl WireNodeStatus {
    fn addresses(self) -> BTreeSet<IpAddr> {
        let all = self.addresses.unwrap_or_default().into_iter();
        let of_host = all.filter(|entry| matches!(&*entry.kind, "InternalIP" | "ExternalIP"));
        of_host.filter_map(|entry| entry.address.parse().ok()).take(MOST_ADDRESSES).collect()
    }
}

#[derive(Default, Deserialize)]
struct WireNodeSpec {
    #[serde(default, rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

impl From<WireNode> for NodeObject {
    fn from(wire: WireNode) -> Self {
        let WireMetadata { name, uid, resource_version, labels, annotations, creation_timestamp } =
            wire.metadata;
        let annotations = annotations.map(|mut all| {
            all.retain(|key, _| annotations::is_read(key));
            all
        });
        let spec = wire.spec.unwrap_or_default();
        let pod_cidrs = match spec.pod_cidrs {
            Some(all) if !all.is_empty() => all,
            _ => spec.pod_cidr.filter(|one| !one.is_empty()).into_iter().collect(),
        };
        let metadata = ObjectMeta {
            name,
            uid,
            resource_version,
            labels,
            annotations,
            creation_timestamp,
            ..ObjectMeta::default()
        };
        Self { metadata, pod_cidrs, addresses: wire.status.map(WireNodeStatus::addresses) }
    }
}

/// What identifies an object and its version.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "the metadata of an object")]
struct WireIdentity {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    creation_timestamp: Option<Time>,
    #[serde(default)]
    generation: Option<i64>,
}

fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let WireIdentity { name, uid, resource_version, creation_timestamp, generation } =
        WireIdentity::deserialize(deserializer)?;
    Ok(ObjectMeta { name, uid, resource_version, creation_timestamp, generation, ..ObjectMeta::default() })
}

fn lenient_spec<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<PeerSpec, String>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).map_err(|error| reason(&error)))
}

fn no_spec() -> Result<PeerSpec, String> {
    Err("there is none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        reason(&serde_json::from_str::<PeerSpec>(text).expect_err("it is none"))
    }

    #[test]
    fn the_reason_is_whole_or_without_its_middle() {
        assert_eq!(of("[7]"), "invalid type: integer `7`, expected a sequence");
        let list =
            |character: &str, count| of(&format!("{{\"allowedIPs\":\"{}\"}}", character.repeat(count)));
        for count in 130..300 {
            let whole = format!("invalid type: string \"{}\", expected a sequence", "é".repeat(count));
            let reason = list("é", count);
            match reason.split_once('…') {
                None => assert_eq!(reason, whole),
                Some((begin, end)) => {
                    assert!(
                        whole.len() > 330 && whole.starts_with(begin) && whole.ends_with(end),
                        "{reason}"
                    );
                }
            }
        }
        let reason = list("\u{200b}", 100_000);
        assert!(reason.len() < 500 && reason.ends_with("\", expected a sequence"), "{reason}");
    }
}
