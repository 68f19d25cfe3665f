//! What has to be looked up elsewhere: when it is asked for, and what is kept of the answers.
//!
//! How an answer is got is not known here. Whoever may write an object can name a thousand hosts or Secrets that do not exist,
//! on a server that does not answer. So there are only so many questions at a time, nothing is asked for twice at the same
//! time, and what was never answered takes no more than a part of them: what is new or known does not wait for what is dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use pace::{Backoff, Jitter};

/// How often is asked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// What was answered is asked for again after this time, shortened by up to a fifth.
    pub refresh: Duration,
    /// The pauses after which what was not answered is asked for again, the first and the longest. They double and are
    /// spread, see [`Backoff`].
    pub retry: (Duration, Duration),
    /// How many are asked for at a time, and how many of these may be such that were asked for and never answered.
    pub at_once: (usize, usize),
    /// Whether, of several errors in a row, the first counts. Else the last one does.
    pub first_error_counts: bool,
}

/// Who needs a value. The mesh is made of nodes, so theirs come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A node.
    Node,
    /// A Peer.
    Peer,
}

/// What an answer has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The value.
    Value,
    /// Only what is said of it.
    Error,
    /// Nothing.
    Nothing,
}

/// Values that are looked up by keys.
#[derive(Debug)]
pub struct Lookups<K, V> {
    pace: Pace,
    seed: Vec<u8>,
    entries: BTreeMap<K, Entry<V>>,
    /// Those that are not being asked for, by when they are to be; `None`: at once. It is looked at on every event.
    due: BTreeSet<Due<K>>,
    /// The same of those that were never answered.
    dead: BTreeSet<Due<K>>,
    /// Those that are being asked for, and whether they had never been answered. Some may not be in use any more.
    asked: BTreeMap<K, bool>,
    /// How many of these had never been answered.
    dead_asked: usize,
    /// How many have no fresh value.
    errors: usize,
    /// Grows with every change of an error.
    revision: u64,
}

type Due<K> = (Option<Instant>, Owner, K);

#[derive(Debug)]
struct Entry<V> {
    owner: Owner,
    value: Option<V>,
    /// Whether the value was not answered but lent, until there is an answer.
    lent: bool,
    error: Option<String>,
    next: Option<Instant>,
    retry: Backoff,
    jitter: Jitter,
}

impl<V> Entry<V> {
    fn is_dead(&self) -> bool {
        self.value.is_none() && self.error.is_some()
    }

    fn is_answered(&self) -> bool {
        self.error.is_some() || self.value.is_some() && !self.lent
    }
}

impl<K: Ord + Clone + ToString, V: Clone + PartialEq> Lookups<K, V> {
    /// Nothing is in use yet. What the seed is does not matter, as long as no other host has the same.
    pub fn new(pace: Pace, seed: &[u8]) -> Self {
        Self {
            pace,
            seed: seed.to_owned(),
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            dead: BTreeSet::new(),
            asked: BTreeMap::new(),
            dead_asked: 0,
            errors: 0,
            revision: 0,
        }
    }

    /// These keys are in use; others are forgotten.
    pub fn retain(&mut self, used: BTreeMap<K, Owner>) {
        self.entries.retain(|key, _| used.contains_key(key));
        self.due.retain(|(_, _, key)| used.contains_key(key));
        self.dead.retain(|(_, _, key)| used.contains_key(key));
        let errors = self.entries.values().filter(|entry| entry.error.is_some()).count();
        self.revision += u64::from(errors != self.errors);
        self.errors = errors;
        for (key, owner) in used {
            if self.entries.contains_key(&key) {
                continue;
            }
            if !self.asked.contains_key(&key) {
                self.due.insert((None, owner, key.clone()));
            }
            let mut jitter = Jitter::of(&[&self.seed, key.to_string().as_bytes()].concat());
            let retry = Backoff::new(self.pace.retry.0, self.pace.retry.1, jitter.clone());
            jitter.number();
            let entry = Entry { owner, value: None, lent: false, error: None, next: None, retry, jitter };
            self.entries.insert(key, entry);
        }
    }

    /// A key to ask for now. It counts as being asked until it is answered.
    pub fn next(&mut self, now: Instant) -> Option<K> {
        let is_due = |(at, _, _): &&Due<K>| at.is_none_or(|at| at <= now);
        if self.asked.len() >= self.pace.at_once.0 {
            return None;
        }
        let (_, _, key) = if self.due.first().as_ref().is_some_and(is_due) {
            self.due.pop_first()?
        } else if self.dead_asked < self.pace.at_once.1 && self.dead.first().as_ref().is_some_and(is_due) {
            self.dead.pop_first()?
        } else {
            return None;
        };
        let dead = self.entries.get(&key).is_some_and(Entry::is_dead);
        self.dead_asked += usize::from(dead);
        self.asked.insert(key.clone(), dead);
        Some(key)
    }

