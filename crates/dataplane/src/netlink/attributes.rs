//! Netlink attributes (`struct nlattr`): writing them into a buffer, and reading them without trusting their lengths.

use zeroize::Zeroize;

use super::constants::{NLA_F_NESTED, NLA_TYPE_MASK};

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Writes the body of a message. Numbers are in host byte order unless the name says otherwise.
pub struct Writer<'a> {
    buffer: &'a mut Vec<u8>,
    too_long: bool,
}

impl<'a> Writer<'a> {
    /// Writes behind what `buffer` holds.
    pub fn new(buffer: &'a mut Vec<u8>) -> Self {
        Self { buffer, too_long: false }
    }

    /// Whether an attribute was longer than one can be, and was left out. What was written means something else then.
    pub fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// A fixed header, padded to four bytes.
    pub fn header(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.pad();
    }

    /// An attribute. The payload is shorter than 64 KiB, because the length of an attribute is a 16-bit number; whoever
    /// writes long lists splits them.
    pub fn put(&mut self, kind: u16, payload: &[u8]) {
        self.nest_as(kind, |inner| inner.buffer.extend_from_slice(payload));
    }

    /// An attribute of one byte.
    pub fn put_u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    /// An attribute of two bytes.
    pub fn put_u16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// An attribute of four bytes.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// An attribute of four bytes in network byte order, as nf_tables wants its numbers.
    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// An attribute of eight bytes in network byte order.
    pub fn put_be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A text with its terminating zero.
    pub fn put_text(&mut self, kind: u16, value: &str) {
        self.nest_as(kind, |inner| {
            inner.buffer.extend_from_slice(value.as_bytes());
            inner.buffer.push(0);
        });
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer<'_>)) {
        self.nest_as(kind | NLA_F_NESTED, body);
    }

    fn nest_as(&mut self, kind: u16, body: impl FnOnce(&mut Writer<'_>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        let mut inner = Writer::new(self.buffer);
        body(&mut inner);
        self.too_long |= inner.too_long;
        let Ok(length) = u16::try_from(self.buffer.len() - start) else {
            self.too_long = true;
            // What is cut off may be a key.
            self.buffer[start..].zeroize();
            self.buffer.truncate(start);
            return;
        };
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.buffer[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.buffer.resize(aligned(self.buffer.len()), 0);
    }
}

/// Iterates over attributes: their kind without flags, and their payload. Ends at the first that is malformed.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes in these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The attributes behind a fixed header of `header` bytes.
    pub fn after(bytes: &'a [u8], header: usize) -> Self {
        Self(bytes.get(aligned(header)..).unwrap_or_default())
    }

    /// The payload of the first attribute of a kind.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(found, _)| *found == kind).map(|(_, payload)| payload)
    }

    /// The attributes in the first attribute of a kind; none when it is missing.
    pub fn inside(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// A number of one byte.
    pub fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// A number of two bytes.
    pub fn u16(self, kind: u16) -> Option<u16> {
        self.get(kind)?.try_into().ok().map(u16::from_ne_bytes)
    }

    /// A number of four bytes.
    pub fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A number of eight bytes.
    pub fn u64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_ne_bytes)
    }

    /// A number of four bytes in network byte order.
    pub fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A number of eight bytes in network byte order.
    pub fn be64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// A text; empty when it is missing or is no UTF-8.
    pub fn text(self, kind: u16) -> &'a str {
        text(self.get(kind).unwrap_or_default())
    }
}

/// A text up to its terminating zero; empty when it is no UTF-8.
pub fn text(payload: &[u8]) -> &str {
    let end = payload.iter().position(|byte| *byte == 0).unwrap_or(payload.len());
    std::str::from_utf8(&payload[..end]).unwrap_or_default()
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut buffer = Vec::new();
        let mut writer = Writer::new(&mut buffer);
        writer.put_u32(1, 7);
        writer.put_text(2, "kilo0");
        writer.nest(3, |inner| inner.put_be32(4, 9));
        let read = Attributes::new(&buffer);
        assert_eq!((read.u32(1), read.text(2), read.inside(3).be32(4)), (Some(7), "kilo0", Some(9)));
        assert_eq!(read.count(), 3);
        assert_eq!(buffer.len() % 4, 0);
    }

    #[test]
    fn an_attribute_that_is_too_long_is_left_out_and_noticed() {
        let mut buffer = Vec::new();
        let mut writer = Writer::new(&mut buffer);
        writer.put(1, &[7; 65_531]);
        assert!(!writer.is_too_long());
        writer.nest(2, |inner| inner.put(3, &[7; 65_532]));
        writer.put_u32(4, 9);
        assert!(writer.is_too_long());
        let read = Attributes::new(&buffer);
        assert_eq!((read.count(), read.get(1).map(<[u8]>::len), read.u32(4)), (3, Some(65_531), Some(9)));
        let mut writer = Writer::new(&mut buffer);
        // Each fits, together they do not.
        writer.nest(2, |inner| (0..3).for_each(|_| inner.put(3, &[7; 30_000])));
        assert!(writer.is_too_long());
    }

    #[test]
    fn malformed_attributes_end_the_reading() {
        for bytes in [&[3u8, 0, 1, 0][..], &[200, 0, 1, 0, 5, 6], &[4, 0], &[0; 4]] {
            assert_eq!(Attributes::new(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!(Attributes::after(&[1, 2], 16).count(), 0);
    }
}
