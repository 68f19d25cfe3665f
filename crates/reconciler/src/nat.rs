//! Where those are who sit behind NAT: their own objects cannot tell, only who has a session with them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hostnet::Handshake;
use mesh::{PublicKey, special::check_address};

use crate::sessions::Gone;

/// The first pause while somebody behind NAT has not been heard of; it doubles up to the resync period.
const FIRST_LOOK: Duration = Duration::from_millis(500);

/// What is known of those behind NAT, beyond the current sessions.
#[derive(Debug, Default)]
pub struct BehindNat {
    /// What this node wrote before it was restarted.
    remembered: BTreeMap<PublicKey, SocketAddr>,
    /// How long that may still be true: a router forgets the way in.
    until: Option<Instant>,
    /// Looks at the host since the mesh changed in which somebody was missing.
    looks: u32,
}

impl BehindNat {
    /// What this node wrote about others before. It counts once, at the start, and for as long as a session lives.
    pub fn remember(&mut self, written: &BTreeMap<PublicKey, SocketAddr>, now: Instant) {
        if self.until.is_none() {
            self.remembered.clone_from(written);
            self.until = Some(now + Handshake::LIFETIME);
        }
    }

    /// Sessions with these are begun anew: until then they are where they were.
    pub fn keep(&mut self, gone: &Gone, now: Instant) {
        if !gone.is_empty() {
            self.remembered.extend(gone.iter().filter_map(|(key, endpoint)| Some((*key, (*endpoint)?))));
            self.until = Some(now + Handshake::LIFETIME);
        }
    }

    /// The mesh has changed: whoever is missing may be heard of soon.
    pub fn expect(&mut self) {
        self.looks = 0;
    }

    /// Where those behind NAT are: as the own sessions show; else, after a restart, as this node wrote before.
    /// `others` says whether another node knows, and knows better. `leads`: a member has no sessions.
    pub fn endpoints(
        &mut self,
        behind_nat: impl Iterator<Item = PublicKey>,
        handshakes: &BTreeMap<PublicKey, Handshake>,
        others: impl Fn(&PublicKey) -> bool,
        now: Instant,
    ) -> Located {
        let fresh = self.until.is_some_and(|until| now < until);
        let mut located = Located::default();
        for key in behind_nat {
            let seen = handshakes.get(&key).filter(|handshake| handshake.is_alive());
            if let Some(endpoint) = seen.and_then(|handshake| handshake.endpoint) {
                // A neighbour's link-local address is of no use to others.
                if check_address(endpoint.ip().to_canonical()).is_err() {
                    continue;
                }
                located.endpoints.insert(key, endpoint);
                continue;
            }
            located.missing = true;
            if let Some(endpoint) = self.remembered.get(&key).filter(|_| fresh && !others(&key)) {
                located.endpoints.insert(key, *endpoint);
            }
        }
        located
    }

    /// When to look again although nothing is wrong; `None`: as always. Sessions begin without a notice of the kernel.
    pub fn next_look(&mut self, missing: bool) -> Option<Duration> {
        let pause = missing.then(|| FIRST_LOOK * 2u32.pow(self.looks.min(10)))?;
        self.looks += 1;
        Some(pause)
    }
}

/// Who was found.
#[derive(Debug, Default)]
pub struct Located {
    /// Where they are.
    pub endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// Whether there is somebody without a session.
    pub missing: bool,
}
