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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::spec::{Access, Spec};

/// The port of the embedded Kubernetes API.
pub const API_PORT: u16 = 6443;
/// The API's addresses on the WAN.
pub const API_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// The API's IPv6 address on the WAN.
pub const API_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);
/// The Service ranges that agents are told about.
pub const SERVICE_CIDRS: &str = "10.43.0.0/16,fd43::/112";

/// Everything in a lab, with its addresses.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The lab's name.
    pub lab: String,
    /// In the order of the description.
    pub sites: Vec<SiteLayout>,
    /// All nodes, site by site.
    pub nodes: Vec<NodeLayout>,
    /// All pods, node by node.
    pub pods: Vec<PodLayout>,
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
    /// Its number, from 1.
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
        let mut layout =
            Self { lab: spec.name.clone(), sites: Vec::new(), nodes: Vec::new(), pods: Vec::new() };
        for (site_index, site) in spec.sites.iter().enumerate() {
            let number = number(site_index);
            layout.sites.push(SiteLayout {
                name: site.name.clone(),
                access: site.access,
                namespace: format!("{}r-{}", prefix(&spec.name), site.name),
                number,
            });
            for (ordinal, node) in site.nodes.iter().enumerate() {
                let node_index = layout.nodes.len();
                layout.nodes.push(node_layout(
                    &spec.name,
                    node,
                    (site_index, site.access),
                    (node_index, ordinal),
                ));
                for pod in 1..=node.pods {
                    layout.pods.push(pod_layout(&spec.name, &layout.nodes[node_index], node_index, pod));
                }
            }
        }
        layout
    }

    /// The namespace of the WAN's bridge.
    pub fn wan(&self) -> String {
        format!("{}wan", prefix(&self.lab))
    }

    /// The namespace of the API server.
    pub fn api(&self) -> String {
        format!("{}api", prefix(&self.lab))
    }

    /// All namespaces, the WAN's first.
    pub fn namespaces(&self) -> Vec<String> {
        let mut all = vec![self.wan(), self.api()];
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
        Ipv4Net::new_assert(Ipv4Addr::new(10, 42, self.number, 0), 24)
    }

    /// The IPv6 addresses of its pods.
    pub fn pods_v6(&self) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd42, decimal(self.number.into()), 0, 0, 0, 0, 0, 0), 64)
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

fn node_layout(
    lab: &str,
    node: &crate::spec::Node,
    site: (usize, Access),
    position: (usize, usize),
) -> NodeLayout {
    let (site_index, access) = site;
    let (node_index, ordinal) = position;
    let host = 10 + number(ordinal);
    let site_number = number(site_index);
    NodeLayout {
        name: node.name.clone(),
        site: site_index,
        namespace: format!("{}n-{}", prefix(lab), node.name),
        number: number(node_index),
        router_port: format!("node{}", number(ordinal)),
        lan: lan_address(site_number, host),
        public: (access == Access::Public).then(|| public_address(site_number, number(ordinal))),
    }
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
    DualStack { v4: Ipv4Addr::new(10, 42, node.number, host), v6: v6.into() }
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
