//! Whose clock is off: heartbeats hold the time by the clock of who wrote them.

use crate::{Node, Object, Problem};

/// Clocks that differ by no more than this, in seconds, count as the same: a heartbeat takes a moment.
pub const CLOSE_ENOUGH: i64 = 30;

/// Nobody's clock is that far in the future, in seconds (ten years): such a time was written by hand, for a node without an
/// agent.
const BY_HAND: i64 = 10 * 365 * 86_400;

const REASON: &str = "ClockOff";

/// Judges by how far, in seconds, the heartbeat of each node was ahead of this host's clock when it arrived. What most
/// clocks say, this host's among them, is right; of two halves that differ nobody is.
pub fn clocks<'a>(ahead: impl Iterator<Item = (&'a str, i64)> + Clone) -> Vec<Problem> {
    let mut sorted: Vec<i64> = ahead.clone().map(|(_, ahead)| ahead).chain([0]).collect();
    sorted.sort_unstable();
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    let far = |a: i64, b: i64| a.saturating_sub(b).saturating_abs() > CLOSE_ENOUGH;
    if far(low, high) {
        let off = ahead.filter(|(_, ahead)| far(*ahead, 0));
        return off.map(|(name, ahead)| of_node(name, ahead, "this host's", "both")).collect();
    }
    let mut problems = Vec::new();
    if far(low, 0) {
        problems.push(of_host(low));
    }
    let off = ahead.filter(|(_, ahead)| far(*ahead, low));
    problems.extend(
        off.map(|(name, ahead)| of_node(name, ahead.saturating_sub(low), "those of most nodes", "it")),
    );
    problems
}

/// Judges by the heartbeats as they stand in the objects, which may be old, but not from the future. `now` is this
/// machine's clock, in Unix seconds.
pub fn at_a_glance<'a>(nodes: impl Iterator<Item = &'a Node> + Clone, now: i64) -> Vec<Problem> {
    let seen = nodes.filter(|node| node.last_seen != 0 && node.last_seen.saturating_sub(now) < BY_HAND);
    let ahead = seen.clone().filter(|node| node.last_seen.saturating_sub(now) > CLOSE_ENOUGH);
    // This machine is one of them: of two clocks nobody knows which is right.
    if ahead.clone().count() * 2 > seen.count() + 1 {
        let mut all: Vec<i64> = ahead.map(|node| node.last_seen.saturating_sub(now)).collect();
        all.sort_unstable();
        return vec![of_host(all[all.len() / 2])];
    }
    ahead
        .map(|node| of_node(&node.name, node.last_seen.saturating_sub(now), "this machine's", "both"))
        .collect()
}

fn of_node(name: &str, ahead: i64, of: &str, which: &str) -> Problem {
    let message = format!(
        "its clock is {} {of}; set {which} by NTP, or its heartbeats look {} than they are",
        difference(ahead),
        if ahead < 0 { "older" } else { "younger" }
    );
    Problem::new(Object::Node(name.to_owned()), REASON, message)
}

/// `ahead`: how far most nodes are ahead of this host.
fn of_host(ahead: i64) -> Problem {
    let message = format!(
        "its clock is {} those of most nodes; set it by NTP, or others take its heartbeats for {} than they are",
        difference(ahead.saturating_neg()),
        if ahead > 0 { "older" } else { "younger" }
    );
    Problem::new(Object::Host, REASON, message)
}

fn difference(ahead: i64) -> String {
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    format!("{} {side}", duration(ahead.saturating_abs()))
}

/// A time in a unit in which it is a small number: `45 s`, `12 min`, `5 h`, `3 days`.
pub fn duration(seconds: i64) -> String {
    match seconds {
        ..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ahead: &[(&str, i64)], expected: &[&str]) {
        let problems = clocks(ahead.iter().copied());
        let found: Vec<String> =
            problems.iter().map(|problem| format!("{} {}", problem.object, problem.message)).collect();
        let all = found.len() == expected.len()
            && found.iter().zip(expected).all(|(text, start)| text.starts_with(start));
        assert!(all, "{found:?}");
    }

    #[test]
    fn most_clocks_are_right() {
        check(&[], &[]);
        check(&[("a", 0), ("b", -30), ("c", 30)], &[]);
        check(
            &[("a", 0), ("b", -31), ("c", 3600)],
            &["node b its clock is 31 s behind those of most", "node c its clock is 60 min ahead of"],
        );
        check(&[("a", 100), ("b", 101), ("c", 99)], &["this host its clock is 99 s behind those of most"]);
        check(
            &[("a", -100), ("b", -100), ("c", 0), ("d", -99)],
            &["this host its clock is 99 s ahead of", "node c its clock is 99 s ahead of"],
        );
        check(&[("a", 500_000)], &["node a its clock is 5 days ahead of this host's; set both"]);
        check(&[("a", 0), ("b", 50), ("c", 50)], &["node b", "node c"]);
        check(&[("a", i64::MAX), ("b", i64::MIN)], &["node a", "node b"]);
    }

    #[test]
    fn a_glance_sees_the_future() {
        let node = |name: &str, last_seen| Node { last_seen, ..Node::named(name) };
        let found = |nodes: &[Node]| {
            at_a_glance(nodes.iter(), 1000)
                .iter()
                .map(|problem| problem.object.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&[node("a", 1030), node("b", 5), node("c", 0)]), [""; 0]);
        assert_eq!(found(&[node("a", 1000), node("b", 1031)]), ["node b"]);
        assert_eq!(found(&[node("a", 1100), node("b", 1031), node("c", 0)]), ["this host"]);
        assert_eq!(found(&[node("a", 1100)]), ["node a"]);
        assert_eq!(found(&[]), [""; 0]);
        assert_eq!(found(&[node("a", 4_102_444_800)]), [""; 0]);
    }
}
