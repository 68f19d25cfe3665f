//! Whether a Peer may be stored: what `kg webhook` answers.
//!
//! A Peer is refused when an agent would leave it out, by the very function that the agents use, and when it has a key
//! or addresses that a node or another Peer has. What an update leaves as it is is not held against it: an object that
//! was stored before there were rules can still be labelled, deleted and mended bit by bit. No request is received
//! here and no connection known; [`review`] reads and writes the bytes.

mod review;
mod surroundings;

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use mesh::{
    Excerpt, Object, Peer,
    conflict::{Claimed, Conflict, Conflicts},
    special::check_range,
};

pub use review::{Operation, Request};
pub use surroundings::Surroundings;

use crate::{
    PeerObject,
    decode::{MOST_NAMED, examine, shortened},
    peer::PeerSpec,
};
use review::Objects;

/// How many of the conflicts of one Peer are told. A prefix that is far too wide overlaps everything.
const TOLD: usize = 8;

/// What to answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the object is refused; empty: it is allowed.
    pub faults: Vec<String>,
    /// What whoever made the request should know, although it is no reason to refuse it.
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Whether the object may be stored.
    pub fn is_allowed(&self) -> bool {
        self.faults.is_empty()
    }

    fn with_warning(text: &str) -> Self {
        Self { faults: Vec::new(), warnings: vec![text.to_owned()] }
    }
}

/// Judges a request by what is known of the cluster.
///
/// Only Peers that are created or updated are judged. Anything else is allowed, with a warning when it should not have
/// come here: a wrong rule in a webhook configuration must not lock a cluster.
///
/// # Errors
/// [`Error::Review`](crate::Error::Review) when a Peer is to be stored and there is none in the request.
pub fn judge(request: &Request, surroundings: &Surroundings) -> Result<Verdict, crate::Error> {
    if !request.is_for_peers() {
        return Ok(Verdict::with_warning(&format!(
            "kg webhook judges peers.kilo.squat.ai only, not {}; correct the rules of its ValidatingWebhookConfiguration",
            request.resource
        )));
    }
    match request.operation {
        Operation::Create | Operation::Update => {}
        Operation::Delete | Operation::Connect => return Ok(Verdict::default()),
        Operation::Other => {
            return Ok(Verdict::with_warning(
                "kg webhook judges CREATE and UPDATE only; correct the rules of its ValidatingWebhookConfiguration",
            ));
        }
    }
    Ok(judge_peer(request.objects()?, surroundings))
}

/// Judges a Peer as it is to be stored.
fn judge_peer(objects: &Objects, surroundings: &Surroundings) -> Verdict {
    let peer = match &objects.new {
        Ok(peer) => peer,
        Err(error) => {
            return Verdict { faults: vec![format!("it cannot be read: {error}")], ..Verdict::default() };
        }
    };
    let examined = examine(peer);
    let mut faults = examined.faults;
    faults.extend(examined.unusable);
    faults.extend(examined.preshared_key.map(|fault| fault.to_string()));
    if let Ok(spec) = &peer.spec {
        faults.extend(forms(spec));
    }
    let mut warnings = Vec::new();
    if let (Some(claimant), Ok(spec)) = (&examined.peer, &peer.spec) {
        let (new, known) = Earlier::of(objects.old.as_ref()).split(spec, claimant);
        let new = surroundings.conflicts(&new, TOLD);
        let known = surroundings.conflicts(&known, TOLD);
        match surroundings.gap() {
            None => faults.extend(told(&new)),
            // What is known may be outdated, and what is missing is not known: neither is a reason to refuse.
            Some(gap) => {
                warnings.push(format!("overlaps with nodes and other Peers are not checked for now: {gap}"));
                warnings.extend(told(&new));
            }
        }
        warnings.extend(told(&known));
    }
    if objects.same_spec {
        faults.append(&mut warnings);
        return Verdict { faults: Vec::new(), warnings: faults };
    }
    Verdict { faults, warnings }
}

/// Forms that agents read, but that mean something else to other programs. They are told apart here only, so that what is stored in them is still read.
fn forms(spec: &PeerSpec) -> Vec<String> {
    let mut wrong = Excerpt::of(MOST_NAMED);
    for text in &spec.allowed_ips {
        let (Some((_, length)), Ok(_)) = (text.split_once('/'), text.parse::<IpNet>()) else {
            continue;
        };
        if length.len() > 1 && length.starts_with('0') {
            wrong.push(|| {
                format!("spec.allowedIPs holds {:?}: write its length without a leading 0", shortened(text))
            });
        }
    }
    let mut faults = wrong.into_texts();
    if let Some(endpoint) = spec.endpoint.as_ref().filter(|endpoint| is_mapped(&endpoint.dns_or_ip.ip)) {
        let ip = shortened(&endpoint.dns_or_ip.ip);
        faults.push(format!("spec.endpoint.dnsOrIP.ip is {ip:?}: write it as IPv4"));
    }
    faults
}

/// `::ffff:192.0.2.1` (RFC 4291, section 2.5.5.2).
fn is_mapped(address: &str) -> bool {
    matches!(address.parse(), Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some())
}

/// What an object had before.
struct Earlier<'a> {
    key: Option<&'a str>,
    allowed_ips: HashSet<&'a str>,
}

impl<'a> Earlier<'a> {
    fn of(old: Option<&'a PeerObject>) -> Self {
        let spec = old.and_then(|old| old.spec.as_ref().ok());
        let allowed_ips = spec.into_iter().flat_map(|spec| &spec.allowed_ips);
        Self {
            key: spec.map(|spec| spec.public_key.as_str()),
            allowed_ips: allowed_ips.map(String::as_str).collect(),
        }
    }

    /// What a Peer claims that it did not have before, and what it had. Texts are compared, as the API stores them.
    fn split<'b>(&self, spec: &PeerSpec, peer: &'b Peer) -> (Claimed<'b>, Claimed<'b>) {
        let had_key = self.key == Some(spec.public_key.as_str());
        let usable = |text: &&String| text.parse().is_ok_and(|net| check_range(&net).is_ok());
        let had = spec.allowed_ips.iter().filter(usable).map(|text| self.allowed_ips.contains(text.as_str()));
        let (known, new): (Vec<_>, Vec<_>) = peer.allowed_ips.iter().zip(had).partition(|(_, had)| *had);
        let claimed = |key, allowed_ips: Vec<(&IpNet, bool)>| Claimed {
            peer: &peer.name,
            key,
            allowed_ips: allowed_ips.into_iter().map(|(net, _)| *net).collect(),
        };
        (claimed((!had_key).then_some(peer.key), new), claimed(had_key.then_some(peer.key), known))
    }
}

/// Conflicts in words, with what to do.
fn told(conflicts: &Conflicts) -> Vec<String> {
    let words = |conflict: &Conflict| match conflict {
        Conflict::Key { owner: Object::Node(_) } => format!("{conflict}; give the peer one of its own"),
        Conflict::Key { .. } => format!("{conflict}; give each a key of its own"),
        Conflict::Overlap { .. } => format!("{conflict}; write addresses that nobody has"),
    };
    let mut texts: Vec<String> = conflicts.named.iter().map(words).collect();
    if conflicts.more > 0 {
        texts.push(format!("and {} more of this kind", conflicts.more));
    }
    texts
}
