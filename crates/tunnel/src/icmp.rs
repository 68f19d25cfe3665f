//! What the sender of a packet is told when there is no peer for it: "host unreachable" (RFC 792; RFC 4443, section 3.1),
//! as the kernel's WireGuard does, so that programs fail at once instead of waiting for an answer.
//!
//! Which packets deserve an answer is decided here (RFC 1122, section 3.2.2; RFC 4443, section 2.4), and how often.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Moment;
use crate::ip::{IpHeader, V4_HEADER, V6_HEADER};
use crate::offload::{Sum, pseudo_header};

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const TTL: u8 = 64;
/// Bytes of the ICMP header.
const HEADER: usize = 8;
/// Of the packet in question so much is sent back, so that the answer is no larger than the smallest MTU (RFC 1812,
/// section 4.3.2.3; RFC 4443, section 2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;
/// So many answers at once, and how long one takes to come back.
const BURST: u32 = 50;
const REFILL: Duration = Duration::from_millis(10);

/// Says no, but not too often.
#[derive(Default)]
pub(crate) struct Refuser {
    /// When all answers are there again.
    full_at: Moment,
}

impl Refuser {
    /// The answer to a packet nobody takes; `None` when it gets none.
    ///
    /// It comes from the address that could not be reached: no other address is certain to pass a reverse path filter.
    pub(crate) fn refuse(&mut self, packet: &[u8], now: Moment) -> Option<Vec<u8>> {
        let header = IpHeader::parse(packet).filter(|header| deserves_answer(header, packet))?;
        let after = self.full_at.max(now).plus(REFILL);
        if after.since(now) > REFILL * BURST {
            return None;
        }
        self.full_at = after;
        Some(match (header.destination, header.source) {
            (IpAddr::V4(from), IpAddr::V4(to)) => v4(&from.octets(), &to.octets(), packet),
            (from, to) => v6(from, to, packet)?,
        })
    }
}

fn deserves_answer(header: &IpHeader, packet: &[u8]) -> bool {
    let is_plain = |address: IpAddr| {
        let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !is_broadcast
    };
    let is_error = match packet[0] >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let is_later_fragment = packet[6] & 0x1f != 0 || packet[7] != 0;
            // Echo and its like may be answered, errors may not.
            let is_error = packet[9] == ICMP
                && !matches!(packet.get(header), Some(0 | 8 | 9 | 10 | 13 | 14 | 15 | 16 | 17 | 18));
            is_later_fragment || is_error
        }
        // Behind extension headers nobody looks: they are rare, and no answer is always right.
        _ => match packet[6] {
            ICMP_V6 => packet.get(V6_HEADER).is_none_or(|kind| *kind < 128),
            protocol => matches!(protocol, 0 | 43 | 44 | 60),
        },
    };
    is_plain(header.source) && is_plain(header.destination) && !is_error
}

fn v4(from: &[u8; 4], to: &[u8; 4], packet: &[u8]) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(MAX_V4 - V4_HEADER - HEADER)];
    let length = V4_HEADER + HEADER + quoted.len();
    let mut answer = vec![0; V4_HEADER + HEADER];
    answer[0] = 0x45;
    // Internetwork control (RFC 1812, section 4.3.2.5).
    answer[1] = 0xc0;
    answer[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    answer[8] = TTL;
    answer[9] = ICMP;
    answer[12..16].copy_from_slice(from);
    answer[16..20].copy_from_slice(to);
    let checksum = Sum::default().add(&answer[..V4_HEADER]).finish();
    answer[10..12].copy_from_slice(&checksum);
    // Destination unreachable, host unreachable.
    answer[V4_HEADER..V4_HEADER + 2].copy_from_slice(&[3, 1]);
    answer.extend(quoted);
    let checksum = Sum::default().add(&answer[V4_HEADER..]).finish();
    answer[V4_HEADER + 2..V4_HEADER + 4].copy_from_slice(&checksum);
    answer
}

