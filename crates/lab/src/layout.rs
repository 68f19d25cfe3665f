//! Which namespace, address and interface everything in a lab gets. A pure function of the description, so
//! every command computes the same layout; nothing here touches the kernel.
//!
//! | network | IPv4 | IPv6 |
//! |---|---|---|
//! | WAN: router of site *n* is `.n`, the API is `.254` / `::fe` | 203.0.113.0/24 | 2001:db8::/64 |
//! | public addresses of site *n* | 198.51.100.16(*n*−1)/28 … | 2001:db8:*n*::/64 |
//! | LAN of site *n*: router `.1`, node *k* `.10+k` | 10.(100+*n*).0.0/24 | fd00:(100+*n*)::/64 |
//! | pods of node *i*: bridge `.1`, pod *j* `.10+j` | 10.42.*i*.0/24 | fd42:*i*::/64 |
//! | Services (nothing answers there) | 10.43.0.0/16 | fd43::/112 |
//!
//! A lab that joins the WAN of another one is the second cluster there: its sites are numbered from 9, its API is
//! `.253` / `::fd`, its pods are in 10.52.0.0/16 and fd52::/32 and its Services in 10.53.0.0/16 and fd53::/112.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::spec::{self, Access, Spec};

/// The port of the embedded Kubernetes API.
pub const API_PORT: u16 = 6443;
/// The address of the first cluster's API on the WAN.
pub const API_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// The IPv6 address of the first cluster's API on the WAN.
pub const API_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
/// The number of the first site of a second cluster: the sites before it are the first cluster's.
pub(crate) const SECOND_CLUSTER: u8 = 9;

/// Everything in a lab, with its addresses.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The lab's name.
    pub lab: String,
    /// The lab whose WAN it is connected to: itself, or the one it joins.
    wan_of: String,
    /// Which of the clusters on that WAN it is.
    pub cluster: Cluster,
    /// In the order of the description.
    pub sites: Vec<SiteLayout>,
    /// All nodes, site by site.
    pub nodes: Vec<NodeLayout>,
    /// All pods, node by node.
    pub pods: Vec<PodLayout>,
}

/// Which of the clusters on a WAN a lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// The one that made the WAN.
    First,
    /// One that joined it.
    Second,
}

/// A site and its router.
#[derive(Debug, Clone)]
pub struct SiteLayout {
    /// The site's name.
    pub name: String,
    /// How it reaches the WAN.
    pub access: Access,
    /// The router's namespace.
    pub namespace: String,
    /// Its number on the WAN, from 1.
    pub number: u8,
}

/// A node.
#[derive(Debug, Clone)]
pub struct NodeLayout {
    /// The node's name.
    pub name: String,
    /// Index of its site in [`Layout::sites`].
    pub site: usize,
    /// Its namespace.
    pub namespace: String,
    /// Its number in the lab, from 1.
    pub number: u8,
    /// Its cluster.
    pub cluster: Cluster,
    /// The name of its port on the router.
    pub router_port: String,
    /// Its LAN addresses.
    pub lan: DualStack,
    /// Its public addresses, at a public site.
    pub public: Option<DualStack>,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct PodLayout {
    /// The pod's name.
    pub name: String,
    /// Index of its node in [`Layout::nodes`].
    pub node: usize,
    /// Its namespace.
    pub namespace: String,
    /// The name of its port on the node's bridge.
    pub bridge_port: String,
    /// Its addresses.
    pub address: DualStack,
}

/// An address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DualStack {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Layout {
    /// Lays out a valid description.
    pub fn of(spec: &Spec) -> Self {
        let cluster = if spec.joins.is_some() { Cluster::Second } else { Cluster::First };
        let mut layout = Self {
            lab: spec.name.clone(),
            wan_of: spec.joins.clone().unwrap_or_else(|| spec.name.clone()),
            cluster,
            sites: Vec::new(),
            nodes: Vec::new(),
            pods: Vec::new(),
        };
        for (site_index, site) in spec.sites.iter().enumerate() {
            let number = cluster.first_site() + number(site_index) - 1;
            layout.sites.push(SiteLayout {
                name: site.name.clone(),
                access: site.access,
                namespace: format!("{}r-{}", prefix(&spec.name), site.name),
                number,
            });
            for (ordinal, node) in site.nodes.iter().enumerate() {
                let node_index = layout.nodes.len();
                let position = Position { site: site_index, node: node_index, ordinal };
                let node_layout = layout.place(node, position);
                layout.nodes.push(node_layout);
                for pod in 1..=node.pods {
                    layout.pods.push(pod_layout(&spec.name, &layout.nodes[node_index], node_index, pod));
                }
            }
        }
        layout
    }

    /// The namespace of the WAN's bridge.
    pub fn wan(&self) -> String {
        format!("{}wan", prefix(&self.wan_of))
    }

    /// The namespace of the API server.
    pub fn api(&self) -> String {
        format!("{}api", prefix(&self.lab))
    }