    /// When [`Lookups::next`] may have one although nothing is answered.
    pub fn timeout(&self) -> Option<Instant> {
        if self.asked.len() >= self.pace.at_once.0 {
            return None;
        }
        let dead = self.dead.first().filter(|_| self.dead_asked < self.pace.at_once.1);
        self.due.first().into_iter().chain(dead).filter_map(|(at, _, _)| *at).min()
    }

    /// An answer. Without one the last value stays, if it was answered once.
    pub fn answer(&mut self, key: &K, answer: Result<V, String>, now: Instant) -> Answered {
        if self.asked.remove(key) == Some(true) {
            self.dead_asked -= 1;
        }
        let Some(entry) = self.entries.get_mut(key) else { return Answered::Nothing };
        let due = (entry.next, entry.owner, key.clone());
        self.due.remove(&due);
        self.dead.remove(&due);
        let before = (entry.value.clone(), entry.error.take());
        let lent = std::mem::take(&mut entry.lent);
        let pause = match answer {
            Ok(value) => {
                entry.value = Some(value);
                entry.retry.succeed();
                self.pace.refresh.mul_f64(1.0 - entry.jitter.number() / 5.0)
            }
            Err(error) => {
                entry.value = entry.value.take().filter(|_| !lent);
                let first = before.1.clone().filter(|_| self.pace.first_error_counts);
                entry.error = Some(first.unwrap_or(error));
                entry.retry.pause()
            }
        };
        entry.next = Some(now + pause);
        let queue = if entry.is_dead() { &mut self.dead } else { &mut self.due };
        queue.insert((entry.next, entry.owner, key.clone()));
        self.errors = self.errors + usize::from(entry.error.is_some()) - usize::from(before.1.is_some());
        let other_error = entry.error != before.1;
        self.revision += u64::from(other_error);
        match (entry.value != before.0, other_error) {
            (true, _) => Answered::Value,
            (false, true) => Answered::Error,
            (false, false) => Answered::Nothing,
        }
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
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.error.is_some()) else { return };
        let due = (entry.next, entry.owner, key.clone());
        if self.due.remove(&due) || self.dead.remove(&due) {
            entry.next = None;
            self.due.insert((None, entry.owner, key.clone()));
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

    /// Grows whenever what [`Lookups::error`] says may have changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether every key has been answered at least once. Those of Peers are not waited for when many have no answer.
    pub fn is_all_answered(&self) -> bool {
        let waived = |entry: &Entry<V>| entry.owner == Owner::Peer && self.errors >= self.pace.at_once.0;
        self.entries.values().all(|entry| entry.is_answered() || waived(entry))
    }

    /// The values that are known.
    pub fn values(&self) -> BTreeMap<K, V> {
        self.entries.iter().filter_map(|(key, entry)| Some((key.clone(), entry.value.clone()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        refresh: Duration::from_secs(300),
        retry: (Duration::from_secs(10), Duration::from_secs(60)),
        at_once: (2, 1),
        first_error_counts: false,
    };

    type Numbers = Lookups<String, u8>;

    fn used(keys: &[&str]) -> BTreeMap<String, Owner> {
        keys.iter().map(|key| ((*key).to_owned(), Owner::Peer)).collect()
    }

    fn lookups(pace: Pace, keys: &[&str]) -> Numbers {
        let mut lookups = Lookups::new(pace, b"seed");
        lookups.retain(used(keys));
        lookups
    }

    fn fails(lookups: &mut Numbers, key: &str, now: Instant) -> Answered {
        lookups.answer(&key.to_owned(), Err("no".to_owned()), now)
    }

    fn answers(lookups: &mut Numbers, key: &str, now: Instant) -> Answered {
        lookups.answer(&key.to_owned(), Ok(1), now)
    }

    #[test]
    fn only_so_many_are_asked_for_at_once() {
        let now = Instant::now();
        let mut lookups = lookups(PACE, &["a", "b", "c"]);
        let next = [lookups.next(now), lookups.next(now), lookups.next(now)];
        assert_eq!(next.each_ref().map(Option::as_deref), [Some("a"), Some("b"), None]);
        assert_eq!(lookups.timeout(), None);
        // One that is not in use any more is still being asked for, and is not asked for twice.
        lookups.retain(used(&["b", "c"]));
        assert_eq!(lookups.next(now), None);
        lookups.retain(used(&["a", "b", "c"]));
        assert_eq!(answers(&mut lookups, "a", now), Answered::Value);
        assert_eq!([lookups.next(now).as_deref(), lookups.next(now).as_deref()], [Some("c"), None]);
        assert_eq!(lookups.value(&"a".to_owned()), Some(&1));
    }

    #[test]
    fn failures_are_further_and_further_apart() {
        let mut now = Instant::now();
        let mut lookups = lookups(PACE, &["a"]);
        for seconds in [10, 20, 40, 60, 60] {
            assert_eq!(lookups.next(now).as_deref(), Some("a"));
            fails(&mut lookups, "a", now);
            let pause = lookups.timeout().unwrap() - now;
            let doubled = Duration::from_secs(seconds);
            assert!(pause >= doubled / 2 && pause <= (doubled * 3 / 2).min(PACE.retry.1), "{pause:?}");
            assert_eq!(lookups.next(now + pause - Duration::from_millis(1)), None);
            now += pause;
        }
        lookups.hurry(&"a".to_owned());
        assert_eq!(lookups.next(now - Duration::from_secs(1)).as_deref(), Some("a"));
        assert_eq!(answers(&mut lookups, "a", now), Answered::Value);
        assert!(!lookups.any_error());
        let refresh = lookups.timeout().unwrap() - now;
        assert!(refresh <= PACE.refresh && refresh >= PACE.refresh * 4 / 5, "{refresh:?}");
        lookups.hurry(&"a".to_owned());
        assert_eq!(lookups.next(now), None, "what is known can wait");
    }

    #[test]
    fn an_answer_outlives_a_failure_and_a_loan_does_not() {
        let now = Instant::now();
        let a = "a".to_owned();
        let mut lookups = lookups(PACE, &["a"]);
        lookups.lend(&a, 7);
        assert_eq!((lookups.value(&a), lookups.is_all_answered()), (Some(&7), false));
        assert_eq!(fails(&mut lookups, "a", now), Answered::Value);
        assert_eq!((lookups.value(&a), lookups.is_all_answered()), (None, true));
        lookups.lend(&a, 7);
        assert_eq!(lookups.value(&a), None, "it is known to be missing");
        answers(&mut lookups, "a", now);
        let news = [fails(&mut lookups, "a", now), fails(&mut lookups, "a", now)];
        assert_eq!(news, [Answered::Error, Answered::Nothing]);
        assert_eq!((lookups.value(&a), lookups.error(&a)), (Some(&1), Some("no")));
    }

    #[test]
    fn the_first_error_counts_or_the_last() {
        let now = Instant::now();
        let a = "a".to_owned();
        for (first_error_counts, expected) in [(true, "no"), (false, "never")] {
            let mut lookups = lookups(Pace { first_error_counts, ..PACE }, &["a"]);
            assert_eq!(fails(&mut lookups, "a", now), Answered::Error);
            let revision = lookups.revision();
            let other = lookups.answer(&a, Err("never".to_owned()), now);
            assert_eq!(lookups.error(&a), Some(expected));
            assert_eq!(other == Answered::Nothing, first_error_counts);
            assert_eq!(lookups.revision() == revision, first_error_counts);
        }
    }

    #[test]
    fn what_is_dead_does_not_hold_up_the_others() {
        let mut now = Instant::now();
        let pace = Pace { at_once: (16, 8), ..PACE };
        let dead: Vec<String> = (0..100).map(|index| format!("{index}.example")).collect();
        let mut all: BTreeMap<String, Owner> = dead.iter().map(|key| (key.clone(), Owner::Peer)).collect();
        let mut lookups = lookups(pace, &[]);
        lookups.retain(all.clone());
        while let Some(key) = lookups.next(now) {
            fails(&mut lookups, &key, now);
        }
        assert!(lookups.is_all_answered());
        // They are asked for again, and nobody answers.
        now += PACE.retry.1;
        assert_eq!(std::iter::from_fn(|| lookups.next(now)).count(), 8);
        assert_eq!(lookups.timeout(), None, "only an answer makes room");
        all.insert("z.example".to_owned(), Owner::Node);
        all.insert("b.example".to_owned(), Owner::Peer);
        lookups.retain(all);
        let next = [lookups.next(now), lookups.next(now), lookups.next(now)];
        assert_eq!(next.each_ref().map(Option::as_deref), [Some("z.example"), Some("b.example"), None]);
        assert!(!lookups.is_all_answered(), "a node's is waited for");
        answers(&mut lookups, "z.example", now);
        assert!(lookups.is_all_answered());
    }

    #[test]
    fn agents_ask_at_different_times() {
        let now = Instant::now();
        let at = |agent: u32| {
            let mut lookups: Numbers = Lookups::new(PACE, &agent.to_le_bytes());
            lookups.retain(used(&["a"]));
            lookups.next(now);
            answers(&mut lookups, "a", now);
            lookups.timeout().unwrap() - now
        };
        let times: BTreeSet<Duration> = (0..100).map(at).collect();
        assert!(times.len() > 80, "{times:?}");
        let (first, last) = (times.first().unwrap(), times.last().unwrap());
        assert!(*first >= Duration::from_secs(240) && *last <= PACE.refresh, "{times:?}");
        assert!(*last - *first > Duration::from_secs(50), "{times:?}");
    }
}
