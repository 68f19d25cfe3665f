//! The handshake `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (WireGuard paper, section 5.4.2–5.4.5), as functions over bytes.
//!
//! No state is kept, no time read, no packet sent: `engine` does that. MACs are not this module's business (`cookie`).

use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::Zeroizing;

use crate::crypto::{Secret, hash, kdf1, kdf2, kdf3, open_field, random, seal_field};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::message::{INITIATION_SIZE, RESPONSE_SIZE, TYPE_INITIATION, TYPE_RESPONSE, field, word};
use crate::timestamp::Timestamp;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

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
    chain: Secret,
    hash: [u8; 32],
}

/// An initiation whose static key has been decrypted, before it is known whether that peer exists.
pub(crate) struct Identified {
    pub(crate) remote: PublicKey,
    ephemeral: Point,
    index: u32,
    chain: Secret,
    hash: [u8; 32],
    sealed_timestamp: [u8; 28],
}

/// An initiation that its sender has authenticated.
pub(crate) struct Received {
    pub(crate) timestamp: Timestamp,
    ephemeral: Point,
    index: u32,
    chain: Secret,
    hash: [u8; 32],
}

/// The chaining key and hash both sides start from, given the responder's public key.
fn start(responder: &PublicKey) -> ([u8; 32], [u8; 32]) {
    let chain = hash(CONSTRUCTION, &[]);
    (chain, hash(&hash(&chain, IDENTIFIER), &responder.0))
}

