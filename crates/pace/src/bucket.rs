//! How many of a kind in a time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A token bucket: some at once, and then one in a time. It is kept as the moment at which it is full again (the generic
/// cell rate algorithm), so it costs two words and nothing ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    burst: u32,
    every: Duration,
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full one: `burst` at once, and one more after each `every`.
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, full_at: None }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let has_one = self.next(now) <= now;
        if has_one {
            self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + self.every);
        }
        has_one
    }

    /// From now on, one more comes after each `every`. As many are missing as before.
    pub fn refill_every(&mut self, every: Duration, now: Instant) {
        if let Some(full_at) = self.full_at {
            let missing = full_at.saturating_duration_since(now);
            self.full_at = Some(now + missing.mul_f64(every.as_secs_f64() / self.every.as_secs_f64()));
        }
        self.every = every;
    }

    /// When there is one: now, or later.
    pub fn next(&self, now: Instant) -> Instant {
        let Some(full_at) = self.full_at else { return now };
        // One more must fit below the brim.
        let missing = (full_at + self.every).saturating_duration_since(now);
        now + missing.saturating_sub(self.every * self.burst)
    }

    /// Whether nothing has been taken for so long that it may as well be forgotten.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

/// Limits something that comes from many sources: for each source, so that one does not hide the others, and for all of
/// them together. It is as large as what it lets through.
#[derive(Debug, Clone)]
pub struct Filter<K> {
    all: Bucket,
    each: Bucket,
    sources: BTreeMap<K, Bucket>,
}

impl<K: Ord + Clone> Filter<K> {
    /// As full buckets: one for all, and one like `each` for each source.
    pub const fn new(all: Bucket, each: Bucket) -> Self {
        Self { all, each, sources: BTreeMap::new() }
    }

    /// Lets one of a source through, or not.
    pub fn take(&mut self, source: &K, now: Instant) -> bool {
        if self.all.next(now) > now {
            return false;
        }
        let bucket = self.sources.entry(source.clone()).or_insert_with(|| self.each.clone());
        let passes = bucket.take(now) && self.all.take(now);
        self.sources.retain(|_, bucket| !bucket.is_full(now));
        passes
    }

    /// When one of a source that has not come before is let through: now, or later.
    pub fn next(&self, now: Instant) -> Instant {
        self.all.next(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_burst_and_then_one_in_a_time() {
        let (mut bucket, start) = (Bucket::new(25, MINUTE), Instant::now());
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 25);
        assert_eq!(bucket.next(start), start + MINUTE);
        assert!(!bucket.take(start + MINUTE - Duration::from_nanos(1)) && !bucket.is_full(start + MINUTE));
        assert!(bucket.take(start + MINUTE) && !bucket.take(start + MINUTE));
        assert!(bucket.is_full(start + 26 * MINUTE));
        assert_eq!((0..100).filter(|_| bucket.take(start + 90 * MINUTE)).count(), 25, "no more than a burst");
    }

    #[test]
    fn one_source_does_not_hide_the_others() {
        let second = Duration::from_secs(1);
        let mut filter = Filter::new(Bucket::new(10, second), Bucket::new(3, MINUTE));
        let start = Instant::now();
        assert_eq!((0..100).filter(|_| filter.take(&"a", start)).count(), 3);
        assert_eq!((0..100).filter(|_| filter.take(&"b", start)).count(), 3);
        let many: Vec<String> = (0..1000).map(|index| index.to_string()).collect();
        assert_eq!(many.iter().filter(|source| filter.take(&source.as_str(), start)).count(), 4);
        assert_eq!((filter.next(start), filter.sources.len()), (start + second, 6));
        assert!(filter.take(&"c", start + MINUTE * 9) && filter.sources.len() == 1);
    }

    proptest! {
        /// Whenever it is asked, it gives no more than the burst and what the time allows.
        #[test]
        fn it_never_gives_more(pauses in proptest::collection::vec(0u64..30, 1..200)) {
            let (mut bucket, start) = (Bucket::new(5, Duration::from_secs(10)), Instant::now());
            let (mut now, mut taken) = (start, 0u64);
            for pause in pauses {
                now += Duration::from_secs(pause);
                prop_assert_eq!(bucket.next(now) <= now, bucket.clone().take(now));
                taken += u64::from(bucket.take(now));
                prop_assert!(taken <= 5 + (now - start).as_secs() / 10);
            }
        }
    }
}
