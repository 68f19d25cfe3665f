//! A Node object as [`mesh::Node`].

use std::{collections::HashSet, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use mesh::{
    DEFAULT_PORT, Endpoint, Forced, Granularity, Node, Object, Problem, PublicKey, Settings,
    prefix::Family,
    special::{check_address, check_host, check_range},
    text::is_plain,
};

use super::{Problems, discovered::decode_discovered_endpoints};
use crate::{PodCidrSource, annotations as name, object::NodeObject, pod_cidrs::published_text, settings};

/// Decodes a Node. `topology_label` is the label that gives the location where no annotation does. Where another CNI
/// gives pod subnets, those of the Node are there until they are replaced, see [`crate::pod_cidrs::join`], and what is
/// wrong with them is no problem.
///
/// What cannot be used is left out and reported; what is absent is no problem, because agents start at their own
/// time. Which of two annotations counts, and which text is accepted, is as in the Go implementation, so that both
/// see the same mesh.
pub fn decode_node(object: &NodeObject, topology_label: &str, source: PodCidrSource) -> (Node, Vec<Problem>) {
    let mut reader = Reader { object, problems: Problems::of(Object::Node(object.name().to_owned())) };
    let forced = reader.forced_internal_ips();
    let internal_ips_forced = forced.is_some();
    let found = reader.endpoint();
    let internal_ips = forced.unwrap_or_else(|| reader.agent_cidrs(&INTERNAL));
    let node = Node {
        name: object.name().to_owned(),
        created: object.created(),
        location: reader.location(topology_label),
        leader: object.annotation(name::LEADER).is_some(),
        endpoint: found.as_ref().map(|(endpoint, _)| endpoint.clone()),
        key: reader.key(),
        internal_ips,
        internal_ips_forced,
        pod_subnets: match source {
            PodCidrSource::Node => reader.pod_subnets(),
            PodCidrSource::Annotation => reader.annotated_pod_subnets(),
            PodCidrSource::Cilium | PodCidrSource::Calico => {
                let texts = object.pod_cidrs.iter();
                let subnets =
                    texts.filter_map(|text| text.parse::<IpNet>().ok()).map(|subnet| subnet.trunc());
                subnets.filter(|subnet| check_range(subnet).is_ok()).collect()
            }
        },
        joins_without_pods: source.joins_without_pods(),
        persistent_keepalive: reader.persistent_keepalive(),
        allowed_location_ips: reader.allowed_location_ips(),
        wireguard_ips: reader.agent_cidrs(&WIREGUARD),
        discovered_endpoints: match object.annotation(name::DISCOVERED_ENDPOINTS) {
            Some(text) => decode_discovered_endpoints(text, &mut reader.problems),
            None => Default::default(),
        },
        granularity: reader.granularity(),
        pod_cidr_source: published_text(object).map(super::shortened),
        settings: reader.settings(),
        cni_compatibility_ips: reader.agent_cidrs(&CNI_COMPATIBILITY),
        last_seen: reader.last_seen(),
    };
    if let (Some((endpoint, by)), Some(port)) = (&found, node.settings.port) {
        reader.compare_ports(endpoint, *by, port, node.settings.forced_port);
    }
    (node, reader.problems.found.into())
}

/// What the operator of a node decides. What makes no sense is passed over here; [`decode_node`] reports it.
pub fn decode_forced(object: &NodeObject) -> Forced {
    let mut reader = Reader { object, problems: Problems::of(Object::Node(object.name().to_owned())) };
    let endpoint = reader.forced_endpoint().map(|(endpoint, _)| endpoint);
    Forced { endpoint, internal_ips: reader.forced_internal_ips() }
}

/// The old region label stands in for the new one only: who names another label means that label.
fn location<'a>(object: &'a NodeObject, topology_label: &str) -> &'a str {
    let old_label =
        || (topology_label == name::REGION_LABEL).then(|| object.label(name::OLD_REGION_LABEL)).flatten();
    object
        .annotation(name::LOCATION)
        .or_else(|| object.label(topology_label))
        .or_else(old_label)
        .unwrap_or_default()
}

/// The longest value of a label, which a location is where no annotation says otherwise, in characters.
const LONGEST_LOCATION: usize = 63;

/// What to do about pod subnets that Kubernetes gave out. They never change.
const ALLOCATED: &str = "delete the Node and let its kubelet register it again, after --cluster-cidr of the controller \
                         manager was corrected where it holds the range";

