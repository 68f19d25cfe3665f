//! What has to be looked up elsewhere: when it is asked for, and what is kept of the answers.
//!
//! How an answer is got is not known here. Nothing is asked for twice at the same time, and not too much at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

/// How often is asked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// What was answered is asked for again after this time.
    pub refresh: Duration,
    /// What was not answered is asked for again after this time, which doubles with every failure …
    pub first_retry: Duration,
    /// … up to this.
    pub longest_retry: Duration,
    /// These times are shortened by up to so many percent, differently for every agent and every key.
    pub jitter: u32,
    /// So many are asked for at once.
    pub at_once: usize,
}

/// Values that are looked up by keys.
#[derive(Debug)]
pub struct Lookups<K, V> {
    pace: Pace,
    /// What makes the times of this agent differ from those of others.
    salt: String,
    entries: BTreeMap<K, Entry<V>>,
    /// Those that are not being asked for, by when they are to be; `None`: at once. It is looked at on every event.
    due: BTreeSet<(Option<Instant>, K)>,
    /// Those that are being asked for, also when they are not in use any more.
    asking: BTreeSet<K>,
    /// How many have no fresh value.
    errors: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: Option<V>,
    /// Whether the value was not answered but lent, until there is an answer.
    lent: bool,
    error: Option<String>,
    failures: u32,
    next: Option<Instant>,
}

impl<K: Ord + Clone + Hash, V: Clone + PartialEq> Lookups<K, V> {
    /// Nothing is in use yet. The salt is another one for every agent.
    pub fn new(pace: Pace, salt: &str) -> Self {
        Self {
            pace,
            salt: salt.to_owned(),
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            asking: BTreeSet::new(),
            errors: 0,
        }
    }

    /// These keys are in use; others are forgotten.
    pub fn retain(&mut self, used: BTreeSet<K>) {
        self.entries.retain(|key, _| used.contains(key));
        self.due.retain(|(_, key)| used.contains(key));
        self.errors = self.entries.values().filter(|entry| entry.error.is_some()).count();
        for key in used {
            if !self.entries.contains_key(&key) {
                if !self.asking.contains(&key) {
                    self.due.insert((None, key.clone()));
                }
                let entry = Entry { value: None, lent: false, error: None, failures: 0, next: None };
                self.entries.insert(key, entry);
            }
        }
    }

    /// A key to ask for now. It counts as being asked until it is answered.
    pub fn next(&mut self, now: Instant) -> Option<K> {
        if self.asking.len() >= self.pace.at_once {
            return None;
        }
        self.due.first().filter(|(at, _)| at.is_none_or(|at| at <= now))?;
        let (_, key) = self.due.pop_first()?;
        self.asking.insert(key.clone());
        Some(key)
    }

    /// When a key is to be asked for again. While as many are being asked for as may be, an answer is waited for.
    pub fn timeout(&self) -> Option<Instant> {
        if self.asking.len() >= self.pace.at_once { None } else { self.due.first()?.0 }
    }

    /// An answer. Without one the last value stays, if it was answered once. Returns whether the value or the error
    /// changed.
    pub fn answer(&mut self, key: &K, answer: Result<V, String>, now: Instant) -> bool {
        self.asking.remove(key);
        let Some(entry) = self.entries.get_mut(key) else { return false };
        self.due.remove(&(entry.next, key.clone()));
        self.errors -= usize::from(entry.error.is_some());
        let before = (entry.value.clone(), entry.error.take());
        let lent = std::mem::take(&mut entry.lent);
        let pause = match answer {
            Ok(value) => {
                entry.failures = 0;
                entry.value = Some(value);
                self.pace.refresh
            }
            Err(error) => {
                entry.value = entry.value.take().filter(|_| !lent);
                entry.error = Some(error);
                let doubled = self.pace.first_retry.saturating_mul(1 << entry.failures.min(16));
                entry.failures += 1;
                doubled.min(self.pace.longest_retry)
            }
        };
        let next = now + jittered(pause, self.pace.jitter, (&self.salt, key, entry.failures));
        entry.next = Some(next);
        self.due.insert((Some(next), key.clone()));
        self.errors += usize::from(entry.error.is_some());
        before != (entry.value.clone(), entry.error.clone())
    }

    /// A value to make do with until there is an answer.
    pub fn lend(&mut self, key: &K, value: V) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.value.is_none()
            && entry.error.is_none()
        {
            entry.value = Some(value);
            entry.lent = true;
        }
    }

    /// What has failed is asked for now.
    pub fn hurry(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.error.is_some()
            && self.due.remove(&(entry.next, key.clone()))
        {
            entry.next = None;
            self.due.insert((None, key.clone()));
        }
    }

    /// The value of a key, as far as known.
    pub fn value(&self, key: &K) -> Option<&V> {
        self.entries.get(key)?.value.as_ref()
    }

    /// Why a key has no fresh value.
    pub fn error(&self, key: &K) -> Option<&str> {
        self.entries.get(key)?.error.as_deref()
    }

    /// Whether any key has no fresh value.
    pub fn any_error(&self) -> bool {
        self.errors > 0
    }

    /// Whether every key has been answered at least once.
    pub fn is_all_answered(&self) -> bool {
        self.entries.values().all(|entry| entry.error.is_some() || entry.value.is_some() && !entry.lent)
    }

    /// The values that are known.
    pub fn values(&self) -> BTreeMap<K, V> {
        self.entries.iter().filter_map(|(key, entry)| Some((key.clone(), entry.value.clone()?))).collect()
    }
}

