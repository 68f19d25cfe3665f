//! The reachability of all pairs as a table. It only arranges what [`crate::probe`] found.

use std::{collections::BTreeMap, fmt::Write};

use crate::{layout::Family, probe::Outcome};

/// Who reaches whom in one address family.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// The family.
    pub family: Family,
    /// The names of the endpoints, in the order of rows and columns.
    pub names: Vec<String>,
    /// From row, to column; the diagonal is missing.
    pub cells: BTreeMap<(usize, usize), Outcome>,
}

/// Whether a table is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// With terminal escapes.
    Colour,
    /// Plain text.
    Plain,
}

impl Matrix {
    /// Whether every endpoint reaches every other under its own address.
    pub fn is_complete(&self) -> bool {
        self.cells.values().all(|outcome| matches!(outcome, Outcome::Reached { .. }))
    }

    /// The pairs that do not reach each other as they should, as text.
    pub fn failures(&self) -> Vec<String> {
        let describe = |(pair, outcome): (&(usize, usize), &Outcome)| {
            let (from, to) = (&self.names[pair.0], &self.names[pair.1]);
            match outcome {
                Outcome::Reached { .. } => None,
                Outcome::Translated { seen } => Some(format!("{from}→{to} arrives from {seen}")),
                Outcome::Lost => Some(format!("{from}→{to} lost")),
            }
        };
        self.cells.iter().filter_map(describe).collect()
    }

    /// How many pairs are as they should be, and how many pairs there are.
    pub fn score(&self) -> (usize, usize) {
        (self.cells.len() - self.failures().len(), self.cells.len())
    }

    /// What the row's endpoint gets from the column's.
    pub fn outcome(&self, from: &str, to: &str) -> Option<Outcome> {
        let index = |name: &str| self.names.iter().position(|known| known == name);
        self.cells.get(&(index(from)?, index(to)?)).copied()
    }

    /// A table with round trip times in milliseconds.
    pub fn render(&self, paint: Paint) -> String {
        let width = self.names.iter().map(String::len).max().unwrap_or_default().max(5);
        let (good, total) = self.score();
        let mut text = format!("  {}: {good} of {total} pairs, round trips in ms\n", self.family);
        let _ = write!(text, "  {:>width$}", "from\\to");
        let indent = "from\\to".len().max(width);
        for name in &self.names {
            let _ = write!(text, "  {name:>width$}");
        }
        text.push('\n');
        for (from, name) in self.names.iter().enumerate() {
            let _ = write!(text, "  {name:>indent$}");
            for to in 0..self.names.len() {
                let (cell, colour) = match self.cells.get(&(from, to)) {
                    None => ("·".into(), ""),
                    Some(Outcome::Reached { round_trip }) => {
                        (milliseconds(round_trip.as_secs_f64() * 1e3), "32")
                    }
                    Some(Outcome::Translated { .. }) => ("NAT".into(), "33"),
                    Some(Outcome::Lost) => ("lost".into(), "31"),
                };
                let padded = format!("{cell:>width$}");
                let painted = paint == Paint::Colour && !colour.is_empty();
                let _ = if painted {
                    write!(text, "  \x1b[{colour}m{padded}\x1b[0m")
                } else {
                    write!(text, "  {padded}")
                };
            }
            text.push('\n');
        }
        text
    }
}

fn milliseconds(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_table_shows_every_outcome() {
        let cells = BTreeMap::from([
            ((0, 1), Outcome::Reached { round_trip: Duration::from_micros(420) }),
            ((1, 0), Outcome::Lost),
        ]);
        let matrix = Matrix { family: Family::V4, names: vec!["a1-p1".into(), "b1-p1".into()], cells };
        let expect = "  IPv4: 1 of 2 pairs, round trips in ms\n  \
                      from\\to  a1-p1  b1-p1\n    \
                      a1-p1      ·   0.42\n    \
                      b1-p1   lost      ·\n";
        assert_eq!(matrix.render(Paint::Plain), expect);
        assert!(!matrix.is_complete());
        assert_eq!(matrix.failures(), ["b1-p1→a1-p1 lost"]);
        assert_eq!(matrix.outcome("b1-p1", "a1-p1"), Some(Outcome::Lost));
    }
}
