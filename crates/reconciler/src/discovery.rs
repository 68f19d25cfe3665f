//! Which addresses this node tells the others: its private ones and its endpoint.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{
    Endpoint, Object, Problem,
    prefix::{Family, is_public},
    special::{check_host, check_range},
};

use hostnet::{HostFacts, LinkName};

/// What the operator says about addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// Addresses that the hostname resolves to.
    pub hostname_addresses: Vec<IpAddr>,
    /// Private addresses are looked for in here only; empty: anywhere.
    pub internal_cidrs: Vec<IpNet>,
    /// Whether a private address is preferred as the endpoint.
    pub prioritise_private: bool,
    /// The UDP port of WireGuard.
    pub port: u16,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovered {
    /// Private addresses with their prefix lengths, at most one per family, IPv4 first.
    pub internal_ips: Vec<IpNet>,
    /// Where WireGuard can be reached, as far as this host can know.
    pub endpoint: Option<Endpoint>,
    /// What is wrong with the ranges in which private addresses are looked for.
    pub problem: Option<Problem>,
}

/// Looks for the node's addresses: first those that the hostname resolves to, then those of the default route's
/// interface, then any. Interfaces of a CNI are passed over.
pub fn discover(facts: &HostFacts, pod_subnets: &[IpNet], config: &DiscoveryConfig) -> Discovered {
    let candidates = candidates(facts, pod_subnets, config);
    let private = |net: &&IpNet| !is_public(net.addr()) && config.is_looked_for(net.addr());
    let public = candidates.iter().find(|net| is_public(net.addr()));
    let internal_ips: Vec<IpNet> = Family::ALL
        .into_iter()
        .filter_map(|family| candidates.iter().filter(private).find(|net| Family::of_prefix(net) == family))
        .copied()
        .collect();
    let first_private = candidates.iter().find(private);
    let endpoint =
        if config.prioritise_private { first_private.or(public) } else { public.or(first_private) };
    Discovered {
        endpoint: endpoint.map(|net| Endpoint::from_ip(net.addr(), config.port)),
        // A public address is none: its neighbours would send to it without encryption. As with the Go agent, a node
        // without private addresses is alone in its segment, and all it sends goes through tunnels.
        problem: internal_ips.is_empty().then(|| outside(&candidates, &config.internal_cidrs)).flatten(),
        internal_ips,
    }
}

/// That this host has private addresses, but none where they are looked for. One that has none at all may well be among
/// others that have.
fn outside(candidates: &[IpNet], cidrs: &[IpNet]) -> Option<Problem> {
    let private = candidates.iter().filter(|net| !is_public(net.addr())).map(ToString::to_string);
    let private: Vec<String> = private.collect();
    let useless = cidrs.iter().find_map(|cidr| check_range(cidr).err());
    let why = match useless {
        _ if cidrs.is_empty() => return None,
        Some(why) => format!("({why})"),
        None if private.is_empty() => return None,
        None => format!("but {}", private.join(", ")),
    };
    let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
    let message = format!(
        "has no address in --internal-cidr {} {why}, so its node has no internal address and is alone in its segment; \
         correct --internal-cidr, or write the annotation kilo.squat.ai/force-internal-ip",
        cidrs.join(",")
    );
    Some(Problem::new(Object::Host, "NoInternalAddress", message))
}

