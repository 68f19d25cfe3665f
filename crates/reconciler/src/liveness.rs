//! Who is alive, by our own clock.
//!
//! A node is alive while its `last-seen` keeps changing: what it says does not matter, only that *we* saw it change.
//! So neither a clock that is wrong nor an API server that is away removes a node.

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
        Self { timeout, watching_since: None, beats: BTreeMap::new(), youngest: i64::MIN, next_expiry: None }
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
                beat.changed = reference.filter(|at| now.duration_since(*at) < self.timeout).map(|_| now);
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
    pub fn alive(&self, now: Instant) -> impl Iterator<Item = &str> {
        let alive = move |beat: &Beat| {
            beat.changed.is_some() && self.silent_at(beat).is_none_or(|silent_at| now < silent_at)
        };
        self.beats.iter().filter(move |(_, beat)| alive(beat)).map(|(name, _)| name.as_str())
    }

    /// When one who is alive will have been silent for too long; `None` while the watch is broken.
    fn silent_at(&self, beat: &Beat) -> Option<Instant> {
        Some(beat.changed?.max(self.watching_since?) + self.timeout)
    }

    /// When there may next be someone who has become silent.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    /// Takes those who have become silent for dead. Returns whether there are any.
    pub fn expire(&mut self, now: Instant) -> bool {
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

    fn is_alive(liveness: &Liveness, name: &str, now: Instant) -> bool {
        liveness.alive(now).any(|alive| alive == name)
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
        assert!(is_alive(&liveness, "a", start + Duration::from_secs(59)));
        assert!(!liveness.expire(start + Duration::from_secs(59)));
        assert!(liveness.expire(start + Duration::from_secs(60)));
        assert!(!is_alive(&liveness, "a", start + Duration::from_secs(60)));
        assert!(liveness.see("a", UNIX + 70, start + Duration::from_secs(70), UNIX + 70));
        assert!(is_alive(&liveness, "a", start + Duration::from_secs(71)));
    }

    #[test]
    fn a_skewed_clock_kills_nobody() {
        let (mut liveness, start) = started();
        // The remote clock is an hour behind, then an hour ahead; it beats, so it is alive.
        liveness.see("a", UNIX, start, UNIX);
        liveness.see("behind", UNIX - 3600, start, UNIX);
        assert!(!is_alive(&liveness, "behind", start), "at first sight it looks dead");
        liveness.see("behind", UNIX - 3570, start + Duration::from_secs(30), UNIX + 30);
        assert!(is_alive(&liveness, "behind", start + Duration::from_secs(60)));
        // Our own clock is a day ahead: everyone looks old against it, but not against each other.
        let (mut liveness, start) = started();
        for name in ["a", "b", "c"] {
            liveness.see(name, UNIX, start, UNIX + 86_400);
            assert!(is_alive(&liveness, name, start), "{name}");
        }
    }

    #[test]
    fn nobody_ages_while_the_watch_is_broken() {
        let (mut liveness, start) = started();
        let at = |seconds| start + Duration::from_secs(seconds);
        liveness.see("a", UNIX, at(0), UNIX);
        liveness.see("dead", UNIX - 100, at(0), UNIX);
        liveness.pause(at(50));
        assert!(!liveness.expire(at(3600)));
        assert!(is_alive(&liveness, "a", at(3600)));
        assert!(!is_alive(&liveness, "dead", at(3600)));
        liveness.resume(at(3600));
        assert!(is_alive(&liveness, "a", at(3659)), "it has the whole timeout again");
        assert!(liveness.expire(at(3660)));
        assert!(!is_alive(&liveness, "a", at(3660)));
    }
}
