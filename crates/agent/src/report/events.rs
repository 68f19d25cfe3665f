//! Which Events are written, and when: one after another, not about the same problem again and again, and not more than the
//! API should bear from one agent. The limits for one object are those of client-go's `EventSourceObjectSpamFilter`.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use mesh::{Object, Problem};
use pace::{Bucket, Filter};

/// How many Events an agent writes at once, and the time for one more.
const ALL: Bucket = Bucket::new(25, Duration::from_secs(6));

/// The same about one object.
const EACH: Bucket = Bucket::new(25, Duration::from_secs(300));

/// How many Events may wait.
const WAITING: usize = 100;

/// How long after an Event there is none that says the same.
const SAME: Duration = Duration::from_secs(600);

/// The Events that are to be written.
#[derive(Debug)]
pub struct Events {
    waiting: VecDeque<Problem>,
    /// Whether one is being written.
    writing: bool,
    filter: Filter<Object>,
    /// What was written about in the last ten minutes. The filter bounds it.
    written: BTreeMap<Problem, Instant>,
    left_out: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            writing: false,
            filter: Filter::new(ALL, EACH),
            written: BTreeMap::new(),
            left_out: 0,
        }
    }
}

impl Events {
    /// A problem has appeared. When too many wait, the one that has waited longest gets none.
    pub fn offer(&mut self, problem: &Problem, now: Instant) {
        let problem = problem.alone();
        let is_recent = |at: &Instant| now < *at + SAME;
        if self.written.get(&problem).is_some_and(is_recent) || self.waiting.contains(&problem) {
            return;
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            self.left_out += 1;
        }
        self.waiting.push_back(problem);
    }

    /// The problem to write an Event about now, if any. [`Events::done`] is waited for.
    pub fn next(&mut self, now: Instant) -> Option<Problem> {
        if self.writing || self.filter.next(now) > now {
            return None;
        }
        while let Some(problem) = self.waiting.pop_front() {
            if self.filter.take(&problem.object, now) {
                self.writing = true;
                self.written.retain(|_, at| now < *at + SAME);
                self.written.insert(problem.clone(), now);
                return Some(problem);
            }
            self.left_out += 1;
        }
        None
    }

    /// When [`Events::next`] may have one; `None` while one is being written.
    pub fn timeout(&self, now: Instant) -> Option<Instant> {
        (!self.writing && !self.waiting.is_empty()).then(|| self.filter.next(now))
    }

    /// An Event is written, or could not be. It is not tried again: the problem is in the log and on `/health`.
    pub fn done(&mut self) {
        self.writing = false;
    }

    /// How many problems got no Event since this was asked last, because there were too many.
    pub fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}
