//! Where the pod subnets of nodes come from: the Node itself, or the objects by which another CNI says what its address
//! management gave to a node.
//!
//! All agents have to read the same source, so each tells on its Node which one it reads. [`join`] puts Nodes and
//! objects together. What pod subnets are good for is not known here.

pub mod join;

use std::{fmt, str::FromStr};

use mesh::{Node, Object, Problem};

use crate::{NodeObject, annotations as name, explain::Resource};

/// The kind of Cilium's objects.
pub(crate) const CILIUM_NODE: &str = "CiliumNode";
/// The kind of Calico's objects.
pub(crate) const BLOCK_AFFINITY: &str = "BlockAffinity";

/// Where the pod subnets of nodes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum PodCidrSource {
    /// `spec.podCIDRs` of the Node.
    #[default]
    Node,
    /// Cilium's address management: the CiliumNode (`cilium.io/v2`) of the same name.
    Cilium,
    /// Calico's address management: the confirmed BlockAffinities (`crd.projectcalico.org/v1`) of the node.
    Calico,
    /// The operator: the annotation `kilo.squat.ai/pod-cidrs` of the Node.
    Annotation,
}

impl PodCidrSource {
    /// What has to be read besides Nodes.
    pub(crate) fn resource(self) -> Option<Resource> {
        match self {
            Self::Node | Self::Annotation => None,
            Self::Cilium => Some(Resource::CiliumNodes),
            Self::Calico => Some(Resource::BlockAffinities),
        }
    }

    /// The kind of the objects that are read besides Nodes, as they name it.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Node | Self::Annotation => "Node",
            Self::Cilium => CILIUM_NODE,
            Self::Calico => BLOCK_AFFINITY,
        }
    }

    /// Whether the pods of the cluster get their addresses from another CNI's own address management.
    pub fn is_of_another_cni(self) -> bool {
        self.resource().is_some()
    }

    /// Whether a node takes part in the mesh while it has no pod subnet. Another CNI gives subnets only once it runs on
    /// the node, and to get there it may need the mesh.
    pub(crate) fn joins_without_pods(self) -> bool {
        self != Self::Node
    }
}

impl FromStr for PodCidrSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "node" => Ok(Self::Node),
            "cilium" => Ok(Self::Cilium),
            "calico" => Ok(Self::Calico),
            "annotation" => Ok(Self::Annotation),
            other => {
                Err(format!("pod subnets come from node, cilium, calico or annotation, this is {other:?}"))
            }
        }
    }
}

impl fmt::Display for PodCidrSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Cilium => "cilium",
            Self::Calico => "calico",
            Self::Annotation => "annotation",
        })
    }
}

/// What the agent of a node reads, in its own word; `None`: no agent has been there.
pub(crate) fn published_text(object: &NodeObject) -> Option<&str> {
    object.annotation(name::KEY).filter(|key| !key.is_empty())?;
    Some(object.annotation(name::POD_CIDR_SOURCE).unwrap_or("node"))
}

/// The problem of a node that takes part in the mesh, for its agent has written a key, but has no pod subnet. A node
/// without an agent is none of our business.
pub fn missing_pod_subnet(node: &Node, source: PodCidrSource) -> Option<Problem> {
    if node.key.is_none() || !node.pod_subnets.is_empty() {
        return None;
    }
    let message = match source {
        PodCidrSource::Node => {
            "has no usable spec.podCIDR and stays out of the mesh; let the controller manager allocate pod subnets \
             (--allocate-node-cidrs --cluster-cidr), or set the field when you create the Node"
        }
        PodCidrSource::Cilium => {
            "has no CiliumNode with pod subnets (spec.ipam.podCIDRs) and is in the mesh without pods until it has; is \
             Cilium up on the node, and does its IPAM mode give subnets to nodes? Otherwise choose another \
             --pod-cidr-source"
        }
        PodCidrSource::Calico => {
            "has no confirmed BlockAffinity and is in the mesh without pods until it has; Calico makes one with the \
             first address that it gives to a pod of the node. If pods there have addresses, it is not Calico's IPAM \
             that gives them: choose another --pod-cidr-source"
        }
        PodCidrSource::Annotation => {
            "has no usable annotation kilo.squat.ai/pod-cidrs and is in the mesh without pods until it has; kubectl \
             annotate node NODE kilo.squat.ai/pod-cidrs=CIDR[,CIDR]"
        }
    };
    Some(Problem::new(Object::Node(node.name.clone()), "MissingPodCIDR", message))
}
