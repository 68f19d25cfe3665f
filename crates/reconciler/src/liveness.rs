//! Who is alive, by our own clock.
//!
//! A node is alive while its `last-seen` keeps changing: what it says does not matter, only that *we* saw it change.
//! Time passes with what the watch delivers: that a node is silent is proven by others that are heard after it, at
//! least by the own heartbeat, which comes back through the watch. So neither a clock that is wrong nor an API server
//! that is away removes a node, even before anybody has noticed that it is away.
//!
//! A node that is seen for the first time has not been seen to change. It is compared with the others instead, and judged
//! only when they are known too: the order in which a list is read says nothing about who is alive.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mesh::agreement::CLOSE_ENOUGH;

/// The heartbeats of the other nodes.
#[derive(Debug)]
pub struct Liveness {
    timeout: Duration,
    /// Since when the watch is alive; `None` while it is broken, and then nobody ages.
    watching_since: Option<Instant>,
    beats: BTreeMap<String, Beat>,
    /// Those that were first seen while the watch was broken, or had not begun. They are judged when it is alive.
    newcomers: BTreeMap<String, Beat>,
    /// The largest `last-seen` of all, newcomers included.
    youngest: i64,
    /// When the watch last delivered anything: until then is known who was silent.
    heard: Option<Instant>,
    /// Before this nobody becomes too silent: heartbeats only put it off.
    next_expiry: Option<Instant>,
    /// Whether somebody has become too silent, and nobody was heard since to prove it.
    unproven: bool,
    own: Option<OwnBeat>,
}

/// The own heartbeat as the watch brings it back. Both of its times are by one clock, so it measures the watch.
#[derive(Debug)]
struct OwnBeat {
    last_seen: i64,
    /// How many came back in time.
    prompt: u64,
}

/// Those who have become silent are looked for at most this often.
const EXPIRY_PERIOD: Duration = Duration::from_secs(1);

/// So long after somebody has become too silent the others may have been heard by themselves.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Beat {
    last_seen: i64,
    /// When we saw `last_seen` change; `None`: not since we know the node, and it looked dead then or is a newcomer.
    changed: Option<Instant>,
    ahead: Ahead,
}

impl Beat {
    fn first(last_seen: i64, changed: Option<Instant>) -> Self {
        Self { last_seen, changed, ahead: Ahead::default() }
    }
}

/// How far a node's clock is ahead of ours, as its heartbeats say when they arrive.
#[derive(Debug, Default)]
struct Ahead {
    /// In seconds; `None`: none has arrived yet.
    seconds: Option<i64>,
    /// Since when they look late, as the number of own heartbeats that had come back in time. A heartbeat that was held up
    /// looks like a clock that is behind.
    late_since: Option<Option<u64>>,
}

impl Ahead {
    /// What arrives sooner or later by so many seconds is no news.
    const STEADY: i64 = 5;

    /// `prompt`: how many own heartbeats have come back in time; `None`: this machine writes none.
    fn hear(&mut self, seconds: i64, prompt: Option<u64>) {
        let behind = |seconds: i64| seconds < -CLOSE_ENOUGH;
        if behind(seconds) && self.seconds.is_none_or(|known| !behind(known)) {
            // A watch may bring late what it was told in the meantime, minutes of it at once. What is late once more, and after
            // an own heartbeat that was not, was late when it was written.
            let Some(since) = self.late_since else {
                self.late_since = Some(prompt);
                return;
            };
            if prompt.is_some() && prompt <= since {
                return;
            }
        }
        self.late_since = None;
        if self.seconds.is_none_or(|known| known.saturating_sub(seconds).saturating_abs() > Self::STEADY) {
            self.seconds = Some(seconds);
        }
    }
}

