//! Which counters of a session have been seen: the sliding window of RFC 6479.

/// Counters this far behind the highest are refused. As large as the kernel's: several queues and a reordering network
/// may deliver far out of order.
const WINDOW_BITS: u64 = 8192;
const WORDS: usize = (WINDOW_BITS / 64) as usize;
/// One word is always being overwritten, so the guaranteed window is a word smaller.
const USABLE: u64 = WINDOW_BITS - 64;

/// The window of one session.
pub struct ReplayWindow {
    /// One more than the highest counter accepted.
    next: u64,
    words: Box<[u64; WORDS]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, words: Box::new([0; WORDS]) }
    }
}

impl ReplayWindow {
    /// Accepts each counter once, if it is not too old. Call it only for authenticated messages.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter == u64::MAX || counter.saturating_add(USABLE) < self.next {
            return false;
        }
        let word = counter / 64;
        if counter >= self.next {
            let last = self.next.saturating_sub(1) / 64;
            let fresh = (word - last).min(WORDS as u64);
            for offset in 1..=fresh {
                self.words[((last + offset) % WORDS as u64) as usize] = 0;
            }
            self.next = counter + 1;
        }
        let bit = 1 << (counter % 64);
        let slot = &mut self.words[(word % WORDS as u64) as usize];
        let new = *slot & bit == 0;
        *slot |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges_of_the_window() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(0) && !window.accept(0));
        assert!(window.accept(USABLE) && window.accept(1), "just inside");
        assert!(window.accept(USABLE + 2) && !window.accept(1) && !window.accept(2 - 1), "just outside");
        assert!(window.accept(1 << 40) && !window.accept(USABLE + 3), "a jump forgets what was before");
        assert!(window.accept(u64::MAX - 1) && !window.accept(u64::MAX - 1) && !window.accept(u64::MAX));
    }

    proptest! {
        #[test]
        fn every_counter_is_accepted_once(
            steps in prop::collection::vec(prop_oneof![0..300u64, 0..30_000u64], 1..2000)
        ) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            let mut highest = 0;
            for counter in steps {
                let expected = counter + USABLE > highest && !seen.contains(&counter);
                prop_assert_eq!(window.accept(counter), expected, "counter {}, highest {}", counter, highest);
                seen.insert(counter);
                highest = highest.max(counter);
            }
        }
    }
}
