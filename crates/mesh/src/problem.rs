//! What is wrong with an object, as data: so that it can be logged once, counted, and shown to whoever asks.

use std::fmt;

use crate::text::{Plain, plain};

/// The object a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A Node, by name.
    Node(String),
    /// A Peer, by name.
    Peer(String),
    /// An object of another program's API that says something about a node.
    Foreign {
        /// Its kind, as it is written in the object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// This host.
    Host,
    /// The mesh as a whole.
    Mesh,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Node(name) => write!(f, "node {}", Plain(name)),
            Object::Peer(name) => write!(f, "peer {}", Plain(name)),
            Object::Foreign { kind, name } => write!(f, "{kind} {}", Plain(name)),
            Object::Host => f.write_str("this host"),
            Object::Mesh => f.write_str("the mesh"),
        }
    }
}

/// Something wrong with one object. The rest of the mesh goes on without what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The object.
    pub object: Object,
    /// A word in CamelCase for metrics and Events, for example `DuplicateKey`.
    pub reason: &'static str,
    /// What is wrong and what to do, in a sentence.
    pub message: String,
}

impl Problem {
    /// A problem of one object. The message may quote it; it is shown in logs, pages, terminals and Events.
    pub fn new(object: Object, reason: &'static str, message: impl Into<String>) -> Self {
        Self { object, reason, message: plain(message.into()) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.object, Plain(&self.message), self.reason)
    }
}
