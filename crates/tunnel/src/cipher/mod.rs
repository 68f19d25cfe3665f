//! The AEAD of data messages, ChaCha20-Poly1305 (RFC 8439), for single messages and for runs of them.
//!
//! *ring* does it on every processor, message by message (`plain`); where the processor has AVX-512, runs are done by `wide`.
//! Both give the same bytes. Counters and replays are the session's business.

#[cfg(target_arch = "x86_64")]
mod chacha20;
mod plain;
#[cfg(target_arch = "x86_64")]
mod poly1305;
#[cfg(target_arch = "x86_64")]
mod wide;

use plain::PlainKey;

/// Messages that are worked on at once.
pub(crate) const BATCH: usize = 16;
/// From so many messages on, working on many at once is faster.
#[cfg(target_arch = "x86_64")]
const WORTH_IT: usize = 3;

/// Where a text lies in a buffer, without the tag of 16 bytes behind it, and its counter.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Text {
    pub(crate) counter: u64,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// How messages are sealed and opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cipher {
    /// As fast as this processor can.
    #[default]
    Fastest,
    /// As every processor can.
    Portable,
}

/// The key of one direction of a session.
pub(crate) struct Key {
    plain: PlainKey,
    #[cfg(target_arch = "x86_64")]
    wide: Option<wide::WideKey>,
}

impl Key {
    pub(crate) fn new(key: &[u8; 32], cipher: Cipher) -> Self {
        Self {
            plain: PlainKey::new(key),
            #[cfg(target_arch = "x86_64")]
            wide: if cipher == Cipher::Fastest { wide::WideKey::new(key) } else { None },
        }
    }

    /// Seals at most [`BATCH`] texts in place and writes their tags behind them. False when a text is too long for the
    /// cipher; nothing may be sent then.
    #[must_use]
    pub(crate) fn seal(&self, buffer: &mut [u8], texts: &[Text]) -> bool {
        debug_assert!(texts.len() <= BATCH);
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = &self.wide
            && texts.len() >= WORTH_IT
        {
            wide.seal(buffer, texts);
            return true;
        }
        texts.iter().all(|text| self.plain.seal(buffer, text))
    }

    /// Opens at most [`BATCH`] texts in place and tells which were authentic.
    pub(crate) fn open(&self, buffer: &mut [u8], texts: &[Text]) -> [bool; BATCH] {
        debug_assert!(texts.len() <= BATCH);
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = &self.wide
            && texts.len() >= WORTH_IT
        {
            return wide.open(buffer, texts);
        }
        let mut authentic = [false; BATCH];
        for (authentic, text) in authentic.iter_mut().zip(texts) {
            *authentic = self.plain.open(buffer, text);
        }
        authentic
    }
}

#[cfg(test)]
mod tests;
