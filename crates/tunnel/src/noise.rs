//! The handshake `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (WireGuard paper, section 5.4.2–5.4.5), as functions over bytes.
//!
//! No state is kept, no time read, no packet sent: `handshake` does that. MACs are not this module's business (`cookie`).

use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::Zeroize;

use crate::crypto::{hash, kdf1, kdf2, kdf3, open_field, random, seal_field};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::message::{INITIATION_SIZE, RESPONSE_SIZE, TYPE_INITIATION, TYPE_RESPONSE, field, word};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Bytes of a TAI64N timestamp.
pub(crate) type Timestamp = [u8; 12];

/// A Diffie-Hellman result of two static keys, computed once per peer.
#[derive(Clone, zeroize::ZeroizeOnDrop)]
pub(crate) struct StaticShared([u8; 32]);

impl StaticShared {
    pub(crate) fn new(private: &PrivateKey, remote: &PublicKey) -> Self {
        let shared = StaticSecret::from(*private.as_bytes()).diffie_hellman(&Point::from(remote.0));
        Self(shared.to_bytes())
    }

    /// For as long as we have no key ourselves.
    pub(crate) fn unusable() -> Self {
        Self([0; 32])
    }

    /// A peer whose key is a point of low order can never finish a handshake.
    fn is_usable(&self) -> bool {
        self.0 != [0; 32]
    }
}

/// What two parties know about each other before the first message.
pub(crate) struct Parties<'a> {
    pub(crate) private: &'a PrivateKey,
    pub(crate) public: &'a PublicKey,
    pub(crate) remote: &'a PublicKey,
    pub(crate) shared: &'a StaticShared,
    pub(crate) preshared: &'a PresharedKey,
}

/// The two keys a handshake ends with.
#[derive(zeroize::ZeroizeOnDrop)]
pub(crate) struct TransportKeys {
    pub(crate) sending: [u8; 32],
    pub(crate) receiving: [u8; 32],
    #[zeroize(skip)]
    pub(crate) remote_index: u32,
}

/// What the initiator remembers until the response.
pub(crate) struct Initiated {
    pub(crate) index: u32,
    ephemeral: StaticSecret,
    chain: [u8; 32],
    hash: [u8; 32],
}

/// An initiation whose static key has been decrypted, before it is known whether that peer exists.
pub(crate) struct Identified {
    pub(crate) remote: PublicKey,
    ephemeral: Point,
    index: u32,
    chain: [u8; 32],
    hash: [u8; 32],
    sealed_timestamp: [u8; 28],
}

/// An initiation that its sender has authenticated.
pub(crate) struct Received {
    pub(crate) timestamp: Timestamp,
    ephemeral: Point,
    index: u32,
    chain: [u8; 32],
    hash: [u8; 32],
}

impl Drop for Initiated {
    fn drop(&mut self) {
        self.chain.zeroize();
        self.hash.zeroize();
    }
}

/// The chaining key and hash both sides start from, given the responder's public key.
fn start(responder: &PublicKey) -> ([u8; 32], [u8; 32]) {
    let chain = hash(CONSTRUCTION, &[]);
    (chain, hash(&hash(&chain, IDENTIFIER), &responder.0))
}

fn diffie_hellman(secret: &StaticSecret, point: &Point) -> Option<[u8; 32]> {
    let shared = secret.diffie_hellman(point);
    shared.was_contributory().then(|| shared.to_bytes())
}

