//! Our own datagrams that come back out of the interface, because a route to an endpoint leads into it. Sealed again they
//! would go round and round, larger each time; the kernel's WireGuard refuses such a route, too (`ELOOP`).
//!
//! A datagram is ours when it is UDP from our port to where a peer is. One that exceeds the MTU of the interface comes in
//! fragments, and only the first one tells the ports. The others belong to it by what all fragments of a datagram share
//! (RFC 791, section 3.2; RFC 8200, section 4.5); the kernel hands them over behind the first one, in the same queue. If
//! one slips through all the same, it goes round once: what carries it is a whole datagram, or begins with a first
//! fragment.

use std::net::IpAddr;

use crate::ip::{IpHeader, V6_HEADER};
use crate::message::field;

const UDP: u8 = 17;
/// The IPv6 header of a fragment, and its size.
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;
/// In the IPv4 header: more fragments follow, and where this one begins.
const MORE: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;
/// In the header of an IPv6 fragment: where it begins.
const OFFSET_V6: u16 = 0xfff8;

/// Knows our own datagrams among the packets of one queue.
#[derive(Default)]
pub(crate) struct LoopGuard {
    /// The datagram of ours whose first fragment came last.
    fragmented: Option<Datagram>,
}

/// What the fragments of one datagram share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Datagram {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
}

/// A UDP datagram or a fragment of one.
struct Piece {
    /// Where the UDP header begins. None in a fragment that does not have it.
    udp: Option<usize>,
    /// None for a whole datagram.
    identification: Option<u32>,
}

impl LoopGuard {
    /// Whether the packet is one of our own datagrams, or a part of one. `is_ours` knows that of a source port and a
    /// destination. For all but UDP this is a single comparison.
    pub(crate) fn catches(
        &mut self,
        header: &IpHeader,
        packet: &[u8],
        is_ours: impl FnOnce(u16, (IpAddr, u16)) -> bool,
    ) -> bool {
        let Some(piece) = Piece::of(header, packet) else { return false };
        let datagram = piece.identification.map(|identification| Datagram {
            source: header.source,
            destination: header.destination,
            identification,
        });
        let Some(at) = piece.udp else { return self.fragmented == datagram };
        let Some(&[from_0, from_1, to_0, to_1]) = packet.get(at..).and_then(<[u8]>::first_chunk) else {
            return false;
        };
        let [from, to] = [[from_0, from_1], [to_0, to_1]].map(u16::from_be_bytes);
        let caught = is_ours(from, (header.destination, to));
        if caught && datagram.is_some() {
            self.fragmented = datagram;
        } else if datagram.is_some() && self.fragmented == datagram {
            // Identifications are used again.
            self.fragmented = None;
        }
        caught
    }
}

