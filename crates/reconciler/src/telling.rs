//! What this node tells the others about itself: at once when it has changed, as a heartbeat in between, and again when
//! somebody else has changed it.
//!
//! A heartbeat that fails is tried again after about a second, and then less and less often, but never later than the next
//! one would have been. So an API that answers again hears of every node within the time between two heartbeats, half of
//! the liveness timeout. A node is taken for dead by others when its heartbeats fail for more than the other half, while
//! theirs do not: then they are right, for nobody hears it.

use std::time::{Duration, Instant};

use mesh::{Node, Published};
use pace::{Backoff, Jitter};

use crate::{Now, PatchFailure};

/// The first pause before the node writes again what somebody else has overwritten. The pauses double, so that two writers who
/// contradict each other do not keep the API busy.
const INSIST: Duration = Duration::from_secs(1);

/// The first pause before a failed write is retried.
const RETRY: Duration = Duration::from_secs(1);

/// A heartbeat may come earlier by this part of the time between two, so that thousands of agents that were started at
/// the same moment do not write at the same moment for ever.
const EARLIER: f64 = 0.1;

/// What the others were told, and are to be told.
#[derive(Debug)]
pub struct Telling {
    heartbeat: Duration,
    jitter: Jitter,
    retry: Backoff,
    insist: Backoff,
    /// When it is, or was last, to be told again because somebody else has changed it.
    insisted: Option<Instant>,
    sent: Option<Published>,
    wanted: Option<Published>,
    /// Whether an answer is waited for.
    patching: bool,
    failure: Option<PatchFailure>,
    next: Option<Instant>,
    /// After a failure: not before this, however much has changed.
    not_before: Option<Instant>,
}

impl Telling {
    /// Nothing is to be told yet; later at least once in the time between two heartbeats. What the seed is does not matter,
    /// as long as no other host has the same.
    pub fn new(heartbeat: Duration, seed: &[u8]) -> Self {
        let jitter = Jitter::of(seed);
        Self {
            heartbeat,
            retry: Backoff::new(RETRY, heartbeat, jitter.clone()),
            insist: Backoff::new(INSIST, heartbeat, jitter.clone()),
            jitter,
            insisted: None,
            sent: None,
            wanted: None,
            patching: false,
            failure: None,
            next: None,
            not_before: None,
        }
    }

    /// This is what the others should know.
    pub fn want(&mut self, status: Published, now: Instant) {
        let same = |before: &Published| Published { last_seen: status.last_seen, ..before.clone() } == status;
        if !self.wanted.as_ref().is_some_and(same) {
            self.due(now);
            self.wanted = Some(status);
        }
    }

    /// The heartbeat is to come now, if it may.
    pub fn hasten(&mut self, now: Instant) {
        self.due(now);
    }

    /// This is what the others read. If somebody else has changed what this node told, or taken it back, as an agent does
    /// that ends later than it should, it is told again, and not with the next heartbeat only.
    pub fn insist(&mut self, told: &Node, now: Instant) {
        let Some(sent) = self.sent.as_ref().filter(|_| !self.patching) else { return };
        let same = told.key == Some(sent.key)
            && told.endpoint == sent.endpoint
            && told.internal_ips == sent.internal_ips;
        // What was told before the last time may arrive late.
        let late = told.key == Some(sent.key) && told.last_seen != sent.last_seen;
        // What is there for a moment only, somebody changes again and again.
        let long_ago = self.insisted.is_none_or(|at| at + self.heartbeat <= now);
        if same && long_ago {
            self.insist.succeed();
        } else if !same && !late && self.insisted.is_none_or(|at| at < now) {
            let at = now + self.insist.pause();
            self.insisted = Some(at);
            self.due(at);
        }
    }

    /// Schedules the next write for this moment or earlier, but not before a pause has passed.
    fn due(&mut self, at: Instant) {
        let at = self.not_before.map_or(at, |not_before| at.max(not_before));
        self.next = Some(self.next.map_or(at, |before| before.min(at)));
    }

    /// The API has not answered for a while, and does now: it need not be waited for any longer, unless it has asked for that.
    pub fn heard(&mut self, now: Instant) {
        if self.failure.as_ref().is_some_and(|failure| failure.retry_after.is_none()) {
            self.retry.succeed();
            self.not_before = None;
            let at = now + self.retry.pause();
            self.due(at);
        }
    }

    /// What to tell the others now, if anything: when it changed, and as a heartbeat. [`Telling::answered`] is waited for.
    pub fn next(&mut self, now: Now) -> Option<Published> {
        if self.patching || self.next.is_none_or(|at| at > now.instant) {
            return None;
        }
        let wanted = self.wanted.as_mut()?;
        wanted.last_seen = now.unix;
        self.patching = true;
        self.next = None;
        self.sent = Some(wanted.clone());
        self.sent.clone()
    }

    /// When [`Telling::next`] may have something; `None` while an answer is waited for.
    pub fn timeout(&self) -> Option<Instant> {
        self.next.filter(|_| self.wanted.is_some() && !self.patching)
    }

    /// The others have been told, or why not.
    pub fn answered(&mut self, result: Result<(), PatchFailure>, now: Instant) {
        self.patching = false;
        self.failure = result.err();
        if let Some(failure) = &self.failure {
            let at = now + self.retry.pause_as_asked(failure.retry_after, self.heartbeat / 2);
            self.not_before = Some(at);
            self.next = Some(at);
            return;
        }
        self.retry.succeed();
        self.not_before = None;
        let changed_meanwhile = match (&self.sent, &self.wanted) {
            (Some(sent), Some(wanted)) => Published { last_seen: sent.last_seen, ..wanted.clone() } != *sent,
            _ => false,
        };
        // At a start every node leads until it knows the others: it takes that back as soon as it has said it.
        let pause = match changed_meanwhile {
            true => Duration::ZERO,
            false => self.jitter.between(self.heartbeat.mul_f64(1.0 - EARLIER), self.heartbeat),
        };
        self.next = Some(now + pause);
    }

    /// Why the others could not be told the last time.
    pub fn error(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.why.as_str())
    }
}
