//! Time as the protocol sees it: a moment that only grows, and the wall clock for the timestamps of handshakes.
//!
//! The protocol never reads a clock; the workers do, and tests make time up.

use std::time::Duration;

/// A point on a clock that never goes back, in nanoseconds since an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// A moment later than every other: a timer that is not armed.
    pub const NEVER: Self = Self(u64::MAX);

    /// From nanoseconds since the start of the clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `after` this one; saturates at [`Moment::NEVER`].
    pub const fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after.as_nanos() as u64))
    }

    /// How long ago `earlier` was; zero when it is in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For timers.
    pub moment: Moment,
    /// Since the Unix epoch, for handshake timestamps and the "last handshake" a user sees.
    pub wall: Duration,
}
