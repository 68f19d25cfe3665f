//! Whether nodes of the own location answer where this host has no route to them but the default one.
//!
//! Nodes of a location send each other packets over a private network. A label that puts two homes into one location
//! gives each a network that the other does not reach, and nothing fails but the packets. So this host asks one node of each
//! such network, now and then, until it has answered.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use mesh::{Node, Object, Problem, Segment, prefix::Family};

/// After a change of the mesh: a node that has just started may not answer yet.
const FIRST: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(60);
/// The pause after the first question that was not answered.
const AGAIN: Duration = Duration::from_secs(5);
/// So many questions in a row without an answer count. One may be lost.
const SILENT: u32 = 3;
/// So many networks are asked: a site with more is a cloud, and has a router.
const MOST: usize = 8;

/// What is known of the networks of a location.
#[derive(Debug, Default)]
pub struct Neighbours(BTreeMap<IpNet, Network>);

#[derive(Debug)]
struct Network {
    /// The node that is asked, and where.
    node: String,
    address: IpAddr,
    /// When it is asked next; `None`: an answer is waited for, or has come.
    next: Option<Instant>,
    answered: bool,
    /// Questions since the last answer.
    unanswered: u32,
}

impl Neighbours {
    /// These are the nodes of the own location. `leads_to`: whether the host has a way to an address that is not the way to
    /// everything.
    pub fn expect(
        &mut self,
        segment: Option<&Segment>,
        own: &Node,
        leads_to: impl Fn(IpAddr) -> bool,
        now: Instant,
    ) {
        let mut wanted: BTreeMap<IpNet, (&str, IpAddr)> = BTreeMap::new();
        let others =
            segment.into_iter().flat_map(|segment| &segment.nodes).filter(|node| node.name != own.name);
        for node in others {
            let Some(net) = shared(own, node).map(|(_, other)| other) else { continue };
            if wanted.len() < MOST && !wanted.contains_key(&net.trunc()) && !leads_to(net.addr()) {
                wanted.insert(net.trunc(), (&node.name, net.addr()));
            }
        }
        self.0.retain(|net, known| {
            wanted.get(net).is_some_and(|wanted| *wanted == (known.node.as_str(), known.address))
        });
        for (net, (node, address)) in wanted {
            self.0.entry(net).or_insert_with(|| Network {
                node: node.to_owned(),
                address,
                next: Some(now + FIRST),
                answered: false,
                unanswered: 0,
            });
        }
    }

    /// An address to ask now.
    pub fn next(&mut self, now: Instant) -> Option<IpAddr> {
        let due = self.0.values_mut().find(|network| network.next.is_some_and(|at| at <= now))?;
        due.next = None;
        Some(due.address)
    }

    /// When [`Neighbours::next`] may have something.
    pub fn timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(|network| network.next).min()
    }

    /// Whether something answered at an address. Returns whether that changes what is said.
    pub fn answered(&mut self, address: IpAddr, answers: bool, now: Instant) -> bool {
        let Some(network) = self.0.values_mut().find(|network| network.address == address) else {
            return false;
        };
        network.answered = answers;
        network.unanswered = if answers { 0 } else { network.unanswered.saturating_add(1) };
        let pause = if network.unanswered < SILENT { AGAIN } else { PAUSE };
        network.next = (!answers).then(|| now + pause);
        network.unanswered == SILENT || answers
    }

    /// Whether the network of an address has answered, or certainly does not: then nothing is left to suspect.
    pub fn is_known(&self, address: &IpNet) -> bool {
        let network = self.0.get(&address.trunc());
        network.is_some_and(|network| network.answered || network.unanswered >= SILENT)
    }

    /// The networks that do not answer, as problems of those who are fewer: the nodes there, or the own one.
    pub fn problems(&self, segment: Option<&Segment>, own: &Node) -> Vec<Problem> {
        let Some(segment) = segment else { return Vec::new() };
        let in_net = |net: &IpNet| {
            let addresses = |node: &Node| node.internal_ips.iter().any(|other| other.trunc() == net.trunc());
            segment.nodes.iter().filter(|node| addresses(node)).count()
        };
        let silent = self.0.iter().filter(|(_, network)| network.unanswered >= SILENT);
        let problem = |(net, network): (&IpNet, &Network)| {
            let node = segment.nodes.iter().find(|node| node.name == network.node)?;
            let (ours, _) = shared(own, node)?;
            let (named, address, other, other_net) = match in_net(&ours) < in_net(net) {
                true => (own, ours, node.as_ref(), net),
                false => (node.as_ref(), *net, own, &ours),
            };
            let message = format!(
                "its private network {} and {}, that of node {}, are in one location, but {} does not answer on the TCP \
                 port of --listen, so they probably do not reach each other; open that port between the nodes or, if \
                 nothing connects the networks, give the node a location of its own with the annotation \
                 kilo.squat.ai/location",
                address.trunc(),
                other_net.trunc(),
                other.name,
                network.address
            );
            Some(Problem::new(Object::Node(named.name.clone()), "OtherNetwork", message))
        };
        silent.filter_map(problem).collect()
    }
}

/// The internal addresses of two nodes in the first family that both have.
fn shared(own: &Node, other: &Node) -> Option<(IpNet, IpNet)> {
    Family::ALL.into_iter().find_map(|family| Some((own.internal_net(family)?, other.internal_net(family)?)))
}
