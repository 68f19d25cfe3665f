//! What the objects of other CNIs give to nodes, as a [`Grant`]. Which of the objects are there is not known here.

use ipnet::IpNet;
use mesh::Object;
use serde_json::Value;

use super::{Problems, shortened};
use crate::{
    object::{BlockAffinityObject, CiliumNodeObject},
    pod_cidrs::{BLOCK_AFFINITY, CILIUM_NODE, join::Grant},
};

/// Decodes a CiliumNode (`cilium.io/v2`): the subnets of `spec.ipam.podCIDRs`, which are there in the IPAM modes
/// `cluster-pool` and `kubernetes`, and those of `spec.ipam.pools.allocated`, which are there in `multi-pool`.
pub fn decode_cilium_node(object: &CiliumNodeObject) -> Grant {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut reader = Reader::of(
        CILIUM_NODE,
        &name,
        "Cilium writes it, see the logs of its operator and of its agent on the node",
    );
    let ipam = &object.spec["ipam"];
    reader.cidrs("spec.ipam.podCIDRs", &ipam["podCIDRs"]);
    for allocated in list(&ipam["pools"]["allocated"]) {
        reader.cidrs("spec.ipam.pools.allocated", &allocated["cidrs"]);
    }
    reader.into_grant(name)
}

/// Decodes a BlockAffinity (`crd.projectcalico.org/v1`). It counts while its state is `confirmed` and it is not being
/// deleted: of two nodes that want one block, only that of the one who got it is confirmed. Blocks of the type `virtual`
/// are those of load balancers.
pub fn decode_block_affinity(object: &BlockAffinityObject) -> Grant {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let spec = &object.spec;
    let node = spec["node"].as_str().unwrap_or_default().to_owned();
    let mut reader = Reader::of(BLOCK_AFFINITY, name, "Calico writes it, see the log of calico-node");
    let deleted = deleted(&spec["deleted"]).unwrap_or_else(|| {
        reader.problem("InvalidBlockAffinity", "spec.deleted", &spec["deleted"], "neither true nor false");
        true
    });
    if deleted || spec["state"] != "confirmed" || spec["type"] == "virtual" {
        return reader.into_grant(node);
    }
    if node.is_empty() {
        reader.problem("InvalidBlockAffinity", "spec.node", &spec["node"], "no name of a node");
        return reader.into_grant(node);
    }
    reader.cidr("spec.cidr", &spec["cidr"]);
    reader.into_grant(node)
}

/// Calico writes a text here in some versions and a boolean in others, and reads the text as Go's `ParseBool` does.
fn deleted(value: &Value) -> Option<bool> {
    match value {
        Value::Null => Some(false),
        Value::Bool(deleted) => Some(*deleted),
        Value::String(text) => match text.as_str() {
            "true" | "True" | "TRUE" | "t" | "T" | "1" => Some(true),
            "" | "false" | "False" | "FALSE" | "f" | "F" | "0" => Some(false),
            _ => None,
        },
        Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

struct Reader {
    subnets: Vec<IpNet>,
    problems: Problems,
    remedy: &'static str,
}

impl Reader {
    fn of(kind: &'static str, name: &str, remedy: &'static str) -> Self {
        let object = Object::Foreign { kind, name: name.to_owned() };
        Self { subnets: Vec::new(), problems: Problems::of(object), remedy }
    }

    /// A list of CIDRs, or nothing.
    fn cidrs(&mut self, field: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Array(values) => values.iter().for_each(|value| self.cidr(field, value)),
            other => self.problem("InvalidPodCIDR", field, other, "no list of CIDRs"),
        }
    }

    fn cidr(&mut self, field: &str, value: &Value) {
        match value.as_str().map(str::parse::<IpNet>) {
            Some(Ok(cidr)) => {
                self.subnets.extend(self.problems.usable_range(field, cidr.trunc(), self.remedy));
            }
            Some(Err(_)) | None => self.problem("InvalidPodCIDR", field, value, "no CIDR"),
        }
    }

    fn problem(&mut self, reason: &'static str, field: &str, value: &Value, what: &str) {
        let shown = match value {
            Value::String(text) => format!("{:?}", shortened(text)),
            other => shortened(&other.to_string()),
        };
        self.problems.add(reason, format!("{field} holds {shown}, {what}, and is left out; {}", self.remedy));
    }

    fn into_grant(self, node: String) -> Grant {
        Grant { node, subnets: self.subnets, problems: self.problems.found.into() }
    }
}
