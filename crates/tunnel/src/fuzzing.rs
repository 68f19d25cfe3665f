//! Entry points for fuzzing: each takes any bytes and panics when something that must always hold does not.
//!
//! Used by `fuzz/` and by the test that replays its corpus; no part of the interface of the crate.

use crate::clock::{Moment, Now};
use crate::config::{AllowedIpsChange, Config, DeviceChange, PeerChange, PeerSettings};
use crate::ecn::Ecn;
use crate::engine::{Engine, Opened, Outbox};
use crate::icmp::Refuser;
use crate::ip::IpHeader;
use crate::key::PrivateKey;
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
    if let Ok(state) = uapi::decode_state(text) {
        let written = uapi::encode_state(&state);
        let again = uapi::decode_state(&written).expect("what was written can be read");
        assert_eq!(format!("{:?}", state.peers), format!("{:?}", again.peers));
    }
    let _ = Config::named(text);
}
