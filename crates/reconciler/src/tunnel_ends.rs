//! Which leaders were seen at the address that they give as both endpoint and internal address.
//!
//! Pods reach such a leader through its tunnel, and anybody can write any address. So where a public address or an API
//! server is at stake, packets of pods only follow once packets with the leader's key have come from there. An endpoint that
//! WireGuard shows is not enough: we set it as the leader's object says, also while a session lives. But WireGuard moves it
//! with every packet, so what has come in between two looks that show the same endpoint has come from there.
//!
//! What was seen holds until a session shows another address: a session that idles out proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use hostnet::{Handshake, Lifeline, Wireguard};
use mesh::{Node, Perspective, PublicKey, prefix};

use crate::Surroundings;

/// Proofs that are kept at most. Members read them from an annotation, and all annotations of a Node together are limited
/// to 256 KiB.
const MOST: usize = 1000;

/// What has to be proven, by the key that has to prove it.
pub type Wanted = BTreeMap<PublicKey, Claim>;

/// What the leader of a segment has to prove.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claim {
    /// The internal addresses of its segment that matter.
    addresses: BTreeSet<IpAddr>,
    /// Whether it says that one of them is its endpoint.
    at_home: bool,
    /// Whether it is behind NAT: then its sessions say where it is, and for no longer than they live.
    behind_nat: bool,
}

impl Claim {
    /// What the leader of these nodes has to prove; `None`: nothing.
    pub fn of<'a>(
        leader: &Node,
        nodes: impl Iterator<Item = &'a Node>,
        surroundings: &Surroundings,
    ) -> Option<Self> {
        let addresses = nodes.flat_map(|node| &node.internal_ips).map(ipnet::IpNet::addr);
        let addresses: BTreeSet<_> = addresses.filter(|at| matters(*at, surroundings)).collect();
        let endpoint = leader.endpoint.as_ref().and_then(mesh::Endpoint::ip);
        let at_home = endpoint.is_some_and(|endpoint| addresses.contains(&endpoint));
        let behind_nat = leader.persistent_keepalive != 0;
        (!addresses.is_empty()).then_some(Self { addresses, at_home, behind_nat })
    }
}

/// Where tunnels were seen to end.
#[derive(Debug, Default)]
pub struct TunnelEnds {
    proven: BTreeMap<PublicKey, SocketAddr>,
    /// What the last look showed: the endpoint, and the bytes received by then.
    last: BTreeMap<PublicKey, (SocketAddr, u64)>,
    /// What this node wrote before it was restarted; `None` before the first look.
    written: Option<BTreeMap<PublicKey, SocketAddr>>,
}

impl TunnelEnds {
    /// Takes in what WireGuard on this host shows. `written`: what this node wrote before it was restarted; the first
    /// look counts.
    pub fn look(
        &mut self,
        wanted: &Wanted,
        wireguard: Option<&Wireguard>,
        handshakes: &BTreeMap<PublicKey, Handshake>,
        written: &BTreeMap<PublicKey, SocketAddr>,
    ) {
        let before = std::mem::take(&mut self.last);
        let remembered = self.written.get_or_insert_with(|| written.clone());
        self.proven
            .retain(|key, at| wanted.get(key).is_some_and(|claimed| claimed.addresses.contains(&at.ip())));
        for (key, claimed) in wanted {
            let peer = wireguard.and_then(|wireguard| wireguard.peers.get(key));
            let alive = handshakes.get(key).filter(|handshake| handshake.is_alive());
            let remembered = remembered.remove(key).filter(|at| claimed.addresses.contains(&at.ip()));
            self.proven.extend(remembered.map(|at| (*key, at)));
            let Some((endpoint, received)) = shown(peer.and_then(|peer| peer.endpoint), handshakes.get(key))
            else {
                continue;
            };
            self.last.insert(*key, (endpoint, received));
            if alive.is_none() {
                continue;
            }
            let came = |(at, then): &(SocketAddr, u64)| at.ip() == endpoint.ip() && received > *then;
            if self.proven.get(key).is_some_and(|at| at.ip() != endpoint.ip()) {
                self.proven.remove(key);
            }
            // Ports do not matter, so one that changes without end is not written again and again.
            let is_free = !self.proven.contains_key(key) && self.proven.len() < MOST;
            if is_free && claimed.addresses.contains(&endpoint.ip()) && before.get(key).is_some_and(came) {
                self.proven.insert(*key, endpoint);
            }
        }
    }

    /// What is proven of those that are not behind NAT.
    pub fn proven(&self, wanted: &Wanted) -> impl Iterator<Item = (PublicKey, SocketAddr)> {
        let proven = self.proven.iter().map(|(key, at)| (*key, *at));
        proven.filter(|(key, _)| wanted.get(key).is_some_and(|claim| !claim.behind_nat))
    }

