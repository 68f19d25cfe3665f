//! What all agents have to agree on, and who does not: settings, clocks, the private networks of a location.
//!
//! What most say counts as right, so it is the few that are named, and where there are as many on both sides, both. What
//! an agent does not tell is no disagreement: Go agents tell less. Every problem says what differs and what to do; none
//! keeps a node out of the mesh.

mod clocks;
mod networks;

use std::collections::BTreeMap;

use ipnet::IpNet;

pub use clocks::{CLOSE_ENOUGH, at_a_glance, clocks, duration};
pub use networks::apart;

use crate::{Granularity, Node, Object, Problem, Problems, prefix::Family};

/// What an agent was started with and tells the others, besides what Go agents tell. Nothing: it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Where WireGuard addresses come from, IPv4 first.
    pub subnets: Vec<IpNet>,
    /// Where services are, sorted.
    pub services: Vec<IpNet>,
    /// The label that gives locations.
    pub topology_label: Option<String>,
    /// How packets inside of the location are encapsulated, if it is Kilo that does it: `never`, `ipip`, `vxlan`.
    pub encapsulation: Option<String>,
    /// The UDP port of WireGuard, unless an endpoint with another one is forced.
    pub port: Option<u16>,
    /// The port of a forced endpoint, on which the agent listens instead, if it is another one.
    pub forced_port: Option<u16>,
}

/// What a program outside of the mesh goes by when it looks at it, as far as its user said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observer {
    /// How it groups nodes.
    pub granularity: Option<Granularity>,
    /// The label by which it finds locations.
    pub topology_label: Option<String>,
    /// Where it takes pod subnets from.
    pub pod_cidr_source: Option<String>,
}

/// The settings of these nodes that differ from those of most, and what of the observer's does.
pub fn settings(nodes: &[&Node], observer: &Observer) -> Vec<Problem> {
    let nodes = nodes.iter().copied();
    let mut problems = Problems::default();
    let granularities = nodes.clone().filter_map(|node| Some((node, node.granularity?)));
    judge(&GRANULARITY, granularities, observer.granularity, &mut problems);
    for family in Family::ALL {
        let subnets = nodes.clone().filter_map(|node| Some((node, subnet(node, family)?)));
        judge(&SUBNET, subnets.map(|(node, subnet)| (node, Net(subnet))), None, &mut problems);
    }
    let labels = nodes.clone().filter_map(|node| Some((node, node.settings.topology_label.as_deref()?)));
    judge(&TOPOLOGY_LABEL, labels, observer.topology_label.as_deref(), &mut problems);
    let sources = nodes.clone().filter_map(|node| Some((node, node.pod_cidr_source.as_deref()?)));
    judge(&POD_CIDR_SOURCE, sources, observer.pod_cidr_source.as_deref(), &mut problems);
    let services = nodes.clone().map(|node| (node, Nets(&node.settings.services)));
    judge(&SERVICE_CIDR, services.filter(|(_, nets)| !nets.0.is_empty()), None, &mut problems);
    let mut locations: BTreeMap<&str, Vec<(&Node, &str)>> = BTreeMap::new();
    for node in nodes {
        if let Some(encapsulation) = node.settings.encapsulation.as_deref() {
            locations.entry(&node.location).or_default().push((node, encapsulation));
        }
    }
    for said in locations.into_values() {
        judge(&ENCAPSULATION, said.into_iter(), None, &mut problems);
    }
    problems.into()
}

/// The WireGuard subnet of one family that a node's agent has, `None` in it: none. A Go agent says only what it has as a
/// leader.
fn subnet(node: &Node, family: Family) -> Option<Option<IpNet>> {
    let of_family =
        |nets: &[IpNet]| nets.iter().find(|net| Family::of_prefix(net) == family).map(IpNet::trunc);
    match node.settings.subnets.as_slice() {
        [] => of_family(&node.wireguard_ips).map(Some),
        subnets => Some(of_family(subnets)),
    }
}

/// A setting: how its disagreement is called, the flag, and what comes of it.
struct Topic {
    reason: &'static str,
    flag: &'static str,
    so: &'static str,
    advice: &'static str,
}

