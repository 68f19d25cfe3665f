//! What this node tells the others about itself: at once when it has changed, as a heartbeat in between, and again when
//! somebody else has changed it.

use std::time::{Duration, Instant};

use mesh::Node;

use crate::{Now, Status};

/// How long after somebody else has changed what this node told it is told again. Two that contradict each other must
/// not keep the API busy.
const INSIST: Duration = Duration::from_secs(2);

/// How long after a failure the others are told again, at most.
const RETRY: Duration = Duration::from_secs(1);

/// What the others were told, and are to be told.
#[derive(Debug)]
pub struct Telling {
    heartbeat: Duration,
    sent: Option<Status>,
    wanted: Option<Status>,
    /// Whether an answer is waited for.
    patching: bool,
    error: Option<String>,
    next: Option<Instant>,
}

impl Telling {
    /// Nothing is to be told yet; later at least once in the time between two heartbeats.
    pub fn new(heartbeat: Duration) -> Self {
        Self { heartbeat, sent: None, wanted: None, patching: false, error: None, next: None }
    }

    /// This is what the others should know.
    pub fn want(&mut self, status: Status, now: Instant) {
        let same = |before: &Status| Status { last_seen: status.last_seen, ..before.clone() } == status;
        if !self.wanted.as_ref().is_some_and(same) {
            self.next = Some(now);
            self.wanted = Some(status);
        }
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
        if !same && !late {
            let soon = now + INSIST;
            self.next = Some(self.next.map_or(soon, |at| at.min(soon)));
        }
    }

    /// What to tell the others now, if anything: when it changed, and as a heartbeat. [`Telling::answered`] is waited for.
    pub fn next(&mut self, now: Now) -> Option<Status> {
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
    pub fn answered(&mut self, result: Result<(), String>, now: Instant) {
        self.patching = false;
        let changed_meanwhile = match (&self.sent, &self.wanted) {
            (Some(sent), Some(wanted)) => Status { last_seen: sent.last_seen, ..wanted.clone() } != *sent,
            _ => false,
        };
        let pause = match (&result, changed_meanwhile) {
            (Err(_), _) => RETRY.min(self.heartbeat),
            // At a start every node leads until it knows the others: it takes that back as soon as it has said it.
            (Ok(()), true) => Duration::ZERO,
            (Ok(()), false) => self.heartbeat,
        };
        self.next = Some(now + pause);
        self.error = result.err();
    }

    /// Why the others could not be told the last time.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}
