//! What Node and Peer objects say, as [`mesh::Node`] and [`mesh::Peer`], and what in them makes no sense. The same of the
//! objects by which other CNIs give pod subnets.
//!
//! A value that cannot be used is left out and comes back as a [`Problem`]; the rest of the object counts. Only a Peer
//! is all or nothing. Nodes and peers are not compared with each other here, and nothing is known of time.

mod discovered;
mod grant;
mod node;
mod peer;

use mesh::{Object, Problem};

pub use grant::{decode_block_affinity, decode_cilium_node};
pub use node::{decode_forced, decode_node};
pub use peer::decode_peer;
pub(crate) use peer::{MOST_NAMED, decode_preshared_key, examine};

/// The most entries of a list in an annotation that count: a node has a handful of them.
pub(crate) const MOST_ENTRIES: usize = 1024;

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
