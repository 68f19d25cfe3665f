//! Entry points for fuzzing: each takes any bytes and panics when something that must always hold does not.
//!
//! Used by `fuzz/` and by the test that replays its corpus; no part of the interface of the crate.

use std::sync::LazyLock;

use crate::clock::{Moment, Now};
use crate::config::{AllowedIpsChange, Config, DeviceChange, PeerChange, PeerSettings};
use crate::cookie::{Cookie, MacKeys};
use crate::ecn::Ecn;
use crate::engine::{Datagrams, Engine, Opened, Outbox};
use crate::icmp::Refuser;
use crate::ip::IpHeader;
use crate::key::PrivateKey;
use crate::looping::LoopGuard;
use crate::offload::{Coalescer, HEADER_SIZE, Joins, Segments, VirtioHeader};
use crate::peer::Endpoint;
use crate::uapi;

/// A datagram from the network: without the keys nobody gets a packet out of it.
pub fn datagram(data: &[u8]) {
    let engine = Engine::new(Some(PrivateKey::from([1; 32])), 1420, Box::new(|| {}));
    let peer = PeerSettings {
        allowed_ips: AllowedIpsChange::Replace(vec!["0.0.0.0/0".parse().expect("invariant: a prefix")]),
        ..PeerSettings::new(PrivateKey::from([2; 32]).public_key())
    };
    engine.apply(&[PeerChange::Set(peer)], Moment::default());
    let source = Endpoint::from(std::net::SocketAddr::from(([192, 0, 2, 1], 1000)));
    let now = Now { moment: Moment::from_nanos(1), wall: std::time::Duration::from_secs(1) };
    let mut bytes = data.to_vec();
    let opened = engine.inbound(now.moment).open(&source, &mut bytes);
    assert_eq!(opened, Opened::Nothing, "nobody has a session");
    let mut out = Outbox::new();
    while engine.handle_jobs(now, &mut out) {}
    let answered = out.iter().map(|(_, answer)| answer.len()).sum::<usize>();
    assert!(answered <= data.len(), "an answer must not be larger than the question");
}

/// Two devices that know each other, and the initiation of a handshake that the first one sends to the second.
struct Pair {
    from: Engine,
    to: Engine,
    now: Now,
}

impl Pair {
    fn new() -> Self {
        let keys = [1, 2].map(|number| PrivateKey::from([number; 32]));
        let now = Now { moment: Moment::from_nanos(1), wall: std::time::Duration::from_secs(1) };
        let [from, to] = [0, 1].map(|this: usize| {
            let engine = Engine::new(Some(keys[this].clone()), 1420, Box::new(|| {}));
            let allowed = OWNED.map(|prefix| prefix.parse().expect("invariant: a prefix"));
            let peer = PeerSettings {
                allowed_ips: AllowedIpsChange::Replace(allowed.to_vec()),
                endpoint: Some(somewhere().address),
                ..PeerSettings::new(keys[1 - this].public_key())
            };
            engine.apply(&[PeerChange::Set(peer)], now.moment);
            engine
        });
        Self { from, to, now }
    }

    /// What the first one sends when it has something for the second.
    fn initiation(&self) -> Vec<u8> {
        let asked = self.from.carrier(([10, 0, 0, 1]).into(), self.now.moment);
        assert!(asked.is_err(), "nobody has a session");
        self.done(&self.from).pop().expect("invariant: an initiation was asked for")
    }

    /// A datagram arrives; returns what is sent back.
    fn arrive(&self, at: &Engine, mut datagram: Vec<u8>) -> Vec<Vec<u8>> {
        let opened = at.inbound(self.now.moment).open(&somewhere(), &mut datagram);
        assert_eq!(opened, Opened::Nothing, "no packet was sent");
        self.done(at)
    }

    fn done(&self, engine: &Engine) -> Vec<Vec<u8>> {
        let mut out = Outbox::new();
        while engine.handle_jobs(self.now, &mut out) {}
        out.into_iter().map(|(_, datagram)| datagram).collect()
    }

    fn shakes_hands(&self) {
        let mut datagrams = vec![self.initiation()];
        for at in [&self.to, &self.from, &self.to] {
            datagrams = datagrams.into_iter().flat_map(|datagram| self.arrive(at, datagram)).collect();
        }
    }