fn v6(from: IpAddr, to: IpAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else { return None };
    let quoted = &packet[..packet.len().min(MAX_V6 - V6_HEADER - HEADER)];
    let length = HEADER + quoted.len();
    let mut answer = vec![0; V6_HEADER + HEADER];
    answer[0] = 0x60;
    answer[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    answer[6] = ICMP_V6;
    answer[7] = TTL;
    answer[8..24].copy_from_slice(&from.octets());
    answer[24..40].copy_from_slice(&to.octets());
    // Destination unreachable, address unreachable.
    answer[V6_HEADER..V6_HEADER + 2].copy_from_slice(&[1, 3]);
    answer.extend(quoted);
    let sum = pseudo_header(&answer[8..40], ICMP_V6, length).add(&answer[V6_HEADER..]);
    answer[V6_HEADER + 2..V6_HEADER + 4].copy_from_slice(&sum.finish());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_v4() -> Vec<u8> {
        let mut packet = vec![0; 40];
        (packet[0], packet[3], packet[9]) = (0x45, 40, 17);
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet
    }

    fn udp_v6(length: usize) -> Vec<u8> {
        let mut packet = vec![7; length];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 17, 64]);
        packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        packet[8..40].fill(0);
        (packet[8], packet[23], packet[24], packet[39]) = (0xfd, 1, 0xfd, 2);
        packet
    }

    fn at(milliseconds: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 + milliseconds * 1_000_000)
    }

    #[test]
    fn answers_are_complete() {
        let packet = udp_v4();
        let answer = Refuser::default().refuse(&packet, at(0)).expect("an answer");
        let header = IpHeader::parse(&answer).expect("a packet");
        assert_eq!(
            (header.source.to_string(), header.destination.to_string()),
            ("10.0.0.2".into(), "10.0.0.1".into())
        );
        assert_eq!(header.length, answer.len());
        assert!(Sum::default().add(&answer[..20]).is_valid() && Sum::default().add(&answer[20..]).is_valid());
        assert_eq!((answer[20], answer[21], &answer[28..]), (3, 1, &packet[..]));
        let packet = udp_v6(9000);
        let answer = Refuser::default().refuse(&packet, at(0)).expect("an answer");
        let header = IpHeader::parse(&answer).expect("a packet");
        assert_eq!(
            (header.source.to_string(), header.destination.to_string()),
            ("fd00::2".into(), "fd00::1".into())
        );
        assert_eq!((header.length, answer.len()), (MAX_V6, MAX_V6));
        assert!(pseudo_header(&answer[8..40], ICMP_V6, answer.len() - 40).add(&answer[40..]).is_valid());
        assert_eq!((answer[40], answer[41], &answer[48..]), (1, 3, &packet[..MAX_V6 - 48]));
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let mut refuser = Refuser::default();
        let mut silent = |change: fn(&mut Vec<u8>), mut packet: Vec<u8>| {
            change(&mut packet);
            assert_eq!(refuser.refuse(&packet, at(0)), None, "{packet:?}");
        };
        silent(|packet| packet[7] = 1, udp_v4());
        silent(|packet| packet[16] = 224, udp_v4());
        silent(|packet| packet[12..16].fill(0), udp_v4());
        silent(|packet| packet[16..20].fill(255), udp_v4());
        silent(|packet| (packet[9], packet[20]) = (ICMP, 3), udp_v4());
        silent(|packet| (packet[6], packet[40]) = (ICMP_V6, 1), udp_v6(60));
        silent(|packet| packet[24] = 0xff, udp_v6(60));
        silent(|packet| packet[0] = 0x20, udp_v6(60));
        let mut echo = udp_v4();
        (echo[9], echo[20]) = (ICMP, 8);
        assert!(refuser.refuse(&echo, at(0)).is_some(), "a question may be answered");
    }

    #[test]
    fn answers_are_rationed() {
        let mut refuser = Refuser::default();
        let mut many = |moment| (0..1000).filter(|_| refuser.refuse(&udp_v4(), moment).is_some()).count();
        assert_eq!(many(at(0)), 50);
        assert_eq!(many(at(100)), 10);
        assert_eq!(many(at(100_000)), 50);
    }
}
