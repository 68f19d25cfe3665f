//! The firewall mark by which the host tells packets of our own sockets from all others.
//!
//! A host has one mark of 32 bits per packet, and other programs have theirs in it: kube-proxy 0xc000, the CNI plugin
//! `portmap` 0x2000, Cilium 0x0f00 and the upper half, Calico 0xffff0000 by default, Tailscale 0xff0000, the CNI of AWS
//! 0x80. Ours are three bits that none of them uses, and an operator can move them.

use std::{fmt, str::FromStr};

/// How many bits there are.
const BITS: u32 = 3;

/// Which bits of the firewall mark are ours: three neighbours, which hold one of seven marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkBits {
    shift: u32,
}

impl MarkBits {
    /// All of our bits.
    #[must_use]
    pub fn mask(self) -> u32 {
        ((1 << BITS) - 1) << self.shift
    }

    /// The mark of packets that never enter the mesh, because they carry it or lead to it: those of tunnels, and those to
    /// the API server and the name servers while these answer without the mesh. The other six are reserved.
    #[must_use]
    pub fn underlay(self) -> u32 {
        1 << self.shift
    }
}

impl Default for MarkBits {
    /// 0x70.
    fn default() -> Self {
        Self { shift: 4 }
    }
}

impl fmt::Display for MarkBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.mask())
    }
}

impl FromStr for MarkBits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("{text:?} is not a mask of three neighbouring bits, such as 0x70, 0x700 or 0x7000000");
        let hexadecimal = |digits: &&str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let digits = text.strip_prefix("0x").filter(hexadecimal).ok_or_else(refused)?;
        let mask = u32::from_str_radix(digits, 16).map_err(|_| refused())?;
        let found = Self { shift: mask.trailing_zeros().min(u32::BITS - BITS) };
        if found.mask() == mask { Ok(found) } else { Err(refused()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_neighbouring_bits_and_nothing_else() {
        let bits: MarkBits = "0x70".parse().unwrap();
        assert_eq!((bits, bits.mask(), bits.underlay()), (MarkBits::default(), 0x70, 0x10));
        for text in ["0x7", "0x70", "0x380", "0xe0000000"] {
            assert_eq!(text.parse::<MarkBits>().unwrap().to_string(), text);
        }
        for text in
            ["", "0x", "70", "0x30", "0xf0", "0x50", "0x0", "0xc0000000", "0x700000000", "-0x70", "0x+7"]
        {
            assert!(text.parse::<MarkBits>().is_err(), "{text}");
        }
    }
}
