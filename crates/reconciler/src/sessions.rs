//! Sessions that an agent finds when it starts, and whose other ends are gone.
//!
//! An agent that ends takes its key back from the API, and the other nodes forget its sessions. The device may keep them:
//! a Go agent leaves it as it is. The next agent would send into these sessions without an answer until WireGuard gives
//! them up after 15 s (`KEEPALIVE_TIMEOUT` and `REKEY_TIMEOUT` of the WireGuard paper, section 6.1). So, once the others
//! have been told of this node again, they are begun anew; and again where there is no answer, because an initiation
//! that comes before its reader knows the key is dropped, and WireGuard waits 5 s before the next. Sessions with Peers
//! stay: nobody has told them anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use hostnet::{Change, Handshake, LinkName, Wireguard};
use mesh::PublicKey;

/// How long the others have to hear of this node and to set their devices; it doubles with every attempt.
const PAUSE: Duration = Duration::from_millis(250);

/// After these WireGuard's own retries have to do.
const ATTEMPTS: u32 = 5;

/// A new peer to which a keepalive is to be sent at once begins a session. The next look sets what is wanted.
const AT_ONCE: u16 = 1;

/// Whose sessions are begun anew, and where they were.
pub type Gone = BTreeMap<PublicKey, Option<SocketAddr>>;

/// The sessions that were found.
#[derive(Debug, Default)]
pub struct Sessions {
    /// The others did not know the own key when this agent started, and nothing of the host has been seen yet.
    forgotten: bool,
    /// With whom: those that have not answered yet.
    with: BTreeSet<PublicKey>,
    /// When they were found: a session that began later is a good one.
    found: Option<Instant>,
    /// When they are begun anew; `None` before the others have been told, and at the end.
    next: Option<Instant>,
    attempts: u32,
}

impl Sessions {
    /// What the others knew when this agent started: the own key, or not.
    pub fn start(&mut self, known_to_others: bool) {
        self.forgotten = !known_to_others;
    }

    /// What was seen of the host; the first time counts.
    pub fn find(
        &mut self,
        handshakes: &BTreeMap<PublicKey, Handshake>,
        nodes: impl Iterator<Item = PublicKey>,
        now: Instant,
    ) {
        if std::mem::take(&mut self.forgotten) {
            let alive = |key: &PublicKey| handshakes.get(key).is_some_and(Handshake::is_alive);
            self.with = nodes.filter(alive).collect();
            self.found = Some(now);
        }
    }

    /// The others have been told. Returns in what time to look at the host again, if that is of use.
    pub fn told(&mut self, now: Instant) -> Option<Duration> {
        if self.with.is_empty() || self.attempts > 0 || self.next.is_some() {
            return None;
        }
        self.next = Some(now + PAUSE);
        Some(PAUSE)
    }

    /// Takes what is to be begun anew out of what was seen.
    pub fn forget(
        &mut self,
        seen: &mut Option<Wireguard>,
        handshakes: &mut BTreeMap<PublicKey, Handshake>,
        now: Instant,
    ) -> Gone {
        let mut gone = Gone::new();
        let (Some(seen), Some(_)) = (seen, self.next.take_if(|at| *at <= now)) else { return gone };
        let since = self.found.map_or(Duration::ZERO, |found| now.saturating_duration_since(found));
        let answered = |key: &PublicKey| handshakes.get(key).is_some_and(|handshake| handshake.age < since);
        self.with.retain(|key| !answered(key));
        for key in &self.with {
            if let Some(peer) = seen.peers.remove(key) {
                gone.insert(*key, peer.endpoint);
            }
            handshakes.remove(key);
        }
        self.attempts += 1;
        if !self.with.is_empty() && self.attempts < ATTEMPTS {
            self.next = Some(now + PAUSE * 2u32.pow(self.attempts));
        }
        gone
    }

    /// How long until the next attempt.
    pub fn next_look(&self, now: Instant) -> Option<Duration> {
        self.next.map(|at| at.saturating_duration_since(now))
    }
}

/// Makes changes that add these peers begin anew with them: they are removed before, and called at once.
pub fn begin_anew(gone: &Gone, interface: &LinkName, changes: Vec<Change>) -> Vec<Change> {
    let call = |mut change: Change| {
        if let Change::SetPeer(_, key, peer) = &mut change
            && gone.contains_key(key)
        {
            peer.persistent_keepalive =
                peer.persistent_keepalive.filter(|seconds| *seconds != 0).or(Some(AT_ONCE));
        }
        change
    };
    let changes: Vec<Change> = changes.into_iter().map(call).collect();
    gone.keys().map(|key| Change::RemovePeer(interface.clone(), *key)).chain(changes).collect()
}
