//! Just enough of IPv4 and IPv6 to route: version, length, source, destination (RFC 791, RFC 8200).

use std::net::IpAddr;

use crate::message::field;

/// Smallest IPv4 header.
pub const V4_HEADER: usize = 20;
/// The fixed IPv6 header.
pub const V6_HEADER: usize = 40;

/// The addresses and the length a packet claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpHeader {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Bytes of the whole packet: at least the header, at most what was given.
    pub length: usize,
}

impl IpHeader {
    /// Reads the header; `None` when this is no IP packet or it is longer than what is there. Trailing bytes
    /// (WireGuard's padding) are allowed.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let header = match packet.first()? >> 4 {
            4 if packet.len() >= V4_HEADER => Self {
                source: IpAddr::from(field::<4>(packet, 12)),
                destination: IpAddr::from(field::<4>(packet, 16)),
                length: usize::from(u16::from_be_bytes(field(packet, 2))),
            },
            6 if packet.len() >= V6_HEADER => Self {
                source: IpAddr::from(field::<16>(packet, 8)),
                destination: IpAddr::from(field::<16>(packet, 24)),
                length: usize::from(u16::from_be_bytes(field(packet, 4))) + V6_HEADER,
            },
            _ => return None,
        };
        let least = if header.source.is_ipv4() { V4_HEADER } else { V6_HEADER };
        (header.length >= least && header.length <= packet.len()).then_some(header)
    }
}

/// The length of a packet padded to 16 bytes, but not beyond the MTU (WireGuard paper, section 5.4.6).
pub(crate) fn padded(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(16).min(mtu.max(length))
}
