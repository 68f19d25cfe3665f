//! The addresses of endpoints that are DNS names: when they are asked for, and what is kept of the answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// A name that was answered is asked for again after this time: dynamic DNS entries usually live as long.
const REFRESH: Duration = Duration::from_secs(60);

/// A name that was not answered is asked for again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// The names in use.
#[derive(Debug, Default)]
pub struct Names {
    names: BTreeMap<String, Entry>,
    /// Those that are not being asked for, by when they are to be; `None`: at once. It is looked at on every event.
    due: BTreeSet<(Option<Instant>, String)>,
    /// How many have no fresh address.
    errors: usize,
}

#[derive(Debug, Default)]
struct Entry {
    address: Option<IpAddr>,
    error: Option<String>,
    next: Option<Instant>,
}

impl Names {
    /// These names are in use; others are forgotten.
    pub fn retain(&mut self, used: BTreeSet<String>) {
        self.names.retain(|name, _| used.contains(name));
        self.due.retain(|(_, name)| used.contains(name));
        self.errors = self.names.values().filter(|entry| entry.error.is_some()).count();
        for name in used {
            if !self.names.contains_key(&name) {
                self.due.insert((None, name.clone()));
                self.names.insert(name, Entry::default());
            }
        }
    }

    /// A name to ask for now. It counts as being asked until it is answered.
    pub fn next(&mut self, now: Instant) -> Option<String> {
        self.due.first().filter(|(at, _)| at.is_none_or(|at| at <= now))?;
        self.due.pop_first().map(|(_, name)| name)
    }

    /// When a name is to be asked for again.
    pub fn timeout(&self) -> Option<Instant> {
        self.due.first()?.0
    }

    /// An answer. Of several addresses the one in use stays if it is still among them; else the first IPv4 one, else
    /// the first. Without an answer the last known address stays. Returns whether the address or error changed.
    pub fn answer(&mut self, name: &str, answer: Result<Vec<IpAddr>, String>, now: Instant) -> bool {
        let Some(entry) = self.names.get_mut(name) else { return false };
        self.due.remove(&(entry.next, name.to_owned()));
        self.errors -= usize::from(entry.error.is_some());
        let before = (entry.address, entry.error.take());
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                entry.next = Some(now + REFRESH);
                if !entry.address.is_some_and(|address| addresses.contains(&address)) {
                    entry.address = addresses.iter().find(|ip| ip.is_ipv4()).or(addresses.first()).copied();
                }
            }
            Ok(_) => {
                entry.next = Some(now + RETRY);
                entry.error = Some("the name exists but has no address".to_owned());
            }
            Err(error) => {
                entry.next = Some(now + RETRY);
                entry.error = Some(error);
            }
        }
        self.due.insert((entry.next, name.to_owned()));
        self.errors += usize::from(entry.error.is_some());
        before != (entry.address, entry.error.clone())
    }

    /// Whether any name has no fresh address.
    pub fn any_error(&self) -> bool {
        self.errors > 0
    }

    /// Whether every name has been answered at least once.
    pub fn is_all_answered(&self) -> bool {
        self.names.values().all(|entry| entry.address.is_some() || entry.error.is_some())
    }

    /// The addresses that are known.
    pub fn resolved(&self) -> BTreeMap<String, IpAddr> {
        self.names.iter().filter_map(|(name, entry)| Some((name.clone(), entry.address?))).collect()
    }

    /// Why a name has no fresh address.
    pub fn error(&self, name: &str) -> Option<&str> {
        self.names.get(name)?.error.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_good_address() {
        let now = Instant::now();
        let mut names = Names::default();
        names.retain(["a.example".to_owned()].into());
        assert_eq!(names.next(now).as_deref(), Some("a.example"));
        assert_eq!(names.next(now), None, "it is being asked already");
        let addresses: Vec<IpAddr> = vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        assert!(names.answer("a.example", Ok(addresses), now));
        assert_eq!(names.resolved()["a.example"].to_string(), "192.0.2.1");
        assert!(names.answer("a.example", Err("timed out".to_owned()), now + REFRESH));
        assert_eq!(names.resolved()["a.example"].to_string(), "192.0.2.1");
        assert_eq!(names.error("a.example"), Some("timed out"));
        assert_eq!(names.timeout(), Some(now + REFRESH + RETRY));
    }
}
