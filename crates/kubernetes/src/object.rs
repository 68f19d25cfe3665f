//! The few fields of Node and Peer objects that Kilo reads, straight from the JSON of the API.
//!
//! A Node of a real cluster has 10 KB and more of managed fields, images and conditions. They are skipped while the
//! text is read and never kept. Whether the values make sense is decided in [`crate::decode`].

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{ClusterResourceScope, Resource};
use serde::{Deserialize, Deserializer};

use crate::{
    annotations,
    peer::{Peer, PeerSpec},
};

/// A CiliumNode object. Its specification is anything at all, so that one that makes no sense hurts only itself.
#[derive(Debug, Clone, Deserialize)]
pub struct CiliumNodeObject {
    /// The slimmed metadata: `name`, `uid` and `resourceVersion`.
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
    /// The slimmed metadata: `name`, `uid` and `resourceVersion`.
    #[serde(deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// The specification.
    #[serde(default)]
    pub spec: serde_json::Value,
}

/// A Node object: name, labels, annotations of Kilo, pod subnets.
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
}

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
    /// The slimmed metadata: `name`, `uid` and `resourceVersion`.
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
}

fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
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
            all.retain(|key, _| key.starts_with(annotations::PREFIX));
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
        Self { metadata, pod_cidrs }
    }
}

fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let WireMetadata { name, uid, resource_version, creation_timestamp, .. } =
        WireMetadata::deserialize(deserializer)?;
    Ok(ObjectMeta { name, uid, resource_version, creation_timestamp, ..ObjectMeta::default() })
}

fn lenient_spec<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<PeerSpec, String>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).map_err(|error| error.to_string()))
}

fn no_spec() -> Result<PeerSpec, String> {
    Err("there is none".to_owned())
}
