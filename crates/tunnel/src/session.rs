//! The keys of one finished handshake: sealing and opening data messages in place (WireGuard paper, section 5.4.6).
//!
//! A session knows its age and its counters; what to do when it grows old is decided by `peer`.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cipher::{BATCH, Cipher, Key, Text};
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

/// What a session is besides its keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Birth {
    pub(crate) local_index: u32,
    pub(crate) role: Role,
    pub(crate) at: Moment,
    pub(crate) cipher: Cipher,
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
    pub(crate) fn new(birth: Birth, keys: &TransportKeys) -> Self {
        Self {
            local_index: birth.local_index,
            role: birth.role,
            created: birth.at,
            confirmed: AtomicBool::new(birth.role == Role::Initiator),
            remote_index: keys.remote_index,
            sealing: Key::new(&keys.sending, birth.cipher),
            opening: Key::new(&keys.receiving, birth.cipher),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SIZE: usize = 32 + DATA_OVERHEAD;

    /// Both ends of a session.
    fn pair(now: Moment) -> [Session; 2] {
        let keys = |sending: u8, receiving: u8| TransportKeys {
            sending: [sending; 32],
            receiving: [receiving; 32],
            remote_index: 5,
        };
        let birth = |local_index, role| Birth { local_index, role, at: now, cipher: Cipher::default() };
        [
            Session::new(birth(1, Role::Initiator), &keys(1, 2)),
            Session::new(birth(2, Role::Responder), &keys(2, 1)),
        ]
    }

    /// Messages of 32 bytes, one behind the other.
    fn seal(session: &Session, many: usize) -> Option<(Vec<u8>, Vec<Range<usize>>)> {
        let places: Vec<_> = (0..many).map(|at| at * SIZE..(at + 1) * SIZE).collect();
        let mut buffer = vec![7; many * SIZE];
        session.seal(&mut buffer, &places).then_some((buffer, places))
    }

    fn counters(buffer: &[u8]) -> Vec<u64> {
        buffer.chunks(SIZE).map(|message| u64::from_le_bytes(field(message, 8))).collect()
    }

    #[test]
    fn counters_end_before_they_repeat() {
        let now = Moment::from_nanos(1);
        let [sender, receiver] = pair(now);
        sender.next_counter.store(REKEY_AFTER_MESSAGES, Ordering::Relaxed);
        assert!(!sender.has_sent_much());
        seal(&sender, 1).unwrap();
        assert!(sender.has_sent_much(), "new keys are due long before the end");
        sender.next_counter.store(REJECT_AFTER_MESSAGES - 3, Ordering::Relaxed);
        assert!(sender.is_alive(now));
        let (mut buffer, places) = seal(&sender, 3).unwrap();
        assert_eq!(counters(&buffer).last(), Some(&(REJECT_AFTER_MESSAGES - 1)));
        assert!(
            receiver.open(&mut buffer, &places, now)[..3].iter().all(Result::is_ok),
            "the last ones count"
        );
        assert!(!sender.is_alive(now), "nothing more under these keys");
        for many in [1, BATCH] {
            assert_eq!(seal(&sender, many), None);
        }
        sender.next_counter.store(REJECT_AFTER_MESSAGES - 3, Ordering::Relaxed);
        assert_eq!(seal(&sender, 4), None, "a run that would go too far does not go out");
        // Threads that were about to send do not wrap the counter around.
        for _ in 0..500 {
            assert_eq!(seal(&sender, BATCH), None);
        }
        assert!(!sender.is_alive(now));
    }

    #[test]
    fn counters_beyond_the_end_are_refused_even_if_authentic() {
        let now = Moment::from_nanos(1);
        let [sender, receiver] = pair(now);
        let mut texts = [Text::default(); 3];
        let mut buffer = vec![0; 3 * SIZE];
        for (at, counter) in
            [REJECT_AFTER_MESSAGES, u64::MAX, REJECT_AFTER_MESSAGES - 1].into_iter().enumerate()
        {
            buffer[at * SIZE + 8..at * SIZE + 16].copy_from_slice(&counter.to_le_bytes());
            texts[at] = text_in(&(at * SIZE..(at + 1) * SIZE), counter);
        }
        assert!(sender.sealing.seal(&mut buffer, &texts));
        let places = [0, 1, 2].map(|at| at * SIZE..(at + 1) * SIZE);
        let results = receiver.open(&mut buffer, &places, now);
        assert_eq!(results[..3], [Err(Refused::Expired), Err(Refused::Expired), Ok(())]);
    }

    #[test]
    fn keys_expire_to_the_nanosecond() {
        let start = Moment::from_nanos(1);
        let [sender, receiver] = pair(start);
        let (buffer, places) = seal(&sender, 1).unwrap();
        let last = start.plus(REJECT_AFTER_TIME - Duration::from_nanos(1));
        assert!(sender.is_alive(last) && receiver.open(&mut buffer.clone(), &places, last)[0].is_ok());
        let late = start.plus(REJECT_AFTER_TIME);
        assert!(!sender.is_alive(late));
        assert_eq!(receiver.open(&mut buffer.clone(), &places, late)[0], Err(Refused::Expired));
    }

    #[test]
    fn a_message_counts_once_and_a_forged_one_not_at_all() {
        let now = Moment::from_nanos(1);
        let [sender, receiver] = pair(now);
        let (buffer, places) = seal(&sender, BATCH).unwrap();
        for at in 0..SIZE {
            let mut forged = buffer.clone();
            forged[3 * SIZE + at] ^= 1;
            // Type and index are not authenticated by the cipher: they have chosen the key.
            let expected = if at < 8 { Ok(()) } else { Err(Refused::Forged) };
            let [_, receiver] = pair(now);
            assert_eq!(receiver.open(&mut forged, &places, now)[3], expected, "byte {at}");
            assert_eq!(
                receiver.open(&mut buffer.clone(), &places, now)[3].is_ok(),
                at >= 8,
                "then the right one"
            );
        }
        let twice: Vec<_> = places[..8].iter().chain(&places[..8]).cloned().collect();
        let mut both = buffer.clone();
        assert!(receiver.open(&mut both, &twice[..8], now)[..8].iter().all(Result::is_ok));
        let mut again = buffer.clone();
        assert_eq!(receiver.open(&mut again, &places, now)[..8], [Err(Refused::Replayed); 8]);
        let mut all = buffer.clone();
        assert_eq!(receiver.open(&mut all, &places, now), [Err(Refused::Replayed); BATCH]);
    }

    #[test]
    fn each_direction_has_its_key() {
        let now = Moment::from_nanos(1);
        let [sender, _] = pair(now);
        let (mut buffer, places) = seal(&sender, 1).unwrap();
        assert_eq!(sender.open(&mut buffer, &places, now)[0], Err(Refused::Forged), "reflected");
    }
}
