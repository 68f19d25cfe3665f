//! What is wrong with an object, as data: so that it can be logged once, counted, and shown to whoever asks.

use std::{collections::BTreeMap, fmt};

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

/// The longest message of a problem, in characters: values from outside may be of any length.
const LONGEST_MESSAGE: usize = 1000;

/// Something wrong with one object. The rest of the mesh goes on without what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The object.
    pub object: Object,
    /// A word in CamelCase for metrics and Events, for example `DuplicateKey`.
    pub reason: &'static str,
    /// What is wrong and what to do, in a sentence.
    pub message: String,
    /// How many more problems the object has for the same reason, see [`Problems`].
    pub further: usize,
    /// How many of these are in the message, too.
    named: usize,
}

impl Problem {
    /// A problem of one object. The message may quote it; it is shown in logs, pages, terminals and Events, so control
    /// characters are escaped, and more than 1,000 characters are cut.
    pub fn new(object: Object, reason: &'static str, message: impl Into<String>) -> Self {
        Self { object, reason, message: cut(plain(message.into())), further: 0, named: 0 }
    }

    /// What is wrong, with the number of further problems of the kind.
    pub fn text(&self) -> String {
        match self.further - self.named {
            0 => self.message.clone(),
            further => format!("{}, and {further} more like it", self.message),
        }
    }

    /// The same, of another object.
    #[must_use]
    pub fn of(self, object: Object) -> Self {
        Self { object, ..self }
    }

    /// The same without the count of further ones: what it says first.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self { further: self.named, ..self.clone() }
    }

    /// What makes it another problem, or the same one with another message.
    pub fn key(&self) -> (&Object, &'static str) {
        (&self.object, self.reason)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.object, Plain(&self.text()), self.reason)
    }
}

fn cut(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
        message.truncate(end);
        message.push('…');
        message.shrink_to_fit();
    }
    message
}

/// So many problems of one object and reason are named in one, if they are short.
const NAMED: usize = 8;

/// Collects problems: one for each object and reason, which names the first few and counts the others. So a list of 20,000
/// entries that are all wrong costs as much as one with ten.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    found: Vec<Problem>,
    /// Where in `found` they are.
    index: BTreeMap<Object, BTreeMap<&'static str, usize>>,
}

impl Problems {
    /// Adds a problem, or counts it.
    pub fn push(&mut self, problem: Problem) {
        let reasons = match self.index.get_mut(&problem.object) {
            Some(reasons) => reasons,
            None => self.index.entry(problem.object.clone()).or_default(),
        };
        match reasons.get(problem.reason) {
            Some(kept) => self.found[*kept].take_in(&problem),
            None => {
                reasons.insert(problem.reason, self.found.len());
                self.found.push(problem);
            }
        }
    }

    /// Those that were found, in the order in which the first of each was.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.found.iter()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Those that were found, by object and reason: for whoever compares them with others.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        self.found
    }
}

impl Problem {
    /// The first few are named. The same from two sides counts once.
    fn take_in(&mut self, other: &Problem) {
        self.further = self.further.saturating_add(other.further);
        if other.message == self.message {
            return;
        }
        self.further = self.further.saturating_add(1);
        if self.named + 1 < NAMED && self.message.len() + other.message.len() < LONGEST_MESSAGE {
            self.message.push_str("; ");
            self.message.push_str(&other.message);
            self.named += 1;
        }
    }
}

impl Extend<Problem> for Problems {
    fn extend<T: IntoIterator<Item = Problem>>(&mut self, problems: T) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }
}

impl FromIterator<Problem> for Problems {
    fn from_iter<T: IntoIterator<Item = Problem>>(problems: T) -> Self {
        let mut all = Self::default();
        all.extend(problems);
        all
    }
}

impl From<Problems> for Vec<Problem> {
    fn from(problems: Problems) -> Self {
        problems.found
    }
}

/// The first few of many texts, and how many more there are: for a message about a list of any length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    most: usize,
    texts: Vec<String>,
    further: usize,
}

impl Excerpt {
    /// None yet; at most `most` texts are kept.
    pub fn of(most: usize) -> Self {
        Self { most, texts: Vec::new(), further: 0 }
    }

    /// Adds a text, which is made only if it is kept.
    pub fn push(&mut self, text: impl FnOnce() -> String) {
        if self.texts.len() < self.most {
            self.texts.push(cut(text()));
        } else {
            self.further += 1;
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.further == 0
    }

    /// The texts, and a last one that says how many more there are, if there are.
    pub fn into_texts(mut self) -> Vec<String> {
        if self.further > 0 {
            self.texts.push(format!("and {} more", self.further));
        }
        self.texts
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.clone().into_texts().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(object: &str, reason: &'static str, message: &str) -> Problem {
        Problem::new(Object::Node(object.to_owned()), reason, message)
    }

    #[test]
    fn one_for_each_object_and_reason() {
        let mut problems: Problems =
            (0..20_000).map(|index| problem("b", "Bad", &format!("x{index} is no CIDR"))).collect();
        problems.push(problem("b", "Worse", "y"));
        problems.push(problem("a", "Bad", "z"));
        problems.push(problem("a", "Bad", "z"));
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let named: Vec<_> = (0..8).map(|index| format!("x{index} is no CIDR")).collect();
        let first = format!("node b: {}, and 19992 more like it (Bad)", named.join("; "));
        let first = first.as_str();
        assert_eq!(said, [first, "node b: y (Worse)", "node a: z (Bad)"]);
        let mut all = Problems::default();
        all.push(problem("b", "Bad", "x7 is no CIDR"));
        all.extend(Vec::from(problems));
        let sorted: Vec<_> =
            all.into_sorted().iter().map(|one| (one.object.to_string(), one.further)).collect();
        assert_eq!(
            sorted,
            [("node a".to_owned(), 0), ("node b".to_owned(), 20_000), ("node b".to_owned(), 0)]
        );
    }

    #[test]
    fn a_message_has_an_end() {
        let long = problem("a", "Long", &"ä".repeat(200_000));
        assert_eq!(long.message.chars().count(), LONGEST_MESSAGE + 1);
        assert!(long.message.ends_with('…') && long.message.capacity() < 4096);
        assert_eq!(
            problem("a", "Short", &"ä".repeat(LONGEST_MESSAGE)).message.chars().count(),
            LONGEST_MESSAGE
        );
    }

    #[test]
    fn an_excerpt_of_many_texts() {
        let mut excerpt = Excerpt::of(2);
        assert!(excerpt.is_empty());
        (0..5).for_each(|index| excerpt.push(|| index.to_string()));
        assert_eq!(excerpt.to_string(), "0; 1; and 3 more");
    }
}
