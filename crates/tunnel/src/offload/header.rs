//! The virtio-net header in front of each packet of the TUN interface (linux/virtio_net.h).

/// Bytes of the header as TUN uses it.
pub(crate) const HEADER_SIZE: usize = 10;

/// The checksum has to be completed from `checksum_start` on.
pub(crate) const NEEDS_CHECKSUM: u8 = 1;

/// What kind of large packet follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gso {
    None,
    TcpV4,
    TcpV6,
    Udp,
}

/// A decoded header. Numbers are in the byte order of the machine, as TUN wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VirtioHeader {
    pub(crate) needs_checksum: bool,
    pub(crate) gso: Gso,
    /// Bytes of all headers of the packet.
    pub(crate) header_length: u16,
    /// Bytes of payload in each packet of the run.
    pub(crate) gso_size: u16,
    /// Where the TCP or UDP header begins.
    pub(crate) checksum_start: u16,
    /// Where in it the checksum is.
    pub(crate) checksum_offset: u16,
}

impl VirtioHeader {
    /// The header of a packet that is complete as it is.
    pub(crate) const PLAIN: Self = Self {
        needs_checksum: false,
        gso: Gso::None,
        header_length: 0,
        gso_size: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Reads a header; `None` for a kind that was not asked for.
    pub(crate) fn decode(bytes: &[u8; HEADER_SIZE]) -> Option<Self> {
        // The ECN bit (0x80) only tells how CWR is treated, and the cutter treats it so anyway.
        let gso = match bytes[1] & 0x7f {
            0 => Gso::None,
            1 => Gso::TcpV4,
            4 => Gso::TcpV6,
            5 => Gso::Udp,
            _ => return None,
        };
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            gso,
            header_length: number(2),
            gso_size: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        })
    }

    /// Writes the header.
    pub(crate) fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[0] = if self.needs_checksum { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => 1,
            Gso::TcpV6 => 4,
            Gso::Udp => 5,
        };
        let numbers = [self.header_length, self.gso_size, self.checksum_start, self.checksum_offset];
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}
