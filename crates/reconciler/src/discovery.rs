//! Which addresses this node announces: its private ones and its endpoint.
//!
//! What is announced is to stay the same while addresses come and go that are not the host's own: those of virtual routers,
//! containers and VPNs. So an address counts by the link it is on, by its place among the others there, by what the
//! Node's status says, and by whether it has been announced before. Where that leaves a choice, it is Go Kilo's. What
//! follows when an announced address is gone is decided in [`crate::announced`].

mod candidate;
mod place;

use std::{collections::BTreeSet, net::IpAddr};

use hostnet::HostFacts;
use ipnet::IpNet;
use mesh::{
    Endpoint, Object, Problem,
    prefix::{Family, is_public},
    special::{check_host, check_range},
};

use candidate::{Candidate, Host};
use place::Place;

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

/// What is known besides what is seen on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The internal and external addresses of the Node's status.
    pub status: BTreeSet<IpAddr>,
    /// The endpoint that was announced last; `None`: none, or it is not known.
    pub endpoint: Option<IpAddr>,
    /// The private addresses that were announced last; `None`: it is not known whether there were any.
    pub internal_ips: Option<Vec<IpNet>>,
    /// Those of them that this agent has chosen: they were right then, and default routes that move make none wrong.
    pub chosen: BTreeSet<IpAddr>,
    /// What was announced, and is gone without another one of its sort.
    pub vacant: Vacant,
}

/// What is not announced now, but was: what comes may take its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vacant {
    /// An endpoint of the preferred sort, public or private.
    pub endpoint: bool,
    /// A private address, by [`Family`].
    pub internal_ips: [bool; 2],
}

impl Memory {
    fn has(&self, address: IpAddr) -> bool {
        self.endpoint == Some(address) || self.internal_ip(Family::of(address)) == Some(address)
    }

    /// The private address of a family.
    pub fn internal_ip(&self, family: Family) -> Option<IpAddr> {
        let mut addresses = self.internal_ips.iter().flatten().map(IpNet::addr);
        addresses.find(|address| Family::of(*address) == family)
    }
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

impl Discovered {
    /// All of its addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let endpoint = self.endpoint.as_ref().and_then(Endpoint::ip);
        self.internal_ips.iter().map(IpNet::addr).chain(endpoint)
    }
}

/// Chooses the node's addresses. The rules, in order, are in docs/concepts.md.
pub fn discover(
    facts: &HostFacts,
    pod_subnets: &[IpNet],
    config: &DiscoveryConfig,
    memory: &Memory,
) -> Discovered {
    Candidates::of(facts, pod_subnets, config, memory).choose()
}

/// The addresses that can be announced, the best first.
pub struct Candidates<'a> {
    all: Vec<Candidate<'a>>,
    config: &'a DiscoveryConfig,
    memory: &'a Memory,
}

