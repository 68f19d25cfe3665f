//! The timers of one peer (WireGuard paper, section 6): when to rekey, to keep alive, to try again, to forget.
//!
//! Deadlines are atomics, so packets arm and disarm them without a lock. Who asks when they are due is not this
//! module's business; neither is what a handshake is.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Moment;
use crate::crypto::random;

/// After so many messages under one key, the sender asks for a new one.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// After so many messages a key is not used any more.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// An initiator asks for a new key when it sends under one this old.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A key this old is not used any more.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// For how long a handshake is tried before the peer is taken for silent.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// The pause between two initiations.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Who received data and has none to send answers after this time with an empty packet.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

const MAX_ATTEMPTS: u32 = (REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs()) as u32;
const MAX_JITTER_MS: u64 = 334;

/// Pauses after the first initiations to a peer that is greeted. They double, so that also over a slow path one of
/// the answers comes before the next initiation makes it void.
const HURRIED: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
];

/// What a peer has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// The peer did not answer the last initiation: send another.
    Retry,
    /// The peer did not answer for too long: drop what waits for it.
    GiveUp,
    /// Send an empty packet.
    Keepalive,
    /// Data went out and nothing came back: begin a handshake.
    Handshake,
    /// Nothing happened for so long that the keys must be forgotten.
    ForgetKeys,
}

/// A deadline that packets may move without a lock.
struct Timer(AtomicU64);

impl Timer {
    const fn off() -> Self {
        Self(AtomicU64::new(Moment::NEVER.as_nanos()))
    }

    fn set(&self, at: Moment) {
        self.0.store(at.as_nanos(), Relaxed);
    }

    fn clear(&self) {
        if self.is_set() {
            self.set(Moment::NEVER);
        }
    }

    fn at(&self) -> Moment {
        Moment::from_nanos(self.0.load(Relaxed))
    }

    fn is_set(&self) -> bool {
        self.at() != Moment::NEVER
    }

    /// Whether the deadline has passed; disarms it then.
    fn take_due(&self, now: Moment) -> bool {
        let due = self.at() <= now;
        if due {
            self.clear();
        }
        due
    }
}

