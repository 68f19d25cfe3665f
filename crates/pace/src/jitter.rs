//! Numbers that keep many agents from doing the same thing at the same moment. They are not secret.

use std::time::Duration;

/// A sequence of numbers that follows from a seed. Two seeds give unrelated sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jitter(u64);

impl Jitter {
    /// The sequence of a seed: a random number, or something that only one host has, such as its public key.
    pub fn of(seed: &[u8]) -> Self {
        // FNV-1a; the steps below mix it.
        let hash = seed.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(hash)
    }

    /// The next number, from 0 to less than 1 (SplitMix64).
    pub fn number(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A duration from `least` to less than `most`.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_have_unrelated_sequences_over_the_whole_range() {
        let mut all: Vec<f64> = (0..1000u32).map(|seed| Jitter::of(&seed.to_le_bytes()).number()).collect();
        all.sort_by(f64::total_cmp);
        assert!(all.iter().all(|number| (0.0..1.0).contains(number)));
        let widest = all.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(widest < 0.02, "a gap of {widest}");
        assert_eq!(Jitter::of(b"a").number(), Jitter::of(b"a").number());
    }
}
