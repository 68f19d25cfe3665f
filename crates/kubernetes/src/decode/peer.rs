//! A Peer object as [`mesh::Peer`].

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{
    Endpoint, Excerpt, Host, Object, Peer, PresharedKey, PresharedKeySource, Problem, PublicKey, SecretRef,
    key::KeyError,
    special::{check_address, check_range},
};

use super::{Problems, UNUSABLE, shortened};
use crate::{
    object::PeerObject,
    peer::{PeerEndpoint, PeerSpec, PresharedKeySecretRef},
    preshared_keys::DEFAULT_KEY,
};

/// How many wrong entries of a Peer's list are named.
pub(crate) const MOST_NAMED: usize = 8;

/// Decodes a Peer. One in which anything is wrong gives `None` and one problem that lists all of it, for half a
/// Peer would route to the wrong place. Only a preshared key that is none is reported and left out, as the Go
/// implementation leaves it out; and one beside a reference, which is stricter. So is an address that nobody can use,
/// because it leads to no place at all.
pub fn decode_peer(object: &PeerObject) -> (Option<Peer>, Vec<Problem>) {
    let mut problems = Problems::of(Object::Peer(object.name().to_owned()));
    let examined = examine(object);
    match &examined.preshared_key {
        Some(PresharedKeyFault::NoKey(why)) => problems.add(
            "InvalidPresharedKey",
            format!(
                "spec.presharedKey is no key and is left out, so the peer has to do without as well: {why}; `wg \
                 genpsk` makes one"
            ),
        ),
        Some(fault @ PresharedKeyFault::Beside) => {
            problems.add("AmbiguousPresharedKey", format!("{fault}; the one in the Secret is used"));
        }
        None => {}
    }
    if !examined.unusable.is_empty() && examined.faults.is_empty() {
        problems.add(UNUSABLE, examined.unusable.join("; "));
    }
    if !examined.faults.is_empty() {
        problems.add("InvalidPeer", format!("is left out; {}", examined.faults.join("; ")));
    }
    (examined.peer, problems.found.into())
}

/// What there is in a Peer object.
pub(crate) struct Examined {
    /// The peer, when nothing is wrong but perhaps the preshared key.
    pub peer: Option<Peer>,
    /// What is wrong, each in a sentence with the field, the value and what to write.
    pub faults: Vec<String>,
    /// What nobody can use and the peer is without, each in a sentence with the field, the value and what to write.
    pub unusable: Vec<String>,
    /// What is wrong with the preshared key in the object.
    pub preshared_key: Option<PresharedKeyFault>,
}

/// What is wrong with a preshared key in an object, which is no reason to leave the peer out. It never shows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PresharedKeyFault {
    /// It is none.
    #[error("spec.presharedKey is no key: {0}; `wg genpsk` makes one")]
    NoKey(KeyError),
    /// There is a reference as well.
    #[error("spec has both presharedKey and presharedKeySecretRef: remove presharedKey")]
    Beside,
}

/// The one place that says what is a valid Peer, for agents and for admission.
pub(crate) fn examine(object: &PeerObject) -> Examined {
    let spec = match &object.spec {
        Ok(spec) => spec,
        Err(why) => {
            let faults = vec![format!("its spec cannot be read: {why}")];
            return Examined { peer: None, faults, unusable: Vec::new(), preshared_key: None };
        }
    };
    let mut faults = Vec::new();
    let (source, fault) = preshared_key(spec, &mut faults);
    let mut peer = decode_spec(object, spec, source, &mut faults);
    let unusable = peer.as_mut().map(leave_out_unusable).unwrap_or_default();
    if peer.as_ref().is_some_and(|peer| peer.allowed_ips.is_empty()) {
        faults.extend(unusable.iter().cloned());
        return Examined { peer: None, faults, unusable: Vec::new(), preshared_key: fault };
    }
    Examined { peer, faults, unusable, preshared_key: fault }
}

/// Takes from a peer what nobody can use, and says so.
fn leave_out_unusable(peer: &mut Peer) -> Vec<String> {
    let mut unusable = Excerpt::of(MOST_NAMED);
    peer.allowed_ips.retain(|net| match check_range(net) {
        Ok(()) => true,
        Err(why) => {
            let instead = "remove it, or write ranges of hosts such as 10.5.0.1/32";
            unusable.push(|| {
                format!("spec.allowedIPs holds a range that does not count: {}", why.with_advice(instead))
            });
            false
        }
    });
    let address = peer.endpoint.as_ref().and_then(Endpoint::ip);
    let mut unusable = unusable.into_texts();
    if let Some(Err(why)) = address.map(check_address) {
        let instead = "write an address at which nodes reach the peer, or leave the endpoint out";
        unusable.push(format!("spec.endpoint does not count: {}", why.with_advice(instead)));
        peer.endpoint = None;
    }
    unusable
}

