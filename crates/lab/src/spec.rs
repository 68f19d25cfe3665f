//! What a lab consists of, as the user writes it: sites, nodes, pods and the settings of the mesh. Addresses
//! are not part of it (see [`crate::layout`]), and nothing here knows how a site is built.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    LabError,
    layout::{Family, SECOND_CLUSTER},
};

/// A lab: its sites and how the mesh runs on them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// The lab's name: 1 to 12 lowercase letters and digits. Labs of different names do not touch each other.
    #[serde(default = "Spec::default_name")]
    pub name: String,
    /// The lab whose WAN this one is connected to, as a second cluster with an API, sites and addresses of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joins: Option<String>,
    /// 1 to 15 sites. Of a lab that joins another one 1 to 7, and 1 to 8 of the one it joins.
    pub sites: Vec<Site>,
    /// How the agents form the mesh.
    #[serde(default)]
    pub mesh: Mesh,
    /// Where the binaries are.
    #[serde(default)]
    pub programs: Programs,
}

/// A place with a LAN of its own behind a router.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Site {
    /// The name, also the region label of its nodes.
    pub name: String,
    /// How the site is connected to the WAN.
    #[serde(default)]
    pub access: Access,
    /// 1 to 14 nodes.
    pub nodes: Vec<Node>,
}

/// How a site is connected to the WAN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Every node has, besides its LAN address, a public address that the router forwards to it.
    #[default]
    Public,
    /// The router masquerades the LAN (IPv4 and IPv6) and forwards only answers inward.
    Nat,
}

/// A machine of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// The name: a DNS label.
    pub name: String,
    /// How many pods run on it, 0 to 200; they are called `<node>-p1`, `<node>-p2`, …
    #[serde(default = "Node::default_pods")]
    pub pods: u8,
    /// Annotations of the Node object.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Further arguments of the agent on this node.
    #[serde(default)]
    pub agent_args: Vec<String>,
    /// The program of a Go agent, which runs here in the place of ours: it gets no flags that Go Kilo does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go_agent: Option<PathBuf>,
}

/// How the agents form the mesh: their flags.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mesh {
    /// `location` or `full`.
    pub granularity: String,
    /// `never`, `crosssubnet` or `always`.
    pub encapsulate: String,
    /// The WireGuard subnets, separated by commas.
    pub subnet: String,
    /// How many seconds a node may be silent before its place is taken. Shorter than the agent's default of
    /// 60, because people and tests wait for it.
    pub liveness_timeout: u64,
    /// `debug`, `info`, …
    pub log_level: String,
    /// Further arguments of every agent.
    pub agent_args: Vec<String>,
    /// Whether agents are started at all. Without, only the sites and the API are built.
    pub agents: bool,
}

/// Where the binaries are; a missing path is looked for beside the running executable.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Programs {
    /// The agent.
    pub kg: Option<PathBuf>,
    /// The command line tool.
    pub kgctl: Option<PathBuf>,
    /// This program; tests that use the library run inside another executable.
    pub lab: Option<PathBuf>,
}

/// How many seconds a node may be silent for a Go agent.
const GO_LIVENESS_TIMEOUT: u64 = 60;

/// The annotation that makes a node send keepalives, in seconds.
pub const PERSISTENT_KEEPALIVE: &str = "kilo.squat.ai/persistent-keepalive";

impl Spec {
    /// The demonstration: two public sites of two nodes, and a third with one node behind NAT.
    pub fn demo() -> Self {
        let mut behind_nat = Node::new("c1");
        behind_nat.annotations.insert(PERSISTENT_KEEPALIVE.into(), "10".into());
        Self {
            name: Self::default_name(),
            joins: None,
            sites: vec![
                Site::new("a", Access::Public, vec![Node::new("a1"), Node::new("a2")]),
                Site::new("b", Access::Public, vec![Node::new("b1"), Node::new("b2")]),
                Site::new("c", Access::Nat, vec![behind_nat]),
            ],
            mesh: Mesh::default(),
            programs: Programs::default(),
        }
    }

