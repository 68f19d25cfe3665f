//! Poly1305 (RFC 8439, section 2.5) with AVX-512 IFMA: the tags of eight messages at once.
//!
//! One register holds the same limb of eight accumulators. A number below 2¹³⁰ is three limbs of 44, 44 and 42 bits, so
//! that products fit the 52-bit multiplier with room for carries. The time depends on lengths alone.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_mask_mov_epi64, _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64,
    _mm512_srli_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::chacha20::{BLOCK, transpose_quarters};
use super::wide::{load, load_words, store_words};

/// Messages at once.
pub(super) const LANES: usize = 8;
/// Bytes of a Poly1305 block.
const STEP: usize = 16;
const MASK_44: u64 = (1 << 44) - 1;
const MASK_42: u64 = (1 << 42) - 1;

/// A key is used for one message only: `r` and `s`.
pub(super) type OneTimeKey = [u8; 32];

/// The tags over `texts` as RFC 8439, section 2.8 asks for, without additional data: the text, zeros up to a multiple
/// of 16 bytes, and the length. There are at most eight texts; further tags have no meaning.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn tags(keys: &[OneTimeKey; LANES], texts: &[&[u8]]) -> [u128; LANES] {
    let multiplier = Multiplier::new(keys);
    let mut sum = [_mm512_setzero_si512(); 3];
    let shortest = texts.iter().map(|text| text.len()).min().unwrap_or(0);
    let wholes = shortest / BLOCK;
    for whole in 0..wholes {
        let words = words_of(texts, whole * BLOCK);
        for pair in words.as_chunks::<2>().0 {
            sum = multiplier.step(sum, pair[0], pair[1]);
        }
    }
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    let start = wholes * (BLOCK / STEP);
    for step in start..=longest.div_ceil(STEP) {
        let (mut low, mut high, mut active) = ([0; LANES], [0; LANES], 0u8);
        for (lane, text) in texts.iter().enumerate() {
            let Some([a, b]) = block(text, step) else { continue };
            (low[lane], high[lane]) = (a, b);
            active |= 1 << lane;
        }
        let next = multiplier.step(sum, load_words(&low), load_words(&high));
        for (limb, next) in sum.iter_mut().zip(next) {
            *limb = _mm512_mask_mov_epi64(*limb, active, next);
        }
    }
    let limbs = [store_words(sum[0]), store_words(sum[1]), store_words(sum[2])];
    std::array::from_fn(|lane| finish([limbs[0][lane], limbs[1][lane], limbs[2][lane]], &keys[lane]))
}

/// The `step`-th block of what a tag is made over; `None` behind the last one.
fn block(text: &[u8], step: usize) -> Option<[u64; 2]> {
    let steps = text.len().div_ceil(STEP);
    if step >= steps {
        return (step == steps).then_some([0, text.len() as u64]);
    }
    let part = &text[step * STEP..text.len().min((step + 1) * STEP)];
    let mut bytes = [0; STEP];
    bytes[..part.len()].copy_from_slice(part);
    let number = u128::from_le_bytes(bytes);
    Some([number as u64, (number >> 64) as u64])
}

/// 64 bytes of each text, as eight words of eight lanes. A lane without a text counts zeros.
#[target_feature(enable = "avx512f")]
#[inline]
fn words_of(texts: &[&[u8]], at: usize) -> [__m512i; LANES] {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, text) in rows.iter_mut().zip(texts) {
        if let Some(bytes) = text.get(at..).and_then(|rest| rest.first_chunk::<BLOCK>()) {
            *row = load(bytes);
        }
    }
    let [a, b, c, d, e, f, g, h] = rows;
    let even = transpose_quarters([
        _mm512_unpacklo_epi64(a, b),
        _mm512_unpacklo_epi64(c, d),
        _mm512_unpacklo_epi64(e, f),
        _mm512_unpacklo_epi64(g, h),
    ]);
    let odd = transpose_quarters([
        _mm512_unpackhi_epi64(a, b),
        _mm512_unpackhi_epi64(c, d),
        _mm512_unpackhi_epi64(e, f),
        _mm512_unpackhi_epi64(g, h),
    ]);
    [even[0], odd[0], even[1], odd[1], even[2], odd[2], even[3], odd[3]]
}

/// The limbs of `r` of eight keys, and 20 times the upper two: 2¹³² is 20 modulo 2¹³⁰ - 5.
struct Multiplier {
    r: [__m512i; 3],
    s: [__m512i; 2],
}

