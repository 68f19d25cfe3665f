//! Which connections a listener has, and which one goes when there are too many. No clock and no sockets are known here.
//!
//! Whoever reaches a port can open connections and say nothing. So a new connection is never refused while one
//! waits for its client: the source with the most connections loses the one that has waited longest. A single client
//! can then take places from itself only, and many together cannot hold what they do not use. Connections of the host
//! itself, such as a kubelet's probes, have places of their own, for which nobody outside competes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

/// Both ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The own address.
    local: IpAddr,
    /// The client's address.
    peer: IpAddr,
}

impl Ends {
    /// The ends of a connection; IPv4 addresses in the form of IPv6 are IPv4 addresses.
    pub fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        Self { local: local.ip().to_canonical(), peer: peer.ip().to_canonical() }
    }

    /// Whether the connection never left the loopback interface. Both ends count: with `route_localnet` and a DNAT rule
    /// the own end alone may be a loopback address.
    pub fn are_loopback(&self) -> bool {
        self.local.is_loopback() && self.peer.is_loopback()
    }

    /// Whether the client is a process of this host. Nobody else completes a handshake from an address that is ours.
    fn are_of_host(&self) -> bool {
        self.are_loopback() || self.local == self.peer
    }

    /// Who the client is, as far as it matters: whoever has one IPv6 address has all of a /64.
    fn source(&self) -> IpAddr {
        match self.peer {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        }
    }
}

/// How many connections there may be, and how long each may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections from outside of this host.
    pub from_outside: usize,
    /// Connections of this host itself.
    pub from_host: usize,
    /// From the beginning of a connection, or the first byte of a further request, to the end of the request's head. A
    /// TLS handshake counts.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For the body of a request to arrive.
    pub body: Duration,
    /// For an answer to be made.
    pub answering: Duration,
    /// For the client to take the next part of an answer.
    pub taking: Duration,
    /// For the client to take a whole answer.
    pub taking_all: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            from_outside: 48,
            from_host: 16,
            head: Duration::from_secs(10),
            // API servers and Prometheus keep connections, and come again when one is closed.
            idle: Duration::from_secs(120),
            body: Duration::from_secs(10),
            answering: Duration::from_secs(30),
            taking: Duration::from_secs(10),
            taking_all: Duration::from_secs(60),
        }
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The client, which has not yet sent a whole head.
    Head,
    /// The client's next request.
    Idle,
    /// The client, which sends a body.
    Body,
    /// Us.
    Answering,
    /// The client, which takes the answer.
    Taking {
        /// When it began to.
        from: Instant,
    },
}

/// A connection, as long as it is there.
pub type Id = u64;

/// The connections of a listener. `T` is what ends one.
#[derive(Debug)]
pub struct Slots<T> {
    limits: Limits,
    connections: BTreeMap<Id, Connection<T>>,
    next: Id,
}

#[derive(Debug)]
struct Connection<T> {
    ends: Ends,
    phase: Phase,
    since: Instant,
    end: T,
}

/// What becomes of a new connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<T> {
    /// It has a place.
    Free(Id),
    /// It has the place of another one, which has to be ended.
    InsteadOf(Id, T),
    /// All others wait for us, and will not do so for long.
    Refused,
}

impl<T> Slots<T> {
    /// No connections.
    pub fn new(limits: Limits) -> Self {
        Self { limits, connections: BTreeMap::new(), next: 0 }
    }

    /// A new connection; `end` ends it.
    pub fn admit(&mut self, ends: Ends, end: T, now: Instant) -> Admission<T> {
        let of_host = ends.are_of_host();
        let most = if of_host { self.limits.from_host } else { self.limits.from_outside };
        let taken = self.connections.values().filter(|other| other.ends.are_of_host() == of_host).count();
        let ended = if taken < most { None } else { Some(self.expendable(ends)) };
        let ended = match ended {
            Some(None) => return Admission::Refused,
            Some(Some(id)) => self.connections.remove(&id),
            None => None,
        };
        let id = self.next;
        self.next += 1;
        self.connections.insert(id, Connection { ends, phase: Phase::Head, since: now, end });
        match ended {
            Some(ended) => Admission::InsteadOf(id, ended.end),
            None => Admission::Free(id),
        }
    }

    /// The connection to end for a new one.
    fn expendable(&self, new: Ends) -> Option<Id> {
        let rivals = || self.connections.iter().filter(|(_, c)| c.ends.are_of_host() == new.are_of_host());
        let mut of_source: BTreeMap<IpAddr, usize> = BTreeMap::from([(new.source(), 1)]);
        for (_, connection) in rivals() {
            *of_source.entry(connection.ends.source()).or_default() += 1;
        }
        let waiting = rivals().filter(|(_, connection)| connection.phase != Phase::Answering);
        let worst = waiting.max_by_key(|(id, connection)| {
            let without_request = matches!(connection.phase, Phase::Head | Phase::Idle);
            let share = of_source[&connection.ends.source()];
            (share, without_request, std::cmp::Reverse((connection.since, **id)))
        });
        worst.map(|(id, _)| *id)
    }