impl<'a> Candidates<'a> {
    /// All addresses that can be announced.
    pub fn of(
        facts: &'a HostFacts,
        pod_subnets: &[IpNet],
        config: &'a DiscoveryConfig,
        memory: &'a Memory,
    ) -> Self {
        let host = Host::of(facts, config, memory);
        let mut found = Vec::new();
        for (name, link) in facts.interfaces.iter().filter(|(_, link)| link.running) {
            for net in &link.addresses {
                let address = net.addr();
                if check_host(net).is_ok() && !pod_subnets.iter().any(|subnet| subnet.contains(&address)) {
                    found.extend(host.candidate(name, link, *net));
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { all: found.into_iter().map(|(_, candidate)| candidate).collect(), config, memory }
    }

    /// Whether an address can be announced.
    pub fn has(&self, address: IpAddr) -> bool {
        let mut same = self.all.iter().filter(|candidate| candidate.net.addr() == address);
        let eligible = |candidate: &Candidate<'_>| self.is_eligible(candidate);
        same.clone().any(eligible)
            || (same.any(|candidate| candidate.is_last_resort()) && !self.all.iter().any(eligible))
    }

    /// Chooses.
    pub fn choose(&self) -> Discovered {
        let private = || self.all.iter().filter(|candidate| self.is_internal(candidate));
        let internal_ips = Family::ALL.into_iter().filter_map(|family| {
            let was_absent = self.memory.internal_ips.is_some() && self.memory.internal_ip(family).is_none();
            let vacant = self.memory.vacant.internal_ips[family as usize];
            let mut of_family = private().filter(|candidate| Family::of_prefix(&candidate.net) == family);
            of_family.find(|candidate| !(was_absent && self.arrives(candidate, vacant)))
        });
        let internal_ips: Vec<IpNet> = internal_ips.map(|candidate| candidate.net).collect();
        let stays = self.memory.endpoint.is_some_and(|endpoint| self.has(endpoint));
        let vacant = self.memory.vacant.endpoint;
        let can_be_endpoint = |candidate: &&Candidate<'_>| !(stays && self.arrives(candidate, vacant));
        let public = || self.all.iter().filter(|candidate| self.is_public(candidate)).filter(can_be_endpoint);
        let private = || private().filter(can_be_endpoint);
        // A tunnel inside of a tunnel is only for those who have nothing else.
        let public = public().min_by_key(|candidate| candidate.tunnel);
        let private = private().min_by_key(|candidate| candidate.tunnel);
        let endpoint = match self.config.prioritise_private {
            true => private.or(public),
            false => public.or(private),
        };
        // A node without an endpoint is not in the mesh at all.
        let endpoint = endpoint.or_else(|| self.all.iter().find(|candidate| candidate.is_last_resort()));
        Discovered {
            endpoint: endpoint.map(|candidate| Endpoint::from_ip(candidate.net.addr(), self.config.port)),
            problem: internal_ips.is_empty().then(|| self.outside()).flatten(),
            // A public address is none: its neighbours would send to it without encryption. As with the Go agent, a node
            // without private addresses is alone in its segment, and all it sends goes through tunnels.
            internal_ips,
        }
    }

    /// That this host has private addresses of its own, but none where they are looked for. A host that has none at all may
    /// well be among others that have.
    fn outside(&self) -> Option<Problem> {
        let cidrs = &self.config.internal_cidrs;
        let own =
            self.all.iter().filter(|candidate| !is_public(candidate.net.addr()) && candidate.is_of_host());
        let own: Vec<String> = own.map(|candidate| candidate.net.to_string()).collect();
        let useless = cidrs.iter().find_map(|cidr| check_range(cidr).err());
        let why = match useless {
            _ if cidrs.is_empty() => return None,
            Some(why) => format!("({why})"),
            None if own.is_empty() => return None,
            None => format!("but {}", own.join(", ")),
        };
        let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
        let message = format!(
            "has no address in --internal-cidr {} {why}, so its node has no internal address and is alone in its \
             segment; correct --internal-cidr, or write the annotation kilo.squat.ai/force-internal-ip",
            cidrs.join(",")
        );
        Some(Problem::new(Object::Host, "NoInternalAddress", message))
    }

    /// Whether this can be a private address of the node.
    fn is_internal(&self, candidate: &Candidate<'_>) -> bool {
        if is_public(candidate.net.addr()) || !(self.config.internal_cidrs.is_empty() || candidate.within) {
            return false;
        }
        candidate.is_of_host() || candidate.named || candidate.is_meant
    }

    /// Whether this can be a public endpoint.
    fn is_public(&self, candidate: &Candidate<'_>) -> bool {
        is_public(candidate.net.addr()) && (candidate.is_of_host() || candidate.named)
    }

    fn is_eligible(&self, candidate: &Candidate<'_>) -> bool {
        self.is_internal(candidate) || self.is_public(candidate)
    }

    /// Whether this is one more address on a link of a node that has announced others: a virtual one, or one beside a better
    /// one that is announced. It announces nothing that was absent; what was there before is `vacant`.
    fn arrives(&self, candidate: &Candidate<'_>, vacant: bool) -> bool {
        if candidate.named || candidate.announced || candidate.is_meant {
            return false;
        }
        let is_better = |other: &Candidate<'_>| {
            other.announced
                && other.link == candidate.link
                && Family::of_prefix(&other.net) == Family::of_prefix(&candidate.net)
                && other.merit < candidate.merit
                && self.is_eligible(other)
        };
        let is_beside = || candidate.is_translated() || self.all.iter().any(is_better);
        candidate.place != Place::Own || (!vacant && is_beside())
    }
}

#[cfg(test)]
mod tests {
    use hostnet::{Interface, LinkName};

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
            let interface = Interface { running: true, addresses, ..Interface::default() };
            facts.interfaces.insert(name, interface);
        }
        let mut config = DiscoveryConfig {
            hostname_addresses: Vec::new(),
            internal_cidrs: Vec::new(),
            prioritise_private: false,
            port: 51820,
        };
        change(&mut config);
        let found = discover(&facts, &["10.42.0.0/24".parse().unwrap()], &config, &Memory::default());
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
    fn a_single_address_is_the_hosts_where_it_has_no_network() {
        check(&["eth0 203.0.113.9/32 2001:db8::9/64"], |_| (), "203.0.113.9:51820 | ");
        check(&["eth0 10.128.0.5/32 fd00::5/64"], |_| (), "10.128.0.5:51820 | 10.128.0.5/32 fd00::5/64");
        check(&["eth0 203.0.113.9/24", "eth1 10.0.0.2/32"], |_| (), "203.0.113.9:51820 | 10.0.0.2/32");
        check(&["eth0 203.0.113.9/24 10.0.0.2/32"], |_| (), "203.0.113.9:51820 | ");
        check(&["eth0 10.0.0.5/24 fd00::9/128"], |_| (), "10.0.0.5:51820 | 10.0.0.5/24");
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
            let interface = Interface { running: true, addresses, ..Interface::default() };
            facts.interfaces.insert("eth0".parse().unwrap(), interface);
            let config = DiscoveryConfig {
                hostname_addresses: Vec::new(),
                internal_cidrs: cidr.split_whitespace().map(|word| word.parse().unwrap()).collect(),
                prioritise_private: false,
                port: 51820,
            };
            discover(&facts, &[], &config, &Memory::default())
                .problem
                .map(|problem| problem.message)
                .unwrap_or_default()
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
                "eth2 10.2.0.0/24 10.2.0.255/24 224.0.0.1/24",
                "cni0 10.244.0.1/24",
                "br0 10.42.0.1/24",
                "eth1 10.1.1.1/24",
            ],
            |_| (),
            "10.1.1.1:51820 | 10.1.1.1/24",
        );
    }
}
