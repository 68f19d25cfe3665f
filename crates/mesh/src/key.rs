//! Curve25519 keys as WireGuard uses them: 32 bytes, written as 44 characters of base64.
//!
//! Secret keys never reach `Debug` or `Display`; they are overwritten in memory when dropped.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x25519_dalek::{PublicKey as CurvePoint, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not standard base64 with padding.
    #[error("a key is written in base64, 44 characters ending in '='")]
    NotBase64,
    /// The text decodes to something that is not 32 bytes long.
    #[error("a key has 32 bytes, this has {0}")]
    Length(usize),
    /// All bytes are zero, which WireGuard uses for "no key".
    #[error("the key is all zeros")]
    Zero,
}

/// The buffer may hold a secret key, also when the text turns out to be none.
fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = STANDARD.decode_slice(text, &mut bytes).map_err(|_| KeyError::NotBase64)?;
    <[u8; 32]>::try_from(&bytes[..length]).map_err(|_| KeyError::Length(length))
}

/// A WireGuard public key. Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes 32 bytes.
    ///
    /// # Errors
    /// [`KeyError::Zero`] when all bytes are zero.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        if bytes == [0; 32] { Err(KeyError::Zero) } else { Ok(Self(bytes)) }
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(decode(text)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A WireGuard private key.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// Takes 32 random bytes and clamps them as Curve25519 asks (RFC 7748, section 5), so that the key reads back
    /// from the kernel as it was written.
    pub fn from_random(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(bytes)
    }

    /// Takes the 32 bytes as they are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes. Whoever takes them keeps them secret.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text for the key file, overwritten when dropped. Whoever takes it keeps it secret.
    pub fn expose_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }

    /// The public key that belongs to this one.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(CurvePoint::from(&StaticSecret::from(self.0)).to_bytes())
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = decode(text)?;
        if bytes == [0; 32] { Err(KeyError::Zero) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

/// A symmetric key that two WireGuard peers share in addition to their key pairs.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// Takes the 32 bytes; all zeros means "none" to WireGuard and gives `None`.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        (bytes != [0; 32]).then_some(Self(bytes))
    }

    /// The 32 bytes. Whoever takes them keeps them secret.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text as `wg(8)` writes it, overwritten when dropped. Whoever takes it keeps it secret.
    pub fn expose_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(decode(text)?).ok_or(KeyError::Zero)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_debug() {
        let private = PrivateKey::from_random([7; 32]);
        let shared = PresharedKey::from_bytes([9; 32]).unwrap();
        assert_eq!(format!("{private:?} {shared:?}"), "PrivateKey(secret) PresharedKey(secret)");
    }

    #[test]
    fn wrong_keys_say_why() {
        assert_eq!("short".parse::<PublicKey>(), Err(KeyError::NotBase64));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(KeyError::Length(3)));
        assert_eq!(STANDARD.encode([0; 32]).parse::<PublicKey>(), Err(KeyError::Zero));
    }

    /// A pair made by `wg genkey | wg pubkey` of wireguard-tools.
    #[test]
    fn public_key_is_the_one_wg_computes() {
        let private: PrivateKey = "kBWSVWpyNA7s3SumUAFGL4yAIxZZ63hBjdLDOqtqunk=".parse().unwrap();
        assert_eq!(private.public_key().to_string(), "vIgQTOTOF8zHZYyjmu6bVEEK9anXdIdqhgAuexn/Ow4=");
    }
}
