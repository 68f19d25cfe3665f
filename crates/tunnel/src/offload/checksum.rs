//! The Internet checksum (RFC 1071), a part of every packet that is cut or joined: it has to be fast.

/// A sum in progress. Ones' complement sums do not depend on byte order (RFC 1071, section 2 B), so words are added
/// as the machine reads them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes; only the last piece of a packet may have an odd length.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        Self(fold64(self.0) + fold64(sum_words(bytes)))
    }

    /// Adds a number as it stands in a packet.
    pub(crate) fn add_number(self, number: u16) -> Self {
        Self(fold64(self.0) + u64::from(number.to_be()))
    }

    /// The sum, not inverted, as bytes of a packet: what the kernel wants to find where it completes a checksum.
    pub(crate) fn partial(self) -> [u8; 2] {
        fold16(self.0).to_ne_bytes()
    }

    /// The checksum as bytes of a packet.
    pub(crate) fn finish(self) -> [u8; 2] {
        (!fold16(self.0)).to_ne_bytes()
    }

    /// Whether the sum over a packet with its checksum is what it must be.
    pub(crate) fn is_valid(self) -> bool {
        fold16(self.0) == 0xffff
    }
}

/// The sum over the pseudo header of TCP and UDP (RFC 9293, section 3.1; RFC 8200, section 8.1). `addresses` are
/// source and destination as they stand in the packet.
pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Sum {
    // The length is less than 65,536 everywhere here.
    Sum::default().add(addresses).add_number(u16::from(protocol)).add_number(length as u16)
}

fn fold64(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

fn fold16(sum: u64) -> u16 {
    let sum = fold64(fold64(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of 64-bit words, folded. Four sums that do not wait for each other's carries are as fast as it gets without
/// vector instructions, which the oldest processors lack.
fn sum_words(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u128; 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let (words, last) = rest.as_chunks::<8>();
    for word in words {
        lanes[0] += u128::from(u64::from_ne_bytes(*word));
    }
    let mut padded = [0; 8];
    padded[..last.len()].copy_from_slice(last);
    lanes[1] += u128::from(u64::from_ne_bytes(padded));
    let sum = lanes.iter().sum::<u128>();
    fold64(sum as u64) + (sum >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1071() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.partial(), [0xdd, 0xf2]);
        assert_eq!(sum.finish(), [0x22, 0x0d]);
    }

    #[test]
    fn agrees_with_the_plain_definition() {
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 37 + 11) as u8 | 0x80).collect();
            let mut plain = 0u32;
            for pair in bytes.chunks(2) {
                plain += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            }
            while plain > 0xffff {
                plain = (plain & 0xffff) + (plain >> 16);
            }
            assert_eq!(Sum::default().add(&bytes).partial(), (plain as u16).to_be_bytes(), "{length} bytes");
        }
    }
}
