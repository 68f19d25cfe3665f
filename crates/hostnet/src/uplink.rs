//! Which links lead out of a host to other hosts, and which only to containers, virtual machines or through a tunnel. Links
//! of the second sort come and go, and many hosts have the same addresses on them.

use std::collections::BTreeSet;

use mesh::prefix::{Family, is_host};

use crate::{HostFacts, Interface, LinkName, MAIN_TABLE};

/// What the kind of a link says about where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// To a network of the host: hardware, or something that is stacked on hardware.
    Network,
    /// One end of a pair: of a host that is a container itself, the way out; of another host, the way to a container.
    Pair,
    /// Wherever its ports or routes lead: bridges, dialled connections, and kinds that are not known here.
    Routed,
    /// To other hosts, in packets of another link.
    Tunnel,
    /// Nowhere, or not out of the host.
    Inner,
}

/// The links of a host that lead to other hosts.
#[derive(Debug)]
pub struct Uplinks<'a> {
    names: BTreeSet<&'a LinkName>,
    dialled: BTreeSet<&'a LinkName>,
    local: BTreeSet<&'a LinkName>,
    tunnels: BTreeSet<&'a LinkName>,
    default_routes: BTreeSet<(Family, &'a LinkName)>,
}

impl<'a> Uplinks<'a> {
    /// Finds them.
    pub fn of(facts: &'a HostFacts) -> Self {
        let defaults = facts.routes.iter().filter(|route| {
            route.destination.prefix_len() == 0 && route.table == MAIN_TABLE && route.link.is_some()
        });
        let mut default_routes: BTreeSet<_> = defaults
            .filter_map(|route| Some((Family::of_prefix(&route.destination), route.link.as_ref()?)))
            .collect();
        // Where no route is known, the interface is: IPv4's, if it has any.
        if let Some(link) = facts.default_interface.as_ref().filter(|_| default_routes.is_empty()) {
            let addresses = facts.interfaces.get(link).map(|interface| &interface.addresses);
            let has_v4 = addresses.into_iter().flatten().any(|net| net.addr().is_ipv4());
            default_routes.insert((if has_v4 { Family::V4 } else { Family::V6 }, link));
        }
        let with_default: BTreeSet<&LinkName> =
            default_routes.iter().map(|(_, link)| *link).chain(&facts.default_interface).collect();
        // A bridge with a port that leads out is the host's place in that network.
        let ports = facts.interfaces.iter().filter(|(name, port)| sort(name, port) == Sort::Network);
        let bridged: BTreeSet<&LinkName> = ports.filter_map(|(_, port)| port.master.as_ref()).collect();
        let leads_out = |(name, link): &(&LinkName, &Interface)| match sort(name, link) {
            Sort::Network => true,
            Sort::Pair => with_default.contains(name) || is_inside_container(name, link),
            Sort::Routed => with_default.contains(name) || (link.kind == "bridge" && bridged.contains(name)),
            Sort::Tunnel | Sort::Inner => false,
        };
        let names = facts.interfaces.iter().filter(leads_out).map(|(name, _)| name).collect();
        let of = |is: fn(Sort, &Interface) -> bool| {
            let links = facts.interfaces.iter().filter(|(name, link)| is(sort(name, link), link));
            links.map(|(name, _)| name).collect()
        };
        Self {
            names,
            dialled: of(|sort, link| sort == Sort::Routed && link.kind != "bridge"),
            local: of(|sort, link| sort == Sort::Pair || (sort == Sort::Routed && link.kind == "bridge")),
            tunnels: of(|sort, _| sort == Sort::Tunnel),
            default_routes,
        }
    }

    /// Whether this is one.
    pub fn has(&self, link: &LinkName) -> bool {
        self.names.contains(link)
    }

    /// Whether a link is one, or was one if a default route led through it. Of bridges and pairs, which every host with
    /// containers has, this has to be known (`was`).
    pub fn may_have(&self, link: &LinkName, was: bool) -> bool {
        self.has(link) || self.dialled.contains(link) || (was && self.local.contains(link))
    }

    /// Whether a link is a tunnel, which is none.
    pub fn has_tunnel(&self, link: &LinkName) -> bool {
        self.tunnels.contains(link)
    }

    /// Whether a default route of this family leads through a link.
    pub fn has_default_route(&self, link: &LinkName, family: Family) -> bool {
        self.default_routes.contains(&(family, link))
    }
}

fn sort(name: &LinkName, link: &Interface) -> Sort {
    if name.as_str() == "lo" || is_of_containers(name) {
        return Sort::Inner;
    }
    match link.kind.as_str() {
        "" | "bond" | "team" | "vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "macsec" | "dsa"
        | "hsr" | "ipoib" | "wwan" | "rmnet" | "virt_wifi" | "netdevsim" => Sort::Network,
        "veth" | "netkit" => Sort::Pair,
        "tun" | "wireguard" | "amneziawg" | "ovpn" | "ipip" | "sit" | "gre" | "gretap" | "erspan"
        | "ip6tnl" | "ip6gre" | "ip6gretap" | "ip6erspan" | "vti" | "vti6" | "xfrm" | "vxlan" | "geneve"
        | "bareudp" | "gtp" | "l2tpeth" => Sort::Tunnel,
        "dummy" | "ifb" | "nlmon" | "vrf" => Sort::Inner,
        _ => Sort::Routed,
    }
}

/// Whether a pair looks like a further network of a host that is a container: the ends on hosts of containers have typical names,
/// and no address or that of a single host.
fn is_inside_container(name: &LinkName, link: &Interface) -> bool {
    const HOST_ENDS: [&str; 3] = ["veth", "ve-", "vb-"];
    !HOST_ENDS.iter().any(|prefix| name.as_str().starts_with(prefix))
        && link.addresses.iter().any(|net| !is_host(net))
}

