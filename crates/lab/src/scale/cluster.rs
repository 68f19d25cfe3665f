//! The cluster on paper: Nodes as large and as talkative as real ones, and which routes the agent of the first of
//! them has to have. It knows the rules of the mesh for this one shape of cluster, and nothing of the host or the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde_json::{Value, json};

use super::Granularity;

/// The pods' addresses: a /24 for each node.
const PODS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// The nodes' private addresses.
const PRIVATE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
/// The nodes' public addresses, of the range for benchmarks (RFC 2544).
const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The addresses of Peers.
const PEERS: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 0);
/// Where WireGuard addresses come from: the default of `--subnet`.
const WIREGUARD: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 0);
/// Nodes that fit into these ranges.
pub const MOST_NODES: usize = 16_384;
/// Images that a kubelet reports at most.
const IMAGES: usize = 35;

/// An IPv4 prefix: address and length.
pub type Prefix = (Ipv4Addr, u8);

/// The next hop of a route; `None` where the interface is enough.
pub type NextHop = Option<Ipv4Addr>;

/// Nodes by number; the first is the agent's own.
#[derive(Debug, Clone)]
pub struct Cluster {
    granularity: Granularity,
    /// Nodes at the beginning: what decides who is where.
    size: usize,
    locations: usize,
    nodes: BTreeSet<usize>,
    peers: BTreeSet<usize>,
}

impl Cluster {
    /// A cluster of so many nodes, spread evenly over so many locations.
    pub fn new(granularity: Granularity, nodes: usize, locations: usize, peers: usize) -> Self {
        Self { granularity, size: nodes, locations, nodes: (0..nodes).collect(), peers: (0..peers).collect() }
    }

    /// The numbers of all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = usize> {
        self.nodes.iter().copied()
    }

    /// The numbers of all Peers.
    pub fn peers(&self) -> impl Iterator<Item = usize> {
        self.peers.iter().copied()
    }

    /// The nodes of a location that there are.
    pub fn members(&self, location: usize) -> Vec<usize> {
        self.nodes().filter(|node| self.location(*node) == location).collect()
    }

    /// Adds or removes a node.
    pub fn set_node(&mut self, node: usize, there: bool) {
        if there {
            self.nodes.insert(node)
        } else {
            self.nodes.remove(&node)
        };
    }

    /// Adds or removes a Peer.
    pub fn set_peer(&mut self, peer: usize, there: bool) {
        if there {
            self.peers.insert(peer)
        } else {
            self.peers.remove(&peer)
        };
    }

    /// Locations at the beginning.
    pub fn locations(&self) -> usize {
        self.locations
    }

    fn location(&self, node: usize) -> usize {
        node * self.locations / self.size
    }

    /// WireGuard peers of the first node's interface.
    pub fn tunnels(&self) -> usize {
        self.segments().len() - 1 + self.peers.len()
    }

    /// The segments in the order in which they get their WireGuard addresses.
    fn segments(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut segments: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for node in self.nodes() {
            // Names have leading zeros, so that their order is that of the numbers.
            let segment = match self.granularity {
                Granularity::Location => self.location(node),
                Granularity::Full => node,
            };
            segments.entry(segment).or_default().push(node);
        }
        segments
    }

    /// The routes that the first node has to have: pods and private addresses of all other segments through their
    /// WireGuard addresses, pods of its own location through the private addresses, Peers through the interface.
    pub fn routes(&self) -> BTreeMap<Prefix, NextHop> {
        let mut routes = BTreeMap::new();
        for (index, members) in self.segments().into_values().enumerate() {
            let own = members.contains(&0);
            for node in members.into_iter().filter(|node| *node != 0) {
                let via = if own { private(node) } else { offset(WIREGUARD, index + 1) };
                routes.insert((pods(node), 24), Some(via));
                if !own {
                    routes.insert((private(node), 32), Some(via));
                }
            }
        }
        routes.extend(self.peers().map(|peer| ((peer_address(peer), 32), None)));
        routes
    }

    /// A Node object of about 13 KB, as a kubelet and an agent have written it.
    pub fn node_object(&self, node: usize, unix: i64) -> Value {
        let name = node_name(node);
        let address = private(node).to_string();
        let pods = format!("{}/24", pods(node));
        let mut annotations = json!({
            "csi.volume.kubernetes.io/nodeid": format!("{{\"csi.example.com\":\"{name}\"}}"),
            "node.alpha.kubernetes.io/ttl": "0",
            "volumes.kubernetes.io/controller-managed-attach-detach": "true",
        });
        if node == 0 {
            annotations["kilo.squat.ai/leader"] = json!("");
        } else {
            annotations["kilo.squat.ai/endpoint"] = json!(endpoint(node, 51820));
            annotations["kilo.squat.ai/internal-ip"] = json!(format!("{address}/12"));
            annotations["kilo.squat.ai/key"] = json!(base64(&key(node)));
            annotations["kilo.squat.ai/last-seen"] = json!(unix.to_string());
            annotations["kilo.squat.ai/wireguard-ip"] = json!("");
            annotations["kilo.squat.ai/discovered-endpoints"] = json!("{}");
            annotations["kilo.squat.ai/granularity"] = json!(self.granularity.name());
        }
        let region = format!("location-{:05}", self.location(node));
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "beta.kubernetes.io/arch": "amd64",
                    "beta.kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64",
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "node.kubernetes.io/instance-type": "standard-4",
                    "topology.kubernetes.io/region": region,
                    "topology.kubernetes.io/zone": format!("{region}-a"),
                },
                "annotations": annotations,
            },
            "spec": {"podCIDR": pods, "podCIDRs": [pods], "providerID": format!("example:///{region}/{name}")},
            "status": status(node, unix),
        })
    }
}