fn diffie_hellman(secret: &StaticSecret, point: &Point) -> Option<Secret> {
    let shared = secret.diffie_hellman(point);
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

/// Writes an initiation (all but its MACs). `None` when the peer's key is a point of low order.
pub(crate) fn initiate(
    parties: &Parties<'_>,
    index: u32,
    timestamp: Timestamp,
) -> Option<(Initiated, [u8; INITIATION_SIZE])> {
    let mut message = [0; INITIATION_SIZE];
    let ephemeral = StaticSecret::from(*Zeroizing::new(random::<32>()));
    let public = Point::from(&ephemeral).to_bytes();
    let (chain, digest) = start(parties.remote);
    let digest = hash(&digest, &public);
    let chain = kdf1(&chain, &public);
    let (chain, key) = kdf2(&chain, &*diffie_hellman(&ephemeral, &Point::from(parties.remote.0))?);
    message[..4].copy_from_slice(&TYPE_INITIATION.to_le_bytes());
    message[4..8].copy_from_slice(&index.to_le_bytes());
    message[8..40].copy_from_slice(&public);
    seal_field(&key, &parties.public.0, &digest, &mut message[40..88]);
    let digest = hash(&digest, &message[40..88]);
    if !parties.shared.is_usable() {
        return None;
    }
    let (chain, key) = kdf2(&chain, &parties.shared.0);
    seal_field(&key, timestamp.as_bytes(), &digest, &mut message[88..116]);
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
    let (chain, key) = kdf2(&chain, &*diffie_hellman(&secret, &ephemeral)?);
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
    let timestamp = Timestamp::from(open_field(&key, &sealed_timestamp, &digest)?);
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
    let ephemeral = StaticSecret::from(*Zeroizing::new(random::<32>()));
    let public = Point::from(&ephemeral).to_bytes();
    let digest = hash(&received.hash, &public);
    let chain = kdf1(&received.chain, &public);
    let chain = kdf1(&chain, &*diffie_hellman(&ephemeral, &received.ephemeral)?);
    let chain = kdf1(&chain, &*diffie_hellman(&ephemeral, &Point::from(parties.remote.0))?);
    let (chain, tau, key) = kdf3(&chain, parties.preshared.as_bytes());
    let digest = hash(&digest, &*tau);
    message[..4].copy_from_slice(&TYPE_RESPONSE.to_le_bytes());
    message[4..8].copy_from_slice(&index.to_le_bytes());
    message[8..12].copy_from_slice(&received.index.to_le_bytes());
    message[12..44].copy_from_slice(&public);
    seal_field(&key, &[], &digest, &mut message[44..60]);
    let (receiving, sending) = kdf2(&chain, &[]);
    let keys = TransportKeys { sending: *sending, receiving: *receiving, remote_index: received.index };
    Some((keys, message))
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
    let chain = kdf1(&chain, &*diffie_hellman(&initiated.ephemeral, &ephemeral)?);
    let secret = StaticSecret::from(*parties.private.as_bytes());
    let chain = kdf1(&chain, &*diffie_hellman(&secret, &ephemeral)?);
    let (chain, tau, key) = kdf3(&chain, parties.preshared.as_bytes());
    let digest = hash(&digest, &*tau);
    open_field::<0>(&key, &message[44..60], &digest)?;
    let (sending, receiving) = kdf2(&chain, &[]);
    Some(TransportKeys { sending: *sending, receiving: *receiving, remote_index: word(message, 4) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Moment;
    use crate::cookie::{Cookie, MacKeys};

    /// Encodings of all points whose order divides 8 (RFC 7748, section 6.1, "all-zero output"), in both forms of those
    /// that have two. With them a Diffie-Hellman result is zero, whatever the secret.
    const LOW_ORDER: [&str; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];

    fn points() -> impl Iterator<Item = [u8; 32]> {
        LOW_ORDER.iter().flat_map(|text| {
            let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
            let plain: [u8; 32] = std::array::from_fn(byte);
            let mut with_upper_bit = plain;
            with_upper_bit[31] |= 0x80;
            [plain, with_upper_bit]
        })
    }

    /// A party that knows the public key of another.
    struct Party {
        private: PrivateKey,
        public: PublicKey,
        remote: PublicKey,
        shared: StaticShared,
        preshared: PresharedKey,
    }

    impl Party {
        fn new(number: u8, remote: PublicKey) -> Self {
            let private = PrivateKey::from([number; 32]);
            let (public, shared) = (private.public_key(), StaticShared::new(&private, &remote));
            Self { private, public, remote, shared, preshared: PresharedKey::NONE }
        }

        fn parties(&self) -> Parties<'_> {
            Parties {
                private: &self.private,
                public: &self.public,
                remote: &self.remote,
                shared: &self.shared,
                preshared: &self.preshared,
            }
        }

        fn receive(&self, message: &[u8; INITIATION_SIZE]) -> Option<Received> {
            receive(identify(&self.private, &self.public, message)?, &self.shared)
        }
    }

    fn public(number: u8) -> PublicKey {
        PrivateKey::from([number; 32]).public_key()
    }

    fn now() -> Timestamp {
        Timestamp::at(Duration::from_secs(1))
    }

    #[test]
    fn both_sides_derive_the_same_keys() {
        let (a, b) = (Party::new(1, public(2)), Party::new(2, public(1)));
        let (initiated, initiation) = initiate(&a.parties(), 7, now()).unwrap();
        let received = b.receive(&initiation).unwrap();
        assert_eq!(received.timestamp, now());
        let (theirs, response) = respond(&b.parties(), received, 8).unwrap();
        let ours = finish(&initiated, &a.parties(), &response).unwrap();
        assert_eq!((ours.sending, ours.receiving), (theirs.receiving, theirs.sending));
        assert_eq!((ours.remote_index, theirs.remote_index), (8, 7));
        let other_psk = Party { preshared: [1; 32].into(), ..Party::new(1, public(2)) };
        assert!(finish(&initiated, &other_psk.parties(), &response).is_none());
    }

    #[test]
    fn no_handshake_begins_with_a_peer_whose_key_has_a_low_order() {
        for point in points() {
            let party = Party::new(1, PublicKey(point));
            assert!(!party.shared.is_usable(), "{point:x?}");
            assert!(initiate(&party.parties(), 7, now()).is_none(), "{point:x?}");
        }
    }

    #[test]
    fn initiations_with_an_ephemeral_key_of_low_order_are_refused() {
        let (a, b) = (Party::new(1, public(2)), Party::new(2, public(1)));
        let (_, initiation) = initiate(&a.parties(), 7, now()).unwrap();
        for point in points() {
            let mut forged = initiation;
            forged[8..40].copy_from_slice(&point);
            assert!(identify(&b.private, &b.public, &forged).is_none(), "{point:x?}");
            // Also if it were sealed for the key that anybody can compute then.
            let received = Received { ephemeral: Point::from(point), ..b.receive(&initiation).unwrap() };
            assert!(respond(&b.parties(), received, 8).is_none(), "{point:x?}");
        }
    }

    #[test]
    fn an_initiation_from_a_static_key_of_low_order_is_refused() {
        // Made as the responder would read it: everybody can, because nothing of it needs a secret of the sender.
        let b = public(2);
        for point in points() {
            let ephemeral = StaticSecret::from([9; 32]);
            let ephemeral_public = Point::from(&ephemeral).to_bytes();
            let (chain, digest) = start(&b);
            let digest = hash(&digest, &ephemeral_public);
            let chain = kdf1(&chain, &ephemeral_public);
            let (chain, key) = kdf2(&chain, &*diffie_hellman(&ephemeral, &Point::from(b.0)).unwrap());
            let mut message = [0; INITIATION_SIZE];
            message[8..40].copy_from_slice(&ephemeral_public);
            seal_field(&key, &point, &digest, &mut message[40..88]);
            let digest = hash(&digest, &message[40..88]);
            let (_, key) = kdf2(&chain, &[0; 32]);
            seal_field(&key, now().as_bytes(), &digest, &mut message[88..116]);
            let b = Party::new(2, PublicKey(point));
            let identified = identify(&b.private, &b.public, &message).unwrap();
            assert_eq!(identified.remote, PublicKey(point));
            assert!(receive(identified, &b.shared).is_none(), "{point:x?}");
        }
    }

    #[test]
    fn responses_with_an_ephemeral_key_of_low_order_are_refused() {
        let (a, b) = (Party::new(1, public(2)), Party::new(2, public(1)));
        let (initiated, initiation) = initiate(&a.parties(), 7, now()).unwrap();
        let (_, response) = respond(&b.parties(), b.receive(&initiation).unwrap(), 8).unwrap();
        for point in points() {
            let mut forged = response;
            forged[12..44].copy_from_slice(&point);
            assert!(finish(&initiated, &a.parties(), &forged).is_none(), "{point:x?}");
        }
        assert!(finish(&initiated, &a.parties(), &response).is_some());
    }

    #[test]
    fn every_byte_of_a_handshake_is_authenticated() {
        let (a, b) = (Party::new(1, public(2)), Party::new(2, public(1)));
        let (initiated, mut initiation) = initiate(&a.parties(), 7, now()).unwrap();
        let keys = MacKeys::new(&b.public);
        Cookie::default().stamp(&keys, &mut initiation, Moment::default());
        let (_, response) = respond(&b.parties(), b.receive(&initiation).unwrap(), 8).unwrap();
        for at in 0..INITIATION_SIZE - 16 {
            let mut forged = initiation;
            forged[at] ^= 0x10;
            assert!(!keys.mac1_fits(&forged), "byte {at} of the initiation");
            // The type and the index of the sender are covered by mac1 alone.
            if (8..116).contains(&at) {
                assert!(b.receive(&forged).is_none(), "byte {at} of the initiation");
            }
        }
        for at in 12..60 {
            let mut forged = response;
            forged[at] ^= 0x10;
            assert!(finish(&initiated, &a.parties(), &forged).is_none(), "byte {at} of the response");
        }
    }
}
