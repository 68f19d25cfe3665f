//! Defence against floods of handshakes: when the device is under load, and how often an address may try then.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::Moment;
use crate::cookie::{CookieJar, MacKeys};

/// So many waiting handshake messages mean load.
const LOAD_THRESHOLD: usize = 512;
/// Load is believed to last at least this long.
const LOAD_LASTS: Duration = Duration::from_secs(1);
/// Handshakes an address may have at once, and how long one takes to come back.
const BURST: u32 = 5;
const REFILL: Duration = Duration::from_millis(50);
/// Addresses remembered; when there are more, they wait.
const MAX_ADDRESSES: usize = 16_384;

/// What to do with a handshake message.
pub(super) enum Verdict {
    Process,
    /// Send this instead.
    Cookie(Vec<u8>),
    Drop,
}

/// The state of the defence.
pub(super) struct Limits {
    jar: CookieJar,
    loaded_until: Moment,
    /// Until when the handshakes an address has used up are not refilled.
    buckets: BTreeMap<IpAddr, Moment>,
    swept: Moment,
}

impl Limits {
    pub(super) fn new() -> Self {
        Self {
            jar: CookieJar::new(),
            loaded_until: Moment::default(),
            buckets: BTreeMap::new(),
            swept: Moment::default(),
        }
    }

    /// Judges a message whose `mac1` fits, with so many others `waiting`.
    pub(super) fn judge(
        &mut self,
        keys: &MacKeys,
        message: &[u8],
        source: SocketAddr,
        waiting: usize,
        now: Moment,
    ) -> Verdict {
        if waiting >= LOAD_THRESHOLD {
            self.loaded_until = now.plus(LOAD_LASTS);
        }
        if now >= self.loaded_until {
            return Verdict::Process;
        }
        if !self.jar.mac2_fits(message, source, now) {
            return Verdict::Cookie(self.jar.reply(keys, message, source, now).to_vec());
        }
        if self.allow(source.ip(), now) { Verdict::Process } else { Verdict::Drop }
    }

    /// A token bucket per IPv4 address or IPv6 /64, kept as the moment at which it is full again.
    fn allow(&mut self, address: IpAddr, now: Moment) -> bool {
        if now.since(self.swept) >= LOAD_LASTS {
            self.buckets.retain(|_, full_at| *full_at > now);
            self.swept = now;
        }
        let address = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        };
        if self.buckets.len() >= MAX_ADDRESSES && !self.buckets.contains_key(&address) {
            return false;
        }
        let full_at = self.buckets.entry(address).or_insert(now);
        let after = (*full_at).max(now).plus(REFILL);
        let allowed = after.since(now) <= REFILL * BURST;
        if allowed {
            *full_at = after;
        }
        allowed
    }
}