    /// Whether a proof is missing that may come soon.
    pub fn is_missing(&self, wanted: &Wanted) -> bool {
        let mut expected = wanted.iter().filter(|(_, claim)| claim.at_home && !claim.behind_nat);
        expected.any(|(key, _)| !self.proven.contains_key(key))
    }

    /// A member has no sessions, and what was seen when it led may be long ago.
    pub fn forget(&mut self) {
        *self = Self { written: Some(BTreeMap::new()), ..Self::default() };
    }

    /// Whether a node at this address is one that claims it and has not proven it.
    pub fn is_doubtful(&self, wanted: &Wanted, key: &PublicKey, at: IpAddr) -> bool {
        let proven = self.proven.get(key).is_some_and(|proven| proven.ip() == at);
        !proven && wanted.get(key).is_some_and(|claimed| claimed.addresses.contains(&at))
    }
}

/// The endpoint of a peer, and the bytes received; none before the first handshake.
fn shown(endpoint: Option<SocketAddr>, handshake: Option<&Handshake>) -> Option<(SocketAddr, u64)> {
    match handshake {
        Some(handshake) => Some((handshake.endpoint?, handshake.received)),
        None => Some((endpoint?, 0)),
    }
}

fn matters(address: IpAddr, surroundings: &Surroundings) -> bool {
    !prefix::is_private(&prefix::host(address))
        || surroundings.lifelines.get(&address) == Some(&Lifeline::ApiServer)
}

/// How many proofs a node writes that has no members to read them. After a restart it has them again.
const FOR_ITSELF: usize = 100;