    fn has_session(&self) -> bool {
        let has_one = |engine: &Engine| engine.peers().iter().any(|peer| peer.last_handshake.is_some());
        has_one(&self.from) || has_one(&self.to)
    }
}

/// What a peer owns of the addresses.
const OWNED: [&str; 2] = ["10.0.0.0/8", "fd00::/8"];

fn somewhere() -> Endpoint {
    Endpoint::from(std::net::SocketAddr::from(([192, 0, 2, 1], 1000)))
}

/// Messages of a handshake with bits flipped, but with a `mac1` that fits, which everybody can make: whatever is flipped,
/// only the right ones lead to a session. The first byte chooses the message.
pub fn handshake(data: &[u8]) {
    let Some((choice, flips)) = data.split_first() else { return };
    let pair = Pair::new();
    let genuine = pair.initiation();
    let (at, genuine, authentic) = match choice % 3 {
        0 => (&pair.to, genuine, 8..116),
        1 => {
            let response =
                pair.arrive(&pair.to, genuine).pop().expect("invariant: the right one is answered");
            (&pair.from, response, 8..60)
        }
        // A cookie reply for the right index; nobody else could make the right one.
        _ => (&pair.from, [&[3, 0, 0, 0], &genuine[4..8], &[0; 56]].concat(), 4..8),
    };
    let mut message = genuine.clone();
    message.iter_mut().zip(flips).for_each(|(byte, flip)| *byte ^= flip);
    let is_authentic = message[..4] == genuine[..4] && message[authentic.clone()] == genuine[authentic];
    if choice % 3 < 2 {
        let owner = PrivateKey::from([if choice % 3 == 0 { 2 } else { 1 }; 32]).public_key();
        Cookie::default().stamp(&MacKeys::new(&owner), &mut message, pair.now.moment);
    }
    let answers = pair.arrive(at, message);
    if choice % 3 == 2 {
        assert!(answers.is_empty() && !pair.has_session());
        return;
    }
    assert_eq!(!answers.is_empty(), is_authentic, "only the right message is answered");
    assert!(is_authentic || !pair.has_session());
}

/// Packets that a peer with a session sends, each behind its length in two bytes; the first byte is the mark of the
/// network. What comes out belongs to the peer, and can be joined.
pub fn session(data: &[u8]) {
    let Some((class, mut data)) = data.split_first() else { return };
    // One session for all inputs: a handshake takes longer than all the rest.
    static PAIR: LazyLock<Pair> = LazyLock::new(|| {
        let pair = Pair::new();
        pair.shakes_hands();
        assert!(pair.has_session());
        pair
    });
    let pair = &*PAIR;
    let Ok(carrier) = pair.from.carrier([10, 0, 0, 1].into(), pair.now.moment) else {
        unreachable!("invariant: there is a session")
    };
    let mut sealed = Outbox::new();
    while let Some((&[high, low], rest)) = data.split_first_chunk::<2>() {
        let (packet, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([high, low]))));
        pair.from.seal_one(&carrier, packet, pair.now.moment, &mut sealed);
        data = rest;
    }
    let mut buffer: Vec<u8> = sealed.iter().flat_map(|(_, datagram)| datagram.clone()).collect();
    let mut coalescer = Coalescer::new(Joins::TcpAndUdp);
    let (mut inbound, mut at, mut delivered) = (pair.to.inbound(pair.now.moment), 0, 0);
    for (_, datagram) in &sealed {
        let place = at..at + datagram.len();
        at = place.end;
        let datagrams = Datagrams { place, segment: datagram.len(), ecn: Ecn::of_class(*class) };
        inbound.open_all(&somewhere(), &mut buffer, &datagrams, |buffer, place| {
            let header = IpHeader::parse(&buffer[place.clone()]).expect("only packets come out");
            assert_eq!(header.length, place.len(), "without padding");
            assert!(match header.source {
                std::net::IpAddr::V4(v4) => v4.octets()[0] == 10,
                std::net::IpAddr::V6(v6) => v6.octets()[0] == 0xfd,
            });
            coalescer.push(buffer, place);
            delivered += 1;
        });
    }
    drop(inbound);
    coalescer.bursts.iter_mut().for_each(crate::offload::Burst::finish);
    assert_eq!(coalescer.bursts.iter().map(|burst| burst.parts.len()).sum::<usize>(), delivered);
    let drops = pair.to.drops.read();
    assert_eq!((drops.forged, drops.replayed, drops.malformed, drops.unknown_session), (0, 0, 0, 0));
}

