//! Whether the API server was lost because of a route: then the route is taken back.
//!
//! The guard keeps routes away from addresses that are known to answer without the mesh. It cannot know all ways to an
//! API server: behind a virtual address, behind a local proxy, or at the far end of the mesh itself. So when ranges that
//! hold an API server are routed for the first time, the server is asked. If it does not answer, the ranges are withdrawn.
//! If it answers then, they are routed again: only when it is lost once more are they the reason, and stay withdrawn for as
//! long as an object has them. A server that has just come up does not blame anybody. An API server that is down while no
//! such range is new changes nothing.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ipnet::IpNet;

/// When the API server is asked after a range was routed. Caches of neighbours and of connections hide a loss for a moment.
const ASK_AFTER: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(8)];

/// How long a new range is under suspicion: until the own Node would have been written twice.
const SUSPICIOUS_FOR: Duration = Duration::from_secs(60);

/// How often the API server has to fail to answer before ranges are withdrawn.
const FAILURES: u32 = 2;

/// The pause between two questions where the first was not answered.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long withdrawn ranges have to prove that they were the reason.
const PROOF_WITHIN: Duration = Duration::from_secs(12);

/// The watchdog.
#[derive(Debug, Default)]
pub struct Watchdog {
    /// Ranges that hold an API server and that were routed at some time.
    known: BTreeSet<IpNet>,
    /// Those that were routed for the first time a short while ago.
    suspects: BTreeSet<IpNet>,
    /// Since when.
    since: Option<Instant>,
    /// How often the API server has been asked since then, and how often in a row it has not answered.
    asked: usize,
    failures: u32,
    trial: Option<Trial>,
    /// Without which the API server answers.
    guilty: BTreeSet<IpNet>,
    next: Option<Instant>,
    /// Whether an answer is waited for.
    asking: bool,
}

/// Ranges are tried.
#[derive(Debug)]
struct Trial {
    ranges: BTreeSet<IpNet>,
    stage: Stage,
    until: Instant,
    /// Whether the host is as the stage wants it.
    applied: bool,
}

/// How far a trial is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The ranges are withdrawn: does that help?
    Without,
    /// They are routed again: is the server lost again?
    With,
}

impl Watchdog {
    /// The host is as it should be, and these ranges that hold an API server are routed.
    pub fn applied(&mut self, exposed: &BTreeSet<IpNet>, now: Instant) {
        if let Some(trial) = self.trial.as_mut().filter(|trial| !trial.applied) {
            trial.applied = true;
            self.next = Some(now);
        }
        self.known.retain(|range| {
            exposed.contains(range) || self.trial.as_ref().is_some_and(|t| t.ranges.contains(range))
        });
        self.suspects.retain(|range| exposed.contains(range));
        let new: Vec<IpNet> = exposed.difference(&self.known).copied().collect();
        if new.is_empty() {
            return;
        }
        self.known.extend(&new);
        self.suspects.extend(new);
        (self.since, self.asked, self.failures) = (Some(now), 0, 0);
        if self.trial.is_none() {
            self.next = Some(now);
        }
    }

    /// Something that was asked of the API server has failed.
    pub fn lost(&mut self, now: Instant) {
        if self.is_suspicious(now) && self.trial.is_none() {
            self.next = Some(self.next.map_or(now, |at| at.min(now)));
        }
    }

    fn is_suspicious(&self, now: Instant) -> bool {
        !self.suspects.is_empty() && self.since.is_some_and(|since| now < since + SUSPICIOUS_FOR)
    }

    /// Whether to ask the API server now; if so, [`Watchdog::answered`] is waited for.
    pub fn ask(&mut self, now: Instant) -> bool {
        let due = !self.asking && self.next.is_some_and(|at| at <= now);
        if due {
            self.asking = true;
            self.next = None;
        }
        due
    }

    /// When [`Watchdog::ask`] may say yes; `None` while an answer is waited for.
    pub fn timeout(&self) -> Option<Instant> {
        self.next.filter(|_| !self.asking)
    }

    /// Whether the API server has answered. Returns whether other ranges are withdrawn than before.
    pub fn answered(&mut self, answers: bool, now: Instant) -> bool {
        self.asking = false;
        if let Some(trial) = self.trial.take() {
            return self.judge(trial, answers, now);
        }
        if answers {
            self.failures = 0;
            self.asked += 1;
            self.next =
                self.since.zip(ASK_AFTER.get(self.asked)).map(|(since, pause)| (since + *pause).max(now));
            if !self.is_suspicious(now) {
                self.suspects.clear();
            }
            return false;
        }
        self.failures += 1;
        if !self.is_suspicious(now) {
            self.suspects.clear();
            return false;
        }
        if self.failures < FAILURES {
            self.next = Some(now + ASK_AGAIN);
            return false;
        }
        let ranges = std::mem::take(&mut self.suspects);
        self.enter(ranges, Stage::Without, now);
        true
    }

    fn enter(&mut self, ranges: BTreeSet<IpNet>, stage: Stage, now: Instant) {
        self.failures = 0;
        let until = now + PROOF_WITHIN;
        self.trial = Some(Trial { ranges, stage, until, applied: false });
        // In case that the host cannot be changed.
        self.next = Some(until);
    }

    fn judge(&mut self, trial: Trial, answers: bool, now: Instant) -> bool {
        let given_up = now >= trial.until;
        match (trial.stage, answers) {
            (Stage::Without, true) if trial.applied => {
                self.enter(trial.ranges, Stage::With, now);
                return true;
            }
            (Stage::Without, _) if given_up => return true,
            // It was down, and is there again.
            (Stage::With, true) => return false,
            (Stage::With, false) if trial.applied => {
                self.failures += 1;
                if self.failures >= FAILURES {
                    self.guilty.extend(trial.ranges);
                    return true;
                }
            }
            (Stage::With, false) if given_up => return false,
            (Stage::Without | Stage::With, _) => {}
        }
        self.trial = Some(trial);
        self.next = Some(now + ASK_AGAIN);
        false
    }