fn decode_spec(
    object: &PeerObject,
    spec: &PeerSpec,
    preshared_key: Option<PresharedKeySource>,
    faults: &mut Vec<String>,
) -> Option<Peer> {
    let allowed_ips = allowed_ips(&spec.allowed_ips, faults);
    let endpoint = spec.endpoint.as_ref().and_then(|endpoint| decode_endpoint(endpoint, faults));
    let persistent_keepalive = u16::try_from(spec.persistent_keepalive);
    if persistent_keepalive.is_err() {
        faults.push(format!(
            "spec.persistentKeepalive is {}: write a number of seconds from 0 to 65535",
            spec.persistent_keepalive
        ));
    }
    let key: Result<PublicKey, _> = without_newlines(&spec.public_key).parse();
    if let Err(error) = &key {
        faults.push(format!("spec.publicKey is {:?}: {error}", shortened(&spec.public_key)));
    }
    if !faults.is_empty() {
        return None;
    }
    Some(Peer {
        name: object.name().to_owned(),
        created: object.created(),
        changed: object.is_changed(),
        key: key.ok()?,
        allowed_ips,
        endpoint,
        preshared_key,
        persistent_keepalive: persistent_keepalive.ok()?,
    })
}

fn allowed_ips(texts: &[String], faults: &mut Vec<String>) -> Vec<IpNet> {
    if texts.is_empty() {
        faults.push("spec.allowedIPs is empty: write at least one CIDR such as 10.5.0.1/32".to_owned());
    }
    let mut cidrs = Vec::with_capacity(texts.len());
    let mut wrong = Excerpt::of(MOST_NAMED);
    for text in texts {
        match (cidr(text), text.parse::<IpAddr>()) {
            (Some(cidr), _) => cidrs.push(cidr),
            (None, Ok(address)) => wrong.push(|| {
                let written = IpNet::from(address);
                format!("spec.allowedIPs holds {text:?}, an address without a length: write {written}")
            }),
            (None, Err(_)) => wrong.push(|| {
                format!("spec.allowedIPs holds {:?}: write CIDRs such as 10.5.0.1/32", shortened(text))
            }),
        }
    }
    faults.extend(wrong.into_texts());
    cidrs
}

/// `010.5.0.1/32` is none: some programs read its first number as 8, and a Go agent refuses it.
fn cidr(text: &str) -> Option<IpNet> {
    let (address, _) = text.split_once('/')?;
    address.parse::<IpAddr>().ok()?;
    text.parse().ok()
}

fn decode_endpoint(endpoint: &PeerEndpoint, faults: &mut Vec<String>) -> Option<Endpoint> {
    let dns = match endpoint.dns_or_ip.dns.as_str() {
        "" => None,
        text => match text.parse::<Host>() {
            // An IPv6 address is no DNS name; an IPv4 address looks like one.
            Ok(host) if !text.contains(':') => Some(host),
            _ => {
                faults.push(format!(
                    "spec.endpoint.dnsOrIP.dns is {:?}: write a DNS name in lower case, and an address as ip",
                    shortened(text)
                ));
                None
            }
        },
    };
    let ip = match endpoint.dns_or_ip.ip.as_str() {
        "" => None,
        text => match text.parse::<IpAddr>() {
            Ok(address) => Some(Host::Ip(address.to_canonical())),
            Err(_) => {
                faults.push(format!(
                    "spec.endpoint.dnsOrIP.ip is {:?}: write an address such as 192.0.2.7, and a name as dns",
                    shortened(text)
                ));
                None
            }
        },
    };
    if endpoint.dns_or_ip.dns.is_empty() && endpoint.dns_or_ip.ip.is_empty() {
        faults.push("spec.endpoint.dnsOrIP is empty: write dns or ip, or leave the endpoint out".to_owned());
    }
    let port = u16::try_from(endpoint.port).ok().filter(|port| *port != 0);
    if port.is_none() {
        faults.push(format!("spec.endpoint.port is {}: write a number from 1 to 65535", endpoint.port));
    }
    Some(Endpoint { host: dns.or(ip)?, port: port? })
}

/// A reference takes precedence: whoever may write Peers but not Secrets cannot replace the key that it leads to.
fn preshared_key(
    spec: &PeerSpec,
    faults: &mut Vec<String>,
) -> (Option<PresharedKeySource>, Option<PresharedKeyFault>) {
    let Some(PresharedKeySecretRef { name, key }) = &spec.preshared_key_secret_ref else {
        return match decode_preshared_key(spec.preshared_key.expose()) {
            _ if spec.preshared_key.is_empty() => (None, None),
            Ok(key) => (Some(PresharedKeySource::Inline(key)), None),
            Err(error) => (None, Some(PresharedKeyFault::NoKey(error))),
        };
    };
    let fault = (!spec.preshared_key.is_empty()).then_some(PresharedKeyFault::Beside);
    let key = if key.is_empty() { DEFAULT_KEY } else { key };
    match SecretRef::new(name, key) {
        Ok(reference) => (Some(PresharedKeySource::Secret(reference)), fault),
        Err(error) => {
            let (name, key) = (shortened(name), shortened(key));
            faults.push(format!("spec.presharedKeySecretRef is {name:?} with the key {key:?}: {error}"));
            (None, fault)
        }
    }
}

/// A preshared key as `wg genpsk` prints it.
pub(crate) fn decode_preshared_key(text: &str) -> Result<PresharedKey, KeyError> {
    without_newlines(text).parse()
}

/// Go's base64 reads over line ends, and a YAML block leaves one at the end of a key.
fn without_newlines(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}
