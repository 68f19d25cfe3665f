//! Packets that go from host to host.
//!
//! The network below delivers inside of a location by address, and what WireGuard sends where there is a session.
//! What reaches a host from outside of the mesh is not asked here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use hostnet::Firewall;
use ipnet::IpNet;
use mesh::{Node, PublicKey, prefix::Family};

use crate::forwarding::{Kernel, Longest, Packet, Way};

/// One host of the network.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Whose private network it is in.
    pub location: String,
    /// Its public key.
    pub key: PublicKey,
    /// Its addresses in the private network.
    pub internal_ips: Vec<IpNet>,
    /// How it forwards.
    pub kernel: Kernel,
    /// What it translates and accepts.
    pub firewall: Firewall,
    /// The keys of those with whom it has a WireGuard session; `None`: with everyone.
    pub sessions: Option<BTreeSet<PublicKey>>,
}

/// The way that a packet took: the hosts, and how it left each.
pub type Path = Vec<(String, Way)>;

/// A pod of a node.
pub fn pod(node: &Node, family: Family) -> Option<IpAddr> {
    let subnet = node.pod_subnets.iter().find(|net| Family::of_prefix(net) == family)?;
    subnet.hosts().nth(9)
}

/// All hosts of a cluster.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
    /// Of every host, what is never masqueraded.
    never: Vec<Longest<()>>,
    by_name: BTreeMap<String, usize>,
    by_key: HashMap<PublicKey, usize>,
    by_address: HashMap<IpAddr, Vec<usize>>,
}

impl Network {
    /// A network of these hosts.
    pub fn new(hosts: Vec<Host>) -> Self {
        let mut by_address: HashMap<IpAddr, Vec<usize>> = HashMap::new();
        for (index, host) in hosts.iter().enumerate() {
            for net in &host.internal_ips {
                by_address.entry(net.addr()).or_default().push(index);
            }
        }
        let never = |host: &Host| Longest::of(host.firewall.never_masquerade.iter().map(|net| (*net, ())));
        Self {
            never: hosts.iter().map(never).collect(),
            by_name: hosts.iter().enumerate().map(|(index, host)| (host.name.clone(), index)).collect(),
            by_key: hosts.iter().enumerate().map(|(index, host)| (host.key, index)).collect(),
            by_address,
            hosts,
        }
    }

    /// The hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    /// The path of a packet that `from` sends or, with `iif`, forwards.
    ///
    /// # Errors
    /// When it does not arrive at `to` or a pod of it, or is not what it was: why, and how far it came.
    pub fn path(&self, from: &str, to: &str, packet: Packet<'_>) -> Result<Path, String> {
        let mut path = Path::new();
        let mut at = &self.hosts[self.by_name[from]];
        let mut iif = packet.iif;
        loop {
            let way = at.kernel.way(Packet { iif, ..packet });
            path.push((at.name.clone(), way.clone()));
            let fail =
                |why: &str| Err(format!("{why}: {} to {} by {path:?}", packet.source, packet.destination));
            // Two locations, of each a member and a leader.
            if path.len() > 4 {
                return fail("a loop");
            }
            if self.masquerades(at, packet) {
                return fail("masqueraded");
            }
            let (next, link) = match &way {
                Way::Link { link, .. } if link == "cni0" && at.name == to => return Ok(path),
                Way::Local if at.name == to => return Ok(path),
                Way::Link { link, to } if link == "eth0" => (self.neighbour(at, *to), "eth0"),
                Way::Encapsulated { outer } => match self.neighbour(at, *outer) {
                    Some(next) if !next.accepts_encapsulated(at, *outer) => {
                        return fail("outer source refused");
                    }
                    // Through which device it comes in does not matter to any rule.
                    next => (next, if packet.source.is_ipv4() { "tunl0" } else { "sit0" }),
                },
                Way::Tunnel { peer } => match self.by_key.get(peer).map(|index| &self.hosts[*index]) {
                    Some(next) if next.kernel.peer(packet.source) != Some(at.key) => {
                        return fail("source refused");
                    }
                    Some(_) if at.sessions.as_ref().is_some_and(|with| !with.contains(peer)) => {
                        return fail("no session");
                    }
                    next => (next, "kilo0"),
                },
                _ => return fail("not delivered"),
            };
            let Some(next) = next else { return fail("nobody there") };
            (at, iif) = (next, Some(link));
        }
    }

    /// As [`crate::forwarding::masquerades`], for many packets.
    fn masquerades(&self, host: &Host, packet: Packet<'_>) -> bool {
        let holds = |set: &BTreeSet<IpNet>, address| set.iter().any(|net| net.contains(&address));
        (holds(&host.firewall.masquerade_from, packet.source)
            || holds(&host.firewall.masquerade_to, packet.destination))
            && self.never[self.by_name[&host.name]].find(packet.destination).is_none()
    }

    /// Who has an address in the location of a host.
    fn neighbour(&self, of: &Host, address: IpAddr) -> Option<&Host> {
        let mut with_address = self.by_address.get(&address)?.iter().map(|index| &self.hosts[*index]);
        with_address.find(|host| host.location == of.location && host.name != of.name)
    }
}

impl Host {
    /// Whether packets in others to `outer` are accepted from a sender. Where nothing is encapsulated, nobody takes them out.
    fn accepts_encapsulated(&self, sender: &Host, outer: IpAddr) -> bool {
        let of_family = |address: &IpAddr| address.is_ipv4() == outer.is_ipv4();
        let source = sender.internal_ips.iter().map(IpNet::addr).find(of_family);
        let accepted = self.firewall.encapsulation.as_ref();
        source.is_some_and(|source| accepted.is_some_and(|filter| filter.from.contains(&source)))
    }
}
