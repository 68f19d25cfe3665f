//! Failures of something that is asked again and again: what fails for good must neither keep a processor busy nor fill
//! the log.

use std::time::Duration;

/// So many in a row may be single ones, for example of datagrams that were answered by an error of the network.
const SINGLE: u32 = 16;
/// The first pause; it doubles …
const FIRST: Duration = Duration::from_millis(1);
/// … up to this, which is also how long threads may need to end.
const LONGEST: Duration = Duration::from_millis(256);

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Failures(u32);

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Advice {
    /// How long to wait before the next try; zero: not at all.
    pub(super) pause: Duration,
    /// Whether it is to be told: once for all failures in a row.
    pub(super) is_news: bool,
}

impl Failures {
    /// It failed.
    pub(super) fn fail(&mut self) -> Advice {
        self.0 = self.0.saturating_add(1);
        let Some(further) = self.0.checked_sub(SINGLE + 1) else {
            return Advice { pause: Duration::ZERO, is_news: false };
        };
        Advice { pause: LONGEST.min(FIRST * (1 << further.min(16))), is_news: further == 0 }
    }

    /// It worked. Returns whether that is news.
    pub(super) fn succeed(&mut self) -> bool {
        std::mem::take(&mut self.0) > SINGLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_failures_cost_nothing_and_lasting_ones_little() {
        let mut failures = Failures::default();
        let singles: Vec<_> = (0..SINGLE).map(|_| failures.fail()).collect();
        assert!(singles.iter().all(|advice| advice.pause.is_zero() && !advice.is_news));
        assert!(!failures.succeed());
        let advice: Vec<_> = (0..SINGLE + 100).map(|_| failures.fail()).collect();
        assert_eq!(advice.iter().filter(|advice| advice.is_news).count(), 1);
        let pauses: Vec<_> = advice[SINGLE as usize..].iter().map(|advice| advice.pause).collect();
        assert!(pauses.is_sorted() && pauses[0] == FIRST && pauses[99] == LONGEST, "{pauses:?}");
        assert!(failures.succeed() && !failures.succeed());
        assert!(failures.fail().pause.is_zero());
    }
}
