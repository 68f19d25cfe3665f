//! Engines on a simulated network with a simulated clock, for tests: a day passes in a moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::clock::{Moment, Now};
use crate::config::{AllowedIpsChange, PeerChange, PeerSettings, PeerState};
use crate::engine::{Engine, Opened, Outbox};
use crate::key::{PrivateKey, PublicKey};
use crate::peer::Endpoint;

/// Half of the round-trip time.
const LATENCY: Duration = Duration::from_millis(20);
/// An arbitrary day.
const START: Duration = Duration::from_secs(1_700_000_000);

/// What happens to a datagram on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrive,
    Lose,
    Duplicate,
    /// Arrives only after those sent a moment later.
    Delay,
}

/// Decides what happens to each datagram.
type Judge = Box<dyn FnMut(&[u8]) -> Fate>;

/// An engine with an address.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) key: PublicKey,
    pub(crate) address: SocketAddr,
    /// IP packets that came out, in order.
    pub(crate) delivered: Vec<Vec<u8>>,
    /// Sizes of the datagrams sent, with the time of each.
    pub(crate) sent: Vec<(Moment, usize)>,
}

/// The network.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Now,
    pub(crate) fate: Judge,
    /// By arrival and order of sending: source, destination, datagram.
    flying: BTreeMap<(Moment, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sequence: u64,
}

/// A key made from a number.
pub(crate) fn private_key(number: u16) -> PrivateKey {
    let mut bytes = [7; 32];
    bytes[1..3].copy_from_slice(&number.to_le_bytes());
    PrivateKey::from(bytes)
}

/// Settings for a peer with these allowed IPs.
pub(crate) fn settings(key: PublicKey, endpoint: Option<SocketAddr>, allowed: &[&str]) -> PeerSettings {
    let allowed = allowed.iter().map(|prefix| prefix.parse::<IpNet>().unwrap()).collect();
    PeerSettings { endpoint, allowed_ips: AllowedIpsChange::Replace(allowed), ..PeerSettings::new(key) }
}

/// A UDP packet from `10.0.0.<from>` to `10.0.0.<to>` that carries a number.
pub(crate) fn packet(from: u8, to: u8, number: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to];
    packet.extend([0, 1, 0, 2, 0, 12, 0, 0]);
    packet.extend(number.to_be_bytes());
    packet
}

impl World {
    /// So many nodes: number `i` has the address `192.0.2.<i>:1000`, in the tunnel `10.0.0.<i>`, and does not know the
    /// others.
    pub(crate) fn strangers(count: u8) -> Self {
        let nodes = (0..count).map(|i| {
            let private = private_key(u16::from(i) + 1);
            let key = private.public_key();
            let engine = Engine::new(Some(private), 1420, Box::new(|| {}));
            engine.set_port(1000);
            Node {
                key,
                engine,
                address: SocketAddr::from(([192, 0, 2, i], 1000)),
                delivered: Vec::new(),
                sent: Vec::new(),
            }
        });
        let now = Now { moment: Moment::from_nanos(1_000_000_000), wall: START };
        Self {
            nodes: nodes.collect(),
            now,
            fate: Box::new(|_| Fate::Arrive),
            flying: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Two nodes that know each other's keys and addresses.
    pub(crate) fn pair() -> Self {
        let world = Self::strangers(2);
        world.introduce(0, 1);
        world.introduce(1, 0);
        world
    }

    /// Tells a node of another one.
    pub(crate) fn introduce(&self, to: usize, whom: usize) {
        let prefix = format!("10.0.0.{whom}/32");
        let other = &self.nodes[whom];
        let change = settings(other.key, Some(other.address), &[&prefix]);
        self.nodes[to].engine.apply(&[PeerChange::Set(change)], self.now.moment);
    }

    /// Changes the first peer of a node.
    pub(crate) fn change(&self, node: usize, edit: impl FnOnce(&mut PeerSettings)) {
        let mut settings = PeerSettings::new(self.peer(node).key);
        edit(&mut settings);
        self.nodes[node].engine.apply(&[PeerChange::Set(settings)], self.now.moment);
    }

    /// The first peer of a node.
    pub(crate) fn peer(&self, node: usize) -> PeerState {
        self.nodes[node].engine.peers().remove(0)
    }

    /// A node sends an IP packet.
    pub(crate) fn send(&mut self, node: usize, packet: &[u8]) {
        let mut out = Outbox::new();
        self.nodes[node].engine.handle_packet(packet, self.now.moment, &mut out);
        self.launch(node, out);
        self.work(node);
    }

    /// A datagram arrives at a node.
    pub(crate) fn arrive(&mut self, node: usize, source: SocketAddr, mut datagram: Vec<u8>) -> Opened {
        let opened =
            self.nodes[node].engine.inbound(self.now.moment).open(&Endpoint::from(source), &mut datagram);
        if let Opened::Packet(place) = &opened {
            self.nodes[node].delivered.push(datagram[place.clone()].to_vec());
        }
        opened
    }

    /// A node does its jobs and what its timers ask.
    pub(crate) fn work(&mut self, node: usize) {
        let mut out = Outbox::new();
        while self.nodes[node].engine.handle_jobs(self.now, &mut out) {}
        if self.nodes[node].engine.timers_due() <= self.now.moment {
            self.nodes[node].engine.handle_timers(self.now, &mut out);
        }
        while self.nodes[node].engine.handle_jobs(self.now, &mut out) {}
        self.launch(node, out);
    }

    fn launch(&mut self, node: usize, out: Outbox) {
        let source = self.nodes[node].address;
        for (to, datagram) in out {
            self.nodes[node].sent.push((self.now.moment, datagram.len()));
            let at = self.now.moment.plus(LATENCY);
            match (self.fate)(&datagram) {
                Fate::Lose => {}
                Fate::Arrive => self.fly(at, source, to.address, datagram),
                Fate::Delay => self.fly(at.plus(LATENCY), source, to.address, datagram),
                Fate::Duplicate => {
                    self.fly(at, source, to.address, datagram.clone());
                    self.fly(at.plus(LATENCY), source, to.address, datagram);
                }
            }
        }
    }

    fn fly(&mut self, at: Moment, source: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        self.sequence += 1;
        self.flying.insert((at, self.sequence), (source, to, datagram));
    }

    /// Lets time pass; everything that is due happens at its moment.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now.moment.plus(duration);
        for node in 0..self.nodes.len() {
            self.work(node);
        }
        loop {
            let timer = self.nodes.iter().map(|node| node.engine.timers_due()).min().unwrap_or(Moment::NEVER);
            let arrival = self.flying.keys().next().map_or(Moment::NEVER, |(at, _)| *at);
            let next = timer.min(arrival);
            if next > end {
                break;
            }
            self.set_clock(next);
            while let Some(entry) = self.flying.first_entry() {
                if entry.key().0 > next {
                    break;
                }
                let (source, to, datagram) = entry.remove();
                if let Some(node) = self.nodes.iter().position(|node| node.address == to) {
                    self.arrive(node, source, datagram);
                }
            }
            for node in 0..self.nodes.len() {
                self.work(node);
            }
        }
        self.set_clock(end);
    }

    fn set_clock(&mut self, moment: Moment) {
        let step = moment.since(self.now.moment);
        self.now = Now { moment: self.now.moment.max(moment), wall: self.now.wall + step };
    }

    /// How many datagrams of this size a node has sent since the given moment.
    pub(crate) fn sent_of_size(&self, node: usize, size: usize, since: Moment) -> usize {
        self.nodes[node].sent.iter().filter(|(at, bytes)| *at >= since && *bytes == size).count()
    }
}