    /// The addresses of the API server on the WAN.
    pub fn api_address(&self) -> DualStack {
        match self.cluster {
            Cluster::First => DualStack { v4: API_V4, v6: API_V6 },
            Cluster::Second => DualStack {
                v4: Ipv4Addr::from_bits(API_V4.to_bits() - 1),
                v6: Ipv6Addr::from_bits(API_V6.to_bits() - 1),
            },
        }
    }

    /// The name of the API server's port on the WAN.
    pub fn api_port(&self) -> &'static str {
        match self.cluster {
            Cluster::First => "api",
            Cluster::Second => "api2",
        }
    }

    /// The addresses of Services, of which the agents are told.
    pub fn services(&self) -> (Ipv4Net, Ipv6Net) {
        let number = self.cluster.pods() + 1;
        let v6 = Ipv6Addr::new(0xfd00 + decimal(number.into()), 0, 0, 0, 0, 0, 0, 0);
        (Ipv4Net::new_assert(Ipv4Addr::new(10, number, 0, 0), 16), Ipv6Net::new_assert(v6, 112))
    }

    /// All namespaces that the lab makes, the WAN's first.
    pub fn namespaces(&self) -> Vec<String> {
        let mut all = match self.cluster {
            Cluster::First => vec![self.wan()],
            Cluster::Second => Vec::new(),
        };
        all.push(self.api());
        all.extend(self.sites.iter().map(|site| site.namespace.clone()));
        all.extend(self.nodes.iter().map(|node| node.namespace.clone()));
        all.extend(self.pods.iter().map(|pod| pod.namespace.clone()));
        all
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&NodeLayout> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The pod of that name.
    pub fn pod(&self, name: &str) -> Option<&PodLayout> {
        self.pods.iter().find(|pod| pod.name == name)
    }

    /// A node of a site that has been laid out.
    fn place(&self, node: &spec::Node, position: Position) -> NodeLayout {
        let site = &self.sites[position.site];
        let ordinal = number(position.ordinal);
        NodeLayout {
            name: node.name.clone(),
            site: position.site,
            namespace: format!("{}n-{}", prefix(&self.lab), node.name),
            number: number(position.node),
            cluster: self.cluster,
            router_port: format!("node{ordinal}"),
            lan: lan_address(site.number, 10 + ordinal),
            public: (site.access == Access::Public).then(|| public_address(site.number, ordinal)),
        }
    }
}

impl Cluster {
    /// The number of its first site.
    fn first_site(self) -> u8 {
        match self {
            Self::First => 1,
            Self::Second => SECOND_CLUSTER,
        }
    }

    /// The second number of its pods' IPv4 addresses. The next one is its Services'.
    fn pods(self) -> u8 {
        match self {
            Self::First => 42,
            Self::Second => 52,
        }
    }
}

/// Where in a description a node is: indices, from 0.
struct Position {
    site: usize,
    node: usize,
    /// Within its site.
    ordinal: usize,
}

impl SiteLayout {
    /// The router's addresses on the WAN.
    pub fn wan(&self) -> DualStack {
        DualStack {
            v4: Ipv4Addr::new(203, 0, 113, self.number),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, decimal(self.number.into())),
        }
    }

    /// The router's addresses on the LAN.
    pub fn gateway(&self) -> DualStack {
        lan_address(self.number, 1)
    }

    /// The LAN's IPv4 prefix.
    pub fn lan_v4(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.gateway().v4, 24).trunc()
    }

    /// The LAN's IPv6 prefix.
    pub fn lan_v6(&self) -> Ipv6Net {
        Ipv6Net::new_assert(self.gateway().v6, 64).trunc()
    }

    /// The public IPv4 addresses that the router forwards.
    pub fn public_v4(&self) -> Ipv4Net {
        Ipv4Net::new_assert(public_address(self.number, 0).v4, 28)
    }

    /// The public IPv6 addresses that the router forwards.
    pub fn public_v6(&self) -> Ipv6Net {
        Ipv6Net::new_assert(public_address(self.number, 0).v6, 64).trunc()
    }
}

impl NodeLayout {
    /// The IPv4 addresses of its pods.
    pub fn pods_v4(&self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, self.cluster.pods(), self.number, 0), 24)
    }

    /// The IPv6 addresses of its pods.
    pub fn pods_v6(&self) -> Ipv6Net {
        let cluster = 0xfd00 + decimal(self.cluster.pods().into());
        Ipv6Net::new_assert(Ipv6Addr::new(cluster, decimal(self.number.into()), 0, 0, 0, 0, 0, 0), 64)
    }

    /// The addresses of its pod bridge.
    pub fn bridge(&self) -> DualStack {
        pod_address(self, 1)
    }
}