/// What of the discovered endpoints to write. Where each node is a segment, all of them would write of all.
pub fn worth_telling(perspective: &Perspective<'_>) -> BTreeMap<PublicKey, SocketAddr> {
    let discovered = &perspective.node.discovered_endpoints;
    if perspective.segment().nodes.len() > 1 || discovered.len() <= FOR_ITSELF {
        return discovered.clone();
    }
    let at_home = perspective.other_segments().filter(|segment| segment.persistent_keepalive() == 0);
    let proofs: BTreeSet<PublicKey> = at_home.map(|segment| segment.key).collect();
    let (proofs, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        discovered.iter().map(|(key, at)| (*key, *at)).partition(|(key, _)| proofs.contains(key));
    others.into_iter().chain(proofs.into_iter().take(FOR_ITSELF)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn public_addresses_and_api_servers_want_proof() {
        let mut surroundings = Surroundings::default();
        let claim = |surroundings: &Surroundings, endpoint: &str, internal: &str| {
            let mut node = Node::named("a");
            node.internal_ips = vec![internal.parse().unwrap()];
            node.endpoint = endpoint.parse().ok();
            Claim::of(&node, [&node].into_iter(), surroundings)
        };
        assert!(claim(&surroundings, "203.0.113.1:51820", "203.0.113.1/24").unwrap().at_home);
        assert!(!claim(&surroundings, "a.example.com:51820", "203.0.113.1/24").unwrap().at_home);
        assert_eq!(claim(&surroundings, "10.0.0.1:51820", "10.0.0.1/24"), None);
        surroundings.lifelines.insert("10.0.0.1".parse().unwrap(), Lifeline::ApiServer);
        assert!(claim(&surroundings, "10.0.0.1:51820", "10.0.0.1/24").unwrap().at_home);
    }

    const HERE: &str = "203.0.113.1:51820";
    const THERE: &str = "198.51.100.1:51820";

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn key() -> PublicKey {
        PublicKey::from_bytes([1; 32]).unwrap()
    }

    fn wanted() -> Wanted {
        let claim = Claim { addresses: BTreeSet::from([at(HERE).ip()]), at_home: true, behind_nat: false };
        BTreeMap::from([(key(), claim)])
    }

    /// The node with the key claims to be here.
    #[derive(Default)]
    struct Looks(TunnelEnds, BTreeMap<PublicKey, SocketAddr>);

    impl Looks {
        /// A look shows a session of this age in seconds, this endpoint and these bytes received; returns what is proven.
        fn show(&mut self, age: u64, endpoint: &str, received: u64) -> Option<SocketAddr> {
            let handshake =
                Handshake { age: Duration::from_secs(age), endpoint: Some(at(endpoint)), received, sent: 0 };
            self.look(BTreeMap::from([(key(), handshake)]))
        }

        fn look(&mut self, handshakes: BTreeMap<PublicKey, Handshake>) -> Option<SocketAddr> {
            self.0.look(&wanted(), None, &handshakes, &self.1);
            assert_eq!(self.0.is_missing(&wanted()), self.0.proven.is_empty());
            self.0.proven(&wanted()).next().map(|(_, at)| at)
        }
    }

    #[test]
    fn what_was_seen_holds_until_it_is_seen_elsewhere() {
        let mut looks = Looks::default();
        assert_eq!(looks.show(1, HERE, 100), None, "it may have been set");
        assert_eq!(looks.show(1, HERE, 100), None, "nothing came from there");
        assert_eq!(looks.show(1, HERE, 200), Some(at(HERE)));
        assert_eq!(looks.show(1, "203.0.113.1:7", 300), Some(at(HERE)), "only the address matters");
        assert_eq!(looks.show(200, THERE, 200), Some(at(HERE)), "the session is none any more");
        assert_eq!(looks.show(1, THERE, 300), None);
        assert_eq!(looks.show(1, THERE, 400), None, "nobody claims to be there");
        assert_eq!(looks.show(1, HERE, 400), None, "it was set while the session lived");
        assert_eq!(looks.show(1, HERE, 500), Some(at(HERE)));
        looks.0.forget();
        assert_eq!(looks.look(BTreeMap::new()), None);
    }

    #[test]
    fn what_was_written_holds_after_a_restart() {
        let written = || BTreeMap::from([(key(), at(HERE))]);
        let mut looks = Looks(TunnelEnds::default(), written());
        assert_eq!(looks.look(BTreeMap::new()), Some(at(HERE)));
        assert_eq!(looks.show(1, THERE, 100), None);
        assert_eq!(looks.look(BTreeMap::new()), None, "it counts once");
        assert_eq!(Looks(TunnelEnds::default(), written()).show(1, HERE, 100), Some(at(HERE)));
        assert_eq!(Looks(TunnelEnds::default(), written()).show(1, THERE, 100), None);
    }

    /// Where each node is a segment, nobody reads the proofs of others, and all would write of all.
    #[test]
    fn who_has_no_members_writes_little() {
        let config = || mesh::TopologyConfig {
            granularity: mesh::Granularity::Full,
            subnets: Default::default(),
            services: Vec::new(),
        };
        let node = |index: u8| {
            let mut node = Node::named(format!("node{index}"));
            node.key = PublicKey::from_bytes([index; 32]).ok();
            node.endpoint = format!("203.0.113.{index}:51820").parse().ok();
            node.internal_ips = vec![format!("203.0.113.{index}/32").parse().unwrap()];
            node.pod_subnets = vec![format!("10.42.{index}.0/24").parse().unwrap()];
            node.location = "a".to_owned();
            node.persistent_keepalive = if index == 200 { 25 } else { 0 };
            node
        };
        let mut nodes: Vec<Node> = (1..=200).map(node).collect();
        let seen = nodes[1..].iter().map(|node| (node.key.unwrap(), at(HERE))).collect();
        nodes[0].discovered_endpoints = seen;
        let told = |granularity| {
            let config = mesh::TopologyConfig { granularity, ..config() };
            let topology =
                mesh::Topology::new(config, nodes.iter().cloned().map(std::sync::Arc::new), vec![]);
            worth_telling(&Perspective::of(&topology, "node1").unwrap())
        };
        let full = told(mesh::Granularity::Full);
        assert_eq!(full.len(), FOR_ITSELF + 1);
        assert!(full.contains_key(&nodes[199].key.unwrap()), "others do read who is behind NAT");
        assert_eq!(told(mesh::Granularity::Location).len(), 199);
    }

    #[test]
    fn the_first_handshake_proves_the_endpoint_that_was_set_before() {
        let mut wanted = wanted();
        let peer = hostnet::WireguardPeer { endpoint: Some(at(HERE)), ..Default::default() };
        let wireguard = Wireguard { peers: BTreeMap::from([(key(), peer)]), ..Default::default() };
        let (mut ends, none) = (TunnelEnds::default(), BTreeMap::new());
        ends.look(&wanted, Some(&wireguard), &BTreeMap::new(), &none);
        assert!(ends.is_doubtful(&wanted, &key(), at(HERE).ip()));
        let handshake =
            Handshake { age: Duration::from_secs(1), endpoint: Some(at(HERE)), received: 92, sent: 148 };
        let handshakes = BTreeMap::from([(key(), handshake)]);
        ends.look(&wanted, Some(&wireguard), &handshakes, &none);
        assert_eq!(ends.proven(&wanted).collect::<Vec<_>>(), [(key(), at(HERE))]);
        assert!(!ends.is_doubtful(&wanted, &key(), at(HERE).ip()));
        // A router forgets where those behind NAT were.
        wanted.values_mut().for_each(|claim| claim.behind_nat = true);
        assert_eq!(ends.proven(&wanted).next(), None);
    }
}
