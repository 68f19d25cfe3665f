//! The four messages on the wire (WireGuard paper, section 5.4): sizes, offsets, and telling them apart.
//!
//! Everything here is a view of bytes; nothing is decrypted or believed.

/// Bytes of a handshake initiation.
pub const INITIATION_SIZE: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE_SIZE: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY_SIZE: usize = 64;
/// Bytes before the encrypted packet in a data message.
pub const DATA_HEADER_SIZE: usize = 16;
/// Bytes of a Poly1305 tag.
pub const TAG_SIZE: usize = 16;
/// What a data message adds to the (padded) packet it carries.
pub const DATA_OVERHEAD: usize = DATA_HEADER_SIZE + TAG_SIZE;

pub(crate) const TYPE_INITIATION: u32 = 1;
pub(crate) const TYPE_RESPONSE: u32 = 2;
pub(crate) const TYPE_COOKIE_REPLY: u32 = 3;
pub(crate) const TYPE_DATA: u32 = 4;

/// A datagram whose type and length fit one of the messages.
#[derive(Debug)]
pub enum Message<'a> {
    /// Handshake initiation.
    Initiation(&'a [u8; INITIATION_SIZE]),
    /// Handshake response.
    Response(&'a [u8; RESPONSE_SIZE]),
    /// Cookie reply.
    CookieReply(&'a [u8; COOKIE_REPLY_SIZE]),
    /// Transport data: at least header and tag.
    Data,
}

impl<'a> Message<'a> {
    /// Tells what a datagram claims to be; `None` when its type or length is wrong (reserved bytes must be zero).
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let kind = u32::from_le_bytes(*datagram.first_chunk()?);
        match kind {
            TYPE_INITIATION => datagram.try_into().ok().map(Self::Initiation),
            TYPE_RESPONSE => datagram.try_into().ok().map(Self::Response),
            TYPE_COOKIE_REPLY => datagram.try_into().ok().map(Self::CookieReply),
            TYPE_DATA if datagram.len() >= DATA_OVERHEAD => Some(Self::Data),
            _ => None,
        }
    }
}

/// The little-endian word at `offset`; the caller has checked the length.
pub(crate) fn word(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

/// A copy of `N` bytes at `offset`; the caller has checked the length.
pub(crate) fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}
