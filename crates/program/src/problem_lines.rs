//! Which log lines there are about problems: one when a problem appears and one when it is gone, but not as many as
//! somebody who writes objects likes.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{Object, Problem};
use pace::{Bucket, Filter};

/// How many lines there are at once, and the time for one more.
const ALL: (u32, Duration) = (25, Duration::from_secs(12));

/// The same for one object and reason: a problem that comes and goes is not news each time.
const EACH: (u32, Duration) = (4, Duration::from_secs(300));

/// How long lines are left out before that is said again.
const SUMMARY: Duration = Duration::from_secs(60);

/// How often changes of the host have a line: whoever writes objects decides how many there are.
pub const CHANGE_LINES: Bucket = Bucket::new(30, Duration::from_secs(6));

/// How many lines about a program's own health there are at once, and the time for one more.
pub const HEALTH_LINES: Bucket = Bucket::new(20, Duration::from_secs(15));

/// A line to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// A problem has appeared, or is put in other words.
    New(Problem),
    /// A problem of which there was a line is gone.
    Gone(Problem),
    /// So many lines were left out since the last one that said so.
    LeftOut(usize),
}

/// What has been said.
#[derive(Debug)]
pub struct ProblemLines {
    problems: Arc<[Problem]>,
    /// Those of which there was a line.
    said: BTreeSet<(Object, &'static str)>,
    filter: Filter<(Object, &'static str)>,
    left_out: usize,
    /// When lines that are left out may be summed up again.
    summary: Option<Instant>,
}

impl Default for ProblemLines {
    fn default() -> Self {
        Self {
            problems: Arc::default(),
            said: BTreeSet::new(),
            filter: Filter::new(Bucket::new(ALL.0, ALL.1), Bucket::new(EACH.0, EACH.1)),
            left_out: 0,
            summary: None,
        }
    }
}

impl ProblemLines {
    /// These are all problems there are, by object and reason: the lines about what is new.
    pub fn update(&mut self, problems: &Arc<[Problem]>, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        if !Arc::ptr_eq(&self.problems, problems) {
            let before = std::mem::replace(&mut self.problems, problems.clone());
            for change in changes(&before, problems) {
                self.change(change, now, &mut lines);
            }
        }
        if self.left_out > 0 && self.summary.is_none_or(|at| at <= now) {
            self.summary = Some(now + SUMMARY);
            lines.push(Line::LeftOut(std::mem::take(&mut self.left_out)));
        }
        lines
    }

    fn change(&mut self, change: Change<'_>, now: Instant, lines: &mut Vec<Line>) {
        let (Change::New(problem) | Change::Gone(problem)) = change;
        let key = (problem.object.clone(), problem.reason);
        match change {
            // Nobody was told of it.
            Change::Gone(_) if !self.said.remove(&key) => {}
            _ if !self.filter.take(&key, now) => self.left_out += 1,
            Change::Gone(_) => lines.push(Line::Gone(problem.clone())),
            Change::New(_) => {
                self.said.insert(key);
                lines.push(Line::New(problem.clone()));
            }
        }
    }
}

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change<'a> {
    /// It was not there, or had another message.
    New(&'a Problem),
    /// There is none for this object and reason any more.
    Gone(&'a Problem),
}

/// Compares problems with those before. Both are by object and reason.
pub fn changes<'a>(before: &'a [Problem], after: &'a [Problem]) -> Vec<Change<'a>> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    let mut changes = Vec::new();
    loop {
        match (before.peek(), after.peek()) {
            (Some(old), Some(new)) if old.key() == new.key() => {
                if old.message != new.message {
                    changes.push(Change::New(new));
                }
                before.next();
                after.next();
            }
            (Some(old), new) if new.is_none_or(|new| old.key() < new.key()) => {
                changes.push(Change::Gone(old));
                before.next();
            }
            (_, Some(new)) => {
                changes.push(Change::New(new));
                after.next();
            }
            (_, None) => return changes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(number: usize, message: &str) -> Problem {
        Problem::new(Object::Peer(format!("{number:05}")), "Bad", message)
    }

    fn shown(problems: &[Problem]) -> Arc<[Problem]> {
        problems.iter().cloned().collect::<mesh::Problems>().into_sorted().into()
    }

    #[test]
    fn a_problem_is_said_when_it_comes_and_when_it_goes() {
        let (mut lines, now) = (ProblemLines::default(), Instant::now());
        let first = shown(&[problem(1, "a"), problem(2, "b")]);
        assert_eq!(lines.update(&first, now), [Line::New(problem(1, "a")), Line::New(problem(2, "b"))]);
        assert_eq!(lines.update(&shown(&first), now), []);
        let many = |count: usize| {
            let of_one = (0..count).map(|number| problem(1, &format!("{number}")));
            shown(&of_one.chain([problem(2, "b")]).collect::<Vec<_>>())
        };
        let more = many(20);
        assert_eq!(lines.update(&more, now), [Line::New(more[0].clone())]);
        // Only the number of others like it is new.
        assert_eq!(lines.update(&many(30), now), []);
        let other = shown(&[problem(2, "d"), problem(3, "e")]);
        let lines = lines.update(&other, now);
        let gone = Line::Gone(many(30)[0].clone());
        assert_eq!(lines, [gone, Line::New(problem(2, "d")), Line::New(problem(3, "e"))]);
    }

    #[test]
    fn of_thousands_some_are_said() {
        let (mut lines, start) = (ProblemLines::default(), Instant::now());
        let all: Vec<Problem> = (0..3000).map(|number| problem(number, "a")).collect();
        let said = lines.update(&shown(&all), start);
        assert_eq!((said.len(), said.last()), (26, Some(&Line::LeftOut(2975))));
        // They come and go every second for ten minutes.
        let mut count = 0;
        for second in 1..600 {
            let now = start + Duration::from_secs(second);
            count += lines.update(&if second % 2 == 0 { shown(&all) } else { shown(&[]) }, now).len();
        }
        assert!((50..=61).contains(&count), "{count} lines in ten minutes");
        let kept = lines.said.len();
        assert!(kept < 100, "{kept}");
    }

    #[test]
    fn one_that_flaps_does_not_hide_the_others() {
        let (mut lines, start) = (ProblemLines::default(), Instant::now());
        let mut said = 0;
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            let problems = if second % 2 == 0 { vec![problem(1, "a")] } else { vec![] };
            let new = lines.update(&shown(&problems), now);
            said += new.iter().filter(|line| !matches!(line, Line::LeftOut(_))).count();
        }
        assert_eq!(said, EACH.0 as usize);
        let now = start + Duration::from_secs(60);
        assert!(lines.update(&shown(&[problem(2, "b")]), now).contains(&Line::New(problem(2, "b"))));
    }
}