const GRANULARITY: Topic = Topic {
    reason: "OtherGranularity",
    flag: "--mesh-granularity",
    so: "they do not see the same mesh",
    advice: "give all agents the same --mesh-granularity",
};
const SUBNET: Topic = Topic {
    reason: "OtherSubnet",
    flag: "--subnet",
    so: "they do not find each other's WireGuard addresses",
    advice: "give all agents the same --subnet",
};
const TOPOLOGY_LABEL: Topic = Topic {
    reason: "OtherTopologyLabel",
    flag: "--topology-label",
    so: "they see nodes in different locations",
    advice: "give all agents the same --topology-label",
};
const POD_CIDR_SOURCE: Topic = Topic {
    reason: "OtherPodCIDRSource",
    flag: "--pod-cidr-source",
    so: "they do not see the same mesh",
    advice: "give all agents the same --pod-cidr-source (Go agents know \"node\" only)",
};
const SERVICE_CIDR: Topic = Topic {
    reason: "OtherServiceCIDR",
    flag: "--service-cidr",
    so: "they do not leave out the same ranges",
    advice: "give all agents the same --service-cidr",
};
const ENCAPSULATION: Topic = Topic {
    reason: "OtherEncapsulation",
    flag: "the encapsulation",
    so: "what one encapsulates the other drops",
    advice: "give all agents of the location the same --encapsulate and --encapsulation-type",
};

/// Names those who do not say what most say.
fn judge<'a, T: Ord + Copy + Say>(
    topic: &Topic,
    said: impl Iterator<Item = (&'a Node, T)> + Clone,
    observer: Option<T>,
    problems: &mut Problems,
) {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for (_, value) in said.clone() {
        *counts.entry(value).or_default() += 1;
    }
    let Some(most) = counts.values().copied().max() else { return };
    let mut first = counts.iter().filter(|(_, count)| **count == most).map(|(value, _)| *value);
    let (winner, rival) = (first.next(), first.next());
    let flag = topic.flag;
    if let (Some(ours), Some(theirs), None) = (observer, winner, rival)
        && ours != theirs
    {
        let (ours, theirs, so) = (ours.say(), theirs.say(), topic.so);
        let message =
            format!("this program has {flag} {ours}, most agents {theirs}, so {so}; give it {flag} {theirs}");
        problems.push(Problem::new(Object::Host, topic.reason, message));
    }
    if counts.len() < 2 {
        return;
    }
    for (node, value) in said {
        let Some(other) = [winner, rival].into_iter().flatten().find(|other| *other != value) else {
            continue;
        };
        let how_many = match rival {
            None if Some(value) == winner => continue,
            None => "most agents have",
            Some(_) => "as many agents have",
        };
        let message = format!(
            "its agent has {flag} {}, {how_many} {}, so {}; {}",
            value.say(),
            other.say(),
            topic.so,
            topic.advice
        );
        problems.push(Problem::new(Object::Node(node.name.clone()), topic.reason, message));
    }
}

/// How a setting is written.
trait Say {
    fn say(&self) -> String;
}

impl Say for Granularity {
    fn say(&self) -> String {
        self.to_string()
    }
}

