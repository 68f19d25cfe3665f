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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::Cookie;
    use crate::key::PublicKey;
    use crate::message::INITIATION_SIZE;

    const START: Moment = Moment::from_nanos(1_000_000_000_000);

    fn keys() -> MacKeys {
        MacKeys::new(&PublicKey([7; 32]))
    }

    fn after(milliseconds: u64) -> Moment {
        START.plus(Duration::from_millis(milliseconds))
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A sender that asks again with the cookie it got.
    struct Sender {
        cookie: Cookie,
        source: SocketAddr,
    }

    impl Sender {
        fn at(source: &str) -> Self {
            Self { cookie: Cookie::default(), source: address(source) }
        }

        fn message(&mut self, now: Moment) -> [u8; INITIATION_SIZE] {
            let mut message = [3; INITIATION_SIZE];
            self.cookie.stamp(&keys(), &mut message, now);
            message
        }

        /// Sends one message while so many wait.
        fn send(&mut self, limits: &mut Limits, waiting: usize, now: Moment) -> Verdict {
            let message = self.message(now);
            let verdict = limits.judge(&keys(), &message, self.source, waiting, now);
            if let Verdict::Cookie(reply) = &verdict {
                assert!(self.cookie.accept(&keys(), reply.as_slice().try_into().unwrap(), now));
            }
            verdict
        }
    }

    #[test]
    fn without_load_nobody_needs_a_cookie() {
        let mut limits = Limits::new();
        let mut sender = Sender::at("192.0.2.1:1");
        for _ in 0..1000 {
            assert!(matches!(sender.send(&mut limits, LOAD_THRESHOLD - 1, START), Verdict::Process));
        }
    }

    #[test]
    fn load_lasts_a_second_longer() {
        let mut limits = Limits::new();
        assert!(matches!(
            Sender::at("192.0.2.1:1").send(&mut limits, LOAD_THRESHOLD, START),
            Verdict::Cookie(_)
        ));
        assert!(matches!(Sender::at("192.0.2.2:1").send(&mut limits, 0, after(999)), Verdict::Cookie(_)));
        assert!(matches!(Sender::at("192.0.2.3:1").send(&mut limits, 0, after(1000)), Verdict::Process));
    }

    #[test]
    fn under_load_an_address_has_five_handshakes_and_one_more_each_fifty_milliseconds() {
        for source in ["192.0.2.1:1", "[2001:db8::1]:1"] {
            let mut limits = Limits::new();
            let mut sender = Sender::at(source);
            assert!(matches!(sender.send(&mut limits, LOAD_THRESHOLD, START), Verdict::Cookie(_)));
            let mut passed = |limits: &mut Limits, now| {
                let verdicts = (0..100).map(|_| sender.send(limits, LOAD_THRESHOLD, now));
                verdicts.filter(|verdict| matches!(verdict, Verdict::Process)).count()
            };
            assert_eq!(passed(&mut limits, START), 5, "{source}");
            assert_eq!(passed(&mut limits, after(49)), 0, "{source}");
            assert_eq!(passed(&mut limits, after(50)), 1, "{source}");
            assert_eq!(passed(&mut limits, after(200)), 3, "{source}");
            assert_eq!(passed(&mut limits, after(90_000)), 5, "{source}");
        }
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let mut limits = Limits::new();
        let passed = |limits: &mut Limits, source: &str| {
            let mut sender = Sender::at(source);
            assert!(matches!(sender.send(limits, LOAD_THRESHOLD, START), Verdict::Cookie(_)));
            matches!(sender.send(limits, LOAD_THRESHOLD, START), Verdict::Process)
        };
        let within =
            (0..20).filter(|host| passed(&mut limits, &format!("[2001:db8:0:1::{host:x}]:1"))).count();
        assert_eq!(within, 5);
        assert!(passed(&mut limits, "[2001:db8:0:2::1]:1"), "another network");
        let ports = (1..20).filter(|port| passed(&mut limits, &format!("192.0.2.1:{port}"))).count();
        assert_eq!(ports, 5, "a port is no address");
    }

    #[test]
    fn a_full_table_stops_strangers_for_a_second_at_most() {
        let mut limits = Limits::new();
        for number in 0..MAX_ADDRESSES as u32 {
            assert!(limits.allow(IpAddr::from(number.to_be_bytes()), START));
        }
        let stranger = IpAddr::from([203, 0, 113, 1]);
        assert!(!limits.allow(stranger, START));
        assert!(limits.allow(IpAddr::from(7u32.to_be_bytes()), START), "who is in it goes on");
        assert!(limits.allow(stranger, after(1000)));
        assert!(limits.buckets.len() < 10);
    }

    #[test]
    fn a_cookie_is_for_one_address_and_port_and_two_minutes() {
        let mut limits = Limits::new();
        let mut sender = Sender::at("192.0.2.1:1000");
        assert!(matches!(sender.send(&mut limits, LOAD_THRESHOLD, START), Verdict::Cookie(_)));
        let message = sender.message(START);
        let mut judge =
            |source: &str, now| limits.judge(&keys(), &message, address(source), LOAD_THRESHOLD, now);
        for source in ["192.0.2.1:1001", "192.0.2.2:1000", "[::ffff:192.0.2.1]:1000"] {
            assert!(matches!(judge(source, START), Verdict::Cookie(_)), "{source}");
        }
        assert!(matches!(judge("192.0.2.1:1000", after(119_999)), Verdict::Process));
        assert!(
            matches!(judge("192.0.2.1:1000", after(120_000)), Verdict::Cookie(_)),
            "the secret was changed"
        );
        let has_cookie = |message: [u8; INITIATION_SIZE]| message[INITIATION_SIZE - 16..] != [0; 16];
        assert!(has_cookie(sender.message(after(114_999))));
        assert!(!has_cookie(sender.message(after(115_000))), "given up before the other end forgets it");
    }

    #[test]
    fn a_cookie_reply_answers_one_message() {
        let mut limits = Limits::new();
        let mut sender = Sender::at("192.0.2.1:1");
        let message = sender.message(START);
        let reply_to = |limits: &mut Limits, message: &[u8]| match limits.judge(
            &keys(),
            message,
            address("192.0.2.1:1"),
            LOAD_THRESHOLD,
            START,
        ) {
            Verdict::Cookie(reply) => <[u8; 64]>::try_from(reply).unwrap(),
            _ => panic!("no cookie"),
        };
        let reply = reply_to(&mut limits, &message);
        for at in 4..64 {
            let mut forged = reply;
            forged[at] ^= 1;
            assert!(!sender.cookie.accept(&keys(), &forged, START), "byte {at}");
        }
        assert!(!sender.cookie.accept(&MacKeys::new(&PublicKey([8; 32])), &reply, START), "of another peer");
        assert!(sender.cookie.accept(&keys(), &reply, START));
        assert!(!sender.cookie.accept(&keys(), &reply, START), "a second time");
        assert!(!Cookie::default().accept(&keys(), &reply, START), "nothing was asked");
    }
}
