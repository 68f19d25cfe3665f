//! The keys of one finished handshake: sealing and opening data messages in place (WireGuard paper, section 5.4.6).
//!
//! A session knows its age and its counters; what to do when it grows old is decided by `peer`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring::aead::{Aad, LessSafeKey};

use crate::clock::Moment;
use crate::crypto::{aead_key, nonce};
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
    sealing: LessSafeKey,
    opening: LessSafeKey,
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
            sealing: aead_key(&keys.sending),
            opening: aead_key(&keys.receiving),
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

    /// Seals the packet at `message[16..len - 16]` (already padded) and writes header and tag around it.
    ///
    /// False when the counter is used up; the buffer must not be sent then.
    pub(crate) fn seal(&self, message: &mut [u8]) -> bool {
        debug_assert!(message.len() >= DATA_OVERHEAD);
        let counter = self.next_counter.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        let (header, rest) = message.split_at_mut(DATA_HEADER_SIZE);
        let (packet, tag_out) = rest.split_at_mut(rest.len() - TAG_SIZE);
        header[..4].copy_from_slice(&TYPE_DATA.to_le_bytes());
        header[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        match self.sealing.seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet) {
            Ok(tag) => tag_out.copy_from_slice(tag.as_ref()),
            Err(_) => return false,
        }
        true
    }

    /// Opens a data message of this session in place and returns the (padded) packet in it.
    pub(crate) fn open<'a>(&self, message: &'a mut [u8], now: Moment) -> Result<&'a mut [u8], Refused> {
        if !self.is_alive(now) {
            return Err(Refused::Expired);
        }
        let counter = u64::from_le_bytes(field(message, 8));
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Refused::Expired);
        }
        let packet = self
            .opening
            .open_in_place(nonce(counter), Aad::empty(), &mut message[DATA_HEADER_SIZE..])
            .map_err(|_| Refused::Forged)?;
        if lock(&self.window).accept(counter) { Ok(packet) } else { Err(Refused::Replayed) }
    }
}
