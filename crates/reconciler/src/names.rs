//! The addresses of endpoints that are DNS names: when they are asked for, and what is kept of the answers.
//!
//! Whoever may write an object can name a thousand hosts that do not exist, on a server that does not answer. So there are
//! only so many questions at a time, and names that were never answered take no more than half of them: those that are new
//! or known do not wait for those that are dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use pace::{Backoff, Jitter};

/// A name that was answered is asked for again after this time: dynamic DNS entries usually live as long.
const REFRESH: Duration = Duration::from_secs(60);

/// The pauses after which a name that was not answered is asked for again, the first and the longest. The pauses double
/// and are spread, so that the longest are between one and two minutes.
const RETRY: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(120));

/// How many names are asked for at a time, and how many of these may be names that were asked for and never answered.
const ASKED_AT_A_TIME: (usize, usize) = (16, 8);

/// Whose endpoint a name is. The mesh is made of nodes, so they come first.
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
    /// The address.
    Address,
    /// Only whether the name is answered.
    Error,
    /// Nothing.
    Nothing,
}

/// The names in use.
#[derive(Debug)]
pub struct Names {
    names: BTreeMap<String, Entry>,
    /// Those that are not being asked for, by when they are to be; `None`: at once. It is looked at on every event.
    due: BTreeSet<Due>,
    /// The same of those that were never answered.
    dead: BTreeSet<Due>,
    /// Those that are being asked for, and whether they had never been answered. Some may not be in use any more.
    asked: BTreeMap<String, bool>,
    /// How many of these had never been answered.
    dead_asked: usize,
    /// How many have no fresh address.
    errors: usize,
    /// Grows with every change of an error.
    revision: u64,
    seed: Vec<u8>,
}

type Due = (Option<Instant>, Owner, String);

#[derive(Debug)]
struct Entry {
    owner: Owner,
    address: Option<IpAddr>,
    error: Option<String>,
    next: Option<Instant>,
    retry: Backoff,
}

impl Entry {
    fn is_dead(&self) -> bool {
        self.address.is_none() && self.error.is_some()
    }
}

impl Names {
    /// No names yet. What the seed is does not matter, as long as no other host has the same.
    pub fn new(seed: &[u8]) -> Self {
        Self {
            names: BTreeMap::new(),
            due: BTreeSet::new(),
            dead: BTreeSet::new(),
            asked: BTreeMap::new(),
            dead_asked: 0,
            errors: 0,
            revision: 0,
            seed: seed.to_owned(),
        }
    }

    /// These names are in use; others are forgotten.
    pub fn retain(&mut self, used: BTreeMap<String, Owner>) {
        self.names.retain(|name, _| used.contains_key(name));
        self.due.retain(|(_, _, name)| used.contains_key(name));
        self.dead.retain(|(_, _, name)| used.contains_key(name));
        let errors = self.names.values().filter(|entry| entry.error.is_some()).count();
        self.revision += u64::from(errors != self.errors);
        self.errors = errors;
        for (name, owner) in used {
            if !self.names.contains_key(&name) {
                if !self.asked.contains_key(&name) {
                    self.due.insert((None, owner, name.clone()));
                }
                let seed = [&self.seed, name.as_bytes()].concat();
                let retry = Backoff::new(RETRY.0, RETRY.1, Jitter::of(&seed));
                self.names.insert(name, Entry { owner, address: None, error: None, next: None, retry });
            }
        }
    }

    /// A name to ask for now. It counts as being asked until it is answered.
    pub fn next(&mut self, now: Instant) -> Option<String> {
        let is_due = |(at, _, _): &&Due| at.is_none_or(|at| at <= now);
        if self.asked.len() >= ASKED_AT_A_TIME.0 {
            return None;
        }
        let (_, _, name) = if self.due.first().as_ref().is_some_and(is_due) {
            self.due.pop_first()?
        } else if self.dead_asked < ASKED_AT_A_TIME.1 && self.dead.first().as_ref().is_some_and(is_due) {
            self.dead.pop_first()?
        } else {
            return None;
        };
        let dead = self.names.get(&name).is_some_and(Entry::is_dead);
        self.dead_asked += usize::from(dead);
        self.asked.insert(name.clone(), dead);
        Some(name)
    }

    /// When [`Names::next`] may have one although nothing is answered.
    pub fn timeout(&self) -> Option<Instant> {
        if self.asked.len() >= ASKED_AT_A_TIME.0 {
            return None;
        }
        let dead = self.dead.first().filter(|_| self.dead_asked < ASKED_AT_A_TIME.1);
        self.due.first().into_iter().chain(dead).filter_map(|(at, _, _)| *at).min()
    }

