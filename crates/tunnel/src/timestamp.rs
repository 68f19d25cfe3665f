//! TAI64N timestamps of initiations (WireGuard paper, section 5.1): a peer takes only one that is later than all before.
//!
//! Reads no clock; whether a timestamp is a replay is decided by the engine.

use std::time::Duration;

/// Seconds since 1970 as TAI64 begins to count.
const TAI_BASE: u64 = (1 << 62) + 10;
/// Handshakes do not tell the exact time: the lower bits of the nanoseconds are cut off.
const STEP: u32 = 1 << 24;
const SECOND: u32 = 1_000_000_000;

/// Ordered by time, as its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp([u8; 12]);

impl Timestamp {
    /// For so long since the Unix epoch.
    pub(crate) fn at(wall: Duration) -> Self {
        Self::new(TAI_BASE.saturating_add(wall.as_secs()), wall.subsec_nanos() & !(STEP - 1))
    }

    fn new(seconds: u64, nanos: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(bytes)
    }

    /// This one, or the next after `last` when the clock was set back since: else the peer would take us for a replay for
    /// as long as it was set back.
    #[must_use]
    pub(crate) fn after(self, last: Option<Self>) -> Self {
        match last {
            Some(last) if last >= self => last.next(),
            _ => self,
        }
    }

    fn next(self) -> Self {
        let [seconds, nanos] = [&self.0[..8], &self.0[8..]];
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let nanos = number(nanos) as u32 + STEP;
        if nanos < SECOND { Self::new(number(seconds), nanos) } else { Self::new(number(seconds) + 1, 0) }
    }

    /// As it goes over the wire.
    pub(crate) fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }
}

impl From<[u8; 12]> for Timestamp {
    fn from(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_tai64n_is_defined() {
        let stamp = Timestamp::at(Duration::new(1, 0x0123_4567));
        assert_eq!(stamp.as_bytes(), &[0x40, 0, 0, 0, 0, 0, 0, 11, 0x01, 0, 0, 0]);
    }

    #[test]
    fn never_goes_back() {
        let noon = Timestamp::at(Duration::from_secs(43_200));
        let earlier = Timestamp::at(Duration::from_secs(100));
        assert_eq!(noon.after(Some(earlier)), noon);
        assert_eq!(noon.after(None), noon);
        let mut last = noon;
        for _ in 0..1000 {
            let next = earlier.after(Some(last));
            assert!(next > last, "{next:?} after {last:?}");
            last = next;
        }
        assert!(last < Timestamp::at(Duration::from_secs(43_200 + 60)), "by small steps: {last:?}");
    }
}