/// The name of a node's Node.
pub fn node_name(node: usize) -> String {
    format!("node-{node:05}")
}

/// The name of a Peer.
pub fn peer_name(peer: usize) -> String {
    format!("peer-{peer:05}")
}

/// A Peer without an endpoint, as someone on the road is.
pub fn peer_object(peer: usize) -> Value {
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1",
        "kind": "Peer",
        "metadata": {"name": peer_name(peer)},
        "spec": {"allowedIPs": [format!("{}/32", peer_address(peer))], "publicKey": base64(&peer_key(peer))},
    })
}

/// What a kubelet writes in every interval.
pub fn kubelet_heartbeat(unix: i64) -> Value {
    json!({"status": {"conditions": conditions(unix)}})
}

/// What a node's agent writes in every interval.
pub fn agent_heartbeat(unix: i64) -> Value {
    json!({"metadata": {"annotations": {"kilo.squat.ai/last-seen": unix.to_string()}}})
}

/// Where a node's WireGuard listens.
pub fn endpoint(node: usize, port: u16) -> String {
    format!("{}:{port}", public(node))
}

/// The private address of a node; all are of one /12.
pub fn private(node: usize) -> Ipv4Addr {
    offset(PRIVATE, node + 1)
}

/// The public address of a node; all are of one /15.
pub fn public(node: usize) -> Ipv4Addr {
    offset(PUBLIC, node + 1)
}

/// The public key of a node.
pub fn key(node: usize) -> [u8; 32] {
    scatter(node as u64)
}

/// The public key of a Peer.
pub fn peer_key(peer: usize) -> [u8; 32] {
    scatter(1 << 40 | peer as u64)
}

fn peer_address(peer: usize) -> Ipv4Addr {
    offset(PEERS, peer + 1)
}

fn pods(node: usize) -> Ipv4Addr {
    offset(PODS, node << 8)
}

fn offset(base: Ipv4Addr, by: usize) -> Ipv4Addr {
    (u32::from(base) + by as u32).into()
}

