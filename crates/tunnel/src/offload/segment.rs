//! Cutting a large packet into packets that fit the MTU, with correct headers and checksums.
//!
//! The headers of each are a copy of those of the large one, with what differs set anew: lengths, IPv4 identification,
//! TCP sequence number and flags, checksums.

use std::ops::Range;

use super::checksum::{Sum, pseudo_header};
use super::header::{Gso, VirtioHeader};

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// A packet from the interface, as one or many packets for the network.
pub(crate) struct Segments<'a> {
    packet: &'a [u8],
    layout: Option<Layout>,
}

/// Where things are in a large packet.
#[derive(Debug, Clone, Copy)]
struct Layout {
    is_v6: bool,
    is_tcp: bool,
    transport: usize,
    payload: usize,
    size: usize,
}

impl<'a> Segments<'a> {
    /// Looks at a packet as it came from the interface and completes its checksum if it is not to be cut. `None` when
    /// header and packet do not fit together.
    pub(crate) fn new(header: &VirtioHeader, packet: &'a mut [u8]) -> Option<Self> {
        if header.gso == Gso::None {
            if header.needs_checksum {
                complete_checksum(header, packet)?;
            }
            return Some(Self { packet, layout: None });
        }
        let layout = Layout::of(header, packet)?;
        // A run of one packet is possible: it only lacks its checksum then.
        Some(Self { packet, layout: Some(layout) })
    }

    /// How many packets there are: at least one.
    pub(crate) fn count(&self) -> usize {
        self.layout.map_or(1, |layout| (self.packet.len() - layout.payload).div_ceil(layout.size).max(1))
    }

    /// Bytes of the `index`-th packet.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.layout.map_or(self.packet.len(), |layout| layout.payload + self.payload(&layout, index).len())
    }

    fn payload(&self, layout: &Layout, index: usize) -> Range<usize> {
        let start = (layout.payload + index * layout.size).min(self.packet.len());
        start..(start + layout.size).min(self.packet.len())
    }

    /// Writes the `index`-th packet to `out`, which has exactly its length.
    pub(crate) fn write(&self, index: usize, out: &mut [u8]) {
        let Some(layout) = &self.layout else {
            out.copy_from_slice(self.packet);
            return;
        };
        let payload = self.payload(layout, index);
        out[..layout.payload].copy_from_slice(&self.packet[..layout.payload]);
        out[layout.payload..].copy_from_slice(&self.packet[payload]);
        layout.fix_network(index, out);
        if layout.is_tcp {
            layout.fix_tcp(index, index + 1 == self.count(), out);
        } else {
            let length = (out.len() - layout.transport) as u16;
            out[layout.transport + 4..layout.transport + 6].copy_from_slice(&length.to_be_bytes());
        }
        layout.fix_checksum(out);
    }
}

impl Layout {
    fn of(header: &VirtioHeader, packet: &[u8]) -> Option<Self> {
        let is_v6 = match packet.first()? >> 4 {
            4 => false,
            6 => true,
            _ => return None,
        };
        let is_tcp = match header.gso {
            Gso::TcpV4 if !is_v6 => true,
            Gso::TcpV6 if is_v6 => true,
            Gso::Udp => false,
            _ => return None,
        };
        let transport = usize::from(header.checksum_start);
        let least = if is_v6 { 40 } else { usize::from(packet[0] & 15) * 4 };
        if transport < least || (!is_v6 && (transport != least || least < 20)) {
            return None;
        }
        let payload = transport
            + if is_tcp {
                let length = usize::from(packet.get(transport + 12)? >> 4) * 4;
                if length < 20 {
                    return None;
                }
                length
            } else {
                8
            };
        let size = usize::from(header.gso_size);
        let fits = payload <= packet.len() && packet.len() <= usize::from(u16::MAX) + 40 && size > 0;
        fits.then_some(Self { is_v6, is_tcp, transport, payload, size })
    }

    fn fix_network(&self, index: usize, out: &mut [u8]) {
        if self.is_v6 {
            let length = (out.len() - 40) as u16;
            out[4..6].copy_from_slice(&length.to_be_bytes());
            return;
        }
        let length = out.len() as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(index as u16);
        out[4..6].copy_from_slice(&id.to_be_bytes());
        out[10..12].fill(0);
        let checksum = Sum::default().add(&out[..self.transport]).finish();
        out[10..12].copy_from_slice(&checksum);
    }

    fn fix_tcp(&self, index: usize, is_last: bool, out: &mut [u8]) {
        let tcp = &mut out[self.transport..];
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sequence = sequence.wrapping_add((index * self.size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !is_last {
            tcp[13] &= !FIN_PSH;
        }
        if index > 0 {
            tcp[13] &= !CWR;
        }
    }

    fn fix_checksum(&self, out: &mut [u8]) {
        let at = self.transport + if self.is_tcp { 16 } else { 6 };
        let addresses = if self.is_v6 { 8..40 } else { 12..20 };
        let protocol = if self.is_tcp { TCP } else { UDP };
        out[at..at + 2].fill(0);
        let sum = pseudo_header(&out[addresses], protocol, out.len() - self.transport);
        let checksum = sum.add(&out[self.transport..]).finish();
        // Zero means "none" for UDP (RFC 768); 0xffff is the same number. For TCP both are valid.
        let checksum = if checksum == [0, 0] && !self.is_tcp { [0xff, 0xff] } else { checksum };
        out[at..at + 2].copy_from_slice(&checksum);
    }
}

/// Completes a checksum whose field holds the sum of the pseudo header.
fn complete_checksum(header: &VirtioHeader, packet: &mut [u8]) -> Option<()> {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    if at + 2 > packet.len() {
        return None;
    }
    let checksum = Sum::default().add(&packet[start..]).finish();
    let checksum = if checksum == [0, 0] { [0xff, 0xff] } else { checksum };
    packet[at..at + 2].copy_from_slice(&checksum);
    Some(())
}
