//! Explicit congestion notification through the tunnel (RFC 6040): the mark of a packet is copied to its datagram, and a
//! mark the network made on the datagram is copied back. The rest of the traffic class stays inside: outside it is zero,
//! as with the kernel's WireGuard.

use crate::offload::Sum;

/// The two bits at the end of the traffic class (RFC 3168, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ecn {
    #[default]
    NotCapable,
    Capable0,
    Capable1,
    Congestion,
}

impl Ecn {
    /// The mark in a traffic class (IPv6) or type of service (IPv4).
    pub(crate) fn of_class(class: u8) -> Self {
        match class & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::Congestion,
        }
    }

    /// The mark of an IP packet. The caller has parsed its header.
    pub(crate) fn of_packet(packet: &[u8]) -> Self {
        Self::of_class(if packet[0] >> 4 == 4 { packet[1] } else { packet[1] >> 4 })
    }

    /// The traffic class of a datagram with this mark.
    pub(crate) fn class(self) -> u8 {
        match self {
            Self::NotCapable => 0,
            Self::Capable1 => 1,
            Self::Capable0 => 2,
            Self::Congestion => 3,
        }
    }

    /// Copies congestion that the datagram met to the IP packet that was in it (RFC 6040, section 4.2). False when the
    /// sender of the packet would not understand it: then loss has to tell, and the packet must be dropped.
    #[must_use]
    pub(crate) fn decapsulate(self, packet: &mut [u8]) -> bool {
        if self != Self::Congestion {
            return true;
        }
        match Self::of_packet(packet) {
            Self::NotCapable => return false,
            Self::Congestion => return true,
            Self::Capable0 | Self::Capable1 => {}
        }
        if packet[0] >> 4 == 6 {
            packet[1] |= 0x30;
            return true;
        }
        let before = [packet[0], packet[1]];
        packet[1] |= 3;
        // Updated as RFC 1624, section 3 says: a checksum that is wrong stays wrong.
        let old = u16::from_be_bytes([packet[10], packet[11]]);
        let sum = Sum::default().add_number(!old).add_number(!u16::from_be_bytes(before));
        let checksum = sum.add_number(u16::from_be_bytes([packet[0], packet[1]])).finish();
        packet[10..12].copy_from_slice(&checksum);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Ecn; 4] = [Ecn::NotCapable, Ecn::Capable0, Ecn::Capable1, Ecn::Congestion];

    /// A header with a right checksum and a code point for differentiated services.
    fn packet(is_v6: bool, inner: Ecn) -> Vec<u8> {
        if is_v6 {
            let mut packet = vec![0; 40];
            packet[0] = 0x6b;
            packet[1] = 0x8f | inner.class() << 4;
            return packet;
        }
        let mut packet: Vec<u8> = (0..20).map(|at| at * 5).collect();
        (packet[0], packet[1]) = (0x45, 0xb8 | inner.class());
        packet[10..12].fill(0);
        let checksum = Sum::default().add(&packet).finish();
        packet[10..12].copy_from_slice(&checksum);
        packet
    }

    #[test]
    fn marks_are_copied_as_rfc_6040_says() {
        for outer in ALL {
            for inner in ALL {
                for is_v6 in [false, true] {
                    let before = packet(is_v6, inner);
                    assert_eq!(Ecn::of_packet(&before), inner);
                    let mut after = before.clone();
                    let passes = outer.decapsulate(&mut after);
                    let case = format!("{outer:?} outside of {inner:?}, IPv6 {is_v6}");
                    let is_lost = outer == Ecn::Congestion && inner == Ecn::NotCapable;
                    assert_eq!(passes, !is_lost, "{case}");
                    if outer == Ecn::Congestion && !is_lost {
                        assert_eq!(after, packet(is_v6, Ecn::Congestion), "{case}");
                    } else {
                        assert_eq!(after, before, "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_mark_makes_no_wrong_checksum_right() {
        let mut marked = packet(false, Ecn::Capable0);
        marked[11] ^= 1;
        assert!(Ecn::Congestion.decapsulate(&mut marked));
        assert!(!Sum::default().add(&marked).is_valid());
    }

    #[test]
    fn classes_are_read_as_they_are_written() {
        for ecn in ALL {
            assert_eq!(Ecn::of_class(ecn.class() | 0xb8), ecn);
        }
    }
}