/// 32 bytes that look random, the same for the same number (SplitMix64).
fn scatter(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

/// Reads what [`base64`] writes of 32 bytes.
pub fn from_base64(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(33), 0, 0u32);
    for byte in text.trim_end_matches('=').bytes() {
        held = held << 6 | u32::from(digit(byte)?);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes.try_into().ok()
}

fn status(node: usize, unix: i64) -> Value {
    let resources = json!({
        "cpu": "4", "memory": "8148560Ki", "ephemeral-storage": "61611820Ki",
        "hugepages-1Gi": "0", "hugepages-2Mi": "0", "pods": "110",
    });
    let images = (0..IMAGES).map(|image| {
        let digest: String = scatter((image as u64) << 20).iter().map(|byte| format!("{byte:02x}")).collect();
        json!({
            "names": [
                format!("registry.example.com/platform/component-{image}@sha256:{digest}"),
                format!("registry.example.com/platform/component-{image}:v1.{image}.{}", node % 7),
            ],
            "sizeBytes": 10_000_000 + image * 1_000_003,
        })
    });
    json!({
        "addresses": [
            {"type": "InternalIP", "address": private(node)},
            {"type": "ExternalIP", "address": public(node)},
            {"type": "Hostname", "address": node_name(node)},
        ],
        "allocatable": resources,
        "capacity": resources,
        "conditions": conditions(unix),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "images": images.collect::<Vec<_>>(),
        "nodeInfo": {
            "architecture": "amd64",
            "bootID": "00000000-0000-0000-0000-000000000000",
            "containerRuntimeVersion": "containerd://2.1.4",
            "kernelVersion": "6.1.0",
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.34.0",
            "machineID": format!("{node:032x}"),
            "operatingSystem": "linux",
            "osImage": "Debian GNU/Linux 12 (bookworm)",
            "systemUUID": "00000000-0000-0000-0000-000000000000",
        },
        "volumesAttached": (0..4).map(|volume| json!({
            "name": format!("kubernetes.io/csi/csi.example.com^volume-{node:05}-{volume}"), "devicePath": "",
        })).collect::<Vec<_>>(),
        "volumesInUse": (0..4)
            .map(|volume| format!("kubernetes.io/csi/csi.example.com^volume-{node:05}-{volume}"))
            .collect::<Vec<_>>(),
    })
}

fn conditions(unix: i64) -> Value {
    // Only that it changes matters; a date would need a calendar.
    let (hours, minutes, seconds) = (unix / 3600 % 24, unix / 60 % 60, unix % 60);
    let beat = format!("2026-01-01T{hours:02}:{minutes:02}:{seconds:02}Z");
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": beat, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    json!([
        condition(
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available"
        ),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_as_large_as_a_real_one() {
        let cluster = Cluster::new(Granularity::Location, 100, 10, 0);
        let stored = apiserver::Server::new().apply_object(cluster.node_object(42, 1_700_000_000));
        let size = stored.expect("it is valid").to_string().len();
        assert!((12_500..13_500).contains(&size), "the API tells a Node in {size} bytes");
    }

    #[test]
    fn who_leaves_takes_its_routes_and_moves_the_addresses_behind() {
        let mut cluster = Cluster::new(Granularity::Location, 6, 3, 1);
        let routes = cluster.routes();
        // One neighbour, two times two others, one Peer.
        assert_eq!(routes.len(), 1 + 2 * 4 + 1);
        assert_eq!(cluster.tunnels(), 3);
        let last = (pods(5), 24);
        assert_eq!(routes[&last], Some(Ipv4Addr::new(10, 4, 0, 3)));
        for node in cluster.members(1) {
            cluster.set_node(node, false);
        }
        assert_eq!(cluster.routes()[&last], Some(Ipv4Addr::new(10, 4, 0, 2)));
        assert_eq!(Cluster::new(Granularity::Full, 6, 3, 0).tunnels(), 5);
    }

    #[test]
    fn keys_are_base64() {
        assert_eq!(base64(b"Many hands"), "TWFueSBoYW5kcw==");
        assert_eq!(base64(&key(1)).len(), 44);
        assert_ne!(key(1), peer_key(1));
        assert_eq!(from_base64(&base64(&key(7))), Some(key(7)));
    }
}