/// Which annotation gives an endpoint.
#[derive(Clone, Copy)]
enum EndpointBy {
    ForceEndpoint,
    ForceExternalIp,
    Agent,
}

/// The two annotations in which an agent writes addresses, and what to do if they are of no use.
struct AgentCidrs {
    single: &'static str,
    list: &'static str,
    instead: &'static str,
}

const INTERNAL: AgentCidrs = AgentCidrs {
    single: name::INTERNAL_IP,
    list: name::INTERNAL_IPS,
    instead: "write the node's address in its private network into kilo.squat.ai/force-internal-ip, or - for none",
};

const WIREGUARD: AgentCidrs = AgentCidrs {
    single: name::WIREGUARD_IP,
    list: name::WIREGUARD_IPS,
    instead: "give all agents a --subnet such as 10.4.0.0/16",
};

const CNI_COMPATIBILITY: AgentCidrs = AgentCidrs {
    single: name::CNI_COMPATIBILITY_IP,
    list: name::CNI_COMPATIBILITY_IPS,
    instead: "it is the address of the other CNI's device on the node: correct the pool from which that CNI takes it",
};

struct Reader<'a> {
    object: &'a NodeObject,
    problems: Problems,
}

impl<'a> Reader<'a> {
    /// The value of an annotation, unless it is absent or empty: agents write `""` for "none".
    fn filled(&self, key: &str) -> Option<&'a str> {
        self.object.annotation(key).filter(|value| !value.is_empty())
    }

    /// Parses an annotation; a value that cannot be parsed is as good as absent, but reported.
    fn parsed<T: FromStr>(&mut self, reason: &'static str, key: &str, instead: &str) -> Option<T> {
        let value = self.filled(key)?;
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.problems.annotation(reason, key, value, instead);
        }
        parsed
    }

    /// Any text is a location for a Go agent, and all agents have to agree, so an odd one counts as well.
    fn location(&mut self, topology_label: &str) -> String {
        let location = location(self.object, topology_label);
        if location.chars().count() > LONGEST_LOCATION || !location.chars().all(is_plain) {
            let message = format!(
                "is in the location {:?}, which is taken as it is; write a name of up to {LONGEST_LOCATION} letters, \
                 digits, '-', '_' and '.'",
                super::shortened(location)
            );
            self.problems.add("OddLocation", message);
        }
        location.to_owned()
    }

    fn endpoint(&mut self) -> Option<(Endpoint, EndpointBy)> {
        const REMEDY: &str = "this is no endpoint; the node's agent writes it, restart the agent";
        const INSTEAD: &str = "write the node's own into kilo.squat.ai/force-endpoint";
        self.forced_endpoint().or_else(|| {
            let found = self.usable_endpoint("InvalidEndpoint", name::ENDPOINT, REMEDY, INSTEAD)?;
            Some((found, EndpointBy::Agent))
        })
    }

    fn forced_endpoint(&mut self) -> Option<(Endpoint, EndpointBy)> {
        const FORM: &str = "write HOST:PORT or [IPV6]:PORT, where HOST is an address or a DNS name in lower case and \
                            PORT a number from 1 to 65535";
        const INSTEAD: &str =
            "write an address at which the other locations reach the node, or remove the annotation";
        let forced = self.usable_endpoint("InvalidForceEndpoint", name::FORCE_ENDPOINT, FORM, INSTEAD);
        let forced = forced.map(|endpoint| (endpoint, EndpointBy::ForceEndpoint));
        forced.or_else(|| Some((self.external_ip()?, EndpointBy::ForceExternalIp)))
    }

    /// An endpoint that others can send to. Where a name leads to is not known here.
    fn usable_endpoint(
        &mut self,
        reason: &'static str,
        key: &str,
        form: &str,
        instead: &str,
    ) -> Option<Endpoint> {
        let endpoint: Endpoint = self.parsed(reason, key, form)?;
        match endpoint.ip().map_or(Ok(()), check_address) {
            Ok(()) => Some(endpoint),
            Err(why) => {
                self.problems.unusable(key, &why, instead);
                None
            }
        }
    }

    fn external_ip(&mut self) -> Option<Endpoint> {
        let key = name::FORCE_EXTERNAL_IP;
        let value = self.filled(key)?;
        let address = value.parse::<IpAddr>().map(|address| (address, check_address(address.to_canonical())));
        let checked =
            address.ok().or_else(|| value.parse::<IpNet>().ok().map(|net| (net.addr(), check_host(&net))));
        match checked {
            Some((address, Ok(()))) => Some(Endpoint::from_ip(address, DEFAULT_PORT)),
            Some((_, Err(why))) => {
                let instead =
                    "write an address such as 203.0.113.1 at which the other locations reach the node";
                self.problems.unusable(key, &why, instead);
                None
            }
            None => {
                let instead =
                    "write an address such as 203.0.113.1, or the annotation kilo.squat.ai/force-endpoint";
                self.problems.annotation("InvalidForceExternalIP", key, value, instead);
                None
            }
        }
    }

    fn key(&mut self) -> Option<PublicKey> {
        let value = self.filled(name::KEY)?;
        match value.parse() {
            Ok(key) => Some(key),
            Err(error) => {
                let instead = format!("{error}; the node's agent writes it, restart the agent");
                self.problems.annotation("InvalidKey", name::KEY, value, &instead);
                None
            }
        }
    }

    fn forced_internal_ips(&mut self) -> Option<Vec<IpNet>> {
        let value = self.object.annotation(name::FORCE_INTERNAL_IP)?;
        if matches!(value, "" | "-") {
            return Some(Vec::new());
        }
        const FORM: &str =
            "write a CIDR such as 10.1.0.1/16, or one per IP family with a comma between, or - for none";
        let forced = cidr_per_family(value);
        if let Err(why) = &forced {
            let instead = format!("{why}; {FORM}");
            self.problems.annotation("InvalidForceInternalIP", name::FORCE_INTERNAL_IP, value, &instead);
        }
        let forced = forced.ok()?;
        match forced.iter().try_for_each(check_host) {
            Ok(()) => Some(forced),
            Err(why) => {
                self.problems.unusable(name::FORCE_INTERNAL_IP, &why, FORM);
                None
            }
        }
    }

    /// What an agent wrote: one CIDR, and possibly a list that holds it and more. A list without the one is stale:
    /// somebody who does not know lists has written since.
    fn agent_cidrs(&mut self, of: &AgentCidrs) -> Vec<IpNet> {
        const REMEDY: &str = "this is no CIDR; the node's agent writes it, restart the agent";
        let single: Option<IpNet> = self.parsed("InvalidAddress", of.single, REMEDY);
        let mut all: Vec<(&str, IpNet)> = single.into_iter().map(|cidr| (of.single, cidr)).collect();
        if let Some(value) = self.filled(of.list) {
            match cidr_per_family(value) {
                Ok(listed) if single.is_some_and(|single| listed.contains(&single)) => {
                    let others = listed.into_iter().filter(|cidr| Some(*cidr) != single);
                    all.extend(others.map(|cidr| (of.list, cidr)));
                }
                Ok(_) => {}
                Err(why) => {
                    let instead = format!("{why}; the node's agent writes it, restart the agent");
                    self.problems.annotation("InvalidAddress", of.list, value, &instead);
                }
            }
        }
        all.retain(|(key, cidr)| match check_host(cidr) {
            Ok(()) => true,
            Err(why) => {
                self.problems.unusable(key, &why, of.instead);
                false
            }
        });
        all.into_iter().map(|(_, cidr)| cidr).collect()
    }

    fn pod_subnets(&mut self) -> Vec<IpNet> {
        let mut subnets = Vec::with_capacity(self.object.pod_cidrs.len());
        for text in &self.object.pod_cidrs {
            match text.parse::<IpNet>() {
                Ok(subnet) => {
                    subnets.extend(self.problems.usable_range("spec.podCIDRs", subnet.trunc(), ALLOCATED));
                }
                Err(_) => self.problems.add(
                    "InvalidPodCIDR",
                    format!(
                        "spec.podCIDRs holds {:?}, which is no CIDR and is left out; {ALLOCATED}",
                        super::shortened(text)
                    ),
                ),
            }
        }
        subnets
    }

    /// Blanks around are allowed: no Go agent reads the list.
    fn annotated_pod_subnets(&mut self) -> Vec<IpNet> {
        let Some(value) = self.filled(name::POD_CIDRS) else { return Vec::new() };
        let (mut subnets, mut seen) = (Vec::new(), HashSet::new());
        for entry in self.problems.entries(name::POD_CIDRS, value) {
            match entry.trim().parse::<IpNet>().map(|subnet| subnet.trunc()) {
                Ok(subnet) if seen.insert(subnet) => {
                    const INSTEAD: &str = "write the addresses that pods of the node have";
                    subnets.extend(self.problems.usable_range(name::POD_CIDRS, subnet, INSTEAD));
                }
                Ok(_) => {}
                Err(_) => self.problems.annotation(
                    "InvalidPodCIDR",
                    name::POD_CIDRS,
                    value,
                    &format!(
                        "{:?} is no CIDR and is left out; write CIDRs such as 10.42.1.0/24 with commas between",
                        super::shortened(entry)
                    ),
                ),
            }
        }
        subnets
    }

    fn persistent_keepalive(&mut self) -> u16 {
        let instead = "write a number of seconds from 0 to 65535; until then the node sends no keepalives";
        self.parsed("InvalidPersistentKeepalive", name::PERSISTENT_KEEPALIVE, instead).unwrap_or(0)
    }

    /// The list is split at commas and not trimmed: an entry after a blank is none for a Go agent, and all agents
    /// have to agree.
    fn allowed_location_ips(&mut self) -> Vec<IpNet> {
        let Some(value) = self.filled(name::ALLOWED_LOCATION_IPS) else { return Vec::new() };
        let mut cidrs = Vec::new();
        for entry in self.problems.entries(name::ALLOWED_LOCATION_IPS, value) {
            match entry.parse() {
                Ok(cidr) => {
                    const INSTEAD: &str = "write ranges of hosts that the node's location reaches";
                    cidrs.extend(self.problems.usable_range(name::ALLOWED_LOCATION_IPS, cidr, INSTEAD));
                }
                Err(_) => self.problems.annotation(
                    "InvalidAllowedLocationIP",
                    name::ALLOWED_LOCATION_IPS,
                    value,
                    &format!(
                        "{:?} is no CIDR and is left out; write CIDRs with commas and no blanks between, a single \
                         address with /32 or /128",
                        super::shortened(entry)
                    ),
                ),
            }
        }
        cidrs
    }

    fn granularity(&mut self) -> Option<Granularity> {
        let instead =
            "known are \"location\" and \"full\"; the node's agent writes it, see its --mesh-granularity";
        self.parsed("InvalidGranularity", name::GRANULARITY, instead)
    }

    fn settings(&mut self) -> Settings {
        let Some(value) = self.filled(name::SETTINGS) else { return Settings::default() };
        settings::decode(value).unwrap_or_else(|why| {
            let instead = format!("it is not read: {why}; the node's agent writes it, restart the agent");
            self.problems.annotation("InvalidSettings", name::SETTINGS, value, &instead);
            Settings::default()
        })
    }

    /// An agent listens on the port of the endpoint that its operator forces, else on that of `--port`.
    fn compare_ports(&mut self, endpoint: &Endpoint, by: EndpointBy, port: u16, forced: Option<u16>) {
        let message = match by {
            _ if endpoint.port == port => return,
            // The endpoint that was forced until a moment ago: the agent is about to write both.
            EndpointBy::Agent if forced == Some(endpoint.port) => return,
            // A router forwards this port, and inside it is the same.
            EndpointBy::ForceEndpoint => return,
            EndpointBy::ForceExternalIp => format!(
                "the annotation {} means the port {DEFAULT_PORT}, so the agent listens there and not on {port}, its \
                 --port; write {}={} instead, with the port that is open to the others",
                name::FORCE_EXTERNAL_IP,
                name::FORCE_ENDPOINT,
                Endpoint { port, ..endpoint.clone() }
            ),
            EndpointBy::Agent => format!(
                "the annotation {} names the port {}, and the agent listens on {port}; another program, or a second \
                 agent, has written it: end that, and restart the agent",
                name::ENDPOINT,
                endpoint.port
            ),
        };
        self.problems.add("OtherPort", message);
    }

    fn last_seen(&mut self) -> i64 {
        let instead = "this is no number of Unix seconds; the node's agent writes it, restart the agent";
        self.parsed("InvalidLastSeen", name::LAST_SEEN, instead).unwrap_or(0)
    }
}

/// Reads a comma list that holds at most one CIDR per family, at least one in all. Blanks around are allowed: no
/// Go agent reads such lists.
fn cidr_per_family(text: &str) -> Result<Vec<IpNet>, String> {
    let mut cidrs: Vec<IpNet> = Vec::new();
    for entry in text.split(',') {
        let cidr: IpNet =
            entry.trim().parse().map_err(|_| format!("{:?} is no CIDR", super::shortened(entry)))?;
        if cidrs.iter().any(|other| Family::of_prefix(other) == Family::of_prefix(&cidr)) {
            return Err(format!("{cidr} is the second of its IP family"));
        }
        cidrs.push(cidr);
    }
    Ok(cidrs)
}