/// A packet from the interface: routed and cut.
pub fn interface_packet(data: &[u8]) {
    let mut data = data.to_vec();
    let Some((header, packet)) = data.split_at_mut_checked(HEADER_SIZE) else { return };
    let header = <&[u8; HEADER_SIZE]>::try_from(&*header).ok().and_then(VirtioHeader::decode);
    let (Some(header), Some(ip)) = (header, IpHeader::parse(packet)) else { return };
    assert!(ip.length <= packet.len());
    if let Some(answer) = Refuser::default().refuse(packet, Moment::default()) {
        let length = IpHeader::parse(&answer).map(|header| header.length);
        assert_eq!(length, Some(answer.len()), "an answer is a packet");
    }
    let mut guard = LoopGuard::default();
    let caught = guard.catches(&ip, packet, |_, _| true);
    assert!(!caught || guard.catches(&ip, packet, |_, _| true), "what was ours stays ours");
    let mut marked = packet.to_vec();
    if Ecn::Congestion.decapsulate(&mut marked) {
        assert_eq!((Ecn::of_packet(&marked), IpHeader::parse(&marked)), (Ecn::Congestion, Some(ip)));
    }
    let total = packet.len();
    let Some(segments) = Segments::new(&header, packet) else { return };
    let mut payload = 0;
    for index in 0..segments.count() {
        let mut out = vec![0; segments.length(index)];
        segments.write(index, &mut out);
        assert!(out.len() <= total, "a part is not larger than the whole");
        payload += out.len();
    }
    assert!(payload >= total, "nothing is lost");
}

/// Packets from peers, each behind its length in two bytes: joined.
pub fn joined_packets(data: &[u8]) {
    let mut coalescer = Coalescer::new(Joins::TcpAndUdp);
    let (mut at, mut pushed) = (0, 0);
    while let Some(&[high, low]) = data.get(at..at + 2).and_then(|length| length.first_chunk::<2>()) {
        let end = (at + 2 + usize::from(u16::from_be_bytes([high, low]))).min(data.len());
        // As the device does it: only what has the length its header tells.
        if let Some(ip) = IpHeader::parse(&data[at + 2..end]) {
            coalescer.push(data, at + 2..at + 2 + ip.length);
            pushed += 1;
        }
        at = end;
    }
    let mut parts = 0;
    for burst in &mut coalescer.bursts {
        burst.finish();
        parts += burst.parts.len();
        let bytes: usize = burst.parts.iter().map(ExactSizeIterator::len).sum();
        assert!(burst.head().len() - HEADER_SIZE + bytes <= 65_535, "no packet is larger than IP allows");
        assert!(burst.parts.len() <= 64, "no run is longer than the kernel allows");
    }
    assert_eq!(parts, pushed, "every packet is in one burst");
}

/// A text of the UAPI: what can be read can be written, and reads the same again.
pub fn uapi_text(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(change) = uapi::decode_set(text) {
        let written = uapi::encode_set(&change);
        let lines = written.strip_prefix("set=1\n").expect("invariant: a request begins so");
        let again: DeviceChange = uapi::decode_set(lines).expect("what was written can be read");
        assert_eq!(format!("{change:?}"), format!("{again:?}"));
    }
    stream(data);
    if let Ok(state) = uapi::decode_state(text) {
        let written = uapi::encode_state(&state);
        let again = uapi::decode_state(&written).expect("what was written can be read");
        assert_eq!(format!("{:?}", state.peers), format!("{:?}", again.peers));
    }
    let _ = Config::named(text);
}

/// Whatever the pieces in which it arrives, a request ends with the first empty line.
fn stream(data: &[u8]) {
    let piece = 1 + usize::from(data.first().copied().unwrap_or(0) % 7);
    let mut requests = uapi::Requests::default();
    let mut taken = Vec::new();
    for piece in data.chunks(piece) {
        requests.push(piece);
        while let Some(request) = requests.next() {
            assert_eq!(request.windows(2).position(|pair| pair == b"\n\n"), Some(request.len() - 2));
            taken.extend_from_slice(&request);
        }
    }
    assert!(data.starts_with(&taken), "nothing is lost or made up");
    let rest = &data[taken.len()..];
    assert!(!rest.windows(2).any(|pair| pair == b"\n\n") && requests.size() == rest.len());
}
