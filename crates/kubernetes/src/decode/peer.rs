//! A Peer object as [`mesh::Peer`].

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{Endpoint, Excerpt, Host, Object, Peer, PresharedKey, Problem, PublicKey, key::KeyError};

use super::{Problems, shortened};
use crate::{
    object::PeerObject,
    peer::{PeerEndpoint, PeerSpec, Secret},
};

/// How many wrong entries of a Peer's list are named.
pub(crate) const MOST_NAMED: usize = 8;

/// Decodes a Peer. One in which anything is wrong gives `None` and one problem that lists all of it, for half a
/// Peer would route to the wrong place. Only a preshared key that is none is reported and left out, as the Go
/// implementation leaves it out.
pub fn decode_peer(object: &PeerObject) -> (Option<Peer>, Vec<Problem>) {
    let mut problems = Problems::of(Object::Peer(object.name().to_owned()));
    let examined = examine(object);
    if let Some(why) = examined.preshared_key {
        let message = format!(
            "spec.presharedKey is no key and is left out, so the peer has to do without as well: {why}; `wg genpsk` \
             makes one"
        );
        problems.add("InvalidPresharedKey", message);
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
    /// Why the preshared key is none.
    pub preshared_key: Option<String>,
}

/// The one place that says what is a valid Peer, for agents and for admission.
pub(crate) fn examine(object: &PeerObject) -> Examined {
    let spec = match &object.spec {
        Ok(spec) => spec,
        Err(why) => {
            let faults = vec![format!("its spec cannot be read: {why}")];
            return Examined { peer: None, faults, preshared_key: None };
        }
    };
    let (preshared_key, why) = match preshared_key(&spec.preshared_key) {
        Ok(key) => (key, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let mut faults = Vec::new();
    let peer = decode_spec(object.name(), spec, preshared_key, &mut faults);
    Examined { peer, faults, preshared_key: why }
}

fn decode_spec(
    name: &str,
    spec: &PeerSpec,
    preshared_key: Option<PresharedKey>,
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
        name: name.to_owned(),
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

fn preshared_key(text: &Secret) -> Result<Option<PresharedKey>, KeyError> {
    if text.is_empty() {
        return Ok(None);
    }
    without_newlines(text.expose()).parse().map(Some)
}

/// Go's base64 reads over line ends, and a YAML block leaves one at the end of a key.
fn without_newlines(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}
