//! What Node and Peer objects say, as [`mesh::Node`] and [`mesh::Peer`], and what in them makes no sense. The same of the
//! objects by which other CNIs give pod subnets.
//!
//! A value that cannot be used is left out and comes back as a [`Problem`]; the rest of the object counts. Only a Peer
//! is all or nothing. Nodes and peers are not compared with each other here, and nothing is known of time.

mod discovered;
mod grant;
mod node;
mod peer;

use ipnet::IpNet;
use mesh::{
    Object, Problem,
    special::{Unusable, check_range},
};

pub use grant::{decode_block_affinity, decode_cilium_node};
pub use node::{decode_forced, decode_node};
pub use peer::decode_peer;
pub(crate) use peer::{MOST_NAMED, decode_preshared_key, examine};

/// The most entries of a list in an annotation that count: a node has a handful of them.
pub(crate) const MOST_ENTRIES: usize = 1024;

/// The reason of a problem with an address or a range that nobody can use, whatever holds it.
const UNUSABLE: &str = "UnusableAddress";

/// Collects what is wrong with one object.
struct Problems {
    object: Object,
    found: mesh::Problems,
}

impl Problems {
    fn of(object: Object) -> Self {
        Self { object, found: mesh::Problems::default() }
    }

    fn add(&mut self, reason: &'static str, message: String) {
        self.found.push(Problem::new(self.object.clone(), reason, message));
    }

    /// An annotation whose value makes no sense. `instead` says what has to be there.
    fn annotation(&mut self, reason: &'static str, key: &str, value: &str, instead: &str) {
        self.add(reason, format!("the annotation {key} is {:?}: {instead}", shortened(value)));
    }

    /// A value of an annotation that nobody can use. What is there besides it counts. `instead` says what to write.
    fn unusable(&mut self, key: &str, why: &Unusable, instead: &str) {
        self.add(UNUSABLE, format!("the annotation {key} does not count: {}", why.with_advice(instead)));
    }

    /// A range, unless nobody can be reached there. `place` is what holds it, `instead` says what to write.
    fn usable_range(&mut self, place: &str, range: IpNet, instead: &str) -> Option<IpNet> {
        match check_range(&range) {
            Ok(()) => Some(range),
            Err(why) => {
                let advised = why.with_advice(instead);
                self.add(UNUSABLE, format!("{place} holds a range that is left out: {advised}"));
                None
            }
        }
    }

    /// The entries of a comma list in an annotation that count.
    fn entries<'a>(&mut self, key: &str, value: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        if value.split(',').nth(MOST_ENTRIES).is_some() {
            let instead = format!(
                "only the first {MOST_ENTRIES} of its entries count; join neighbouring ranges to wider ones, or spread \
                 them over several nodes"
            );
            self.annotation("TooManyEntries", key, value, &instead);
        }
        value.split(',').take(MOST_ENTRIES)
    }
}

/// Values come from outside and may be of any length; a message holds the beginning.
pub(crate) fn shortened(value: &str) -> String {
    const LONGEST: usize = 100;
    // Not counted to the end: a list may have as many bad entries as characters.
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}