    /// A connection waits for something else.
    pub fn turn(&mut self, id: Id, phase: Phase, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            (connection.phase, connection.since) = (phase, now);
        }
    }

    /// What a connection waits for; `None`: it is not there any more.
    pub fn phase(&self, id: Id) -> Option<Phase> {
        Some(self.connections.get(&id)?.phase)
    }

    /// When a connection has taken too long; `None`: it is not there any more.
    pub fn deadline(&self, id: Id) -> Option<Instant> {
        let Connection { phase, since, .. } = self.connections.get(&id)?;
        let limits = &self.limits;
        Some(match phase {
            Phase::Head => *since + limits.head,
            Phase::Idle => *since + limits.idle,
            Phase::Body => *since + limits.body,
            Phase::Answering => *since + limits.answering,
            Phase::Taking { from } => (*since + limits.taking).min(*from + limits.taking_all),
        })
    }

    /// A connection has ended.
    pub fn remove(&mut self, id: Id) {
        self.connections.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local: &str, peer: &str) -> Ends {
        Ends::new(SocketAddr::new(local.parse().unwrap(), 1), SocketAddr::new(peer.parse().unwrap(), 2))
    }

    fn outside(peer: &str) -> Ends {
        ends("192.0.2.1", peer)
    }

    struct Table {
        slots: Slots<Id>,
        begin: Instant,
        at: u64,
    }

    impl Table {
        fn new(from_outside: usize, from_host: usize) -> Self {
            let limits = Limits { from_outside, from_host, ..Limits::default() };
            Self { slots: Slots::new(limits), begin: Instant::now(), at: 0 }
        }

        fn admit(&mut self, ends: Ends) -> Admission<Id> {
            self.at += 1;
            let id = self.slots.next;
            self.slots.admit(ends, id, self.begin + Duration::from_secs(self.at))
        }

        fn turn(&mut self, id: Id, phase: Phase) {
            self.at += 1;
            self.slots.turn(id, phase, self.begin + Duration::from_secs(self.at));
        }
    }

    #[test]
    fn who_says_nothing_locks_nobody_out() {
        let mut table = Table::new(4, 1);
        for id in 0..4 {
            assert_eq!(table.admit(outside("203.0.113.1")), Admission::Free(id));
        }
        // The oldest one goes, and then the next.
        assert_eq!(table.admit(outside("203.0.113.2")), Admission::InsteadOf(4, 0));
        assert_eq!(table.admit(outside("203.0.113.1")), Admission::InsteadOf(5, 1));
        // However many come of one source, it takes places from itself only.
        for id in 6..100 {
            let Admission::InsteadOf(new, _) = table.admit(outside("203.0.113.1")) else { panic!("{id}") };
            assert_eq!(new, id);
        }
        assert_eq!(table.slots.phase(4), Some(Phase::Head));
        assert_eq!(table.slots.connections.len(), 4);
        // A probe of the host has its own place.
        assert_eq!(table.admit(ends("192.0.2.1", "192.0.2.1")), Admission::Free(100));
        assert_eq!(table.admit(ends("127.0.0.1", "127.0.0.1")), Admission::InsteadOf(101, 100));
    }

    #[test]
    fn what_is_worked_on_is_not_ended() {
        let mut table = Table::new(3, 0);
        for _ in 0..3 {
            table.admit(outside("203.0.113.1"));
        }
        table.turn(0, Phase::Answering);
        table.turn(1, Phase::Taking { from: table.begin });
        table.turn(2, Phase::Idle);
        assert_eq!(table.admit(outside("203.0.113.1")), Admission::InsteadOf(3, 2));
        table.turn(3, Phase::Answering);
        assert_eq!(table.admit(outside("203.0.113.1")), Admission::InsteadOf(4, 1));
        table.turn(4, Phase::Answering);
        assert_eq!(table.admit(outside("203.0.113.9")), Admission::Refused);
        table.slots.remove(0);
        assert_eq!(table.admit(outside("203.0.113.9")), Admission::Free(5));
    }

    #[test]
    fn all_of_an_ipv6_network_is_one_source() {
        let mut table = Table::new(3, 0);
        let ipv6 = |peer: &str| ends("2001:db8::1", peer);
        table.admit(ipv6("2001:db8:1::1"));
        table.admit(ipv6("2001:db8:2::1"));
        table.admit(ipv6("2001:db8:2::2"));
        assert_eq!(table.admit(ipv6("2001:db8:3::1")), Admission::InsteadOf(3, 1));
    }

    #[test]
    fn every_phase_has_an_end() {
        let mut table = Table::new(1, 0);
        let begin = table.begin;
        table.admit(outside("203.0.113.1"));
        let seconds = |table: &Table| table.slots.deadline(0).unwrap().duration_since(begin).as_secs();
        assert_eq!(seconds(&table), 1 + 10);
        for (phase, limit) in
            [(Phase::Idle, 120), (Phase::Head, 10), (Phase::Body, 10), (Phase::Answering, 30)]
        {
            table.turn(0, phase);
            assert_eq!(seconds(&table), table.at + limit, "{phase:?}");
        }
        table.turn(0, Phase::Taking { from: begin + Duration::from_secs(table.at) });
        assert_eq!(seconds(&table), table.at + 10);
        // However fast the parts are taken.
        let from = begin + Duration::from_secs(table.at);
        table.at += 55;
        table.turn(0, Phase::Taking { from });
        assert_eq!(table.slots.deadline(0).unwrap(), from + Duration::from_secs(60));
        table.slots.remove(0);
        assert_eq!(table.slots.deadline(0), None);
    }

    #[test]
    fn loopback_is_both_ends() {
        for (local, peer, loopback, of_host) in [
            ("127.0.0.1", "127.0.0.1", true, true),
            ("::1", "::1", true, true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", true, true),
            ("127.0.0.1", "203.0.113.1", false, false),
            ("192.0.2.1", "192.0.2.1", false, true),
            ("192.0.2.1", "127.0.0.1", false, false),
            ("2001:db8::1", "2001:db8::2", false, false),
        ] {
            let ends = ends(local, peer);
            assert_eq!((ends.are_loopback(), ends.are_of_host()), (loopback, of_host), "{ends:?}");
        }
    }
}
