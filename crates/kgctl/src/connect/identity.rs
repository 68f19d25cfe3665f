//! Who this host is in the mesh: its key, its addresses and its Peer object, from what was asked for, what the cluster
//! has and what the interface has. Nothing is read or changed here.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;
use kubernetes::{
    peer::{Peer, PeerSpec},
    registration::CONNECTED_FROM,
};
use mesh::{PrivateKey, PublicKey};

/// The address of a client that is given none.
const DEFAULT_ADDRESS: &str = "10.10.10.10/32";

/// What was asked for and what is there.
pub struct Known<'a> {
    /// The name of the Peer.
    pub name: &'a str,
    /// The name of this host.
    pub host: &'a str,
    /// The addresses that were asked for.
    pub addresses: &'a [IpNet],
    /// Seconds between keepalives, for a Peer that is made.
    pub persistent_keepalive: u16,
    /// The key that was given, and the name of its file.
    pub given_key: Option<(PrivateKey, String)>,
    /// The key that the interface has, if there is an interface.
    pub interface_key: Option<PrivateKey>,
    /// The Peer object, if there is one.
    pub peer: Option<Peer>,
}

/// Who this host is.
#[derive(Debug)]
pub struct Identity {
    /// Its key.
    pub key: PrivateKey,
    /// Its addresses in the mesh, with their prefix lengths on the interface.
    pub addresses: Vec<IpNet>,
    /// What has to be done so that the cluster has it as a Peer.
    pub registration: Registration,
}

/// What has to be done so that the cluster has this host as a Peer.
#[derive(Debug, PartialEq)]
pub enum Registration {
    /// Nothing.
    Present,
    /// Create this object.
    Create(Peer),
    /// Replace the object, which an earlier connection from this host left behind.
    Replace(Peer),
}

/// Decides who this host is.
///
/// # Errors
/// When the Peer, the interface and what was asked for contradict each other.
pub fn decide(known: Known<'_>, fresh: PrivateKey) -> Result<Identity> {
    let registered =
        known.peer.as_ref().and_then(|peer| peer.spec.public_key.trim().parse::<PublicKey>().ok());
    let given = known.given_key.as_ref().map(|(key, _)| key);
    // An interface of ours that was left up has the key to the Peer that was left with it.
    let of_interface = known.interface_key.as_ref().filter(|key| registered == Some(key.public_key()));
    let key = given.or(of_interface).cloned().unwrap_or(fresh);
    if let Some(found) = &known.interface_key
        && found.public_key() != key.public_key()
    {
        bail!(
            "the WireGuard interface exists and has another key ({}): it belongs to something else, for example an \
             agent; choose another name with --interface, or remove it",
            found.public_key()
        );
    }
    let Some(mut peer) = known.peer else {
        let addresses = or_default(known.addresses)?;
        let mut peer = Peer::new(known.name, PeerSpec::default());
        peer.metadata.annotations =
            Some(BTreeMap::from([(CONNECTED_FROM.to_owned(), known.host.to_owned())]));
        peer.spec = spec(&addresses, known.persistent_keepalive, &key);
        return Ok(Identity { key, addresses, registration: Registration::Create(peer) });
    };
    let own = is_from(&peer, known.host);
    let other_addresses =
        !known.addresses.is_empty() && spec(known.addresses, 0, &key).allowed_ips != peer.spec.allowed_ips;
    if registered == Some(key.public_key()) && !(own && other_addresses) {
        let addresses = of_peer(known.name, &peer, known.addresses)?;
        return Ok(Identity { key, addresses, registration: Registration::Present });
    }
    if own {
        let addresses = or_default(known.addresses)?;
        peer.spec = spec(&addresses, known.persistent_keepalive, &key);
        return Ok(Identity { key, addresses, registration: Registration::Replace(peer) });
    }
    let there = peer.spec.public_key.trim();
    match known.given_key {
        Some((_, file)) => bail!(
            "the Peer {:?} has the public key {there}, but the key in {file} makes {}; give the right file, or another \
             name",
            known.name,
            key.public_key()
        ),
        None => bail!(
            "there is a Peer {:?} already; give its private key with --private-key, or connect by another name: \
             kgctl connect NAME",
            known.name
        ),
    }
}

/// Whether a connection from this host made the Peer.
pub fn is_from(peer: &Peer, host: &str) -> bool {
    let from = peer.metadata.annotations.as_ref().and_then(|all| all.get(CONNECTED_FROM));
    from.is_some_and(|from| from == host)
}

fn spec(addresses: &[IpNet], persistent_keepalive: u16, key: &PrivateKey) -> PeerSpec {
    PeerSpec {
        allowed_ips: addresses.iter().map(|address| address.trunc().to_string()).collect(),
        persistent_keepalive: persistent_keepalive.into(),
        public_key: key.public_key().to_string(),
        ..PeerSpec::default()
    }
}

fn or_default(asked: &[IpNet]) -> Result<Vec<IpNet>> {
    if asked.is_empty() { Ok(vec![DEFAULT_ADDRESS.parse()?]) } else { Ok(asked.to_vec()) }
}

