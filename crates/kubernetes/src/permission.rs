//! Which annotations of the own Node the API lets the agent write.
//!
//! A policy of the cluster may refuse a patch because of one annotation that it does not know. Then the patch is taken apart:
//! the heartbeat comes first, and by itself, then what Go agents read too, then the rest; and each of these is halved until
//! it is known which annotations are refused. They are left out from then on, and tried again after a while. How requests
//! are sent is not known here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use mesh::{Object, Problem};
use pace::{Backoff, Jitter};

use crate::annotations as name;

/// The pauses after which refused annotations are tried again, the first and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(3600));

/// Annotations with their values; `None` is one that is not to be there.
pub type Annotations = BTreeMap<&'static str, Option<String>>;

/// What is known about what may be written.
#[derive(Debug, Clone)]
pub struct Permission {
    /// What was refused, and what the API said, by annotation.
    refused: BTreeMap<&'static str, String>,
    again: Backoff,
    again_at: Option<Instant>,
}

impl Permission {
    /// Everything may be written. What the seed is does not matter, as long as no other host has the same.
    pub fn new(seed: &[u8]) -> Self {
        let again = Backoff::new(AGAIN.0, AGAIN.1, Jitter::of(seed));
        Self { refused: BTreeMap::new(), again, again_at: None }
    }

    /// The requests that write this, one after another.
    pub fn attempts(&mut self, changed: Annotations, now: Instant) -> Attempts<'_> {
        let (refused, free): (Annotations, Annotations) =
            changed.into_iter().partition(|(key, _)| self.refused.contains_key(key));
        let again = self.again_at.is_none_or(|at| at <= now);
        let waiting = match self.refused.contains_key(name::LAST_SEEN) {
            // Whether it is refused still decides about everything else.
            true => [Some(refused), Some(free)],
            false => [Some(free), Some(refused).filter(|_| again)],
        };
        let waiting = waiting.into_iter().flatten().filter(|group| !group.is_empty()).collect();
        Attempts { permission: self, waiting, under_way: Annotations::new(), found: false, ended: None, now }
    }

    /// What is refused, as a problem of the own Node.
    pub fn problem(&self, node: &str) -> Option<Problem> {
        let said = self.refused.get(name::LAST_SEEN).or_else(|| self.refused.values().next())?;
        let message = if self.refused.contains_key(name::LAST_SEEN) {
            format!(
                "the API server refuses even the heartbeat ({}) that this agent writes to its Node, so the other nodes take \
                 it for dead: {said}; let the policy allow this agent the annotations {}* of its own Node",
                name::LAST_SEEN,
                name::PREFIX
            )
        } else {
            let names: Vec<&str> = self.refused.keys().copied().collect();
            format!(
                "the API server refuses {} that this agent writes to its Node: {said}; let the policy allow this agent all \
                 annotations that agents write, see docs/annotations.md. The others are written",
                names.join(", ")
            )
        };
        Some(Problem::new(Object::Node(node.to_owned()), "PatchRefused", message))
    }
}

/// The requests of one patch. Their number is bounded: twice as many as there are annotations.
#[derive(Debug)]
pub struct Attempts<'a> {
    permission: &'a mut Permission,
    waiting: VecDeque<Annotations>,
    under_way: Annotations,
    /// Whether something new was refused.
    found: bool,
    /// What the API said when it refused the heartbeat.
    ended: Option<String>,
    now: Instant,
}

impl Attempts<'_> {
    /// What to write next; [`Attempts::accepted`] or [`Attempts::refused`] is waited for.
    pub fn next_group(&mut self) -> Option<&Annotations> {
        self.under_way = self.waiting.pop_front()?;
        Some(&self.under_way)
    }

    /// It is written.
    pub fn accepted(&mut self) {
        for key in self.under_way.keys() {
            self.permission.refused.remove(key);
        }
    }

    /// The API has refused it by its content, and said this.
    pub fn refused(&mut self, said: &str) {
        let group = std::mem::take(&mut self.under_way);
        if group.len() > 1 {
            for part in parts(group).into_iter().rev() {
                self.waiting.push_front(part);
            }
            return;
        }
        for (key, _) in group {
            self.found = true;
            if key == name::LAST_SEEN {
                // Who refuses that refuses everything.
                self.waiting.clear();
                self.permission.refused.clear();
                self.ended = Some(said.to_owned());
            }
            self.permission.refused.insert(key, said.to_owned());
        }
    }

    /// No request is left, or none is to be made: what the API said when it refused the heartbeat, if it did.
    pub fn finish(self) -> Option<String> {
        let permission = self.permission;
        if permission.refused.is_empty() {
            permission.again.succeed();
            permission.again_at = None;
        } else if self.ended.is_some() {
            // The heartbeat is tried whenever it is due.
            permission.again_at = None;
        } else if self.found {
            permission.again_at = Some(self.now + permission.again.pause());
        }
        self.ended
    }
}

