//! Joining packets of one flow that arrived together, so that the kernel takes them in one piece.
//!
//! The same rules as the kernel's GRO: only neighbours that differ in nothing but what cutting would make different.
//! A packet whose checksum is wrong is never joined: it reaches the kernel as it is, to be dropped there.

use std::ops::Range;

use super::checksum::{Sum, pseudo_header};
use super::header::{Gso, HEADER_SIZE, VirtioHeader};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// Of IPv4, in the byte with the upper bits of the fragment offset.
const DONT_FRAGMENT: u8 = 0x40;
/// Flows that are joined at the same time.
const MAX_OPEN: usize = 16;
/// Packets in one run: Linux refuses longer runs of UDP from an interface (UDP_MAX_SEGMENTS before 6.9), and a system
/// call takes 1024 pieces (UIO_MAXIOV).
const MAX_PARTS: usize = 64;
/// The largest IP packet.
const MAX_LENGTH: usize = 65_535;
/// Bytes of all headers of the packets that are joined: IP and TCP without IP options, with TCP options.
const MAX_HEADERS: usize = 40 + 60;

/// Whether the kernel takes large UDP packets, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joins {
    Nothing,
    Tcp,
    TcpAndUdp,
}

/// A packet or a run of packets for the interface.
pub(crate) struct Burst {
    /// The virtio-net header and, of a run, the headers of the joined packet.
    head: [u8; HEADER_SIZE + MAX_HEADERS],
    head_length: usize,
    /// Where the rest is, in order.
    pub(crate) parts: Vec<Range<usize>>,
    flow: Option<Flow>,
    is_open: bool,
}

/// What must be equal, or follow on, in the next packet of a run.
#[derive(Clone, Copy)]
struct Flow {
    is_v6: bool,
    is_tcp: bool,
    transport: usize,
    payload: usize,
    /// Payload of each packet but the last.
    size: usize,
    next_sequence: u32,
    /// Bytes of the joined packet.
    length: usize,
    is_checked: bool,
}

impl Burst {
    /// What goes in front of the parts.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head[..self.head_length]
    }
}

/// Collects the packets of one burst.
pub(crate) struct Coalescer {
    joins: Joins,
    pub(crate) bursts: Vec<Burst>,
    open: usize,
}

impl Coalescer {
    pub(crate) fn new(joins: Joins) -> Self {
        Self { joins, bursts: Vec::new(), open: 0 }
    }

    /// Forgets everything collected.
    pub(crate) fn clear(&mut self) {
        self.bursts.clear();
        self.open = 0;
    }

    /// Adds the packet at `place` in `buffer`, after all others.
    pub(crate) fn push(&mut self, buffer: &[u8], place: Range<usize>) {
        let packet = &buffer[place.clone()];
        let flow = if self.joins == Joins::Nothing { None } else { Flow::of(packet, self.joins) };
        if let Some(flow) = &flow
            && let Some(at) = self.find(buffer, packet, flow)
        {
            let burst = &mut self.bursts[at];
            if burst.try_append(buffer, packet, flow, place.clone()) {
                return;
            }
            // The flow goes on in a burst of its own, behind this one.
            burst.is_open = false;
        } else if flow.is_none() && self.joins != Joins::Nothing {
            self.close_flow_of(buffer, packet);
        }
        self.start(packet, flow, place);
    }

    fn find(&self, buffer: &[u8], packet: &[u8], flow: &Flow) -> Option<usize> {
        let recent = self.bursts.iter().enumerate().rev().filter(|(_, burst)| burst.is_open).take(MAX_OPEN);
        let mut recent = recent.filter_map(|(at, burst)| Some((at, burst.flow.as_ref()?, &burst.parts[0])));
        recent
            .find(|(_, other, first)| flow.is_same(packet, other, &buffer[first.start..]))
            .map(|(at, ..)| at)
    }

    /// A packet that cannot be joined (FIN, SYN, a fragment, …) must still stay behind those of its flow.
    fn close_flow_of(&mut self, buffer: &[u8], packet: &[u8]) {
        let Some(addresses) = addresses_of(packet) else { return };
        for burst in self.bursts.iter_mut().filter(|burst| burst.is_open) {
            if addresses_of(&buffer[burst.parts[0].clone()]) == Some(addresses) {
                burst.is_open = false;
            }
        }
    }

