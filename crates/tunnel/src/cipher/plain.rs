//! ChaCha20-Poly1305 by *ring*, message by message, on every processor; with a key that is wiped from memory when it is
//! dropped, which *ring* does not do.

use std::mem::{self, MaybeUninit};

use ring::aead::{Aad, LessSafeKey};
use zeroize::Zeroize;

use super::Text;
use crate::crypto::{aead_key, nonce};
use crate::message::TAG_SIZE;

/// A key that is wiped when dropped.
pub(super) struct PlainKey(MaybeUninit<LessSafeKey>);

impl PlainKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(MaybeUninit::new(aead_key(key)))
    }

    fn key(&self) -> &LessSafeKey {
        // SAFETY: initialised by the only constructor, and wiped only when dropped.
        unsafe { self.0.assume_init_ref() }
    }

    /// Seals in place and writes the tag behind the text. False when the text is too long for the cipher.
    pub(super) fn seal(&self, buffer: &mut [u8], text: &Text) -> bool {
        let (body, tag_out) = buffer[text.start..text.end + TAG_SIZE].split_at_mut(text.end - text.start);
        match self.key().seal_in_place_separate_tag(nonce(text.counter), Aad::empty(), body) {
            Ok(tag) => {
                tag_out.copy_from_slice(tag.as_ref());
                true
            }
            Err(_) => false,
        }
    }

    /// Opens in place; whether the text was authentic.
    pub(super) fn open(&self, buffer: &mut [u8], text: &Text) -> bool {
        let sealed = &mut buffer[text.start..text.end + TAG_SIZE];
        self.key().open_in_place(nonce(text.counter), Aad::empty(), sealed).is_ok()
    }
}

impl Drop for PlainKey {
    fn drop(&mut self) {
        const { assert!(!mem::needs_drop::<LessSafeKey>(), "the key is nothing but its bytes") };
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_key_leaves_nothing_behind() {
        let mut place = Box::new(MaybeUninit::<PlainKey>::zeroed());
        place.write(PlainKey::new(&[0x5a; 32]));
        let bytes = |place: &MaybeUninit<PlainKey>| -> Vec<u8> {
            let start = place.as_ptr().cast::<u8>();
            // SAFETY: the memory was zeroed before anything was written to it, so every byte is readable.
            (0..size_of::<PlainKey>()).map(|at| unsafe { start.add(at).read_volatile() }).collect()
        };
        assert!(bytes(&place).windows(32).any(|key| key == [0x5a; 32]), "the key is in there");
        // SAFETY: written above, and not used afterwards.
        unsafe { place.assume_init_drop() };
        assert!(bytes(&place).iter().all(|byte| *byte == 0));
    }
}
