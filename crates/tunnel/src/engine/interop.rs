//! The engine against an independent implementation of the protocol, `boringtun`, in both roles.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use crate::clock::{Moment, Now};
use crate::config::{PeerChange, PeerSettings};
use crate::cookie::{Cookie, MacKeys};
use crate::key::PublicKey;
use crate::message::{COOKIE_REPLY_SIZE, INITIATION_SIZE, RESPONSE_SIZE};
use crate::peer::Endpoint;

use super::world::{packet, private_key, settings};
use super::{Engine, Opened, Outbox};

const PRESHARED: [u8; 32] = [42; 32];

/// Our engine and the other implementation, which share a preshared key.
struct Pair {
    ours: Engine,
    theirs: Tunn,
    now: Now,
}

fn address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1000))
}

impl Pair {
    /// `limit`: handshakes in a second that the other end takes without a cookie.
    fn new(limit: u64) -> Self {
        let ours = private_key(1);
        let theirs = private_key(2);
        let secret = x25519::StaticSecret::from(*theirs.as_bytes());
        let limiter = RateLimiter::new(&x25519::PublicKey::from(&secret), limit);
        let our_public = x25519::PublicKey::from(ours.public_key().0);
        let tunn = Tunn::new(secret, our_public, Some(PRESHARED), None, 77, Some(Arc::new(limiter)));
        let engine = Engine::new(Some(ours), 1420, Box::new(|| {}));
        let peer = PeerSettings {
            preshared_key: Some(PRESHARED.into()),
            ..settings(theirs.public_key(), Some(address()), &["10.0.0.1/32"])
        };
        engine.apply(&[PeerChange::Set(peer)], Moment::default());
        let wall = Duration::from_secs(1_700_000_000);
        Self { ours: engine, theirs: tunn, now: Now { moment: Moment::from_nanos(5_000_000_000), wall } }
    }

    /// We send a packet; returns the datagrams.
    fn we_send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Outbox::new();
        self.ours.handle_packet(packet, self.now.moment, &mut out);
        self.ours.handle_jobs(self.now, &mut out);
        out.into_iter().map(|(_, datagram)| datagram).collect()
    }

    /// We get a datagram; returns our answers and what came out.
    fn we_get(&mut self, mut datagram: Vec<u8>) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
        let opened = self.ours.inbound(self.now.moment).open(&Endpoint::from(address()), &mut datagram);
        let mut out = Outbox::new();
        while self.ours.handle_jobs(self.now, &mut out) {}
        let packet = match opened {
            Opened::Packet(place) => Some(datagram[place].to_vec()),
            Opened::Nothing => None,
        };
        (out.into_iter().map(|(_, datagram)| datagram).collect(), packet)
    }

    /// They get a datagram; returns what they send back and what came out.
    fn they_get(&mut self, datagram: &[u8]) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
        let (mut answers, mut packet) = (Vec::new(), None);
        let mut input = datagram;
        let mut buffer = vec![0; 2048];
        loop {
            let source = Some(IpAddr::from([192, 0, 2, 9]));
            match self.theirs.decapsulate(source, input, &mut buffer) {
                TunnResult::WriteToNetwork(answer) => answers.push(answer.to_vec()),
                TunnResult::WriteToTunnelV4(out, _) => packet = Some(out.to_vec()),
                TunnResult::Err(error) => panic!("the other end refused our message: {error:?}"),
                _ => return (answers, packet),
            }
            if packet.is_some() {
                return (answers, packet);
            }
            input = &[];
        }
    }

    fn they_send(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        match self.theirs.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("the other end does not send: {other:?}"),
        }
    }

    /// Data in both directions, padded or not.
    fn check_data(&mut self) {
        for number in 0..50 {
            let mut ours = packet(0, 1, number);
            ours.resize(32 + number as usize, 1);
            ours[3] = ours.len() as u8;
            let datagrams = self.we_send(&ours);
            assert_eq!(self.they_get(&datagrams[0]).1, Some(ours));
            let theirs = packet(1, 0, number);
            let datagram = self.they_send(&theirs);
            assert_eq!(self.we_get(datagram).1, Some(theirs));
        }
    }
}