    fn start(&mut self, packet: &[u8], flow: Option<Flow>, place: Range<usize>) {
        let mut head = [0; HEADER_SIZE + MAX_HEADERS];
        head[..HEADER_SIZE].copy_from_slice(&VirtioHeader::PLAIN.encode());
        // A packet that already ends a run (PSH) may have nothing behind it.
        let is_open =
            flow.as_ref().is_some_and(|flow| !flow.is_tcp || packet[flow.transport + 13] & PSH == 0);
        self.bursts.push(Burst { head, head_length: HEADER_SIZE, parts: vec![place], flow, is_open });
    }
}

impl Burst {
    fn try_append(&mut self, buffer: &[u8], packet: &[u8], next: &Flow, place: Range<usize>) -> bool {
        let Some(flow) = &mut self.flow else { return false };
        let payload = packet.len() - next.payload;
        if payload > flow.size
            || flow.length + payload > MAX_LENGTH
            || self.parts.len() == MAX_PARTS
            || (flow.is_tcp && next.sequence_of(packet) != flow.next_sequence)
        {
            return false;
        }
        let first = &buffer[self.parts[0].clone()];
        if self.parts.len() == 1 {
            if !flow.headers_agree(first, packet, 1) {
                return false;
            }
            if !flow.is_checked && !flow.checksum_fits(first) {
                return false;
            }
            flow.is_checked = true;
        } else if !flow.headers_agree(&self.head[HEADER_SIZE..], packet, self.parts.len()) {
            return false;
        }
        if !flow.checksum_fits(packet) {
            return false;
        }
        if self.parts.len() == 1 {
            self.head[HEADER_SIZE..HEADER_SIZE + flow.payload].copy_from_slice(&first[..flow.payload]);
            self.head_length = HEADER_SIZE + flow.payload;
        }
        self.parts.push(place.start + next.payload..place.end);
        flow.length += payload;
        flow.next_sequence = flow.next_sequence.wrapping_add(payload as u32);
        let pushes = flow.is_tcp && packet[flow.transport + 13] & PSH != 0;
        if pushes {
            self.head[HEADER_SIZE + flow.transport + 13] |= PSH;
        }
        // A shorter packet, or one with PSH, ends a run.
        if pushes || payload < flow.size {
            self.is_open = false;
        }
        true
    }

    /// Completes the headers of a run. Call it once, when nothing will be added.
    pub(crate) fn finish(&mut self) {
        let Some(flow) = self.flow.filter(|_| self.parts.len() > 1) else { return };
        // The first part is in the head now, but for its payload.
        self.parts[0].start += flow.payload;
        let gso = match (flow.is_tcp, flow.is_v6) {
            (true, false) => Gso::TcpV4,
            (true, true) => Gso::TcpV6,
            (false, _) => Gso::Udp,
        };
        let header = VirtioHeader {
            needs_checksum: true,
            gso,
            header_length: flow.payload as u16,
            gso_size: flow.size as u16,
            checksum_start: flow.transport as u16,
            checksum_offset: if flow.is_tcp { 16 } else { 6 },
        };
        self.head[..HEADER_SIZE].copy_from_slice(&header.encode());
        flow.write_lengths(&mut self.head[HEADER_SIZE..]);
    }
}

impl Flow {
    /// What a packet can be joined by; `None` when it cannot be.
    fn of(packet: &[u8], joins: Joins) -> Option<Self> {
        let (is_v6, protocol, transport) = match packet.first()? {
            // No options; not a fragment, nor to be followed by one.
            0x45 if packet.len() >= 20 && packet[6] & 0x3f == 0 && packet[7] == 0 => (false, packet[9], 20),
            first if first >> 4 == 6 && packet.len() >= 40 => (true, packet[6], 40),
            _ => return None,
        };
        let is_tcp = match protocol {
            TCP => true,
            UDP if joins == Joins::TcpAndUdp => false,
            _ => return None,
        };
        let payload = if is_tcp {
            let flags = *packet.get(transport + 13)?;
            let length = usize::from(packet[transport + 12] >> 4) * 4;
            if flags & !PSH != ACK || length < 20 {
                return None;
            }
            transport + length
        } else {
            let length = packet.get(transport + 4..transport + 6)?;
            if usize::from(u16::from_be_bytes([length[0], length[1]])) != packet.len() - transport {
                return None;
            }
            transport + 8
        };
        let size = packet.len().checked_sub(payload).filter(|size| *size > 0)?;
        let mut flow = Self {
            is_v6,
            is_tcp,
            transport,
            payload,
            size,
            next_sequence: 0,
            length: packet.len(),
            is_checked: false,
        };
        if is_tcp {
            flow.next_sequence = flow.sequence_of(packet).wrapping_add(size as u32);
        }
        Some(flow)
    }