/// Writes an initiation (all but its MACs). `None` when the peer's key is a point of low order.
pub(crate) fn initiate(
    parties: &Parties<'_>,
    index: u32,
    timestamp: Timestamp,
) -> Option<(Initiated, [u8; INITIATION_SIZE])> {
    let mut message = [0; INITIATION_SIZE];
    let ephemeral = StaticSecret::from(random::<32>());
    let public = Point::from(&ephemeral).to_bytes();
    let (chain, digest) = start(parties.remote);
    let digest = hash(&digest, &public);
    let chain = kdf1(&chain, &public);
    let (chain, key) = kdf2(&chain, &diffie_hellman(&ephemeral, &Point::from(parties.remote.0))?);
    message[..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
    message[4..8].copy_from_slice(&index.to_le_bytes());
    message[8..40].copy_from_slice(&public);
    seal_field(&key, &parties.public.0, &digest, &mut message[40..88]);
    let digest = hash(&digest, &message[40..88]);
    if !parties.shared.is_usable() {
        return None;
    }
    let (chain, key) = kdf2(&chain, &parties.shared.0);
    seal_field(&key, &timestamp, &digest, &mut message[88..116]);
    let digest = hash(&digest, &message[88..116]);
    Some((Initiated { index, ephemeral, chain, hash: digest }, message))
}

/// Decrypts who sent an initiation: costs one Diffie-Hellman.
pub(crate) fn identify(
    private: &PrivateKey,
    public: &PublicKey,
    message: &[u8; INITIATION_SIZE],
) -> Option<Identified> {
    let ephemeral = Point::from(field::<32>(message, 8));
    let (chain, digest) = start(public);
    let digest = hash(&digest, ephemeral.as_bytes());
    let chain = kdf1(&chain, ephemeral.as_bytes());
    let secret = StaticSecret::from(*private.as_bytes());
    let (chain, key) = kdf2(&chain, &diffie_hellman(&secret, &ephemeral)?);
    let remote = PublicKey(open_field(&key, &message[40..88], &digest)?);
    let digest = hash(&digest, &message[40..88]);
    Some(Identified {
        remote,
        ephemeral,
        index: word(message, 4),
        chain,
        hash: digest,
        sealed_timestamp: field(message, 88),
    })
}

/// Authenticates the sender of an identified initiation.
pub(crate) fn receive(identified: Identified, shared: &StaticShared) -> Option<Received> {
    if !shared.is_usable() {
        return None;
    }
    let Identified { ephemeral, index, chain, hash: digest, sealed_timestamp, .. } = identified;
    let (chain, key) = kdf2(&chain, &shared.0);
    let timestamp = open_field(&key, &sealed_timestamp, &digest)?;
    let digest = hash(&digest, &sealed_timestamp);
    Some(Received { timestamp, ephemeral, index, chain, hash: digest })
}

/// Answers an initiation (all but the MACs) and derives the keys of the responder.
pub(crate) fn respond(
    parties: &Parties<'_>,
    received: Received,
    index: u32,
) -> Option<(TransportKeys, [u8; RESPONSE_SIZE])> {
    let mut message = [0; RESPONSE_SIZE];
    let ephemeral = StaticSecret::from(random::<32>());
    let public = Point::from(&ephemeral).to_bytes();
    let digest = hash(&received.hash, &public);
    let chain = kdf1(&received.chain, &public);
    let chain = kdf1(&chain, &diffie_hellman(&ephemeral, &received.ephemeral)?);
    let chain = kdf1(&chain, &diffie_hellman(&ephemeral, &Point::from(parties.remote.0))?);
    let (chain, tau, key) = kdf3(&chain, parties.preshared.as_bytes());
    let digest = hash(&digest, &tau);
    message[..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
    message[4..8].copy_from_slice(&index.to_le_bytes());
    message[8..12].copy_from_slice(&received.index.to_le_bytes());
    message[12..44].copy_from_slice(&public);
    seal_field(&key, &[], &digest, &mut message[44..60]);
    let (receiving, sending) = kdf2(&chain, &[]);
    Some((TransportKeys { sending, receiving, remote_index: received.index }, message))
}

/// Checks a response to our initiation and derives the keys of the initiator.
pub(crate) fn finish(
    initiated: &Initiated,
    parties: &Parties<'_>,
    message: &[u8; RESPONSE_SIZE],
) -> Option<TransportKeys> {
    let ephemeral = Point::from(field::<32>(message, 12));
    let digest = hash(&initiated.hash, ephemeral.as_bytes());
    let chain = kdf1(&initiated.chain, ephemeral.as_bytes());
    let chain = kdf1(&chain, &diffie_hellman(&initiated.ephemeral, &ephemeral)?);
    let secret = StaticSecret::from(*parties.private.as_bytes());
    let chain = kdf1(&chain, &diffie_hellman(&secret, &ephemeral)?);
    let (chain, tau, key) = kdf3(&chain, parties.preshared.as_bytes());
    let digest = hash(&digest, &tau);
    open_field::<0>(&key, &message[44..60], &digest)?;
    let (sending, receiving) = kdf2(&chain, &[]);
    Some(TransportKeys { sending, receiving, remote_index: word(message, 4) })
}
