//! The addresses of endpoints that are DNS names: when they are asked for, and what is kept of the answers.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use mesh::special::check_address;

use crate::lookups::{Answered, Lookups, Owner, Pace};

/// Dynamic DNS entries usually live as long as an address is kept here. Of several errors the first counts, because a name
/// server that is overloaded has a new one every time.
const PACE: Pace = Pace {
    refresh: Duration::from_secs(60),
    retry: (Duration::from_secs(8), Duration::from_secs(120)),
    at_once: (16, 8),
    first_error_counts: true,
};

/// The names in use.
#[derive(Debug)]
pub struct Names(Lookups<String, IpAddr>);

impl Names {
    /// No names are in use yet. What the seed is does not matter, as long as no other host has the same.
    pub fn new(seed: &[u8]) -> Self {
        Self(Lookups::new(PACE, seed))
    }

    /// These names are in use; others are forgotten.
    pub fn retain(&mut self, used: BTreeMap<String, Owner>) {
        self.0.retain(used);
    }

    /// A name to ask for now. It counts as being asked until it is answered.
    pub fn next(&mut self, now: Instant) -> Option<String> {
        self.0.next(now)
    }

    /// When [`Names::next`] may have one although nothing is answered.
    pub fn timeout(&self) -> Option<Instant> {
        self.0.timeout()
    }

    /// An answer. Addresses that nobody can send to do not count. Of several the one in use stays if it is still among them; else the first IPv4 one, else
    /// the first. Without an answer the last known address stays.
    pub fn answer(&mut self, name: &str, answer: Result<Vec<IpAddr>, String>, now: Instant) -> Answered {
        let name = name.to_owned();
        let answer = answer.and_then(usable).and_then(|addresses| {
            let in_use = self.0.value(&name).copied().filter(|address| addresses.contains(address));
            let chosen = in_use.or_else(|| addresses.iter().find(|ip| ip.is_ipv4()).copied());
            let chosen = chosen.or_else(|| addresses.first().copied());
            chosen.ok_or_else(|| "the name exists but has no address".to_owned())
        });
        self.0.answer(&name, answer, now)
    }

    /// Whether any name has no fresh address.
    pub fn any_error(&self) -> bool {
        self.0.any_error()
    }

    /// Grows whenever what [`Names::error`] says may have changed.
    pub fn revision(&self) -> u64 {
        self.0.revision()
    }

    /// Whether every name has been answered at least once. Peers' names are not waited for when many do not resolve.
    pub fn is_all_answered(&self) -> bool {
        self.0.is_all_answered()
    }

    /// The addresses that are known.
    pub fn resolved(&self) -> BTreeMap<String, IpAddr> {
        self.0.values()
    }

    /// Why a name has no fresh address.
    pub fn error(&self, name: &str) -> Option<&str> {
        self.0.error(&name.to_owned())
    }
}

/// The addresses to which packets can be sent. If there are others only, that is why there is no answer.
fn usable(addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, String> {
    let why = addresses.first().and_then(|first| check_address(first.to_canonical()).err());
    let mut usable = addresses;
    usable.retain(|address| check_address(address.to_canonical()).is_ok());
    match why {
        Some(why) if usable.is_empty() => Err(why.to_string()),
        _ => Ok(usable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_good_address() {
        let now = Instant::now();
        let mut names = Names::new(b"seed");
        names.retain([("a.example".to_owned(), Owner::Node)].into());
        assert_eq!(names.next(now).as_deref(), Some("a.example"));
        assert_eq!(names.next(now), None, "it is being asked already");
        let addresses: Vec<IpAddr> = vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        assert_eq!(names.answer("a.example", Ok(addresses), now), Answered::Value);
        assert_eq!(names.resolved()["a.example"].to_string(), "192.0.2.1");
        let later = now + PACE.refresh;
        assert_eq!(names.answer("a.example", Err("timed out".to_owned()), later), Answered::Error);
        assert_eq!(names.resolved()["a.example"].to_string(), "192.0.2.1");
        assert_eq!(names.error("a.example"), Some("timed out"));
        let pause = names.timeout().unwrap() - later;
        assert!(pause >= PACE.retry.0 / 2 && pause <= PACE.retry.0 * 3 / 2, "{pause:?}");
    }

    #[test]
    fn an_address_that_nobody_can_send_to_is_no_answer() {
        let now = Instant::now();
        let mut names = Names::new(b"seed");
        names.retain([("a.example".to_owned(), Owner::Node)].into());
        let addresses = |texts: &[&str]| Ok(texts.iter().map(|text| text.parse().unwrap()).collect());
        assert_eq!(names.answer("a.example", addresses(&["127.0.0.1", "::1"]), now), Answered::Error);
        assert!(names.error("a.example").is_some_and(|why| why.contains("loopback")));
        let answered = names.answer("a.example", addresses(&["0.0.0.0", "192.0.2.1"]), now);
        assert_eq!(answered, Answered::Value);
        assert_eq!(names.resolved()["a.example"].to_string(), "192.0.2.1");
    }
}
