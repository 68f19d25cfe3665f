//! The golden clusters of `tests/data/golden`: what the objects in them say, read the short way. How Kubernetes
//! objects are decoded when they are malformed is not judged here.

#![allow(dead_code, reason = "every test uses a part")]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh::{
    Endpoint, Granularity, Host, Node, Peer, PresharedKeySource, Topology, TopologyConfig,
    allocation::Subnets,
};
use serde_json::Value;

/// The prefix of all annotations.
const PREFIX: &str = "kilo.squat.ai/";

/// A moment between the `last-seen` of live nodes (the year 2100) and that of dead ones (100 s after 1970).
const NOW: i64 = 1_800_000_000;

/// One folder of golden data.
pub struct Golden {
    /// The name of the folder.
    pub name: String,
    /// Where it is.
    pub folder: PathBuf,
    /// The Node objects.
    pub nodes: Vec<Value>,
    /// The Peer objects.
    pub peers: Vec<Value>,
}

/// All golden clusters, sorted by name.
pub fn goldens() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/golden");
    folders(&root).into_iter().map(Golden::read).collect()
}

/// The folders in a folder, sorted; none when it does not exist.
pub fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

impl Golden {
    fn read(folder: PathBuf) -> Self {
        let items = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            let list: Value = serde_json::from_str(&text).unwrap();
            list["items"].as_array().unwrap().clone()
        };
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        Self { name, nodes: items("nodes.json"), peers: items("peers.json"), folder }
    }

    /// The value of a flag that the reference was called with.
    pub fn flag(&self, name: &str) -> Option<String> {
        flag(&fs::read_to_string(self.folder.join("flags")).unwrap(), name)
    }

    /// The names of all Node objects.
    pub fn node_names(&self) -> Vec<String> {
        names(&self.nodes)
    }

    /// The names of all Peer objects, valid or not.
    pub fn peer_names(&self) -> Vec<String> {
        names(&self.peers)
    }

    /// The live nodes, as the objects say.
    pub fn live_nodes(&self) -> Vec<Node> {
        let label = self.flag("--topology-label").unwrap_or("topology.kubernetes.io/region".to_owned());
        let nodes = self.nodes.iter().map(|object| node(object, &label));
        nodes.filter(|node| node.lacks().is_empty() && node.seen_within(60, NOW)).collect()
    }

    /// The valid peers.
    pub fn valid_peers(&self) -> Vec<Peer> {
        self.peers.iter().filter_map(peer).collect()
    }

    /// What `kgctl` works with: the granularity that it is told or that the first node has, and the subnet of the
    /// last node that has a WireGuard address.
    pub fn kgctl_config(&self) -> TopologyConfig {
        let nodes = self.live_nodes();
        let told = self.flag("--mesh-granularity").map(|text| text.parse().unwrap());
        let granularity = told.or(nodes[0].granularity).unwrap_or(Granularity::Location);
        let subnet = nodes.iter().rev().find_map(|node| node.wireguard_ips.first().copied());
        TopologyConfig {
            granularity,
            subnets: subnet.map(Subnets::one).unwrap_or_default(),
            services: Vec::new(),
        }
    }

    /// The topology as `kgctl` sees it.
    pub fn topology(&self) -> Topology {
        Topology::new(self.kgctl_config(), self.live_nodes().into_iter().map(Arc::new), self.valid_peers())
    }
}

/// The value of a flag in a command line, `""` for one without.
pub fn flag(command: &str, name: &str) -> Option<String> {
    let mut words = command.split_whitespace();
    let word = words.find(|word| word.split('=').next() == Some(name))?;
    Some(word.split_once('=').map(|(_, value)| value).unwrap_or_default().to_owned())
}

fn names(objects: &[Value]) -> Vec<String> {
    objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// A Node object, decoded.
pub fn node(object: &Value, topology_label: &str) -> Node {
    let metadata = &object["metadata"];
    let get = |key: &str| metadata["annotations"][format!("{PREFIX}{key}")].as_str();
    let cidr = |key: &str| get(key).and_then(|text| text.parse().ok());
    let label = metadata["labels"][topology_label].as_str();
    let internal = match get("force-internal-ip") {
        Some("" | "-") => None,
        Some(text) => text.parse().ok(),
        None => cidr("internal-ip"),
    };
    let endpoint = ["force-endpoint", "endpoint"].into_iter().find_map(|key| get(key)?.parse().ok());
    Node {
        location: get("location").or(label).unwrap_or_default().to_owned(),
        leader: get("leader").is_some(),
        endpoint,
        key: get("key").and_then(|text| text.parse().ok()),
        internal_ips: internal.into_iter().collect(),
        pod_subnets: object["spec"]["podCIDR"]
            .as_str()
            .map(|text| text.parse().unwrap())
            .into_iter()
            .collect(),
        persistent_keepalive: get("persistent-keepalive").and_then(|text| text.parse().ok()).unwrap_or(0),
        allowed_location_ips: get("allowed-location-ips")
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter_map(|text| text.parse().ok())
            .collect(),
        wireguard_ips: cidr("wireguard-ip").into_iter().collect(),
        discovered_endpoints: get("discovered-endpoints").map(discovered).unwrap_or_default(),
        granularity: get("granularity").and_then(|text| text.parse().ok()),
        last_seen: get("last-seen").and_then(|text| text.parse().ok()).unwrap_or(0),
        ..Node::named(metadata["name"].as_str().unwrap())
    }
}

fn discovered(text: &str) -> std::collections::BTreeMap<mesh::PublicKey, SocketAddr> {
    let map: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    let entry = |(key, value): (&String, &Value)| {
        let ip: IpAddr = value["IP"].as_str()?.parse().ok()?;
        Some((key.parse().ok()?, SocketAddr::new(ip, value["Port"].as_u64()?.try_into().ok()?)))
    };
    map.iter().filter_map(entry).collect()
}

fn peer(object: &Value) -> Option<Peer> {
    let spec = &object["spec"];
    let ips = spec["allowedIPs"].as_array()?.iter().map(|ip| ip.as_str()?.parse().ok());
    let endpoint = match &spec["endpoint"] {
        Value::Null => None,
        endpoint => {
            let target = &endpoint["dnsOrIP"];
            let host = target["dns"].as_str().filter(|dns| !dns.is_empty()).or(target["ip"].as_str())?;
            let port = u16::try_from(endpoint["port"].as_u64()?).ok().filter(|port| *port > 0)?;
            Some(Endpoint { host: host.parse::<Host>().ok()?, port })
        }
    };
    let preshared_key = match spec["presharedKey"].as_str() {
        None | Some("") => None,
        Some(key) => Some(PresharedKeySource::Inline(key.parse().ok()?)),
    };
    Some(Peer {
        created: 0,
        changed: false,
        name: object["metadata"]["name"].as_str()?.to_owned(),
        key: spec["publicKey"].as_str()?.parse().ok()?,
        allowed_ips: ips.collect::<Option<Vec<_>>>().filter(|ips| !ips.is_empty())?,
        endpoint,
        preshared_key,
        persistent_keepalive: spec["persistentKeepalive"].as_u64().unwrap_or(0).try_into().ok()?,
    })
}