impl DualStack {
    /// The address of that family.
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// How the names of a lab's namespaces begin.
pub fn prefix(lab: &str) -> String {
    format!("kl-{lab}-")
}

fn pod_layout(lab: &str, node: &NodeLayout, node_index: usize, pod: u8) -> PodLayout {
    PodLayout {
        name: format!("{}-p{pod}", node.name),
        node: node_index,
        namespace: format!("{}p-{}-p{pod}", prefix(lab), node.name),
        bridge_port: format!("pod{pod}"),
        address: pod_address(node, 10 + pod),
    }
}

fn lan_address(site: u8, host: u8) -> DualStack {
    DualStack {
        v4: Ipv4Addr::new(10, 100 + site, 0, host),
        v6: Ipv6Addr::new(0xfd00, decimal(100 + u16::from(site)), 0, 0, 0, 0, 0, decimal(host.into())),
    }
}

fn public_address(site: u8, host: u8) -> DualStack {
    DualStack {
        v4: Ipv4Addr::new(198, 51, 100, 16 * (site - 1) + host),
        v6: Ipv6Addr::new(0x2001, 0xdb8, decimal(site.into()), 0, 0, 0, 0, decimal(host.into())),
    }
}

fn pod_address(node: &NodeLayout, host: u8) -> DualStack {
    let mut v6 = node.pods_v6().addr().segments();
    v6[7] = decimal(host.into());
    DualStack { v4: Ipv4Addr::new(10, node.cluster.pods(), node.number, host), v6: v6.into() }
}

/// A position counted from 1. Descriptions are limited to 15 sites of 14 nodes, so it fits.
fn number(index: usize) -> u8 {
    u8::try_from(index + 1).expect("a valid description has at most 210 nodes")
}

/// The number whose hexadecimal digits read like this one's decimal digits, so that both families look alike:
/// 101 → 0x101.
fn decimal(value: u16) -> u16 {
    u16::from_str_radix(&value.to_string(), 16).expect("numbers below 1000 have at most three digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_the_documented_addresses() {
        let layout = Layout::of(&Spec::demo());
        let b2 = layout.node("b2").expect("the demo has it");
        assert_eq!(b2.lan.v4.to_string(), "10.102.0.12");
        assert_eq!(b2.lan.v6.to_string(), "fd00:102::12");
        let public = b2.public.expect("site b is public");
        assert_eq!(
            (public.v4.to_string(), public.v6.to_string()),
            ("198.51.100.18".into(), "2001:db8:2::2".into())
        );
        assert_eq!(
            (b2.pods_v4().to_string(), b2.pods_v6().to_string()),
            ("10.42.4.0/24".into(), "fd42:4::/64".into())
        );
        assert!(
            layout.node("c1").expect("the demo has it").public.is_none(),
            "a node behind NAT has no public address"
        );
        let pod = layout.pod("b2-p1").expect("every node has a pod");
        assert_eq!(
            (pod.address.v4.to_string(), pod.address.v6.to_string()),
            ("10.42.4.11".into(), "fd42:4::11".into())
        );
        assert_eq!(pod.namespace, "kl-demo-p-b2-p1");
    }

    #[test]
    fn a_second_cluster_shares_nothing_but_the_wan() {
        let first = Layout::of(&Spec::demo());
        let second = Layout::of(&Spec { joins: Some(first.lab.clone()), ..Spec::demo().named("other") });
        assert_eq!(second.wan(), first.wan());
        assert!(!second.namespaces().contains(&second.wan()), "it is the other lab's");
        let addresses = |layout: &Layout| -> Vec<DualStack> {
            let sites = layout.sites.iter().flat_map(|site| [site.wan(), site.gateway()]);
            let nodes = layout.nodes.iter().flat_map(|node| [Some(node.lan), node.public]).flatten();
            let pods = layout.pods.iter().map(|pod| pod.address);
            sites.chain(nodes).chain(pods).chain([layout.api_address()]).collect()
        };
        let taken = addresses(&first);
        for address in addresses(&second) {
            let free = |other: &DualStack| other.v4 != address.v4 && other.v6 != address.v6;
            assert!(taken.iter().all(free), "{address:?} is taken twice");
        }
        let pod = second.pod("b2-p1").expect("every node has a pod");
        let text = (pod.address.v4.to_string(), pod.address.v6.to_string());
        assert_eq!(text, ("10.52.4.11".into(), "fd52:4::11".into()));
        let (v4, v6) = second.services();
        assert_eq!(format!("{v4},{v6}"), "10.53.0.0/16,fd53::/112");
        assert_eq!(second.api_address().v6.to_string(), "2001:db8::fd");
    }

    #[test]
    fn public_addresses_belong_to_their_sites_block() {
        let layout = Layout::of(&Spec::demo());
        for node in &layout.nodes {
            let site = &layout.sites[node.site];
            if let Some(public) = node.public {
                assert!(
                    site.public_v4().contains(&public.v4) && site.public_v6().contains(&public.v6),
                    "{}",
                    node.name
                );
            }
            assert!(
                site.lan_v4().contains(&node.lan.v4) && site.lan_v6().contains(&node.lan.v6),
                "{}",
                node.name
            );
        }
    }
}