/// Agents that start together do not ask together for ever.
fn jittered(pause: Duration, percent: u32, by: impl Hash) -> Duration {
    if percent == 0 {
        return pause;
    }
    let mut hasher = DefaultHasher::new();
    by.hash(&mut hasher);
    let share = (hasher.finish() % 1000) as u32;
    pause - pause * percent / 100 * share / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        refresh: Duration::from_secs(300),
        first_retry: Duration::from_secs(10),
        longest_retry: Duration::from_secs(60),
        jitter: 0,
        at_once: 2,
    };

    fn lookups(pace: Pace, keys: &[&'static str]) -> Lookups<&'static str, u8> {
        let mut lookups = Lookups::new(pace, "a");
        lookups.retain(keys.iter().copied().collect());
        lookups
    }

    fn fails(lookups: &mut Lookups<&'static str, u8>, now: Instant) -> bool {
        lookups.answer(&"a", Err("no".to_owned()), now)
    }

    #[test]
    fn only_so_many_are_asked_for_at_once() {
        let now = Instant::now();
        let mut lookups = lookups(PACE, &["a", "b", "c"]);
        assert_eq!((lookups.next(now), lookups.next(now), lookups.next(now)), (Some("a"), Some("b"), None));
        assert_eq!(lookups.timeout(), None);
        // One that is not in use any more is still being asked for, and is not asked for twice.
        lookups.retain(["b", "c"].into());
        assert_eq!(lookups.next(now), None);
        lookups.retain(["a", "b", "c"].into());
        assert!(lookups.answer(&"a", Ok(1), now));
        assert_eq!((lookups.next(now), lookups.next(now)), (Some("c"), None));
        assert_eq!(lookups.value(&"a"), Some(&1));
    }

    #[test]
    fn failures_are_further_and_further_apart() {
        let mut now = Instant::now();
        let mut lookups = lookups(PACE, &["a"]);
        for seconds in [10, 20, 40, 60, 60] {
            assert_eq!(lookups.next(now), Some("a"));
            fails(&mut lookups, now);
            let at = lookups.timeout().unwrap();
            assert_eq!(at - now, Duration::from_secs(seconds));
            assert_eq!(lookups.next(at - Duration::from_millis(1)), None);
            now = at;
        }
        lookups.hurry(&"a");
        assert_eq!(lookups.next(now - Duration::from_secs(1)), Some("a"));
        assert!(lookups.answer(&"a", Ok(1), now) && !lookups.any_error());
        assert_eq!(lookups.timeout(), Some(now + PACE.refresh));
        lookups.hurry(&"a");
        assert_eq!(lookups.next(now), None, "what is known can wait");
    }

    #[test]
    fn an_answer_outlives_a_failure_and_a_loan_does_not() {
        let now = Instant::now();
        let mut lookups = lookups(PACE, &["a"]);
        lookups.lend(&"a", 7);
        assert_eq!((lookups.value(&"a"), lookups.is_all_answered()), (Some(&7), false));
        assert!(fails(&mut lookups, now) && lookups.is_all_answered());
        assert_eq!(lookups.value(&"a"), None);
        lookups.lend(&"a", 7);
        assert_eq!(lookups.value(&"a"), None, "it is known to be missing");
        lookups.answer(&"a", Ok(1), now);
        assert!(fails(&mut lookups, now) && !fails(&mut lookups, now), "only the first is news");
        assert_eq!((lookups.value(&"a"), lookups.error(&"a")), (Some(&1), Some("no")));
    }

    #[test]
    fn agents_ask_at_different_times() {
        let pace = Pace { jitter: 20, ..PACE };
        let now = Instant::now();
        let at = |agent: u32| {
            let mut lookups = Lookups::new(pace, &agent.to_string());
            lookups.retain(["a"].into());
            lookups.next(now);
            lookups.answer(&"a", Ok(1), now);
            lookups.timeout().unwrap() - now
        };
        let times: BTreeSet<Duration> = (0..100).map(at).collect();
        assert!(times.len() > 80, "{times:?}");
        let (first, last) = (times.first().unwrap(), times.last().unwrap());
        assert!(*first >= Duration::from_secs(240) && *last <= PACE.refresh, "{times:?}");
        assert!(*last - *first > Duration::from_secs(50), "{times:?}");
    }
}
