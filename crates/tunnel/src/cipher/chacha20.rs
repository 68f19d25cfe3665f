//! ChaCha20 (RFC 8439, section 2.4) with AVX-512: sixteen blocks at once, which may belong to different messages.
//!
//! One register holds the same word of sixteen blocks. Only additions, rotations and exclusive ors: the time depends on
//! lengths alone.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::wide::{LANES, load, store};

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;

/// "expand 32-byte k".
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Which blocks of which messages: number and nonce, lane by lane.
#[derive(Clone, Copy, Default)]
pub(super) struct Lanes {
    /// The number of the block in its message.
    pub(super) blocks: [u32; LANES],
    /// The message counter, which is the nonce: its low and its high half.
    pub(super) low: [u32; LANES],
    pub(super) high: [u32; LANES],
}

impl Lanes {
    pub(super) fn set(&mut self, lane: usize, block: u32, counter: u64) {
        self.blocks[lane] = block;
        self.low[lane] = counter as u32;
        self.high[lane] = (counter >> 32) as u32;
    }
}

/// The key stream of sixteen blocks.
#[target_feature(enable = "avx512f")]
pub(super) fn key_stream(key: &[u32; 8], lanes: &Lanes) -> [__m512i; LANES] {
    let mut start = [_mm512_setzero_si512(); 16];
    for (word, value) in start.iter_mut().zip(CONSTANTS.iter().chain(key)) {
        *word = _mm512_set1_epi32(value.cast_signed());
    }
    start[12] = load(lanes.blocks.as_bytes());
    start[14] = load(lanes.low.as_bytes());
    start[15] = load(lanes.high.as_bytes());
    let mut state = start;
    for _ in 0..10 {
        quarter_round::<0, 4, 8, 12>(&mut state);
        quarter_round::<1, 5, 9, 13>(&mut state);
        quarter_round::<2, 6, 10, 14>(&mut state);
        quarter_round::<3, 7, 11, 15>(&mut state);
        quarter_round::<0, 5, 10, 15>(&mut state);
        quarter_round::<1, 6, 11, 12>(&mut state);
        quarter_round::<2, 7, 8, 13>(&mut state);
        quarter_round::<3, 4, 9, 14>(&mut state);
    }
    for (word, start) in state.iter_mut().zip(start) {
        *word = _mm512_add_epi32(*word, start);
    }
    by_block(&state)
}

/// Adds (or takes off) the key stream of one block; `text` may be shorter than a block.
#[target_feature(enable = "avx512f")]
pub(super) fn apply(stream: __m512i, text: &mut [u8]) {
    if let Some(block) = text.first_chunk_mut::<BLOCK>() {
        store(_mm512_xor_si512(load(block), stream), block);
        return;
    }
    let mut bytes = [0; BLOCK];
    store(stream, &mut bytes);
    for (byte, key) in text.iter_mut().zip(bytes) {
        *byte ^= key;
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn quarter_round<const A: usize, const B: usize, const C: usize, const D: usize>(state: &mut [__m512i; 16]) {
    state[A] = _mm512_add_epi32(state[A], state[B]);
    state[D] = _mm512_rol_epi32::<16>(_mm512_xor_si512(state[D], state[A]));
    state[C] = _mm512_add_epi32(state[C], state[D]);
    state[B] = _mm512_rol_epi32::<12>(_mm512_xor_si512(state[B], state[C]));
    state[A] = _mm512_add_epi32(state[A], state[B]);
    state[D] = _mm512_rol_epi32::<8>(_mm512_xor_si512(state[D], state[A]));
    state[C] = _mm512_add_epi32(state[C], state[D]);
    state[B] = _mm512_rol_epi32::<7>(_mm512_xor_si512(state[B], state[C]));
}

/// From one register per word to one register per block.
#[target_feature(enable = "avx512f")]
#[inline]
fn by_block(words: &[__m512i; 16]) -> [__m512i; LANES] {
    let mut fours = [[_mm512_setzero_si512(); 4]; 4];
    for (group, words) in words.as_chunks::<4>().0.iter().enumerate() {
        let [a, b, c, d] = *words;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        fours[0][group] = _mm512_unpacklo_epi64(ab, cd);
        fours[1][group] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        fours[2][group] = _mm512_unpacklo_epi64(ab, cd);
        fours[3][group] = _mm512_unpackhi_epi64(ab, cd);
    }
    // The quarter `q` of `fours[k][group]` now holds words 4 × group to 4 × group + 3 of block 4 × q + k.
    let mut blocks = [_mm512_setzero_si512(); LANES];
    for (k, four) in fours.iter().enumerate() {
        for (q, block) in transpose_quarters(*four).into_iter().enumerate() {
            blocks[4 * q + k] = block;
        }
    }
    blocks
}

/// Exchanges rows and columns of four times four quarters of registers.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    let (ab, cd) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(c, d));
    let (ab_odd, cd_odd) = (_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(c, d));
    [
        _mm512_shuffle_i32x4::<EVEN>(ab, cd),
        _mm512_shuffle_i32x4::<EVEN>(ab_odd, cd_odd),
        _mm512_shuffle_i32x4::<ODD>(ab, cd),
        _mm512_shuffle_i32x4::<ODD>(ab_odd, cd_odd),
    ]
}

/// Words as bytes, in the byte order of x86, which is the one ChaCha20 wants.
trait AsBytes {
    fn as_bytes(&self) -> &[u8; BLOCK];
}

impl AsBytes for [u32; LANES] {
    fn as_bytes(&self) -> &[u8; BLOCK] {
        // SAFETY: sixteen words are 64 bytes, all of them initialised, and bytes need no alignment.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }
}
