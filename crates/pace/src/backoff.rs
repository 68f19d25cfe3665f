//! The pauses between attempts that fail.

use std::time::Duration;

use crate::Jitter;

/// Pauses that double from the first to the longest, each between half and one and a half of that, so that many who
/// failed at the same moment do not come back at the same moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    /// Nothing has failed yet. No pause of our own is longer than `longest`.
    pub fn new(first: Duration, longest: Duration, jitter: Jitter) -> Self {
        Self { first: first.min(longest), longest, failures: 0, jitter }
    }

    /// The pause before the next attempt, after one has failed.
    pub fn pause(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.longest).mul_f64(0.5 + self.jitter.number()).min(self.longest)
    }

    /// The pause when whoever has answered asks for one (`Retry-After`): never shorter than that, and at most a quarter
    /// longer. Whoever asks may be a proxy that knows nothing of what it stops, so no more than `most` is believed.
    pub fn pause_as_asked(&mut self, asked: Option<Duration>, most: Duration) -> Duration {
        let own = self.pause();
        let Some(asked) = asked.map(|asked| asked.min(most)) else { return own };
        own.max(asked.mul_f64(1.0 + self.jitter.number() / 4.0))
    }

    /// An attempt has succeeded.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest() {
        for seed in 0..100u8 {
            let mut backoff = Backoff::new(SECOND, 30 * SECOND, Jitter::of(&[seed]));
            for doubled in [1, 2, 4, 8, 16, 30, 30, 30] {
                let (pause, doubled) = (backoff.pause(), doubled * SECOND);
                assert!(pause >= doubled / 2 && pause <= (doubled * 3 / 2).min(30 * SECOND), "{pause:?}");
            }
            backoff.succeed();
            assert!(backoff.pause() <= SECOND * 3 / 2);
        }
    }

    proptest! {
        #[test]
        fn what_is_asked_for_is_kept_within_reason(asked in 0u64..100_000, failures in 0u32..100, seed: u64) {
            let mut backoff = Backoff::new(SECOND, 30 * SECOND, Jitter::of(&seed.to_le_bytes()));
            (0..failures).for_each(|_| _ = backoff.pause());
            let pause = backoff.pause_as_asked(Some(Duration::from_secs(asked)), Duration::from_secs(300));
            prop_assert!(pause >= Duration::from_secs(asked.min(300)));
            prop_assert!(pause <= Duration::from_secs(asked.min(300)).mul_f64(1.25).max(30 * SECOND));
        }
    }
}
