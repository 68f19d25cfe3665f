//! Who is alive, by our own clock.
//!
//! A node is alive while its `last-seen` keeps changing: what it says does not matter, only that *we* saw it change.
//! Time passes with what the watch delivers: that a node is silent is proven by others that are heard after it, at
//! least by the own heartbeat, which comes back through the watch. So neither a clock that is wrong nor an API server
//! that is away removes a node, even before anybody has noticed that it is away.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The heartbeats of the other nodes.
#[derive(Debug)]
pub struct Liveness {
    timeout: Duration,
    /// Since when the watch is alive; `None` while it is broken, and then nobody ages.
    watching_since: Option<Instant>,
    beats: BTreeMap<String, Beat>,
    /// The largest `last-seen` of all.
    youngest: i64,
    /// When the watch last delivered anything: until then is known who was silent.
    heard: Option<Instant>,
    /// Before this nobody becomes too silent: heartbeats only put it off.
    next_expiry: Option<Instant>,
}

/// Those who have become silent are looked for at most this often.
const EXPIRY_PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Beat {
    last_seen: i64,
    /// When we saw `last_seen` change; `None`: not since we know the node, and it was old then.
    changed: Option<Instant>,
}

impl Liveness {
    /// Nodes whose heartbeat does not change for `timeout` are not alive.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            watching_since: None,
            beats: BTreeMap::new(),
            youngest: i64::MIN,
            heard: None,
            next_expiry: None,
        }
    }

    /// The watch delivers again. Everyone who was alive when it broke gets the whole timeout to be heard of.
    pub fn resume(&mut self, now: Instant) {
        if self.watching_since.is_none() {
            self.watching_since = Some(now);
            self.next_expiry = Some(now + self.timeout);
        }
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

    /// A node was seen with this `last-seen`. `unix_now` is our wall clock. Returns whether that changed anything.
    ///
    /// At first sight there is no change to go by. Then the node is taken for dead only if its `last-seen` is old
    /// against our clock *and* against the youngest `last-seen` of the cluster: a wrong clock, ours or another's,
    /// does not suffice.
    pub fn see(&mut self, name: &str, last_seen: i64, now: Instant, unix_now: i64) -> bool {
        if let Some(beat) = self.beats.get_mut(name) {
            if beat.last_seen == last_seen {
                return false;
            }
            let was_alive = beat.changed.is_some();
            let before = std::mem::replace(beat, Beat { last_seen, changed: Some(now) });
            self.youngest = self.youngest.max(last_seen);
            self.forget_youngest(before.last_seen);
            return !was_alive;
        }
        self.youngest = self.youngest.max(last_seen);
        let reference = unix_now.min(self.youngest);
        let old = reference.saturating_sub(last_seen) >= self.timeout.as_secs() as i64;
        self.beats.insert(name.to_owned(), Beat { last_seen, changed: (!old).then_some(now) });
        true
    }

    /// A node is gone.
    pub fn forget(&mut self, name: &str) {
        if let Some(beat) = self.beats.remove(name) {
            self.forget_youngest(beat.last_seen);
        }
    }

    /// This `last-seen` is no longer there.
    fn forget_youngest(&mut self, last_seen: i64) {
        if last_seen == self.youngest {
            self.youngest = self.beats.values().map(|beat| beat.last_seen).max().unwrap_or(i64::MIN);
        }
    }

    /// The names of those who are alive, in order.
    pub fn alive(&self) -> impl Iterator<Item = &str> {
        let alive = |beat: &Beat| match (beat.changed, self.watching_since, self.heard) {
            (None, _, _) => false,
            (Some(changed), Some(since), Some(heard)) => heard < changed.max(since) + self.timeout,
            (Some(_), _, _) => true,
        };
        self.beats.iter().filter(move |(_, beat)| alive(beat)).map(|(name, _)| name.as_str())
    }

    /// The watch has delivered something. Takes those who have been silent for too long for dead, and returns whether
    /// there are any.
    pub fn hear(&mut self, now: Instant) -> bool {
        self.heard = Some(now);
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
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const UNIX: i64 = 1_700_000_000;

    fn is_alive(liveness: &Liveness, name: &str) -> bool {
        liveness.alive().any(|alive| alive == name)
    }

    fn started() -> (Liveness, Instant) {
        let start = Instant::now();
        let mut liveness = Liveness::new(TIMEOUT);
        liveness.resume(start);
        (liveness, start)
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
        liveness.resume(at(3600));
        assert!(!liveness.hear(at(3659)), "it has the whole timeout again");
        assert!(is_alive(&liveness, "a"));
        assert!(liveness.hear(at(3660)));
        assert!(!is_alive(&liveness, "a"));
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
        liveness.resume(at(400));
        assert!(!liveness.hear(at(459)));
        assert!(is_alive(&liveness, "a"));
    }
}