    /// Reads a description in YAML or JSON.
    ///
    /// # Errors
    /// When the file cannot be read or does not describe a lab.
    pub fn read(file: &Path) -> Result<Self, LabError> {
        let text = fs::read_to_string(file)
            .map_err(LabError::io(format!("reading the lab description {}", file.display())))?;
        serde_norway::from_str(&text).map_err(|error| LabError::Spec(format!("{}: {error}", file.display())))
    }

    /// The same lab under another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The node of that name.
    pub fn node_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.sites.iter_mut().flat_map(|site| &mut site.nodes).find(|node| node.name == name)
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.sites.iter().flat_map(|site| &site.nodes).find(|node| node.name == name)
    }

    /// The IP families that all agents carry: a Go agent carries IPv4 alone.
    pub fn families(&self) -> &'static [Family] {
        let go = self.sites.iter().flat_map(|site| &site.nodes).any(|node| node.go_agent.is_some());
        if go { &[Family::V4] } else { &[Family::V4, Family::V6] }
    }

    /// Checks names and limits.
    ///
    /// # Errors
    /// [`LabError::Spec`] with the first thing that is wrong.
    pub fn validate(&self) -> Result<(), LabError> {
        let wrong = |what: String| Err(LabError::Spec(what));
        check_lab_name(&self.name)?;
        let most = if let Some(other) = &self.joins {
            check_lab_name(other)?;
            16 - usize::from(SECOND_CLUSTER)
        } else {
            15
        };
        if !(1..=most).contains(&self.sites.len()) {
            return wrong(format!("it has {} sites; 1 to {most} are possible", self.sites.len()));
        }
        let mut seen = BTreeSet::from(["wan", "api"]);
        for site in &self.sites {
            check_label("site", &site.name)?;
            if !(1..=14).contains(&site.nodes.len()) {
                return wrong(format!(
                    "site {} has {} nodes; 1 to 14 are possible",
                    site.name,
                    site.nodes.len()
                ));
            }
            for node in &site.nodes {
                check_label("node", &node.name)?;
                if !seen.insert(&node.name) {
                    return wrong(format!("the node name {} is taken twice or reserved", node.name));
                }
                if node.pods > 200 {
                    return wrong(format!(
                        "node {} has {} pods; at most 200 are possible",
                        node.name, node.pods
                    ));
                }
            }
        }
        let sites: BTreeSet<&str> = self.sites.iter().map(|site| site.name.as_str()).collect();
        if sites.len() != self.sites.len() {
            return wrong("two sites have the same name".into());
        }
        self.check_for_go()
    }

    /// What all agents have to agree on has to be something that a Go agent can do.
    fn check_for_go(&self) -> Result<(), LabError> {
        let mut nodes = self.sites.iter().flat_map(|site| &site.nodes);
        let Some(node) = nodes.find(|node| node.go_agent.is_some()) else { return Ok(()) };
        let mesh = &self.mesh;
        if mesh.subnet.parse::<ipnet::Ipv4Net>().is_err() {
            return Err(LabError::Spec(format!(
                "the Go agent of node {} takes one IPv4 subnet and mesh.subnet is {:?}; write subnet: 10.4.0.0/16",
                node.name, mesh.subnet
            )));
        }
        if mesh.liveness_timeout != GO_LIVENESS_TIMEOUT {
            return Err(LabError::Spec(format!(
                "the Go agent of node {} tells every 30 s that it is alive, takes others for dead that do not tell it \
                 for {GO_LIVENESS_TIMEOUT} s, and mesh.livenessTimeout is {} s; write livenessTimeout: \
                 {GO_LIVENESS_TIMEOUT}",
                node.name, mesh.liveness_timeout
            )));
        }
        Ok(())
    }

    /// Checks that another lab can join this one.
    ///
    /// # Errors
    /// [`LabError::Spec`] when it is a second cluster itself, or has too many sites.
    pub fn validate_as_joined(&self) -> Result<(), LabError> {
        let wrong = |what: String| Err(LabError::Spec(what));
        if let Some(first) = &self.joins {
            return wrong(format!("lab {} has joined lab {first}; two labs can share a WAN", self.name));
        }
        let most = usize::from(SECOND_CLUSTER) - 1;
        if self.sites.len() > most {
            return wrong(format!(
                "lab {} has {} sites; a lab that another one joins can have {most}",
                self.name,
                self.sites.len()
            ));
        }
        Ok(())
    }

    fn default_name() -> String {
        "demo".into()
    }
}