/// The timers of one peer.
pub(crate) struct Timers {
    retry: Timer,
    keepalive: Timer,
    new_handshake: Timer,
    forget_keys: Timer,
    persistent: Timer,
    /// Before this no further initiation is sent; off when there was none.
    pause: Timer,
    another_keepalive: AtomicBool,
    last_minute_handshake: AtomicBool,
    attempts: AtomicU32,
    /// How many of [`HURRIED`] are left for the current handshake, counted from the end.
    hurried: AtomicUsize,
    /// Seconds; zero is off.
    interval: AtomicU16,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            retry: Timer::off(),
            keepalive: Timer::off(),
            new_handshake: Timer::off(),
            forget_keys: Timer::off(),
            persistent: Timer::off(),
            pause: Timer::off(),
            another_keepalive: AtomicBool::new(false),
            last_minute_handshake: AtomicBool::new(false),
            attempts: AtomicU32::new(0),
            hurried: AtomicUsize::new(0),
            interval: AtomicU16::new(0),
        }
    }

    /// The persistent keepalive in seconds; zero is off.
    pub(crate) fn persistent_keepalive(&self) -> u16 {
        self.interval.load(Relaxed)
    }

    /// Changes the persistent keepalive; true when it was off and is on now, so one is due at once.
    pub(crate) fn set_persistent_keepalive(&self, seconds: u16, now: Moment) -> bool {
        let before = self.interval.swap(seconds, Relaxed);
        if seconds == 0 {
            self.persistent.clear();
        } else if before != seconds {
            self.persistent.set(now.plus(Duration::from_secs(seconds.into())));
        }
        before == 0 && seconds != 0
    }

    /// Data was sent to the peer: an answer is expected.
    pub(crate) fn data_sent(&self, now: Moment) {
        if !self.new_handshake.is_set() {
            self.new_handshake.set(now.plus(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter()));
        }
    }

    /// Data came from the peer: it expects an answer.
    pub(crate) fn data_received(&self, now: Moment) {
        if self.keepalive.is_set() {
            if !self.another_keepalive.load(Relaxed) {
                self.another_keepalive.store(true, Relaxed);
            }
        } else {
            self.keepalive.set(now.plus(KEEPALIVE_TIMEOUT));
        }
    }

    /// Anything authenticated was sent.
    pub(crate) fn packet_sent(&self, now: Moment) {
        self.keepalive.clear();
        self.traversed(now);
    }

    /// Anything authenticated was received.
    pub(crate) fn packet_received(&self, now: Moment) {
        self.new_handshake.clear();
        self.traversed(now);
    }

    fn traversed(&self, now: Moment) {
        let seconds = self.persistent_keepalive();
        if seconds != 0 {
            self.persistent.set(now.plus(Duration::from_secs(seconds.into())));
        }
    }

    /// The first handshake with a new peer is repeated sooner than others: the peer may be about to be told of us.
    pub(crate) fn hurry(&self) {
        self.hurried.store(HURRIED.len(), Relaxed);
    }

    /// The time between the initiation that is sent now and the next.
    fn next_pause(&self) -> Duration {
        let left = self.hurried.load(Relaxed);
        self.hurried.store(left.saturating_sub(1), Relaxed);
        let done = HURRIED.len() - left;
        HURRIED.get(done).copied().unwrap_or(REKEY_TIMEOUT)
    }

    /// Whether an initiation may be sent now: one per [`REKEY_TIMEOUT`], unless they are hurried.
    pub(crate) fn may_initiate(&self, now: Moment) -> bool {
        !self.pause.is_set() || self.pause.at() <= now
    }

    /// An initiation is about to be sent. A first one, not a retry, starts counting anew.
    pub(crate) fn initiation_sent(&self, now: Moment, is_retry: bool) {
        if !is_retry {
            self.attempts.store(0, Relaxed);
        }
        let pause = self.next_pause();
        self.pause.set(now.plus(pause));
        self.retry.set(now.plus(pause + jitter()));
    }

    /// Asks for an initiation as soon as one may be sent, to be tried until it is answered.
    pub(crate) fn handshake_soon(&self, now: Moment) {
        self.attempts.store(0, Relaxed);
        let allowed = if self.pause.is_set() { self.pause.at().max(now) } else { now };
        self.retry.set(allowed);
    }

    /// The peer has answered our initiation, or confirmed its own.
    pub(crate) fn handshake_complete(&self) {
        self.retry.clear();
        self.hurried.store(0, Relaxed);
        self.attempts.store(0, Relaxed);
        self.last_minute_handshake.store(false, Relaxed);
    }

    /// There are new keys.
    pub(crate) fn session_derived(&self, now: Moment) {
        self.forget_keys.set(now.plus(REJECT_AFTER_TIME * 3));
    }

    /// True once per session: a handshake shortly before the keys expire.
    pub(crate) fn take_last_minute_handshake(&self) -> bool {
        !self.last_minute_handshake.swap(true, Relaxed)
    }

    /// Disarms everything, as when the interface goes down. The keepalive interval stays.
    pub(crate) fn stop(&self) {
        for timer in [&self.retry, &self.keepalive, &self.new_handshake, &self.forget_keys, &self.persistent]
        {
            timer.clear();
        }
        self.pause.clear();
        self.hurried.store(0, Relaxed);
        self.attempts.store(0, Relaxed);
        self.another_keepalive.store(false, Relaxed);
        self.last_minute_handshake.store(false, Relaxed);
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Moment {
        let timers = [&self.retry, &self.keepalive, &self.new_handshake, &self.forget_keys, &self.persistent];
        timers.into_iter().map(Timer::at).min().unwrap_or(Moment::NEVER)
    }

    /// What is due, in the order in which it has to be done. Each deadline is reported once.
    pub(crate) fn take_due(&self, now: Moment) -> Vec<Due> {
        let mut due = Vec::new();
        if self.retry.take_due(now) {
            if self.attempts.fetch_add(1, Relaxed) >= MAX_ATTEMPTS {
                self.keepalive.clear();
                if !self.forget_keys.is_set() {
                    self.forget_keys.set(now.plus(REJECT_AFTER_TIME * 3));
                }
                due.push(Due::GiveUp);
            } else {
                due.push(Due::Retry);
            }
        }
        if self.keepalive.take_due(now) {
            if self.another_keepalive.swap(false, Relaxed) {
                self.keepalive.set(now.plus(KEEPALIVE_TIMEOUT));
            }
            due.push(Due::Keepalive);
        }
        if self.new_handshake.take_due(now) {
            due.push(Due::Handshake);
        }
        if self.forget_keys.take_due(now) {
            due.push(Due::ForgetKeys);
        }
        if self.persistent.take_due(now) && self.persistent_keepalive() != 0 {
            // Armed again here, so that a peer without a session is still tried in every interval.
            self.traversed(now);
            due.push(Due::Keepalive);
        }
        due
    }
}

/// A little randomness, so that two ends do not start their handshakes in step for ever.
fn jitter() -> Duration {
    Duration::from_millis(u64::from(u16::from_le_bytes(random())) % MAX_JITTER_MS)
}