#[test]
fn we_begin() {
    let mut pair = Pair::new(100);
    let sent = pair.we_send(&packet(0, 1, 1));
    assert_eq!(sent[0].len(), INITIATION_SIZE);
    let (answers, _) = pair.they_get(&sent[0]);
    let (data, _) = pair.we_get(answers[0].clone());
    assert_eq!(pair.they_get(&data[0]).1, Some(packet(0, 1, 1)), "the staged packet confirms the session");
    pair.check_data();
}

#[test]
fn they_begin() {
    let mut pair = Pair::new(100);
    let initiation = pair.they_send(&packet(1, 0, 1));
    assert_eq!(initiation.len(), INITIATION_SIZE);
    let (answers, _) = pair.we_get(initiation);
    assert_eq!(answers[0].len(), RESPONSE_SIZE);
    let (confirmation, _) = pair.they_get(&answers[0]);
    assert!(confirmation.len() == 2, "a keepalive and the packet that waited: {}", confirmation.len());
    for datagram in confirmation {
        pair.we_get(datagram);
    }
    pair.check_data();
}

#[test]
fn they_are_under_load() {
    let mut pair = Pair::new(0);
    let first = pair.we_send(&packet(0, 1, 1));
    let (answers, _) = pair.they_get(&first[0]);
    assert_eq!(answers[0].len(), COOKIE_REPLY_SIZE);
    pair.we_get(answers[0].clone());
    pair.now.moment = pair.now.moment.plus(Duration::from_secs(6));
    pair.now.wall += Duration::from_secs(6);
    let mut out = Outbox::new();
    pair.ours.handle_timers(pair.now, &mut out);
    let (_, retry) = out.remove(0);
    assert!(retry[INITIATION_SIZE - 16..].iter().any(|byte| *byte != 0), "the retry carries mac2");
    let (answers, _) = pair.they_get(&retry);
    assert_eq!(answers[0].len(), RESPONSE_SIZE, "the cookie is accepted");
    // Their own messages carry no cookie of ours, and we ask for none.
    pair.we_get(answers[0].clone());
    assert!(pair.ours.peers()[0].last_handshake.is_some());
    assert_eq!(pair.ours.peers()[0].key, PublicKey(private_key(2).public_key().0));
}

#[test]
fn we_are_under_load() {
    let mut pair = Pair::new(100);
    let initiation = pair.they_send(&packet(1, 0, 1));
    // A flood of messages that anybody who knows our key can make.
    let mut flood = vec![0; INITIATION_SIZE];
    flood[0] = 1;
    Cookie::default().stamp(&MacKeys::new(&private_key(1).public_key()), &mut flood, pair.now.moment);
    let deluge = |pair: &Pair| {
        for _ in 0..2000 {
            pair.ours.inbound(pair.now.moment).open(&Endpoint::from(address()), &mut flood.clone());
        }
    };
    deluge(&pair);
    let answers = pair.we_get(initiation).0;
    let cookie = answers.last().expect("an answer");
    assert_eq!(cookie.len(), COOKIE_REPLY_SIZE);
    assert!(pair.they_get(cookie).0.is_empty());
    let mut buffer = vec![0; 2048];
    let TunnResult::WriteToNetwork(again) = pair.theirs.format_handshake_initiation(&mut buffer, true) else {
        panic!("the other end does not try again")
    };
    let again = again.to_vec();
    assert!(again[INITIATION_SIZE - 16..].iter().any(|byte| *byte != 0), "it has understood the cookie");
    pair.now.moment = pair.now.moment.plus(Duration::from_millis(100));
    deluge(&pair);
    let answers = pair.we_get(again).0;
    let response = answers.last().expect("an answer");
    assert_eq!(response.len(), RESPONSE_SIZE, "the cookie is accepted, and the flood goes on");
    for datagram in pair.they_get(response).0 {
        pair.we_get(datagram);
    }
    pair.now.moment = pair.now.moment.plus(Duration::from_secs(2));
    pair.check_data();
}
