//! Which leaders were seen at the address that they give as both endpoint and internal address.
//!
//! Pods reach such a leader through its tunnel, and anybody can write any address. So where a public address or an API
//! server is at stake, packets of pods only follow once a session with the leader's key has ended there. What was seen
//! holds until a session ends somewhere else: a session that idles out proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use hostnet::{Handshake, Lifeline};
use mesh::{Node, PublicKey, prefix};

use crate::Surroundings;

/// Where tunnels were seen to end.
#[derive(Debug, Default)]
pub struct TunnelEnds(BTreeMap<PublicKey, SocketAddr>);

impl TunnelEnds {
    /// Takes in the sessions of this host. `wanted`: the keys that matter, see [`wants_proof`]. `written`: what this node
    /// wrote before it was restarted.
    pub fn look(
        &mut self,
        wanted: &BTreeSet<PublicKey>,
        handshakes: &BTreeMap<PublicKey, Handshake>,
        written: &BTreeMap<PublicKey, SocketAddr>,
    ) -> &BTreeMap<PublicKey, SocketAddr> {
        self.0.retain(|key, _| wanted.contains(key));
        for key in wanted {
            let alive = handshakes.get(key).filter(|handshake| handshake.is_alive());
            if let Some(endpoint) = alive.and_then(|handshake| handshake.endpoint) {
                self.0.insert(*key, endpoint);
            } else if let Some(endpoint) = written.get(key) {
                self.0.entry(*key).or_insert(*endpoint);
            }
        }
        &self.0
    }
}

/// Whether pods need to know that a node is where it says before they reach it through its tunnel. Where a node behind NAT
/// is seen is known anyway.
pub fn wants_proof(node: &Node, surroundings: &Surroundings) -> bool {
    let endpoint = node.endpoint.as_ref().filter(|_| node.persistent_keepalive == 0);
    let endpoint = endpoint.and_then(|endpoint| endpoint.ip());
    endpoint.is_some_and(|endpoint| {
        let ends_there = node.internal_ips.iter().any(|net| net.addr() == endpoint);
        ends_there && matters(endpoint, surroundings)
    })
}

fn matters(address: IpAddr, surroundings: &Surroundings) -> bool {
    !prefix::is_private(&prefix::host(address))
        || surroundings.lifelines.get(&address) == Some(&Lifeline::ApiServer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node(endpoint: &str, internal: &str) -> Node {
        let mut node = Node::named("a");
        node.endpoint = endpoint.parse().ok();
        node.internal_ips = vec![internal.parse().unwrap()];
        node
    }

    #[test]
    fn public_addresses_and_api_servers_want_proof() {
        let mut surroundings = Surroundings::default();
        let wants = |surroundings: &Surroundings, endpoint, internal| {
            wants_proof(&node(endpoint, internal), surroundings)
        };
        assert!(wants(&surroundings, "203.0.113.1:51820", "203.0.113.1/24"));
        assert!(!wants(&surroundings, "203.0.113.1:51820", "10.0.0.1/24"));
        assert!(!wants(&surroundings, "10.0.0.1:51820", "10.0.0.1/24"));
        surroundings.lifelines.insert("10.0.0.1".parse().unwrap(), Lifeline::ApiServer);
        assert!(wants(&surroundings, "10.0.0.1:51820", "10.0.0.1/24"));
        assert!(!wants(&surroundings, "a.example.com:51820", "10.0.0.1/24"));
    }

    #[test]
    fn what_was_seen_holds_until_it_is_seen_elsewhere() {
        let key = PublicKey::from_bytes([1; 32]).unwrap();
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        let session = |age, address: &str| {
            let endpoint = Some(at(address));
            let handshake = Handshake { age: Duration::from_secs(age), endpoint, received: 0, sent: 0 };
            BTreeMap::from([(key, handshake)])
        };
        let wanted = BTreeSet::from([key]);
        let none = BTreeMap::new();
        let mut ends = TunnelEnds::default();
        let (here, there) = ("203.0.113.1:51820", "198.51.100.1:51820");
        assert!(ends.look(&wanted, &session(200, here), &none).is_empty());
        assert_eq!(ends.look(&wanted, &session(1, here), &none)[&key], at(here));
        assert_eq!(ends.look(&wanted, &session(200, there), &none)[&key], at(here));
        assert_eq!(ends.look(&wanted, &session(1, there), &none)[&key], at(there));
        assert!(ends.look(&BTreeSet::new(), &session(1, there), &none).is_empty());
        // After a restart: what was written, until a session says otherwise.
        let written = BTreeMap::from([(key, at(here))]);
        assert_eq!(ends.look(&wanted, &BTreeMap::new(), &written)[&key], at(here));
        assert_eq!(ends.look(&wanted, &session(1, there), &written)[&key], at(there));
    }
}