impl Multiplier {
    #[target_feature(enable = "avx512f")]
    fn new(keys: &[OneTimeKey; LANES]) -> Self {
        let mut limbs = [[0; LANES]; 3];
        for (lane, key) in keys.iter().enumerate() {
            let mut r = [0; STEP];
            r.copy_from_slice(&key[..STEP]);
            let r = u128::from_le_bytes(r) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
            limbs[0][lane] = r as u64 & MASK_44;
            limbs[1][lane] = (r >> 44) as u64 & MASK_44;
            limbs[2][lane] = (r >> 88) as u64;
        }
        let r = limbs.map(|limb| load_words(&limb));
        let s = [limbs[1], limbs[2]].map(|limb| load_words(&limb.map(|limb| limb * 20)));
        Self { r, s }
    }

    /// `(sum + block) × r`, where the block has the bit behind its last byte set.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn step(&self, sum: [__m512i; 3], low: __m512i, high: __m512i) -> [__m512i; 3] {
        let mask_44 = _mm512_set1_epi64(MASK_44.cast_signed());
        let mask_42 = _mm512_set1_epi64(MASK_42.cast_signed());
        let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
        let top = _mm512_or_si512(_mm512_srli_epi64::<24>(high), _mm512_set1_epi64(1 << 40));
        let h0 = _mm512_add_epi64(sum[0], _mm512_and_si512(low, mask_44));
        let h1 = _mm512_add_epi64(sum[1], _mm512_and_si512(middle, mask_44));
        let h2 = _mm512_add_epi64(sum[2], top);
        let ([r0, r1, r2], [s1, s2]) = (self.r, self.s);
        let (low0, high0) = products([(h2, s1), (h1, s2), (h0, r0)]);
        let (low1, high1) = products([(h2, s2), (h1, r0), (h0, r1)]);
        let (low2, high2) = products([(h2, r0), (h1, r1), (h0, r2)]);
        // The upper halves begin at bit 52 of a product: bit 8 (or 10) of the next limb.
        let carry = _mm512_add_epi64(_mm512_srli_epi64::<44>(low0), _mm512_slli_epi64::<8>(high0));
        let h0 = _mm512_and_si512(low0, mask_44);
        let low1 = _mm512_add_epi64(low1, carry);
        let carry = _mm512_add_epi64(_mm512_srli_epi64::<44>(low1), _mm512_slli_epi64::<8>(high1));
        let h1 = _mm512_and_si512(low1, mask_44);
        let low2 = _mm512_add_epi64(low2, carry);
        let carry = _mm512_add_epi64(_mm512_srli_epi64::<42>(low2), _mm512_slli_epi64::<10>(high2));
        let h2 = _mm512_and_si512(low2, mask_42);
        let h0 = _mm512_add_epi64(h0, _mm512_add_epi64(carry, _mm512_slli_epi64::<2>(carry)));
        let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        [_mm512_and_si512(h0, mask_44), h1, h2]
    }
}

/// The sum of three products: the lower 52 bits of each, and what is above them.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn products(pairs: [(__m512i, __m512i); 3]) -> (__m512i, __m512i) {
    let mut low = _mm512_setzero_si512();
    let mut high = _mm512_setzero_si512();
    for (a, b) in pairs {
        low = _mm512_madd52lo_epu64(low, a, b);
        high = _mm512_madd52hi_epu64(high, a, b);
    }
    (low, high)
}

/// Reduces the accumulator completely and adds `s`.
fn finish([mut h0, mut h1, mut h2]: [u64; 3], key: &OneTimeKey) -> u128 {
    for _ in 0..2 {
        h1 += h0 >> 44;
        h0 &= MASK_44;
        h2 += h1 >> 44;
        h1 &= MASK_44;
        h0 += (h2 >> 42) * 5;
        h2 &= MASK_42;
    }
    h1 += h0 >> 44;
    h0 &= MASK_44;
    // Minus p, that is plus 5 minus 2¹³⁰; kept if it is not negative.
    let g0 = h0 + 5;
    let g1 = h1 + (g0 >> 44);
    let g2 = (h2 + (g1 >> 44)).wrapping_sub(1 << 42);
    let keep = (g2 >> 63).wrapping_sub(1);
    h0 = (h0 & !keep) | (g0 & MASK_44 & keep);
    h1 = (h1 & !keep) | (g1 & MASK_44 & keep);
    h2 = (h2 & !keep) | (g2 & MASK_42 & keep);
    let h = u128::from(h0) | u128::from(h1) << 44 | u128::from(h2) << 88;
    let mut s = [0; STEP];
    s.copy_from_slice(&key[STEP..]);
    h.wrapping_add(u128::from_le_bytes(s))
}