impl DiscoveryConfig {
    fn is_looked_for(&self, address: IpAddr) -> bool {
        let cidrs = &self.internal_cidrs;
        cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}

/// All addresses that can be told, in the order in which they are looked at.
fn candidates(facts: &HostFacts, pod_subnets: &[IpNet], config: &DiscoveryConfig) -> Vec<IpNet> {
    let of_default = |name: &LinkName| facts.default_interface.as_ref() == Some(name);
    let mut found: Vec<(u8, bool, String, IpNet)> = Vec::new();
    for (name, interface) in &facts.interfaces {
        if !interface.running || belongs_to_cni(name) {
            continue;
        }
        for net in &interface.addresses {
            let address = net.addr();
            if check_host(net).is_err() || pod_subnets.iter().any(|subnet| subnet.contains(&address)) {
                continue;
            }
            let rank = match () {
                () if config.hostname_addresses.contains(&address) => 0,
                () if of_default(name) => 1,
                () => 2,
            };
            found.push((rank, address.is_ipv6(), net.to_string(), *net));
        }
    }
    found.sort();
    found.into_iter().map(|(_, _, _, net)| net).collect()
}

/// Interfaces that container networks make, by the names they give them.
fn belongs_to_cni(name: &LinkName) -> bool {
    const PREFIXES: [&str; 11] = [
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
    ];
    PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use hostnet::Interface;

    use super::*;

    /// Interfaces as `name address address…`; the first one has the default route. Expects `endpoint | internal…`.
    fn check(interfaces: &[&str], change: impl FnOnce(&mut DiscoveryConfig), expected: &str) {
        let mut facts = HostFacts::default();
        for (index, text) in interfaces.iter().enumerate() {
            let mut words = text.split(' ');
            let name: LinkName = words.next().unwrap().parse().unwrap();
            let addresses = words.map(|word| word.parse().unwrap()).collect();
            if index == 0 {
                facts.default_interface = Some(name.clone());
            }
            let interface = Interface { mtu: 1500, running: true, addresses, kind: String::new() };
            facts.interfaces.insert(name, interface);
        }
        let mut config = DiscoveryConfig {
            hostname_addresses: Vec::new(),
            internal_cidrs: Vec::new(),
            prioritise_private: false,
            port: 51820,
        };
        change(&mut config);
        let found = discover(&facts, &["10.42.0.0/24".parse().unwrap()], &config);
        let endpoint = found.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default();
        let internal: Vec<_> = found.internal_ips.iter().map(ToString::to_string).collect();
        assert_eq!(format!("{endpoint} | {}", internal.join(" ")), expected);
    }

    #[test]
    fn public_endpoint_private_internal() {
        check(&["eth0 10.0.0.5/24 203.0.113.9/32"], |_| (), "203.0.113.9:51820 | 10.0.0.5/24");
        check(&["eth0 203.0.113.9/24", "eth1 10.0.0.5/16"], |_| (), "203.0.113.9:51820 | 10.0.0.5/16");
        check(&["eth0 203.0.113.9/24"], |_| (), "203.0.113.9:51820 | ");
    }

    #[test]
    fn dual_stack_has_one_internal_address_per_family() {
        check(
            &["eth0 fd00:1::5/64 10.0.0.5/24 2001:db8::5/64"],
            |_| (),
            "[2001:db8::5]:51820 | 10.0.0.5/24 fd00:1::5/64",
        );
    }

    #[test]
    fn the_operator_decides() {
        let two = ["eth0 10.0.0.5/24 203.0.113.9/24", "eth1 192.168.1.5/24"];
        check(
            &two,
            |c| c.internal_cidrs = vec!["192.168.0.0/16".parse().unwrap()],
            "203.0.113.9:51820 | 192.168.1.5/24",
        );
        check(&two, |c| c.prioritise_private = true, "10.0.0.5:51820 | 10.0.0.5/24");
        check(
            &two,
            |c| c.hostname_addresses = vec!["192.168.1.5".parse().unwrap()],
            "203.0.113.9:51820 | 192.168.1.5/24",
        );
        check(
            &two[..1],
            |c| c.internal_cidrs = vec!["172.16.0.0/12".parse().unwrap()],
            "203.0.113.9:51820 | ",
        );
    }

    #[test]
    fn looking_in_the_wrong_place_is_said() {
        let found = |cidr: &str, interface: &str| {
            let mut facts = HostFacts::default();
            let addresses = interface.split_whitespace().map(|word| word.parse().unwrap()).collect();
            let interface = Interface { mtu: 1500, running: true, addresses, kind: String::new() };
            facts.interfaces.insert("eth0".parse().unwrap(), interface);
            let config = DiscoveryConfig {
                hostname_addresses: Vec::new(),
                internal_cidrs: cidr.split_whitespace().map(|word| word.parse().unwrap()).collect(),
                prioritise_private: false,
                port: 51820,
            };
            discover(&facts, &[], &config).problem.map(|problem| problem.message).unwrap_or_default()
        };
        assert!(
            found("192.168.0.0/16", "10.0.0.5/24").contains("--internal-cidr 192.168.0.0/16 but 10.0.0.5/24")
        );
        assert!(found("127.0.0.0/8", "127.0.0.1/8 203.0.113.9/24").contains("loopback"));
        for (cidr, interface) in
            [("", "10.0.0.5/24"), ("", ""), ("10.0.0.0/8", "10.0.0.5/24"), ("10.0.0.0/8", "203.0.113.9/24")]
        {
            assert_eq!(found(cidr, interface), "", "{cidr} {interface}");
        }
    }

    #[test]
    fn addresses_of_pods_and_of_no_use_are_passed_over() {
        check(
            &[
                "eth0 127.0.0.1/8 169.254.1.1/16 fe80::1/64",
                "eth2 10.2.0.0/24 10.2.0.255/24 240.0.0.1/24",
                "cni0 10.244.0.1/24",
                "br0 10.42.0.1/24",
                "eth1 10.1.1.1/24",
            ],
            |_| (),
            "10.1.1.1:51820 | 10.1.1.1/24",
        );
    }
}