/// The parts of a group of at least two that were refused together.
fn parts(group: Annotations) -> Vec<Annotations> {
    let newer: BTreeSet<&str> = name::NOT_OF_GO.into();
    let rank = |key: &str| match key {
        name::LAST_SEEN => 0,
        key if newer.contains(key) => 2,
        _ => 1,
    };
    let mut by_rank: BTreeMap<u8, Annotations> = BTreeMap::new();
    for (key, value) in group {
        by_rank.entry(rank(key)).or_default().insert(key, value);
    }
    if by_rank.len() > 1 {
        return by_rank.into_values().collect();
    }
    let all: Vec<_> = by_rank.into_values().flatten().collect();
    let half = all.len().div_ceil(2);
    all.chunks(half).map(|part| part.iter().cloned().collect()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: &str = "ValidatingAdmissionPolicy 'kilo' with binding 'kilo' denied request: not allowed";

    fn everything() -> Annotations {
        name::OF_AGENT.map(|key| (key, Some(String::new()))).into()
    }

    /// Writes against a policy that refuses these. Returns what was written and how many requests there were.
    fn write(
        permission: &mut Permission,
        changed: Annotations,
        policy: &BTreeSet<&str>,
        now: Instant,
    ) -> (BTreeSet<&'static str>, usize) {
        let (mut written, mut requests) = (BTreeSet::new(), 0);
        let mut attempts = permission.attempts(changed, now);
        while let Some(group) = attempts.next_group() {
            requests += 1;
            if group.keys().any(|key| policy.contains(key)) {
                attempts.refused(POLICY);
            } else {
                written.extend(group.keys().copied());
                attempts.accepted();
            }
        }
        let dead = attempts.finish().is_some();
        assert_eq!(dead, policy.contains(name::LAST_SEEN));
        (written, requests)
    }

    #[test]
    fn one_annotation_that_is_refused_is_found_and_left_out() {
        let (mut permission, now) = (Permission::new(b"a"), Instant::now());
        let policy = BTreeSet::from([name::INTERNAL_IPS]);
        let (written, requests) = write(&mut permission, everything(), &policy, now);
        assert_eq!((written.len(), requests), (11, 8));
        let problem = permission.problem("a").unwrap().to_string();
        assert!(
            problem.contains("kilo.squat.ai/internal-ips that") && problem.contains("'kilo'"),
            "{problem}"
        );
        // From then on a patch is one request.
        let (written, requests) = write(&mut permission, everything(), &policy, now + AGAIN.0 / 3);
        assert_eq!((written.len(), requests), (11, 1));
        // After a while it is tried again, and again later.
        let (_, requests) = write(&mut permission, everything(), &policy, now + AGAIN.0 * 2);
        assert_eq!(requests, 2);
        let later = now + AGAIN.0 * 2 + AGAIN.1 * 2;
        let (written, requests) = write(&mut permission, everything(), &BTreeSet::new(), later);
        assert_eq!((written.len(), requests, permission.problem("a")), (12, 2, None));
    }

    #[test]
    fn without_the_heartbeat_nothing_else_is_tried() {
        let (mut permission, now) = (Permission::new(b"a"), Instant::now());
        let policy: BTreeSet<&str> = name::OF_AGENT.into();
        let (written, requests) = write(&mut permission, everything(), &policy, now);
        assert_eq!((written.len(), requests), (0, 2));
        assert!(permission.problem("a").unwrap().message.contains("even the heartbeat"));
        let (written, requests) = write(&mut permission, everything(), &policy, now);
        assert_eq!((written.len(), requests), (0, 1));
        // As soon as it is allowed, all is well at once.
        let (written, requests) = write(&mut permission, everything(), &BTreeSet::new(), now);
        assert_eq!((written.len(), requests, permission.problem("a")), (12, 2, None));
    }

    proptest! {
        /// Whatever a policy refuses, everything else is written, with a bounded number of requests, the heartbeat first.
        #[test]
        fn all_but_what_is_refused_is_written(refused in proptest::sample::subsequence(&name::OF_AGENT[..], 0..12)) {
            let policy: BTreeSet<&str> = refused.into_iter().filter(|key| *key != name::LAST_SEEN).collect();
            let (mut permission, now) = (Permission::new(b"a"), Instant::now());
            let (written, requests) = write(&mut permission, everything(), &policy, now);
            let expected: BTreeSet<&str> =
                name::OF_AGENT.into_iter().filter(|key| !policy.contains(key)).collect();
            prop_assert_eq!(&written, &expected);
            prop_assert!(requests <= 24, "{} requests", requests);
            let (again, requests) = write(&mut permission, everything(), &policy, now);
            prop_assert_eq!((again, requests), (expected, 1));
        }
    }
}
