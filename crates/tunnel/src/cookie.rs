//! MACs of handshake messages and cookies against floods (WireGuard paper, sections 5.3 and 5.4.4–5.4.7).
//!
//! Knows when a cookie is valid, not when the device is under load: the engine decides that.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

use crate::clock::Moment;
use crate::crypto::{hash, mac, random};
use crate::key::{PublicKey, constant_time_eq};
use crate::message::{COOKIE_REPLY_SIZE, TYPE_COOKIE_REPLY, field, word};

/// How long a secret behind cookies, and a cookie, are used.
const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// A cookie is given up a little earlier than it expires at the other end.
const COOKIE_LATENCY: Duration = Duration::from_secs(5);

/// The two keys derived from a public key: for `mac1`, and for encrypting cookies.
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl MacKeys {
    pub(crate) fn new(public: &PublicKey) -> Self {
        Self { mac1: hash(b"mac1----", &public.0), cookie: hash(b"cookie--", &public.0) }
    }

    /// Whether a handshake message was made by somebody who knows our public key.
    pub(crate) fn mac1_fits(&self, message: &[u8]) -> bool {
        let (body, macs) = message.split_at(message.len() - 32);
        constant_time_eq(&mac(&self.mac1, body, &[]), &macs[..16])
    }
}

/// Makes and checks cookies for those who talk to us.
pub(crate) struct CookieJar {
    secret: [u8; 32],
    since: Option<Moment>,
}

impl CookieJar {
    pub(crate) fn new() -> Self {
        Self { secret: random(), since: None }
    }

    /// Whether the sender has proven with `mac2` that it receives what is sent to its address.
    pub(crate) fn mac2_fits(&mut self, message: &[u8], source: SocketAddr, now: Moment) -> bool {
        let (body, mac2) = message.split_at(message.len() - 16);
        constant_time_eq(&mac(&self.cookie(source, now), body, &[]), mac2)
    }

    /// The cookie reply to a handshake message from `source`.
    pub(crate) fn reply(
        &mut self,
        keys: &MacKeys,
        message: &[u8],
        source: SocketAddr,
        now: Moment,
    ) -> [u8; COOKIE_REPLY_SIZE] {
        let mut reply = [0; COOKIE_REPLY_SIZE];
        let nonce = random::<24>();
        let mut cookie = self.cookie(source, now);
        let mac1 = &message[message.len() - 32..message.len() - 16];
        let tag = XChaCha20Poly1305::new(&keys.cookie.into())
            .encrypt_in_place_detached(XNonce::from_slice(&nonce), mac1, &mut cookie)
            .expect("invariant: 16 bytes are below the length limit of the cipher");
        reply[..4].copy_from_slice(&TYPE_COOKIE_REPLY.to_le_bytes());
        reply[4..8].copy_from_slice(&message[4..8]);
        reply[8..32].copy_from_slice(&nonce);
        reply[32..48].copy_from_slice(&cookie);
        reply[48..].copy_from_slice(&tag);
        reply
    }

    fn cookie(&mut self, source: SocketAddr, now: Moment) -> [u8; 16] {
        if self.since.is_none_or(|since| now.since(since) >= COOKIE_LIFETIME) {
            self.secret = random();
            self.since = Some(now);
        }
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => mac(&self.secret, &ip.octets(), &port),
            IpAddr::V6(ip) => mac(&self.secret, &ip.octets(), &port),
        }
    }
}

/// What a peer's cookies need to be remembered for.
#[derive(Default)]
pub(crate) struct Cookie {
    sent: Option<(u32, [u8; 16])>,
    received: Option<([u8; 16], Moment)>,
}

impl Cookie {
    /// Writes `mac1` and `mac2` into the last 32 bytes of a handshake message of ours; `keys` are the receiver's.
    pub(crate) fn stamp(&mut self, keys: &MacKeys, message: &mut [u8], now: Moment) {
        let (body, macs) = message.split_at_mut(message.len() - 32);
        let mac1 = mac(&keys.mac1, body, &[]);
        macs[..16].copy_from_slice(&mac1);
        match self.received {
            Some((cookie, at)) if now.since(at) < COOKIE_LIFETIME - COOKIE_LATENCY => {
                let mac2 = mac(&cookie, body, &mac1);
                macs[16..].copy_from_slice(&mac2);
            }
            _ => macs[16..].fill(0),
        }
        self.sent = Some((word(body, 4), mac1));
    }

    /// Takes the cookie out of a reply, if it answers the last message stamped.
    pub(crate) fn accept(&mut self, keys: &MacKeys, reply: &[u8; COOKIE_REPLY_SIZE], now: Moment) -> bool {
        let Some((index, mac1)) = self.sent else { return false };
        if word(reply, 4) != index {
            return false;
        }
        let mut cookie = field::<16>(reply, 32);
        let opened = XChaCha20Poly1305::new(&keys.cookie.into())
            .decrypt_in_place_detached(
                XNonce::from_slice(&reply[8..32]),
                &mac1,
                &mut cookie,
                reply[48..].into(),
            )
            .is_ok();
        if opened {
            self.received = Some((cookie, now));
            // One reply per message: a second one could only be a replay.
            self.sent = None;
        }
        opened
    }
}
