//! Tells about problems: a log line when one appears and when it is gone, and an Event at the object. How many there are of
//! both is limited, because whoever may write an object decides how many problems there are.

mod events;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

pub use events::Events;
use mesh::{Object, Problem};
use pace::Bucket;
use program::problem_lines::{Change, HEALTH_LINES, Line, ProblemLines, changes};
use reconciler::View;

/// What has been told already.
pub struct Reporter {
    lines: ProblemLines,
    /// The Events that are to be written.
    pub events: Events,
    /// Those of which Events were considered.
    problems: Arc<[Problem]>,
    unhealthy: Option<Vec<String>>,
    role: Option<mesh::Role>,
    own_lines: Bucket,
}

impl Default for Reporter {
    fn default() -> Self {
        Self {
            lines: ProblemLines::default(),
            events: Events::default(),
            problems: Arc::default(),
            unhealthy: None,
            role: None,
            own_lines: HEALTH_LINES,
        }
    }
}

impl Reporter {
    /// Logs what is new and what is gone, and takes in the problems for which this node should write an Event.
    ///
    /// Every agent sees what is wrong with Nodes and Peers, and every leader which names do not resolve. So that an object does
    /// not get an Event from each of them, a node writes those about itself, and the first leader of the mesh those about
    /// anything else.
    pub fn tell(&mut self, view: &View, own_node: &str, now: Instant) {
        for line in self.lines.update(&view.problems, now) {
            write(&line);
        }
        self.offer_events(view, own_node, now);
        self.tell_health(view, now);
        self.tell_role(view, now);
    }

    fn offer_events(&mut self, view: &View, own_node: &str, now: Instant) {
        if Arc::ptr_eq(&self.problems, &view.problems) {
            return;
        }
        let before = std::mem::replace(&mut self.problems, view.problems.clone());
        let segments = view.topology.iter().flat_map(|topology| &topology.segments);
        let first = segments.map(|segment| &segment.leader().name).min();
        let speaks_for_all = first.is_some_and(|name| name == own_node);
        for change in changes(&before, &view.problems) {
            let Change::New(problem) = change else { continue };
            let own = match &problem.object {
                Object::Node(name) => name == own_node || speaks_for_all,
                Object::Peer(_) | Object::Foreign { .. } => speaks_for_all,
                Object::Host => true,
                Object::Mesh => false,
            };
            if own {
                self.events.offer(problem, now);
            }
        }
    }

    fn tell_role(&mut self, view: &View, now: Instant) {
        if self.role == view.role || !self.own_lines.take(now) {
            return;
        }
        let role = match view.role {
            Some(mesh::Role::Leader) => "leads its segment",
            Some(mesh::Role::Member) => "routes through the leader of its location",
            None => "is not part of the mesh",
        };
        tracing::info!(nodes = view.counts.nodes, segments = view.counts.segments, "this node {role}");
        self.role = view.role;
    }

    fn tell_health(&mut self, view: &View, now: Instant) {
        let before = self.unhealthy.as_deref().unwrap_or_default();
        for reason in view.unhealthy.iter().filter(|reason| !before.contains(reason)) {
            if self.own_lines.take(now) {
                tracing::warn!("unhealthy: {reason}");
            } else {
                tracing::debug!("unhealthy: {reason}");
            }
        }
        let recovered =
            view.unhealthy.is_empty() && self.unhealthy.as_ref().is_none_or(|reasons| !reasons.is_empty());
        if recovered && !self.own_lines.take(now) {
            // It is said as soon as it may be.
            return;
        }
        if recovered {
            tracing::info!(
                nodes = view.counts.nodes,
                peers = view.counts.peers,
                "healthy: the host is as it should be"
            );
        }
        self.unhealthy = Some(view.unhealthy.clone());
    }
}

fn write(line: &Line) {
    match line {
        Line::New(problem) => {
            tracing::warn!(object = %problem.object, reason = problem.reason, "{}", problem.text());
        }
        Line::Gone(problem) => {
            tracing::info!(object = %problem.object, reason = problem.reason, "no longer a problem");
        }
        Line::LeftOut(count) => {
            tracing::warn!("{count} more lines about problems are left out; see /health for all there are");
        }
    }
}