/// Whether a link belongs to containers, virtual machines or a virtual router, by the name that these give it. Of some the kind
/// says nothing.
pub fn is_of_containers(name: &LinkName) -> bool {
    const PREFIXES: [&str; 17] = [
        "cali",
        "cilium",
        "lxc",
        "flannel",
        "docker",
        "cni",
        "kube-",
        "virbr",
        "nodelocaldns",
        "vxlan.calico",
        "vxlan-v6.calico",
        "vmnet",
        "vboxnet",
        "vrrp",
        "podman",
        "lxdbr",
        "incusbr",
    ];
    PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)) || is_bridge_of_docker(name)
}

/// `br-` and the first 12 hexadecimal digits of the network's identifier.
fn is_bridge_of_docker(name: &LinkName) -> bool {
    let id = name.as_str().strip_prefix("br-");
    id.is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostRoute;

    /// Links as `NAME KIND [of=MASTER] [ADDRESS]`, default routes as names. Expects the uplinks, sorted.
    fn check(links: &[&str], defaults: &[&str], expected: &[&str]) {
        let mut facts = HostFacts::default();
        for text in links {
            let mut words = text.split(' ');
            let name: LinkName = words.next().unwrap().parse().unwrap();
            let kind = words.next().unwrap_or_default().replace("hardware", "");
            let mut link = Interface { running: true, kind, ..Interface::default() };
            for word in words {
                match word.strip_prefix("of=") {
                    Some(master) => link.master = Some(master.parse().unwrap()),
                    None => link.addresses.push(word.parse().unwrap()),
                }
            }
            facts.interfaces.insert(name, link);
        }
        facts.routes = defaults
            .iter()
            .map(|name| HostRoute {
                destination: "0.0.0.0/0".parse().unwrap(),
                gateway: None,
                link: Some(name.parse().unwrap()),
                table: MAIN_TABLE,
            })
            .collect();
        let uplinks = Uplinks::of(&facts);
        let found: Vec<_> = facts.interfaces.keys().filter(|name| uplinks.has(name)).collect();
        assert_eq!(found.iter().map(|name| name.as_str()).collect::<Vec<_>>(), expected, "{links:?}");
    }

    #[test]
    fn hardware_and_what_is_stacked_on_it_lead_out() {
        check(
            &["bond0 bond", "eth0 hardware", "eth0.7 vlan", "ib0 ipoib", "lo hardware", "macvlan0 macvlan"],
            &[],
            &["bond0", "eth0", "eth0.7", "ib0", "macvlan0"],
        );
    }

    #[test]
    fn a_bridge_leads_where_its_ports_and_routes_lead() {
        let links = [
            "br-1f2e3d4c5b6a bridge 172.18.0.1/16",
            "eth0 hardware of=vmbr0",
            "incusbr0 bridge 10.9.0.1/24",
            "lan0 bridge 10.1.0.1/24",
            "podman0 bridge",
            "tap0 tun of=incusbr0",
            "veth1 veth of=br-1f2e3d4c5b6a",
            "veth2 veth of=lan0",
            "vmbr0 bridge 10.0.0.5/24",
        ];
        check(&links, &["lan0"], &["eth0", "lan0", "vmbr0"]);
    }

    #[test]
    fn tunnels_lead_nowhere_whatever_routes_they_have() {
        let tunnels =
            ["tailscale0 tun", "wg1 wireguard", "zt0 tun", "he-ipv6 sit", "gre1 gre", "v0 vxlan", "d0 dummy"];
        check(&tunnels, &["tailscale0", "wg1"], &[]);
        check(&["ppp0 ppp 203.0.113.9/32", "ppp1 ppp 10.8.0.2/32"], &["ppp0"], &["ppp0"]);
    }

    /// A virtual address, or an internal one that another tunnel repeats.
    #[test]
    fn of_several_interfaces_with_an_address_the_one_that_leads_out_has_it() {
        let link = |kind: &str, running: bool, net: &str| Interface {
            kind: kind.to_owned(),
            running,
            addresses: vec![net.parse().unwrap()],
            ..Interface::default()
        };
        let mut facts = HostFacts::default();
        let add = |facts: &mut HostFacts, name: &str, link| {
            drop(facts.interfaces.insert(name.parse().unwrap(), link))
        };
        let found = |facts: &HostFacts| {
            facts.interface_with([10, 0, 0, 5].into()).map(|(name, _)| name.to_string()).unwrap_or_default()
        };
        assert_eq!(found(&facts), "");
        add(&mut facts, "aaa", link("wireguard", true, "10.0.0.5/8"));
        assert_eq!(found(&facts), "aaa");
        add(&mut facts, "eth7", link("", true, "10.0.0.5/32"));
        assert_eq!(found(&facts), "eth7");
        add(&mut facts, "eth8", link("", false, "10.0.0.5/16"));
        assert_eq!(found(&facts), "eth7");
        add(&mut facts, "eth9", link("", true, "10.0.0.5/24"));
        assert_eq!(found(&facts), "eth9");
    }

    #[test]
    fn a_pair_leads_out_of_a_container_and_not_into_one() {
        check(&["eth0 veth 172.19.0.3/16", "eth1 veth 10.0.0.5/24"], &["eth0"], &["eth0", "eth1"]);
        check(
            &[
                "cali12 veth 169.254.1.1/32",
                "ens3 hardware",
                "ve-db veth 192.168.9.1/28",
                "x veth 10.22.0.1/32",
            ],
            &["ens3"],
            &["ens3"],
        );
        check(&["veth0 veth 10.0.0.5/24"], &["veth0"], &["veth0"]);
    }
}
