//! The primitives the protocol is made of (WireGuard paper, section 5.4): BLAKE2s as hash, MAC and HMAC, and
//! ChaCha20-Poly1305. Nothing here knows what is hashed or sealed.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// A key that is wiped from memory when it is not needed any more.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Random bytes from the operating system.
///
/// # Panics
/// When the operating system has no randomness to give; no key may be made then.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("invariant: the operating system provides randomness");
    bytes
}

/// `HASH(a || b)`.
pub(crate) fn hash(a: &[u8], b: &[u8]) -> [u8; 32] {
    let mut hasher = Blake2s256::new();
    Digest::update(&mut hasher, a);
    Digest::update(&mut hasher, b);
    hasher.finalize().into()
}

/// `MAC(key, a || b)`: keyed BLAKE2s with 16 bytes of output.
pub(crate) fn mac(key: &[u8], a: &[u8], b: &[u8]) -> [u8; 16] {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(key)
        .expect("invariant: keys of 16 and 32 bytes are valid for BLAKE2s");
    Update::update(&mut mac, a);
    Update::update(&mut mac, b);
    FixedOutput::finalize_fixed(mac).into()
}

/// `HMAC(key, a || b)` over BLAKE2s (RFC 2104), not to be confused with the keyed hash of [`mac`].
fn hmac(key: &[u8; 32], a: &[u8], b: &[u8]) -> Secret {
    let mut inner = Zeroizing::new([0x36; 64]);
    let mut outer = Zeroizing::new([0x5c; 64]);
    for (i, byte) in key.iter().enumerate() {
        inner[i] ^= byte;
        outer[i] ^= byte;
    }
    let mut hasher = Blake2s256::new();
    Digest::update(&mut hasher, *inner);
    Digest::update(&mut hasher, a);
    Digest::update(&mut hasher, b);
    Zeroizing::new(hash(&*outer, &hasher.finalize()))
}

/// `KDF1(key, input)`.
pub(crate) fn kdf1(key: &[u8; 32], input: &[u8]) -> Secret {
    hmac(&hmac(key, input, &[]), &[1], &[])
}

/// `KDF2(key, input)`.
pub(crate) fn kdf2(key: &[u8; 32], input: &[u8]) -> (Secret, Secret) {
    let secret = hmac(key, input, &[]);
    let first = hmac(&secret, &[1], &[]);
    let second = hmac(&secret, &*first, &[2]);
    (first, second)
}

/// `KDF3(key, input)`.
pub(crate) fn kdf3(key: &[u8; 32], input: &[u8]) -> (Secret, Secret, Secret) {
    let secret = hmac(key, input, &[]);
    let first = hmac(&secret, &[1], &[]);
    let second = hmac(&secret, &*first, &[2]);
    let third = hmac(&secret, &*second, &[3]);
    (first, second, third)
}

/// A ChaCha20-Poly1305 key for many packets.
pub(crate) fn aead_key(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, key).expect("invariant: a ChaCha20-Poly1305 key has 32 bytes"),
    )
}

/// The nonce of the `counter`-th message under a key: 32 zero bits, then the counter, little-endian.
pub(crate) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// `AEAD(key, 0, plain, aad)` for a handshake field; `out` is as long as `plain` and the tag.
pub(crate) fn seal_field(key: &[u8; 32], plain: &[u8], aad: &[u8], out: &mut [u8]) {
    let (text, tag_out) = out.split_at_mut(plain.len());
    text.copy_from_slice(plain);
    let tag = aead_key(key)
        .seal_in_place_separate_tag(nonce(0), Aad::from(aad), text)
        .expect("invariant: handshake fields are far below the length limit of the cipher");
    tag_out.copy_from_slice(tag.as_ref());
}

/// Opens a handshake field of `N` bytes and a tag; `None` when the tag does not fit.
pub(crate) fn open_field<const N: usize>(key: &[u8; 32], sealed: &[u8], aad: &[u8]) -> Option<[u8; N]> {
    let mut buffer = sealed.to_vec();
    let plain = aead_key(key).open_in_place(nonce(0), Aad::from(aad), &mut buffer).ok()?;
    <[u8; N]>::try_from(&*plain).ok()
}