impl Piece {
    /// None when it is not UDP.
    fn of(header: &IpHeader, packet: &[u8]) -> Option<Self> {
        match header.destination {
            IpAddr::V4(_) if packet[9] == UDP => {
                let fragment = u16::from_be_bytes(field(packet, 6));
                let is_whole = fragment & (MORE | OFFSET_V4) == 0;
                Some(Self {
                    udp: (fragment & OFFSET_V4 == 0).then_some(usize::from(packet[0] & 15) * 4),
                    identification: (!is_whole).then(|| u16::from_be_bytes(field(packet, 4)).into()),
                })
            }
            IpAddr::V6(_) if packet[6] == UDP => Some(Self { udp: Some(V6_HEADER), identification: None }),
            IpAddr::V6(_) if packet[6] == FRAGMENT => {
                let fragment = packet.get(V6_HEADER..)?.first_chunk::<FRAGMENT_HEADER>()?;
                let is_first = u16::from_be_bytes(field(fragment, 2)) & OFFSET_V6 == 0;
                (fragment[0] == UDP).then(|| Self {
                    udp: is_first.then_some(V6_HEADER + FRAGMENT_HEADER),
                    identification: Some(u32::from_be_bytes(field(fragment, 4))),
                })
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 51820;

    /// From our port to port 7 of the other end, with so many bytes of options in front of it.
    fn udp(is_v6: bool, options: usize) -> Vec<u8> {
        let mut packet = if is_v6 {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0, UDP, 64];
            packet.extend([[0xfd; 16], [0xfe; 16]].concat());
            packet
        } else {
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
            packet[0] += (options / 4) as u8;
            packet.resize(packet.len() + options, 1);
            packet
        };
        packet.extend([PORT.to_be_bytes(), 7u16.to_be_bytes()].concat());
        packet.resize(packet.len() + 40, 0);
        with_length(packet)
    }

    fn with_length(mut packet: Vec<u8>) -> Vec<u8> {
        let is_v6 = packet[0] >> 4 == 6;
        let (at, length) = if is_v6 { (4, packet.len() - V6_HEADER) } else { (2, packet.len()) };
        packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        packet
    }

    /// The packet as the fragment that begins at `offset`.
    fn fragment(mut packet: Vec<u8>, offset: u16, has_more: bool, identification: u16) -> Vec<u8> {
        if packet[0] >> 4 == 6 {
            let kind = std::mem::replace(&mut packet[6], FRAGMENT);
            let place = (offset | u16::from(has_more)).to_be_bytes();
            let [high, low] = identification.to_be_bytes();
            packet.splice(40..40, [kind, 0, place[0], place[1], 0, 0, high, low]);
        } else {
            packet[4..6].copy_from_slice(&identification.to_be_bytes());
            let more = if has_more { MORE } else { 0 };
            packet[6..8].copy_from_slice(&((offset / 8) | more).to_be_bytes());
        }
        with_length(packet)
    }

    fn catches(guard: &mut LoopGuard, packet: &[u8]) -> bool {
        let header = IpHeader::parse(packet).unwrap();
        guard.catches(&header, packet, |from, to| from == PORT && to == (header.destination, 7))
    }

    #[test]
    fn whole_datagrams_are_known_by_port_and_destination() {
        let mut guard = LoopGuard::default();
        for (is_v6, options) in [(false, 0), (false, 8), (true, 0)] {
            let ours = udp(is_v6, options);
            assert!(catches(&mut guard, &ours));
            let (protocol, ports) = if is_v6 { (6, 40) } else { (9, 20 + options) };
            for (at, value) in [(protocol, 6), (ports, 1), (ports + 3, 8)] {
                let mut other = ours.clone();
                other[at] = value;
                assert!(!catches(&mut guard, &other), "byte {at}");
            }
        }
    }

    #[test]
    fn later_fragments_follow_their_first_one() {
        for is_v6 in [false, true] {
            let mut guard = LoopGuard::default();
            let ours = udp(is_v6, 0);
            let first = fragment(ours.clone(), 0, true, 9);
            let [middle, last] =
                [(48, true), (96, false)].map(|(at, more)| fragment(ours.clone(), at, more, 9));
            assert!(!catches(&mut guard, &middle), "of a datagram that is not known");
            assert!(catches(&mut guard, &first) && catches(&mut guard, &middle));
            assert!(!catches(&mut guard, &fragment(ours.clone(), 48, false, 10)), "of another datagram");
            assert!(catches(&mut guard, &last));
        }
    }

    #[test]
    fn a_foreign_datagram_with_an_identification_that_was_ours_passes_whole() {
        for is_v6 in [false, true] {
            let mut guard = LoopGuard::default();
            let ours = udp(is_v6, 0);
            let mut foreign = ours.clone();
            foreign[if is_v6 { 40 } else { 20 }] = 1;
            assert!(catches(&mut guard, &fragment(ours, 0, true, 9)));
            assert!(
                !catches(&mut guard, &fragment(foreign.clone(), 0, true, 8)),
                "its neighbour does not matter"
            );
            assert!(
                catches(&mut guard, &fragment(foreign.clone(), 48, false, 9)),
                "not told apart by itself"
            );
            assert!(!catches(&mut guard, &fragment(foreign.clone(), 0, true, 9)));
            assert!(!catches(&mut guard, &fragment(foreign, 48, false, 9)));
        }
    }

    #[test]
    fn what_is_cut_short_is_not_ours() {
        let mut guard = LoopGuard::default();
        for is_v6 in [false, true] {
            for whole in [udp(is_v6, 0), fragment(udp(is_v6, 0), 0, true, 9)] {
                let header = if is_v6 { V6_HEADER } else { 20 };
                for length in header..whole.len() - 40 {
                    assert!(!catches(&mut guard, &with_length(whole[..length].to_vec())), "{length} bytes");
                }
            }
        }
    }
}
