//! Netlink messages (`struct nlmsghdr`): many of them in one buffer, written and read.

use zeroize::Zeroize;

use super::{Attributes, Writer};

const HEADER: usize = 16;

/// Messages that are sent together. Each has a sequence number, by which answers find it.
#[derive(Default)]
pub struct Batch {
    pub(super) buffer: Vec<u8>,
    /// Where each message begins, and its sequence number.
    pub(super) starts: Vec<(usize, u32)>,
    next: u32,
    /// The sequence numbers of messages that are too long to be sent, and are not in the batch.
    pub(super) too_long: Vec<u32>,
}

impl Batch {
    /// An empty batch whose sequence numbers begin at `first`.
    pub fn from_sequence(first: u32) -> Self {
        Self { next: first, ..Self::default() }
    }

    /// Adds a message and returns its sequence number. One with an attribute of 64 KiB or more cannot be sent, and counts
    /// as refused. `kind` and `flags` are `nlmsg_type` and `nlmsg_flags`.
    pub fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer<'_>)) -> u32 {
        let (start, sequence) = (self.buffer.len(), self.next);
        self.starts.push((start, sequence));
        self.next = self.next.wrapping_add(1);
        self.buffer.extend_from_slice(&[0; HEADER]);
        let mut writer = Writer::new(&mut self.buffer);
        body(&mut writer);
        if writer.is_too_long() {
            self.too_long.push(sequence);
            self.starts.pop();
            self.buffer[start..].zeroize();
            self.buffer.truncate(start);
            return sequence;
        }
        let length =
            u32::try_from(self.buffer.len() - start).expect("invariant: a message is far below 4 GiB");
        let header = &mut self.buffer[start..start + HEADER];
        header[0..4].copy_from_slice(&length.to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&flags.to_ne_bytes());
        header[8..12].copy_from_slice(&sequence.to_ne_bytes());
        sequence
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.starts.len()
    }

    /// The sequence number that the next message will have.
    pub fn next_sequence(&self) -> u32 {
        self.next
    }

    /// Asks for an acknowledgement of the message that begins at `start`.
    pub(super) fn acknowledge(&mut self, start: usize) {
        let flags = &mut self.buffer[start + 6..start + 8];
        let value = u16::from_ne_bytes([flags[0], flags[1]]) | super::constants::NLM_F_ACK;
        flags.copy_from_slice(&value.to_ne_bytes());
    }
}

/// A message that was received.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// `nlmsg_pid`: in a notice, the port of the socket that caused it; 0 for the kernel itself.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The messages in a datagram. Ends at the first that is malformed.
    pub fn all(mut datagram: &'a [u8]) -> impl Iterator<Item = Received<'a>> {
        std::iter::from_fn(move || {
            let (header, _) = datagram.split_first_chunk::<HEADER>()?;
            let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
            let length = usize::try_from(u32::from_ne_bytes(word(0))).ok()?;
            let payload = datagram.get(HEADER..length)?;
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(Received {
                kind: u16::from_ne_bytes([header[4], header[5]]),
                flags: u16::from_ne_bytes([header[6], header[7]]),
                sequence: u32::from_ne_bytes(word(8)),
                port: u32::from_ne_bytes(word(12)),
                payload,
            })
        })
    }

    /// The attributes behind a fixed header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes::after(self.payload, header)
    }

    /// One byte of the fixed header; 0 when the message is shorter.
    pub fn byte(&self, at: usize) -> u8 {
        self.payload.get(at).copied().unwrap_or_default()
    }

    /// Four bytes of the fixed header as a number; 0 when the message is shorter.
    pub fn word(&self, at: usize) -> u32 {
        self.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_back() {
        let mut batch = Batch::from_sequence(5);
        batch.push(24, 1, |writer| writer.header(&[1, 2, 3]));
        batch.push(25, 2, |writer| writer.put_u32(1, 9));
        let read: Vec<_> = Received::all(&batch.buffer).collect();
        assert_eq!(
            read.iter().map(|m| (m.kind, m.flags, m.sequence)).collect::<Vec<_>>(),
            [(24, 1, 5), (25, 2, 6)]
        );
        assert_eq!((read[0].byte(2), read[1].attributes(0).u32(1)), (3, Some(9)));
    }

    #[test]
    fn a_message_that_is_too_long_is_not_in_the_batch() {
        let mut batch = Batch::from_sequence(5);
        batch.push(24, 0, |writer| writer.put_u32(1, 9));
        assert_eq!(batch.push(25, 0, |writer| writer.put(1, &[0; 1 << 16])), 6);
        batch.push(26, 0, |writer| writer.put_u32(1, 9));
        assert_eq!(batch.too_long, [6]);
        let read: Vec<_> = Received::all(&batch.buffer).map(|message| message.sequence).collect();
        assert_eq!((read, batch.count()), (vec![5, 7], 2));
    }

    #[test]
    fn a_cut_message_is_not_read() {
        let mut batch = Batch::default();
        batch.push(24, 1, |writer| writer.put_u32(1, 9));
        for length in 0..batch.buffer.len() {
            assert_eq!(Received::all(&batch.buffer[..length]).count(), 0);
        }
    }
}