impl Site {
    /// A site of these nodes.
    pub fn new(name: impl Into<String>, access: Access, nodes: Vec<Node>) -> Self {
        Self { name: name.into(), access, nodes }
    }
}

impl Node {
    /// A node with one pod.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            pods: Self::default_pods(),
            annotations: BTreeMap::new(),
            agent_args: Vec::new(),
            go_agent: None,
        }
    }

    fn default_pods() -> u8 {
        1
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            granularity: "location".into(),
            encapsulate: "never".into(),
            subnet: "10.4.0.0/16,fd00:4::/112".into(),
            liveness_timeout: 15,
            log_level: "debug".into(),
            agent_args: Vec::new(),
            agents: true,
        }
    }
}

/// Checks that a name can be a lab's. Namespaces are found by the prefix `kl-<name>-`, so a name must not
/// hold a hyphen.
///
/// # Errors
/// [`LabError::Spec`] when it is empty, too long, or has other characters.
pub fn check_lab_name(name: &str) -> Result<(), LabError> {
    let fits = (1..=12).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if fits {
        Ok(())
    } else {
        Err(LabError::Spec(format!("the lab name {name:?} must be 1 to 12 lowercase letters or digits")))
    }
}

fn check_label(what: &str, name: &str) -> Result<(), LabError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges = name.bytes().next().is_some_and(plain) && name.bytes().last().is_some_and(plain);
    if edges && name.len() <= 40 && name.bytes().all(|byte| plain(byte) || byte == b'-') {
        return Ok(());
    }
    Err(LabError::Spec(format!(
        "the {what} name {name:?} must be up to 40 lowercase letters, digits or inner hyphens"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_valid_and_survives_a_round_trip() {
        let demo = Spec::demo();
        demo.validate().expect("the built-in description is valid");
        let text = serde_norway::to_string(&demo).expect("a description can be written");
        let again: Spec = serde_norway::from_str(&text).expect("and read");
        assert_eq!(serde_norway::to_string(&again).expect("written again"), text);
    }

    #[test]
    fn a_short_description_gets_the_defaults() {
        let spec: Spec = serde_norway::from_str("sites: [{name: x, access: nat, nodes: [{name: x1}]}]")
            .expect("it is complete");
        assert_eq!(
            (spec.name.as_str(), spec.sites[0].access, spec.sites[0].nodes[0].pods),
            ("demo", Access::Nat, 1)
        );
        assert_eq!(spec.mesh.granularity, "location");
    }

    #[test]
    fn wrong_descriptions_are_named() {
        let check = |change: fn(&mut Spec), part: &str| {
            let mut spec = Spec::demo();
            change(&mut spec);
            let error = spec.validate().expect_err(part).to_string();
            assert!(error.contains(part), "{error:?} should name {part:?}");
        };
        check(|spec| spec.name = "a-b".into(), "lab name");
        check(|spec| spec.name = "thirteenchars".into(), "lab name");
        check(|spec| spec.sites.clear(), "0 sites");
        check(|spec| spec.sites[1].nodes[0].name = "a1".into(), "a1 is taken twice");
        check(|spec| spec.sites[1].name = "a".into(), "same name");
        check(|spec| spec.sites[1].nodes[0].name = "B1".into(), "node name");
        check(|spec| spec.sites[0].nodes[0].name = "api".into(), "reserved");
        check(|spec| spec.joins = Some("a-b".into()), "lab name");
        check(
            |spec| {
                spec.joins = Some("other".into());
                spec.sites = vec![spec.sites[0].clone(); 8];
            },
            "1 to 7 are possible",
        );
        check(|spec| spec.sites[0].nodes[0].go_agent = Some("/kg".into()), "one IPv4 subnet");
        let go = |spec: &mut Spec| {
            spec.sites[0].nodes[0].go_agent = Some("/kg".into());
            spec.mesh.subnet = "10.4.0.0/16".into();
        };
        check(go, "livenessTimeout: 60");
    }
}
