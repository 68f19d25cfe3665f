//! ChaCha20-Poly1305 (RFC 8439) over up to sixteen messages at once, on processors with AVX-512 and IFMA.
//!
//! A burst of packets is sealed twice as fast as packet by packet with AVX2: all lanes are used, whatever the lengths, and
//! eight Poly1305 accumulators share each instruction. IFMA came with processors that do not slow down for wide registers.

use std::arch::x86_64::{__m512i, _mm512_loadu_si512, _mm512_storeu_si512};

use zeroize::Zeroizing;

use super::Text;
use super::chacha20::{self, BLOCK, Lanes, apply, key_stream};
use super::poly1305::{self, OneTimeKey};

/// Messages, and blocks, at once.
pub(super) const LANES: usize = 16;
const TAG_SIZE: usize = 16;

/// A key for this way of working. It exists only where the processor can do it.
pub(super) struct WideKey(Zeroizing<[u32; 8]>);

impl WideKey {
    /// `None` when the processor lacks an instruction.
    pub(super) fn new(key: &[u8; 32]) -> Option<Self> {
        let is_able = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma");
        let mut words = Zeroizing::new([0; 8]);
        for (word, bytes) in words.iter_mut().zip(key.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        is_able.then_some(Self(words))
    }

    /// Seals in place; the 16 bytes behind each text receive its tag.
    pub(super) fn seal(&self, buffer: &mut [u8], texts: &[Text]) {
        // SAFETY: a value of this type proves that the processor has the instructions.
        unsafe { seal(&self.0, buffer, texts) }
    }

    /// The tags under given one-time keys.
    #[cfg(test)]
    pub(super) fn tags(
        &self,
        keys: &[OneTimeKey; poly1305::LANES],
        texts: &[&[u8]],
    ) -> [u128; poly1305::LANES] {
        // SAFETY: a value of this type proves that the processor has the instructions.
        unsafe { poly1305::tags(keys, texts) }
    }

    /// Opens in place what has a tag that fits, and tells which. The others stay as they are.
    pub(super) fn open(&self, buffer: &mut [u8], texts: &[Text]) -> [bool; LANES] {
        // SAFETY: a value of this type proves that the processor has the instructions.
        unsafe { open(&self.0, buffer, texts) }
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn seal(key: &[u32; 8], buffer: &mut [u8], texts: &[Text]) {
    let one_time_keys = one_time_keys(key, texts);
    apply_stream(key, buffer, texts.iter());
    let tags = tags(&one_time_keys, buffer, texts);
    for (text, tag) in texts.iter().zip(tags) {
        buffer[text.end..text.end + TAG_SIZE].copy_from_slice(&tag.to_le_bytes());
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn open(key: &[u32; 8], buffer: &mut [u8], texts: &[Text]) -> [bool; LANES] {
    let tags = tags(&one_time_keys(key, texts), buffer, texts);
    let mut fits = [false; LANES];
    for ((fits, text), tag) in fits.iter_mut().zip(texts).zip(tags) {
        let mut received = [0; TAG_SIZE];
        received.copy_from_slice(&buffer[text.end..text.end + TAG_SIZE]);
        // One comparison of the whole difference: the time does not tell where they differ.
        *fits = u128::from_le_bytes(received) ^ tag == 0;
    }
    let authentic = texts.iter().zip(fits).filter_map(|(text, fits)| fits.then_some(text));
    apply_stream(key, buffer, authentic);
    fits
}

/// Block 0 of each message makes its Poly1305 key (section 2.6).
#[target_feature(enable = "avx512f")]
fn one_time_keys(key: &[u32; 8], texts: &[Text]) -> [OneTimeKey; LANES] {
    let mut lanes = Lanes::default();
    for (lane, text) in texts.iter().enumerate() {
        lanes.set(lane, 0, text.counter);
    }
    key_stream(key, &lanes).map(|block| {
        let mut bytes = [0; BLOCK];
        store(block, &mut bytes);
        *bytes.first_chunk().expect("invariant: a block is longer than a key")
    })
}

/// Blocks 1 and following are added to the texts, sixteen blocks of whichever messages at once.
#[target_feature(enable = "avx512f")]
fn apply_stream<'a>(key: &[u32; 8], buffer: &mut [u8], texts: impl Iterator<Item = &'a Text>) {
    let mut lanes = Lanes::default();
    let mut places = [(0, 0); LANES];
    let mut used = 0;
    for text in texts {
        for (block, start) in (1..).zip((text.start..text.end).step_by(BLOCK)) {
            lanes.set(used, block, text.counter);
            places[used] = (start, text.end.min(start + BLOCK));
            used += 1;
            if used == LANES {
                apply_blocks(key, buffer, &lanes, &places);
                used = 0;
            }
        }
    }
    if used > 0 {
        apply_blocks(key, buffer, &lanes, &places[..used]);
    }
}

#[target_feature(enable = "avx512f")]
fn apply_blocks(key: &[u32; 8], buffer: &mut [u8], lanes: &Lanes, places: &[(usize, usize)]) {
    let stream = key_stream(key, lanes);
    for (&(start, end), stream) in places.iter().zip(stream) {
        apply(stream, &mut buffer[start..end]);
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn tags(keys: &[OneTimeKey; LANES], buffer: &[u8], texts: &[Text]) -> [u128; LANES] {
    let mut tags = [0; LANES];
    for (group, texts) in texts.chunks(poly1305::LANES).enumerate() {
        let first = group * poly1305::LANES;
        let mut eight: [&[u8]; poly1305::LANES] = [&[]; poly1305::LANES];
        for (out, text) in eight.iter_mut().zip(texts) {
            *out = &buffer[text.start..text.end];
        }
        let keys = keys[first..].first_chunk().expect("invariant: two groups of eight are sixteen");
        tags[first..first + poly1305::LANES].copy_from_slice(&poly1305::tags(keys, &eight[..texts.len()]));
    }
    tags
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(bytes: &[u8; chacha20::BLOCK]) -> __m512i {
    // SAFETY: 64 bytes are read, from any alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(value: __m512i, bytes: &mut [u8; chacha20::BLOCK]) {
    // SAFETY: 64 bytes are written, to any alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load_words(words: &[u64; 8]) -> __m512i {
    // SAFETY: eight words are 64 bytes, read from any alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store_words(value: __m512i) -> [u64; 8] {
    let mut words = [0; 8];
    // SAFETY: eight words are 64 bytes, written to any alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) };
    words
}