impl Liveness {
    /// Nodes whose heartbeat does not change for `timeout` are not alive.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            watching_since: None,
            beats: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            youngest: i64::MIN,
            heard: None,
            next_expiry: None,
            unproven: false,
            own: None,
        }
    }

    /// The own heartbeat was seen. It says nothing about who is alive, but how late the watch is.
    pub fn see_own(&mut self, last_seen: i64, unix_now: i64) {
        let own = self.own.get_or_insert(OwnBeat { last_seen, prompt: 0 });
        if std::mem::replace(&mut own.last_seen, last_seen) == last_seen || self.watching_since.is_none() {
            return;
        }
        own.prompt += u64::from(last_seen.saturating_sub(unix_now).saturating_abs() <= CLOSE_ENOUGH);
    }

    /// The watch delivers, and everything there is has been told. Everyone who was alive when it broke gets the whole
    /// timeout to be heard of, and all newcomers are judged. `unix_now` is our wall clock. Returns whether there were any.
    pub fn resume(&mut self, now: Instant, unix_now: i64) -> bool {
        if self.watching_since.is_some() {
            return false;
        }
        self.watching_since = Some(now);
        self.next_expiry = Some(now + self.timeout);
        let newcomers = std::mem::take(&mut self.newcomers);
        let any = !newcomers.is_empty();
        for (name, Beat { last_seen, changed, .. }) in newcomers {
            let beating = changed.is_some_and(|at| now < at + self.timeout);
            let alive = beating || !self.looks_dead(last_seen, unix_now);
            self.beats.insert(name, Beat::first(last_seen, alive.then_some(now)));
        }
        any
    }

    /// The watch has broken.
    pub fn pause(&mut self, now: Instant) {
        self.next_expiry = None;
        if let Some(since) = self.watching_since.take() {
            for beat in self.beats.values_mut() {
                // What was dead before stays dead; what was alive is held where it is.
                let reference = beat.changed.map(|changed| changed.max(since));
                let is_alive = |at: Instant| self.heard.is_none_or(|heard| heard < at + self.timeout);
                beat.changed = reference.filter(|at| is_alive(*at)).map(|_| now);
            }
        }
    }

    /// A node was seen with this `last-seen`. `unix_now` is our wall clock. Returns whether that changed anything:
    /// nothing does as long as the node is a newcomer.
    pub fn see(&mut self, name: &str, last_seen: i64, now: Instant, unix_now: i64) -> bool {
        let (known, is_judged) = match self.beats.get_mut(name) {
            Some(beat) => (Some(beat), true),
            None => (self.newcomers.get_mut(name), false),
        };
        if let Some(beat) = known {
            if beat.last_seen == last_seen {
                return false;
            }
            let was_alive = beat.changed.is_some();
            let before = std::mem::replace(&mut beat.last_seen, last_seen);
            beat.changed = Some(now);
            // What a list brings may be old.
            if self.watching_since.is_some() {
                let prompt = self.own.as_ref().map(|own| own.prompt);
                beat.ahead.hear(last_seen.saturating_sub(unix_now), prompt);
            }
            self.youngest = self.youngest.max(last_seen);
            self.forget_youngest(before);
            return is_judged && !was_alive;
        }
        self.youngest = self.youngest.max(last_seen);
        if self.watching_since.is_none() {
            self.newcomers.insert(name.to_owned(), Beat::first(last_seen, None));
            return false;
        }
        let alive = !self.looks_dead(last_seen, unix_now);
        self.beats.insert(name.to_owned(), Beat::first(last_seen, alive.then_some(now)));
        true
    }

    /// The judgement at first sight, when there is no change to go by. A node is taken for dead only if its `last-seen` is
    /// old against our clock *and* against the youngest `last-seen` of the cluster: a wrong clock, ours or another's, does
    /// not suffice.
    fn looks_dead(&self, last_seen: i64, unix_now: i64) -> bool {
        let reference = unix_now.min(self.youngest);
        reference.saturating_sub(last_seen) >= self.timeout.as_secs() as i64
    }

    /// A node is gone.
    pub fn forget(&mut self, name: &str) {
        if let Some(beat) = self.beats.remove(name).or_else(|| self.newcomers.remove(name)) {
            self.forget_youngest(beat.last_seen);
        }
    }

    /// This `last-seen` has gone.
    fn forget_youngest(&mut self, last_seen: i64) {
        if last_seen == self.youngest {
            let all = self.beats.values().chain(self.newcomers.values());
            self.youngest = all.map(|beat| beat.last_seen).max().unwrap_or(i64::MIN);
        }
    }

    /// The names of those who are alive, in order. Newcomers are not among them.
    pub fn alive(&self) -> impl Iterator<Item = &str> {
        self.alive_beats().map(|(name, _)| name)
    }

    /// By how many seconds the clocks of those who are alive are ahead of ours, as far as it is known.
    pub fn clocks(&self) -> impl Iterator<Item = (&str, i64)> + Clone {
        self.alive_beats().filter_map(|(name, beat)| Some((name, beat.ahead.seconds?)))
    }

    fn alive_beats(&self) -> impl Iterator<Item = (&str, &Beat)> + Clone {
        let alive = |beat: &Beat| match (beat.changed, self.watching_since, self.heard) {
            (None, _, _) => false,
            (Some(changed), Some(since), Some(heard)) => heard < changed.max(since) + self.timeout,
            (Some(_), _, _) => true,
        };
        self.beats.iter().filter(move |(_, beat)| alive(beat)).map(|(name, beat)| (name.as_str(), beat))
    }

    /// When [`Liveness::is_proof_wanted`] may say yes, if nothing is heard before.
    pub fn proof_timeout(&self) -> Option<Instant> {
        self.next_expiry.filter(|_| !self.unproven).map(|at| at + QUIET)
    }

    /// Whether somebody has become too silent, and nothing has been heard since: then the own heartbeat is worth while, for it
    /// comes back through the watch. Where there are few nodes, nobody may say anything for half of the timeout. Says so
    /// once.
    pub fn is_proof_wanted(&mut self, now: Instant) -> bool {
        let Some(since) = self.watching_since else { return false };
        if self.proof_timeout().is_none_or(|at| at > now) {
            return false;
        }
        let silent_at =
            self.beats.values().filter_map(|beat| Some(beat.changed?.max(since) + self.timeout)).min();
        self.unproven = silent_at.is_some_and(|at| at <= now);
        if !self.unproven {
            self.next_expiry = Some(silent_at.unwrap_or(now + self.timeout));
        }
        self.unproven
    }

    /// The watch has delivered something. Takes those who have been silent for too long for dead, and returns whether
    /// there are any.
    pub fn hear(&mut self, now: Instant) -> bool {
        let quiet_since = self.heard.replace(now);
        self.unproven = false;
        // The own heartbeat comes back sooner than that: nobody could write, or nothing has arrived, and everybody who was alive
        // gets the whole timeout to be heard of.
        if self.watching_since.is_some() && quiet_since.is_some_and(|at| now >= at + self.timeout * 3 / 4) {
            self.watching_since = Some(now);
            self.next_expiry = Some(now + self.timeout);
        }
        if self.next_expiry.is_none_or(|at| at > now) {
            return false;
        }
        let Some(since) = self.watching_since else { return false };
        let (mut any, mut next) = (false, now + self.timeout);
        for beat in self.beats.values_mut() {
            let Some(changed) = beat.changed else { continue };
            let silent_at = changed.max(since) + self.timeout;
            if silent_at <= now {
                beat.changed = None;
                any = true;
            } else {
                next = next.min(silent_at);
            }
        }
        self.next_expiry = Some(next.max(now + EXPIRY_PERIOD));
        any
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const UNIX: i64 = 1_700_000_000;

    fn is_alive(liveness: &Liveness, name: &str) -> bool {
        liveness.alive().any(|alive| alive == name)
    }

    fn started() -> (Liveness, Instant) {
        let start = Instant::now();
        let mut liveness = Liveness::new(TIMEOUT);
        liveness.resume(start, UNIX);
        (liveness, start)
    }

    #[test]
    fn a_clock_that_is_off_shows_when_a_heartbeat_arrives() {
        let (mut liveness, start) = started();
        let mut beats = 0;
        let mut hear = |ahead: i64| {
            beats += 30;
            let (now, unix) = (start + Duration::from_secs(beats), UNIX + beats as i64);
            liveness.see("a", unix + ahead, now, unix);
            liveness.clocks().map(|(_, ahead)| ahead).next()
        };
        assert_eq!(hear(-500), None, "an old one that was there already says nothing");
        for (ahead, known) in [
            (100, 100),
            (97, 100),
            (0, 0),
            (-3, 0),
            // One may be late, and two hardly.
            (-50, 0),
            (-2, 0),
            (-50, 0),
            (-51, -51),
            (-200, -200),
            (1, 1),
        ] {
            assert_eq!(hear(ahead), Some(known), "{ahead}");
        }
    }

    /// A watch that brings everything a minute late, or ten minutes at once after the process was stopped, is no clock.
    #[test]
    fn a_late_watch_is_no_clock() {
        let (mut liveness, start) = started();
        let at = |seconds: i64| start + Duration::from_secs(seconds as u64);
        let known = |liveness: &Liveness| liveness.clocks().map(|(_, ahead)| ahead).next();
        liveness.see("a", UNIX, start, UNIX);
        liveness.see_own(UNIX, UNIX);
        for delay in [0, 60] {
            for written in (30..300).step_by(30) {
                let (written, now) = (written + delay * 10, written + delay * 11);
                liveness.see("a", UNIX + written, at(now), UNIX + now);
                liveness.see_own(UNIX + written + 1, UNIX + now + 1);
                assert_eq!(known(&liveness), Some(0), "{delay}");
            }
        }
        for written in (1000..1600).step_by(30) {
            liveness.see("a", UNIX + written, at(1700), UNIX + 1700);
        }
        liveness.see_own(UNIX + 1700, UNIX + 1700);
        liveness.see("a", UNIX + 1701, at(1701), UNIX + 1701);
        assert_eq!(known(&liveness), Some(0));
        // The own clock leaps: by it the own heartbeats are in time, and all others late.
        for seconds in [1730, 1760] {
            liveness.see_own(UNIX + 5000 + seconds, UNIX + 5000 + seconds);
            liveness.see("a", UNIX + seconds, at(seconds), UNIX + 5000 + seconds);
        }
        assert_eq!(known(&liveness), Some(-5000));
    }

    #[test]
    fn silence_kills_and_a_beat_revives() {
        let (mut liveness, start) = started();
        liveness.see("a", UNIX, start, UNIX);
        assert!(!liveness.hear(start + Duration::from_secs(59)));
        assert!(is_alive(&liveness, "a"));
        assert!(liveness.hear(start + Duration::from_secs(60)));
        assert!(!is_alive(&liveness, "a"));
        assert!(liveness.see("a", UNIX + 70, start + Duration::from_secs(70), UNIX + 70));
        assert!(is_alive(&liveness, "a"));
    }

    #[test]
    fn a_skewed_clock_kills_nobody() {
        let (mut liveness, start) = started();
        // The remote clock is an hour behind, then an hour ahead; it beats, so it is alive.
        liveness.see("a", UNIX, start, UNIX);
        liveness.see("behind", UNIX - 3600, start, UNIX);
        assert!(!is_alive(&liveness, "behind"), "at first sight it looks dead");
        liveness.see("behind", UNIX - 3570, start + Duration::from_secs(30), UNIX + 30);
        assert!(!liveness.hear(start + Duration::from_secs(50)));
        assert!(is_alive(&liveness, "behind"));
        // Our own clock is a day ahead: everyone looks old against it, but not against each other.
        let (mut liveness, start) = started();
        for name in ["a", "b", "c"] {
            liveness.see(name, UNIX, start, UNIX + 86_400);
            assert!(is_alive(&liveness, name), "{name}");
        }
    }

    #[test]
    fn nobody_ages_while_the_watch_is_broken() {
        let (mut liveness, start) = started();
        let at = |seconds| start + Duration::from_secs(seconds);
        liveness.see("a", UNIX, at(0), UNIX);
        liveness.see("dead", UNIX - 100, at(0), UNIX);
        liveness.pause(at(50));
        assert!(!liveness.hear(at(3600)));
        assert!(is_alive(&liveness, "a"));
        assert!(!is_alive(&liveness, "dead"));
        liveness.resume(at(3600), UNIX + 3600);
        liveness.hear(at(3630));
        assert!(!liveness.hear(at(3659)), "it has the whole timeout again");
        assert!(is_alive(&liveness, "a"));
        assert!(liveness.hear(at(3660)));
        assert!(!is_alive(&liveness, "a"));
    }

    /// An API that lets everybody watch and nobody write: the first one that can write again proves nothing about the others.
    #[test]
    fn nobody_ages_while_nobody_can_write() {
        let (mut liveness, start) = started();
        let at = |seconds| start + Duration::from_secs(seconds);
        let names: Vec<String> = (0..50).map(|number| format!("n{number}")).collect();
        for (number, name) in names.iter().enumerate() {
            liveness.see(name, UNIX, at(number as u64 / 2), UNIX);
        }
        liveness.hear(at(25));
        for seconds in [90, 100] {
            liveness.see("n0", UNIX + seconds, at(seconds as u64), UNIX + seconds);
            assert!(!liveness.hear(at(seconds as u64)));
            assert!(names.iter().all(|name| is_alive(&liveness, name)));
        }
        // Whoever does not come back is found.
        for seconds in [110, 130, 149, 150] {
            liveness.see("n0", UNIX + seconds, at(seconds as u64), UNIX + seconds);
            assert_eq!(liveness.hear(at(seconds as u64)), seconds == 150);
        }
        assert!(is_alive(&liveness, "n0") && !is_alive(&liveness, "n1"));
    }

    /// An API that is away without a word: nothing arrives, and nobody has noticed yet.
    #[test]
    fn nobody_ages_while_nothing_arrives() {
        let (mut liveness, start) = started();
        let at = |seconds| start + Duration::from_secs(seconds);
        liveness.see("a", UNIX, at(0), UNIX);
        assert!(!liveness.hear(at(30)));
        assert!(is_alive(&liveness, "a"), "no matter how much later it is");
        liveness.pause(at(300));
        liveness.resume(at(400), UNIX + 400);
        assert!(!liveness.hear(at(459)));
        assert!(is_alive(&liveness, "a"));
    }

    fn names(liveness: &Liveness) -> Vec<&str> {
        liveness.alive().collect()
    }

    #[test]
    fn newcomers_are_judged_together() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(TIMEOUT);
        assert!(!liveness.see("a", UNIX - 60, start, UNIX));
        assert!(!liveness.see("b", UNIX, start, UNIX));
        assert_eq!(names(&liveness), [""; 0], "nobody is judged yet");
        assert!(liveness.resume(start, UNIX));
        assert_eq!(names(&liveness), ["b"]);
        assert!(!liveness.resume(start, UNIX), "there are no others");
        // The same after an outage. Who was known before stays as it was.
        liveness.pause(at(10));
        for (name, age) in [("0", 60), ("a", 60), ("b", 70), ("c", 0)] {
            assert!(!liveness.see(name, UNIX - age + i64::from(name == "c"), at(3600), UNIX));
        }
        assert_eq!(names(&liveness), ["b"]);
        assert!(liveness.resume(at(3600), UNIX));
        assert_eq!(names(&liveness), ["b", "c"]);
        assert!(liveness.see("0", UNIX + 1, at(3601), UNIX), "its first heartbeat revives it");
    }

    #[test]
    fn a_newcomer_that_beats_is_alive_for_as_long_as_any() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (resumed_at, alive) in [(39, vec!["a", "behind"]), (90, vec!["a"])] {
            let mut liveness = Liveness::new(TIMEOUT);
            for (name, last_seen) in [("behind", UNIX - 3600), ("a", UNIX), ("behind", UNIX - 3570)] {
                liveness.see(name, last_seen, at(30), UNIX + 30);
            }
            liveness.resume(at(resumed_at), UNIX + 30);
            assert_eq!(names(&liveness), alive);
        }
    }

    #[test]
    fn a_newcomer_that_is_gone_is_no_measure() {
        let start = Instant::now();
        let mut liveness = Liveness::new(TIMEOUT);
        for (name, last_seen) in [("a", UNIX), ("b", UNIX - 100), ("c", UNIX - 110)] {
            liveness.see(name, last_seen, start, UNIX);
        }
        liveness.forget("a");
        liveness.see("a", UNIX - 200, start, UNIX);
        liveness.resume(start, UNIX);
        assert_eq!(names(&liveness), ["b", "c"]);
    }

    /// Two nodes that write at the same moments: of the third, which is silent, nothing is known until one of them writes.
    #[test]
    fn a_proof_is_wanted_once_when_nobody_says_anything() {
        let (mut liveness, start) = started();
        let at = |seconds| start + Duration::from_secs(seconds);
        for name in ["a", "b"] {
            liveness.see(name, UNIX, start, UNIX);
        }
        liveness.see("a", UNIX + 58, at(58), UNIX + 58);
        liveness.hear(at(58));
        assert!(!liveness.is_proof_wanted(at(60)));
        assert_eq!(liveness.proof_timeout(), Some(at(61)));
        assert!(liveness.is_proof_wanted(at(61)) && !liveness.is_proof_wanted(at(62)));
        assert_eq!(liveness.proof_timeout(), None);
        assert!(is_alive(&liveness, "b"), "the watch may be dead");
        assert!(liveness.hear(at(62)) && !is_alive(&liveness, "b"));
        // Nobody is silent, and it is only not known yet.
        assert!(!liveness.is_proof_wanted(at(117)) && !liveness.is_proof_wanted(at(118)));
        liveness.see("a", UNIX + 118, at(118), UNIX + 118);
        assert!(!liveness.is_proof_wanted(at(120)));
        liveness.pause(at(121));
        assert!(!liveness.is_proof_wanted(at(500)), "an API server that is away proves nothing");
    }

    proptest! {
        /// Whatever arrives in whatever order while the watch is broken, a newcomer's fate follows from what it told
        /// itself and from the youngest `last-seen` of all.
        #[test]
        fn the_order_of_arrival_means_nothing(
            events in proptest::collection::vec((0u8..6, proptest::option::weighted(0.9, 0i64..200)), 0..30),
            unix_now in 0i64..300,
            known in any::<bool>(),
        ) {
            let start = Instant::now();
            let mut liveness = Liveness::new(TIMEOUT);
            if known {
                liveness.resume(start, unix_now);
                liveness.see("known", 100, start, unix_now);
                liveness.pause(start);
            }
            let mut told: BTreeMap<String, (i64, bool)> = BTreeMap::new();
            for (number, last_seen) in events {
                let name = number.to_string();
                let Some(last_seen) = last_seen else {
                    liveness.forget(&name);
                    told.remove(&name);
                    continue;
                };
                prop_assert!(!liveness.see(&name, last_seen, start, unix_now));
                let beats = told.get(&name).is_some_and(|(before, beats)| *beats || *before != last_seen);
                told.insert(name, (last_seen, beats));
            }
            prop_assert_eq!(liveness.resume(start, unix_now), !told.is_empty());
            let youngest = told.values().map(|(last_seen, _)| *last_seen).chain(known.then_some(100)).max();
            let reference = unix_now.min(youngest.unwrap_or_default());
            let is_alive = |(last_seen, beats): &(i64, bool)| *beats || reference - last_seen < 60;
            let alive = told.iter().filter(|(_, told)| is_alive(told)).map(|(name, _)| name.as_str());
            prop_assert_eq!(names(&liveness), alive.chain(known.then_some("known")).collect::<Vec<_>>());
        }
    }
}