    /// What is not to be routed.
    pub fn withdrawn(&self) -> BTreeSet<IpNet> {
        let tried = self.trial.iter().filter(|trial| trial.stage == Stage::Without);
        let tried = tried.flat_map(|trial| &trial.ranges);
        self.guilty.iter().chain(tried).copied().collect()
    }

    /// Whether ranges are withdrawn for good.
    pub fn has_guilty(&self) -> bool {
        !self.guilty.is_empty()
    }

    /// Forgets ranges that no object has any more: one that comes again is a new one.
    pub fn forget(&mut self, exists: impl Fn(&IpNet) -> bool) {
        self.guilty.retain(exists);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &str) -> BTreeSet<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    /// A watchdog whose questions are answered by whether the API server can be reached beside what is routed.
    struct World {
        watchdog: Watchdog,
        wanted: BTreeSet<IpNet>,
        /// Whether it answers, given what is routed at a second.
        answers: fn(&BTreeSet<IpNet>, u64) -> bool,
        start: Instant,
        now: Instant,
        questions: u32,
    }

    impl World {
        fn new(answers: fn(&BTreeSet<IpNet>, u64) -> bool) -> Self {
            let now = Instant::now();
            let watchdog = Watchdog::default();
            Self { watchdog, wanted: BTreeSet::new(), answers, start: now, now, questions: 0 }
        }

        fn routed(&self) -> BTreeSet<IpNet> {
            self.wanted.difference(&self.watchdog.withdrawn()).copied().collect()
        }

        fn want(&mut self, text: &str) {
            self.wanted = nets(text);
            let wanted = self.wanted.clone();
            self.watchdog.forget(|range| wanted.contains(range));
            let routed = self.routed();
            self.watchdog.applied(&routed, self.now);
        }

        fn run(&mut self, seconds: u64) {
            let end = self.now + Duration::from_secs(seconds);
            while let Some(at) = self.watchdog.timeout().filter(|at| *at <= end) {
                self.now = self.now.max(at);
                assert!(self.watchdog.ask(self.now) && !self.watchdog.ask(self.now));
                self.questions += 1;
                let second = (self.now - self.start).as_secs();
                let answers = (self.answers)(&self.routed(), second);
                // No answer takes its time.
                self.now += Duration::from_millis(if answers { 5 } else { 3000 });
                if self.watchdog.answered(answers, self.now) {
                    let routed = self.routed();
                    self.watchdog.applied(&routed, self.now);
                }
            }
            self.now = self.now.max(end);
        }
    }

    #[test]
    fn a_range_that_takes_the_api_server_away_is_withdrawn_for_good() {
        let mut world = World::new(|routed, _| !routed.contains(&"192.0.2.0/24".parse().unwrap()));
        world.want("198.51.100.0/24 192.0.2.0/24");
        world.run(30);
        assert_eq!(world.watchdog.withdrawn(), nets("192.0.2.0/24 198.51.100.0/24"), "both came at once");
        world.run(3600);
        assert!(world.watchdog.has_guilty() && world.routed().is_empty());
        // The object is gone, and comes again.
        world.want("");
        assert!(!world.watchdog.has_guilty());
        world.want("198.51.100.0/24");
        world.run(20);
        assert_eq!(world.routed(), nets("198.51.100.0/24"));
    }

    #[test]
    fn a_server_that_is_down_anyway_gets_them_back() {
        let mut world = World::new(|_, second| second > 180);
        world.want("192.0.2.0/24");
        world.run(30);
        assert_eq!(world.routed(), nets("192.0.2.0/24"));
        let questions = world.questions;
        world.watchdog.lost(world.now);
        world.run(600);
        assert_eq!((world.routed(), world.questions), (nets("192.0.2.0/24"), questions), "not tried twice");
    }

    /// It comes back while the ranges are withdrawn: that is no proof.
    #[test]
    fn a_server_that_restarts_blames_nobody() {
        for back in 1..40 {
            let mut world = World::new(|_, second| second > 20);
            world.start -= Duration::from_secs(back);
            world.want("192.0.2.0/24");
            world.run(120);
            assert_eq!(world.routed(), nets("192.0.2.0/24"), "back after {} s", 20 - back as i64);
            assert!(!world.watchdog.has_guilty());
        }
    }

    #[test]
    fn nothing_is_asked_while_nothing_is_new() {
        let mut world = World::new(|_, second| second < 100);
        world.watchdog.lost(world.now);
        world.run(10);
        assert_eq!(world.questions, 0);
        world.want("192.0.2.0/24");
        world.run(90);
        assert_eq!(world.questions, ASK_AFTER.len() as u32);
        // It goes down much later.
        world.watchdog.lost(world.now);
        world.run(600);
        assert_eq!((world.questions, world.routed()), (ASK_AFTER.len() as u32, nets("192.0.2.0/24")));
    }

    #[test]
    fn what_is_lost_within_a_minute_is_still_blamed() {
        let mut world = World::new(|routed, second| second < 30 || routed.is_empty());
        world.want("192.0.2.0/24");
        world.run(40);
        assert_eq!(world.routed(), nets("192.0.2.0/24"), "nobody has noticed");
        world.watchdog.lost(world.now);
        world.run(30);
        assert!(world.watchdog.has_guilty() && world.routed().is_empty());
    }
}