    fn sequence_of(&self, packet: &[u8]) -> u32 {
        let at = self.transport + 4;
        u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
    }

    fn addresses(&self) -> Range<usize> {
        if self.is_v6 { 8..40 } else { 12..20 }
    }

    /// Whether two packets belong to the same flow: addresses and ports.
    fn is_same(&self, packet: &[u8], other: &Self, first: &[u8]) -> bool {
        let ports = self.transport..self.transport + 4;
        self.is_v6 == other.is_v6
            && self.is_tcp == other.is_tcp
            && packet[ports.clone()] == first[ports]
            && packet[self.addresses()] == first[self.addresses()]
    }

    /// Whether everything is what cutting would make it, `behind` packets after the first one.
    fn headers_agree(&self, first: &[u8], packet: &[u8], behind: usize) -> bool {
        let network = if self.is_v6 {
            // Version, traffic class and flow label; hop limit.
            first[..4] == packet[..4] && first[7] == packet[7]
        } else {
            // Type of service; don't-fragment; time to live. The identification matters to fragments only (RFC 6864).
            first[1] == packet[1]
                && first[6] == packet[6]
                && first[8] == packet[8]
                && (packet[6] & DONT_FRAGMENT != 0
                    || identification(packet) == identification(first).wrapping_add(behind as u16))
        };
        let tcp = self.transport;
        // Acknowledgement; header length; window; urgent pointer and options.
        let transport = !self.is_tcp
            || (first[tcp + 8..tcp + 13] == packet[tcp + 8..tcp + 13]
                && first[tcp + 14..tcp + 16] == packet[tcp + 14..tcp + 16]
                && first[tcp + 18..self.payload] == packet[tcp + 18..self.payload]);
        network && transport
    }

    fn checksum_fits(&self, packet: &[u8]) -> bool {
        // Joining writes the checksum of the IPv4 header anew: a wrong one would become right.
        if !self.is_v6 && !Sum::default().add(&packet[..self.transport]).is_valid() {
            return false;
        }
        let protocol = if self.is_tcp { TCP } else { UDP };
        if !self.is_tcp && packet[self.transport + 6..self.transport + 8] == [0, 0] {
            return false;
        }
        let sum = pseudo_header(&packet[self.addresses()], protocol, packet.len() - self.transport);
        sum.add(&packet[self.transport..]).is_valid()
    }

    /// Sets lengths and the partial checksum of the joined packet.
    fn write_lengths(&self, head: &mut [u8]) {
        let transport_length = self.length - self.transport;
        if self.is_v6 {
            head[4..6].copy_from_slice(&(transport_length as u16).to_be_bytes());
        } else {
            head[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
            head[10..12].fill(0);
            let checksum = Sum::default().add(&head[..20]).finish();
            head[10..12].copy_from_slice(&checksum);
        }
        if !self.is_tcp {
            let at = self.transport + 4;
            head[at..at + 2].copy_from_slice(&(transport_length as u16).to_be_bytes());
        }
        let protocol = if self.is_tcp { TCP } else { UDP };
        let at = self.transport + if self.is_tcp { 16 } else { 6 };
        let partial = pseudo_header(&head[self.addresses()], protocol, transport_length).partial();
        head[at..at + 2].copy_from_slice(&partial);
    }
}

/// The identification of an IPv4 packet.
fn identification(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[4], packet[5]])
}

/// Source and destination as they stand in the packet.
fn addresses_of(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 => packet.get(12..20),
        6 => packet.get(8..40),
        _ => None,
    }
}