impl Say for &str {
    fn say(&self) -> String {
        /// Whatever an object says fits into a message.
        const LONGEST: usize = 100;
        format!("{:?}", self.chars().take(LONGEST).collect::<String>())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Net(Option<IpNet>);

impl Say for Net {
    fn say(&self) -> String {
        self.0.map_or_else(|| "none of that IP family".to_owned(), |net| net.to_string())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Nets<'a>(&'a [IpNet]);

impl Say for Nets<'_> {
    fn say(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    fn node(name: &str, change: impl FnOnce(&mut Node)) -> Node {
        let mut node = Node::named(name);
        node.granularity = Some(Granularity::Location);
        change(&mut node);
        node
    }

    /// Expects `REASON OBJECT` of each problem.
    fn check(nodes: &[Node], observer: &Observer, expected: &[&str]) -> Vec<Problem> {
        let problems = settings(&nodes.iter().collect::<Vec<_>>(), observer);
        let found: Vec<String> =
            problems.iter().map(|problem| format!("{} {}", problem.reason, problem.object)).collect();
        assert_eq!(found, expected, "{problems:?}");
        problems
    }

    #[test]
    fn the_minority_is_named_with_what_to_do() {
        let mut nodes: Vec<Node> = ["a", "b", "c"].map(|name| node(name, |_| ())).into();
        check(&nodes, &Observer::default(), &[]);
        nodes[1].granularity = Some(Granularity::Full);
        let problems = check(&nodes, &Observer::default(), &["OtherGranularity node b"]);
        assert_eq!(
            problems[0].message,
            "its agent has --mesh-granularity full, most agents have location, so they do not see the same mesh; give \
             all agents the same --mesh-granularity"
        );
        nodes[2].granularity = None;
        let both =
            check(&nodes, &Observer::default(), &["OtherGranularity node a", "OtherGranularity node b"]);
        assert!(both[0].message.contains("location, as many agents have full"), "{}", both[0]);
        nodes[1].granularity = None;
        check(&nodes, &Observer::default(), &[]);
    }

    #[test]
    fn a_subnet_is_told_by_the_setting_or_by_the_address_of_a_leader() {
        let with = |name: &str, subnets: &str, address: &str| {
            node(name, |node| {
                node.settings.subnets = nets(subnets);
                node.wireguard_ips = nets(address);
            })
        };
        let agree = [with("a", "10.4.0.0/16", ""), with("go", "", "10.4.0.1/16"), with("member", "", "")];
        check(&agree, &Observer::default(), &[]);
        for (subnets, address) in [("", "10.5.0.1/16"), ("", "10.4.0.1/24"), ("10.4.0.0/24", "10.4.0.1/16")] {
            let nodes = [&agree[0], &agree[1], &with("b", subnets, address)].map(Clone::clone);
            check(&nodes, &Observer::default(), &["OtherSubnet node b"]);
        }
        // A Go agent knows no IPv6 and says nothing about it.
        let dual = "10.4.0.0/16 fd00:4::/112";
        check(&[with("a", dual, ""), with("b", dual, ""), agree[1].clone()], &Observer::default(), &[]);
        check(
            &[with("a", dual, ""), with("b", dual, ""), agree[0].clone()],
            &Observer::default(),
            &["OtherSubnet node a"],
        );
    }

    #[test]
    fn labels_sources_services_and_encapsulation() {
        let with = |name: &str, label: &str, source: &str, services: &str, encapsulation: &str| {
            node(name, |node| {
                node.settings.topology_label = Some(label.to_owned());
                node.pod_cidr_source = Some(source.to_owned());
                node.settings.services = nets(services);
                node.settings.encapsulation = Some(encapsulation.to_owned());
            })
        };
        let usual = |name: &str| with(name, "zone", "node", "10.43.0.0/16", "ipip");
        let mut nodes = vec![usual("a"), usual("b"), with("c", "region", "calico", "10.96.0.0/12", "vxlan")];
        let all = ["OtherTopologyLabel", "OtherPodCIDRSource", "OtherServiceCIDR", "OtherEncapsulation"];
        let expected = all.map(|reason| format!("{reason} node c"));
        check(&nodes, &Observer::default(), &expected.each_ref().map(String::as_str));
        // Another location has its own.
        nodes[2].location = "elsewhere".to_owned();
        check(&nodes, &Observer::default(), &expected.each_ref().map(String::as_str)[..3]);
        let observer = Observer {
            topology_label: Some("region".to_owned()),
            pod_cidr_source: Some("node".to_owned()),
            granularity: Some(Granularity::Location),
        };
        let problems = check(&nodes[..2], &observer, &["OtherTopologyLabel this host"]);
        assert!(problems[0].message.ends_with("give it --topology-label \"zone\""), "{}", problems[0]);
    }

    /// Linear: one problem for each of those that differ.
    #[test]
    fn a_thousand_may_differ() {
        let nodes: Vec<Node> = (0..3000)
            .map(|number| {
                node(&format!("n{number:04}"), |node| {
                    let other = if number < 2000 { "zone".to_owned() } else { format!("label{number}") };
                    node.settings.topology_label = Some(other);
                })
            })
            .collect();
        let start = std::time::Instant::now();
        let problems = settings(&nodes.iter().collect::<Vec<_>>(), &Observer::default());
        assert_eq!(problems.len(), 1000);
        assert!(
            problems
                .iter()
                .all(|problem| problem.further == 0 && problem.message.contains("most agents have \"zone\""))
        );
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }
}
