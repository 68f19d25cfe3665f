//! The keys of one finished handshake: sealing and opening data messages in place (WireGuard paper, section 5.4.6).
//!
//! A session knows its age and its counters; what to do when it grows old is decided by `peer`.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cipher::{BATCH, Key, Text};
use crate::clock::Moment;
use crate::message::{DATA_HEADER_SIZE, DATA_OVERHEAD, TAG_SIZE, TYPE_DATA, field};
use crate::noise::TransportKeys;
use crate::replay::ReplayWindow;
use crate::sync::lock;
use crate::timers::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES};

/// Who began the handshake: only the initiator rekeys because of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// Why a data message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The session is too old or has counted too far.
    Expired,
    /// The tag does not fit.
    Forged,
    /// The counter was seen before or is too old.
    Replayed,
}

/// A pair of transport keys with their counters.
pub(crate) struct Session {
    pub(crate) local_index: u32,
    pub(crate) role: Role,
    pub(crate) created: Moment,
    /// A responder's session is used for sending once the initiator has proven that it has the keys.
    pub(crate) confirmed: AtomicBool,
    remote_index: u32,
    sealing: Key,
    opening: Key,
    next_counter: AtomicU64,
    window: Mutex<ReplayWindow>,
}

impl Session {
    pub(crate) fn new(local_index: u32, role: Role, keys: &TransportKeys, now: Moment) -> Self {
        Self {
            local_index,
            role,
            created: now,
            confirmed: AtomicBool::new(role == Role::Initiator),
            remote_index: keys.remote_index,
            sealing: Key::new(&keys.sending),
            opening: Key::new(&keys.receiving),
            next_counter: AtomicU64::new(0),
            window: Mutex::default(),
        }
    }

    /// Whether data may still be sent and accepted under these keys.
    pub(crate) fn is_alive(&self, now: Moment) -> bool {
        now.since(self.created) < REJECT_AFTER_TIME
            && self.next_counter.load(Ordering::Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// Whether so many messages were sent that new keys are due.
    pub(crate) fn has_sent_much(&self) -> bool {
        self.next_counter.load(Ordering::Relaxed) > REKEY_AFTER_MESSAGES
    }

    /// Seals at most [`BATCH`] packets, each (already padded) 16 bytes inside of its place on both sides, and writes
    /// headers and tags around them.
    ///
    /// False when the counter is used up; nothing may be sent then.
    #[must_use]
    pub(crate) fn seal(&self, buffer: &mut [u8], places: &[Range<usize>]) -> bool {
        let first = self.next_counter.fetch_add(places.len() as u64, Ordering::Relaxed);
        if first.saturating_add(places.len() as u64) > REJECT_AFTER_MESSAGES {
            return false;
        }
        let mut texts = [Text::default(); BATCH];
        for ((text, place), counter) in texts.iter_mut().zip(places).zip(first..) {
            debug_assert!(place.len() >= DATA_OVERHEAD);
            let header = &mut buffer[place.start..place.start + DATA_HEADER_SIZE];
            header[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
            header[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
            header[8..].copy_from_slice(&counter.to_le_bytes());
            *text = text_in(place, counter);
        }
        self.sealing.seal(buffer, &texts[..places.len()])
    }

    /// Opens at most [`BATCH`] data messages of this session in place. What was opened is the (padded) packet 16 bytes
    /// inside of its place on both sides.
    pub(crate) fn open(
        &self,
        buffer: &mut [u8],
        places: &[Range<usize>],
        now: Moment,
    ) -> [Result<(), Refused>; BATCH] {
        let mut results = [Err(Refused::Expired); BATCH];
        if !self.is_alive(now) {
            return results;
        }
        let mut texts = [Text::default(); BATCH];
        for (text, place) in texts.iter_mut().zip(places) {
            *text = text_in(place, u64::from_le_bytes(field(&buffer[place.clone()], 8)));
        }
        let texts = &texts[..places.len()];
        let authentic = self.opening.open(buffer, texts);
        let mut window = lock(&self.window);
        for ((result, text), authentic) in results.iter_mut().zip(texts).zip(authentic) {
            *result = match authentic {
                _ if text.counter >= REJECT_AFTER_MESSAGES => Err(Refused::Expired),
                false => Err(Refused::Forged),
                true if window.accept(text.counter) => Ok(()),
                true => Err(Refused::Replayed),
            };
        }
        results
    }
}

/// Where the packet of a data message is.
fn text_in(place: &Range<usize>, counter: u64) -> Text {
    Text { counter, start: place.start + DATA_HEADER_SIZE, end: place.end - TAG_SIZE }
}