    /// An answer. Of several addresses the one in use stays if it is still among them; else the first IPv4 one, else
    /// the first. Without an answer the last known address stays. Of several errors in a row the first counts: a name server
    /// that is overloaded has a new one every time.
    pub fn answer(&mut self, name: &str, answer: Result<Vec<IpAddr>, String>, now: Instant) -> Answered {
        if self.asked.remove(name) == Some(true) {
            self.dead_asked -= 1;
        }
        let Some(entry) = self.names.get_mut(name) else { return Answered::Nothing };
        let due = (entry.next, entry.owner, name.to_owned());
        self.due.remove(&due);
        self.dead.remove(&due);
        let before = (entry.address, entry.error.is_some());
        let error = match answer {
            Ok(addresses) if !addresses.is_empty() => {
                if !entry.address.is_some_and(|address| addresses.contains(&address)) {
                    entry.address = addresses.iter().find(|ip| ip.is_ipv4()).or(addresses.first()).copied();
                }
                None
            }
            Ok(_) => Some("the name exists but has no address".to_owned()),
            Err(error) => Some(error),
        };
        entry.error = match error {
            None => {
                entry.retry.succeed();
                entry.next = Some(now + REFRESH);
                None
            }
            Some(error) => {
                entry.next = Some(now + entry.retry.pause());
                Some(entry.error.take().unwrap_or(error))
            }
        };
        let queue = if entry.is_dead() { &mut self.dead } else { &mut self.due };
        queue.insert((entry.next, entry.owner, name.to_owned()));
        let is_error = entry.error.is_some();
        self.errors = self.errors + usize::from(is_error) - usize::from(before.1);
        self.revision += u64::from(is_error != before.1);
        match (before.0 != entry.address, before.1 != is_error) {
            (true, _) => Answered::Address,
            (false, true) => Answered::Error,
            (false, false) => Answered::Nothing,
        }
    }

    /// Whether any name has no fresh address.
    pub fn any_error(&self) -> bool {
        self.errors > 0
    }

    /// Grows whenever what [`Names::error`] says may have changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether every name has been answered at least once. Peers' names are not waited for when many do not resolve.
    pub fn is_all_answered(&self) -> bool {
        let waived = |entry: &Entry| entry.owner == Owner::Peer && self.errors >= ASKED_AT_A_TIME.0;
        self.names.values().all(|entry| entry.address.is_some() || entry.error.is_some() || waived(entry))
    }

    /// The addresses that are known.
    pub fn resolved(&self) -> BTreeMap<String, IpAddr> {
        self.names.iter().filter_map(|(name, entry)| Some((name.clone(), entry.address?))).collect()
    }

    /// Why a name has no fresh address.
    pub fn error(&self, name: &str) -> Option<&str> {
        self.names.get(name)?.error.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<'a>(names: impl IntoIterator<Item = (&'a str, Owner)>) -> Names {
        let mut all = Names::new(b"seed");
        all.retain(names.into_iter().map(|(name, owner)| (name.to_owned(), owner)).collect());
        all
    }

    #[test]
    fn keeps_the_last_good_address() {
        let now = Instant::now();
        let mut names = names([("a.example", Owner::Node)]);
        assert_eq!(names.next(now).as_deref(), Some("a.example"));
        assert_eq!(names.next(now), None, "it is being asked already");
        let addresses: Vec<IpAddr> = vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        assert_eq!(names.answer("a.example", Ok(addresses), now), Answered::Address);
        assert_eq!(names.resolved()["a.example"].to_string(), "192.0.2.1");
        let later = now + REFRESH;
        assert_eq!(names.answer("a.example", Err("timed out".to_owned()), later), Answered::Error);
        assert_eq!(names.resolved()["a.example"].to_string(), "192.0.2.1");
        assert_eq!(names.error("a.example"), Some("timed out"));
        let pause = names.timeout().unwrap() - later;
        assert!(pause >= RETRY.0 / 2 && pause <= RETRY.0 * 3 / 2, "{pause:?}");
    }

    #[test]
    fn of_errors_in_a_row_the_first_counts() {
        let now = Instant::now();
        let mut names = names([("a.example", Owner::Peer)]);
        assert_eq!(names.answer("a.example", Err("timed out".to_owned()), now), Answered::Error);
        let revision = names.revision();
        for error in ["server failure", "timed out", "refused"] {
            assert_eq!(names.answer("a.example", Err(error.to_owned()), now), Answered::Nothing);
        }
        assert_eq!((names.error("a.example"), names.revision()), (Some("timed out"), revision));
    }

    /// A name that is dropped and used again while it is asked for is not asked for twice, and its place is free later.
    #[test]
    fn a_question_under_way_keeps_its_place() {
        let now = Instant::now();
        let mut names = names([("a.example", Owner::Node)]);
        assert!(names.next(now).is_some());
        names.retain(BTreeMap::new());
        names.retain([("a.example".to_owned(), Owner::Node)].into());
        assert_eq!((names.next(now), names.asked.len()), (None, 1));
        names.answer("a.example", Ok(vec!["192.0.2.1".parse().unwrap()]), now);
        assert_eq!((names.asked.len(), names.resolved().len()), (0, 1));
    }

    #[test]
    fn dead_names_do_not_hold_up_the_others() {
        let mut now = Instant::now();
        let dead: Vec<String> = (0..100).map(|index| format!("{index}.example")).collect();
        let mut used: BTreeMap<String, Owner> = dead.iter().map(|name| (name.clone(), Owner::Peer)).collect();
        let mut names = names([]);
        names.retain(used.clone());
        while let Some(name) = names.next(now) {
            names.answer(&name, Err("timed out".to_owned()), now);
        }
        assert!(names.is_all_answered());
        // They are asked for again, and nobody answers.
        now += RETRY.1;
        assert_eq!(std::iter::from_fn(|| names.next(now)).count(), ASKED_AT_A_TIME.1);
        assert_eq!(names.timeout(), None, "only an answer makes room");
        used.insert("z.example".to_owned(), Owner::Node);
        used.insert("b.example".to_owned(), Owner::Peer);
        names.retain(used);
        let next = [names.next(now), names.next(now), names.next(now)];
        assert_eq!(next.each_ref().map(Option::as_deref), [Some("z.example"), Some("b.example"), None]);
        assert!(!names.is_all_answered(), "a node's name is waited for");
        names.answer("z.example", Ok(vec!["192.0.2.1".parse().unwrap()]), now);
        assert!(names.is_all_answered());
    }
}
