//! The cryptography of TLS: ring's, and the curve that it lacks.

use std::sync::{Arc, LazyLock};

use rustls::{
    Error, SignatureScheme,
    crypto::{CryptoProvider, KeyProvider, WebPkiSupportedAlgorithms, ring},
    pki_types::{PrivateKeyDer, SignatureVerificationAlgorithm},
    sign::SigningKey,
};

use super::p521::{self, Key};

type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

static ALL: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> = LazyLock::new(|| {
    let ring = ring::default_provider().signature_verification_algorithms;
    [ring.all, p521::ALGORITHMS].concat()
});

static MAPPING: LazyLock<Vec<(SignatureScheme, Algorithms)>> = LazyLock::new(|| {
    let ring = ring::default_provider().signature_verification_algorithms;
    let mut mapping = ring.mapping.to_vec();
    // The other hashes are for certificates.
    mapping.push((SignatureScheme::ECDSA_NISTP521_SHA512, &p521::ALGORITHMS[..1]));
    mapping
});

/// What TLS with an API server is made with.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        signature_verification_algorithms: WebPkiSupportedAlgorithms { all: &ALL, mapping: &MAPPING },
        key_provider: &Keys,
        ..ring::default_provider()
    }
}

#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        match Key::new(&key) {
            Some(key) => Ok(Arc::new(key)),
            None => ring::default_provider().key_provider.load_private_key(key),
        }
    }
}