/// The addresses of a Peer that exists: those that were asked for, if they are among its allowed IPs; else those that it
/// names.
fn of_peer(name: &str, peer: &Peer, asked: &[IpNet]) -> Result<Vec<IpNet>> {
    let allowed: Vec<IpNet> = peer.spec.allowed_ips.iter().filter_map(|text| text.parse().ok()).collect();
    if asked.is_empty() {
        let single = |net: &&IpNet| net.prefix_len() == net.max_prefix_len();
        let found: Vec<IpNet> = allowed.iter().filter(single).copied().collect();
        let none = || {
            anyhow!(
                "the Peer {name:?} has the allowed IPs {}, among which there is no single address; give this host's \
                 with --allowed-ip",
                peer.spec.allowed_ips.join(", ")
            )
        };
        return if found.is_empty() { Err(none()) } else { Ok(found) };
    }
    let is_let_in = |address: &&IpNet| allowed.iter().any(|net| net.contains(&address.addr()));
    if let Some(stranger) = asked.iter().find(|address| !is_let_in(address)) {
        bail!(
            "the Peer {name:?} has the allowed IPs {}, to which {} does not belong; nobody would answer",
            peer.spec.allowed_ips.join(", "),
            stranger.addr()
        );
    }
    Ok(asked.to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    fn key(number: u8) -> PrivateKey {
        PrivateKey::from_random([number; 32])
    }

    fn known() -> Known<'static> {
        Known {
            name: "laptop",
            host: "here",
            addresses: &[],
            persistent_keepalive: 10,
            given_key: None,
            interface_key: None,
            peer: None,
        }
    }

    fn peer(number: u8, allowed_ips: &[&str], from: Option<&str>) -> Peer {
        let mut peer = Peer::new("laptop", PeerSpec::default());
        peer.spec.public_key = key(number).public_key().to_string();
        peer.spec.allowed_ips = allowed_ips.iter().map(ToString::to_string).collect();
        peer.metadata.annotations = from.map(|from| [(CONNECTED_FROM.to_owned(), from.to_owned())].into());
        peer
    }

    fn given(number: u8) -> Option<(PrivateKey, String)> {
        Some((key(number), "/etc/key".to_owned()))
    }

    fn error(known: Known<'_>) -> String {
        decide(known, key(9)).unwrap_err().to_string()
    }

    #[test]
    fn a_new_peer_gets_a_fresh_key_and_the_default_address() {
        let identity = decide(known(), key(9)).unwrap();
        let Registration::Create(peer) = identity.registration else { panic!("{identity:?}") };
        assert_eq!(peer.spec.public_key, key(9).public_key().to_string());
        assert_eq!(peer.spec.allowed_ips, ["10.10.10.10/32"]);
        assert_eq!(peer.spec.persistent_keepalive, 10);
        assert!(is_from(&peer, "here") && !is_from(&peer, "elsewhere"));
    }

    #[test]
    fn a_peer_that_exists_is_used_with_its_key_and_addresses() {
        let exists = Some(peer(1, &["10.5.0.1/32", "fd05::1/128", "10.6.0.0/16"], None));
        let identity =
            decide(Known { peer: exists.clone(), given_key: given(1), ..known() }, key(9)).unwrap();
        assert_eq!(identity.registration, Registration::Present);
        assert_eq!(
            identity.addresses,
            ["10.5.0.1/32", "fd05::1/128"].map(|net| net.parse::<IpNet>().unwrap())
        );
        let asked = ["10.6.0.1/24".parse().unwrap()];
        let known_with =
            |addresses| Known { peer: exists.clone(), given_key: given(1), addresses, ..known() };
        assert_eq!(decide(known_with(&asked), key(9)).unwrap().addresses, asked);
        let stranger = ["10.7.0.1/32".parse().unwrap()];
        assert!(error(known_with(&stranger)).contains("10.7.0.1 does not belong"));
    }

    #[test]
    fn a_peer_of_somebody_else_is_left_alone() {
        let exists = || Some(peer(1, &["10.5.0.1/32"], Some("elsewhere")));
        assert!(error(Known { peer: exists(), ..known() }).contains("--private-key"));
        assert!(error(Known { peer: exists(), given_key: given(2), ..known() }).contains("/etc/key"));
    }

    #[test]
    fn what_a_crash_left_is_taken_over() {
        let left = || Some(peer(1, &["10.10.10.10/32"], Some("here")));
        let identity = decide(Known { peer: left(), ..known() }, key(9)).unwrap();
        let Registration::Replace(replaced) = &identity.registration else { panic!("{identity:?}") };
        assert_eq!(replaced.spec.public_key, key(9).public_key().to_string());
        let with_interface = Known { peer: left(), interface_key: Some(key(1)), ..known() };
        let identity = decide(with_interface, key(9)).unwrap();
        assert!(identity.key == key(1), "the interface still has the key");
        assert_eq!(identity.registration, Registration::Present);
    }

    #[test]
    fn an_interface_of_somebody_else_is_left_alone() {
        let text = error(Known { interface_key: Some(key(3)), ..known() });
        assert!(text.contains("--interface") && text.contains(&key(3).public_key().to_string()), "{text}");
    }
}
