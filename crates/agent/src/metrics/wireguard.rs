//! What `/metrics` tells about WireGuard's peers. They are named as in the mesh, not by their keys: by segment or Peer.
//!
//! A leader of a large mesh has many, and every one is three time series that somebody has to store. So those have
//! series of their own that come first in the order of names, up to a number; all are counted.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use hostnet::{Handshake, Observation};
use mesh::{PublicKey, Topology, text::Plain};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

/// How many peers have series of their own.
const NAMED: usize = 200;

/// What was last seen of WireGuard's peers, for whoever scrapes.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<Seen>>);

/// WireGuard's peers at one look.
#[derive(Debug, Default)]
pub struct Seen {
    /// How many there are, also those that never had a handshake.
    pub peers: usize,
    /// Of those that had one.
    pub handshakes: BTreeMap<PublicKey, Handshake>,
    /// When, in Unix seconds.
    pub at: i64,
    /// The mesh at that time; it names the peers.
    pub topology: Option<Arc<Topology>>,
}

impl Seen {
    /// What there is in an observation; the mesh is not yet known.
    pub fn of(observation: &Observation, at: i64) -> Self {
        let peers = observation.host.wireguard.as_ref().map_or(0, |wireguard| wireguard.peers.len());
        Self { peers, handshakes: observation.handshakes.clone(), at, topology: None }
    }

    /// The first peers that had a handshake, by name.
    fn named(&self) -> BTreeMap<String, &Handshake> {
        let Some(topology) = &self.topology else { return BTreeMap::new() };
        let segments = topology.segments.iter().map(|segment| (segment.key, segment.name.to_string()));
        let peers = topology.peers.iter().map(|peer| (peer.key, format!("peer:{}", Plain(&peer.name))));
        let all: BTreeMap<_, _> = segments
            .chain(peers)
            .filter_map(|(key, name)| Some((name, self.handshakes.get(&key)?)))
            .collect();
        all.into_iter().take(NAMED).collect()
    }
}

impl Sessions {
    /// Takes over what was seen.
    pub fn set(&self, seen: Seen) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

impl Collector for Sessions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = seen.handshakes.values().filter(|handshake| handshake.is_alive()).count();
        let had = seen.handshakes.len();
        let states = [("alive", alive), ("idle", had - alive), ("never", seen.peers.saturating_sub(had))];
        let help = "Peers of the WireGuard interface: alive had a handshake in the last three minutes, idle before, never none";
        let mut family = encoder.encode_descriptor("kilo_wireguard_peers", help, None, MetricType::Gauge)?;
        for (state, count) in states {
            family.encode_family(&[("state", state)])?.encode_gauge(&(count as i64))?;
        }
        let named = seen.named();
        let help = "When the last handshake with a peer was, in Unix seconds";
        let name = "kilo_wireguard_last_handshake_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (name, handshake) in &named {
            let when = seen.at.saturating_sub_unsigned(handshake.age.as_secs());
            family.encode_family(&[("peer", name.as_str())])?.encode_gauge(&when)?;
        }
        for (name, help, bytes) in [
            (
                "kilo_wireguard_received_bytes",
                "Bytes received from a peer",
                (|handshake| handshake.received) as fn(&Handshake) -> u64,
            ),
            ("kilo_wireguard_sent_bytes", "Bytes sent to a peer", |handshake| handshake.sent),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (name, handshake) in &named {
                let labels = [("peer", name.as_str())];
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&bytes(handshake), None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh::{Node, Peer, TopologyConfig};
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    fn key(number: u16) -> PublicKey {
        let [high, low] = number.to_be_bytes();
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&[high, low]);
        PublicKey::from_bytes(bytes).unwrap()
    }

    fn node(number: u16) -> Arc<Node> {
        Arc::new(Node {
            location: format!("l{number:03}"),
            endpoint: "203.0.113.1:51820".parse().ok(),
            key: Some(key(number)),
            internal_ips: vec!["10.0.0.1/24".parse().unwrap()],
            joins_without_pods: true,
            ..Node::named(format!("n{number:03}"))
        })
    }

    fn topology(nodes: u16) -> Arc<Topology> {
        let config = TopologyConfig {
            granularity: mesh::Granularity::Location,
            subnets: Default::default(),
            services: Vec::new(),
        };
        let peer = Peer {
            name: "laptop".to_owned(),
            created: 0,
            changed: false,
            key: key(999),
            allowed_ips: vec!["10.5.0.1/32".parse().unwrap()],
            endpoint: None,
            preshared_key: None,
            persistent_keepalive: 0,
        };
        Arc::new(Topology::new(config, (0..nodes).map(node), [peer]))
    }

    fn handshake(age: u64) -> Handshake {
        Handshake { age: Duration::from_secs(age), endpoint: None, received: 1000 + age, sent: 2000 + age }
    }

    /// The samples of a scrape.
    fn samples(seen: Seen) -> Vec<String> {
        let sessions = Sessions::default();
        sessions.set(seen);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(sessions));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn peers_are_named_as_in_the_mesh() {
        let handshakes = [(key(1), handshake(10)), (key(999), handshake(500)), (key(500), handshake(1))];
        let seen =
            Seen { peers: 4, handshakes: handshakes.into(), at: 1_700_000_000, topology: Some(topology(3)) };
        assert_eq!(
            samples(seen),
            [
                "kilo_wireguard_peers{state=\"alive\"} 2",
                "kilo_wireguard_peers{state=\"idle\"} 1",
                "kilo_wireguard_peers{state=\"never\"} 1",
                "kilo_wireguard_last_handshake_seconds{peer=\"location:l001\"} 1699999990",
                "kilo_wireguard_last_handshake_seconds{peer=\"peer:laptop\"} 1699999500",
                "kilo_wireguard_received_bytes_total{peer=\"location:l001\"} 1010",
                "kilo_wireguard_received_bytes_total{peer=\"peer:laptop\"} 1500",
                "kilo_wireguard_sent_bytes_total{peer=\"location:l001\"} 2010",
                "kilo_wireguard_sent_bytes_total{peer=\"peer:laptop\"} 2500",
            ]
        );
    }

    #[test]
    fn who_holds_no_peers_has_no_series_but_the_count() {
        let samples = samples(Seen::default());
        assert_eq!(samples.len(), 3);
        assert!(samples.iter().all(|line| line.ends_with(" 0")), "{samples:?}");
    }

    #[test]
    fn a_large_mesh_has_a_bounded_number_of_series() {
        let handshakes: BTreeMap<_, _> = (0..500).map(|number| (key(number), handshake(1))).collect();
        let seen = Seen { peers: 500, handshakes, at: 0, topology: Some(topology(500)) };
        let samples = samples(seen);
        assert_eq!(samples.len(), 3 + 3 * NAMED);
        assert!(samples.contains(&"kilo_wireguard_peers{state=\"alive\"} 500".to_owned()));
    }
}
