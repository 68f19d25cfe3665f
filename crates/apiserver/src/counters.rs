//! What a server has done so far, for benchmarks.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

/// A reading of a server's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests by verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, and
    /// `other` for discovery and health).
    pub requests: BTreeMap<String, u64>,
    /// Bytes of response bodies handed to connections.
    pub bytes_sent: u64,
    /// Lines sent on watches: changes, bookmarks and errors.
    pub watch_events: u64,
    /// Watches that are open now.
    pub watches: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    requests: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) watch_events: AtomicU64,
    pub(crate) watches_opened: AtomicU64,
    pub(crate) watches_closed: AtomicU64,
}

impl Tally {
    pub(crate) fn count(&self, verb: &'static str) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry(verb).or_default() += 1;
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counters {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = self.watches_closed.load(Ordering::Relaxed);
        Counters {
            requests: requests.iter().map(|(verb, count)| ((*verb).to_owned(), *count)).collect(),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            watch_events: self.watch_events.load(Ordering::Relaxed),
            watches: self.watches_opened.load(Ordering::Relaxed).saturating_sub(closed),
        }
    }
}
