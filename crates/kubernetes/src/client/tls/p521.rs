//! ECDSA on P-521 (FIPS 186-5), which ring does not have and Go's TLS does.

use p521::{
    SecretKey,
    ecdsa::{
        DerSignature, VerifyingKey,
        signature::{Signer as _, hazmat::PrehashVerifier as _},
    },
    pkcs8::DecodePrivateKey as _,
};
use ring::digest::{Algorithm as Hash, SHA256, SHA384, SHA512, digest};
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    pki_types::{
        AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
        SubjectPublicKeyInfoDer, alg_id,
    },
    sign::{Signer, SigningKey, public_key_to_spki},
};

/// The length of a number on the curve, in bytes.
const LENGTH: usize = 66;

/// How signatures are verified; the first is that of TLS, the others are for certificates.
pub(super) static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    &Verification { hash: &SHA512, signature: alg_id::ECDSA_SHA512 },
    &Verification { hash: &SHA384, signature: alg_id::ECDSA_SHA384 },
    &Verification { hash: &SHA256, signature: alg_id::ECDSA_SHA256 },
];

struct Verification {
    hash: &'static Hash,
    signature: AlgorithmIdentifier,
}

impl std::fmt::Debug for Verification {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "P-521 with {:?}", self.hash)
    }
}

impl SignatureVerificationAlgorithm for Verification {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = DerSignature::try_from(signature).map_err(|_| InvalidSignature)?;
        // A hash is a number; the library takes none that is shorter than half of the curve's.
        let hash = digest(self.hash, message);
        let mut number = [0; LENGTH];
        number[LENGTH - hash.as_ref().len()..].copy_from_slice(hash.as_ref());
        key.verify_prehash(&number, &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

/// A private key.
pub(super) struct Key(p521::ecdsa::SigningKey);

impl Key {
    /// Reads it from PKCS#8 or SEC 1. `None`: it is another.
    pub fn new(der: &PrivateKeyDer<'_>) -> Option<Self> {
        let key = match der {
            PrivateKeyDer::Pkcs8(der) => SecretKey::from_pkcs8_der(der.secret_pkcs8_der()).ok(),
            PrivateKeyDer::Sec1(der) => SecretKey::from_sec1_der(der.secret_sec1_der()).ok(),
            _ => None,
        };
        key.map(|key| Self(key.into()))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a key on P-521")
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP521_SHA512)
            .then(|| Box::new(Self(self.0.clone())) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let point = self.0.verifying_key().to_sec1_point(false);
        Some(public_key_to_spki(&alg_id::ECDSA_P521, point.as_bytes()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature: DerSignature =
            self.0.try_sign(message).map_err(|error| Error::General(error.to_string()))?;
        Ok(signature.as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}
