//! Tells about problems: a log line when one appears and when it is gone, and an Event at the object.

use std::collections::BTreeSet;

use mesh::{Object, Problem};
use reconciler::View;

/// What has been told already.
#[derive(Default)]
pub struct Reporter {
    problems: BTreeSet<Problem>,
    unhealthy: Option<Vec<String>>,
    role: Option<mesh::Role>,
}

impl Reporter {
    /// Logs what is new and what is gone. Returns the problems for which this node should write an Event.
    ///
    /// Every agent sees every problem. So that an object does not get an Event from each of them, a node writes those
    /// about itself, and the first node of the mesh those about anything else.
    pub fn tell(&mut self, view: &View, own_node: &str) -> Vec<Problem> {
        let first = view.topology.as_ref().and_then(|topology| topology.nodes().map(|node| &node.name).min());
        let speaks_for_all = first.is_some_and(|name| name == own_node);
        let mut events = Vec::new();
        for problem in view.problems.difference(&self.problems) {
            tracing::warn!(object = %problem.object, reason = problem.reason, "{}", problem.message);
            let own = match &problem.object {
                Object::Node(name) => name == own_node || speaks_for_all,
                Object::Peer(_) | Object::Foreign { .. } => speaks_for_all,
                Object::Host => true,
                Object::Mesh => false,
            };
            if own {
                events.push(problem.clone());
            }
        }
        for problem in self.problems.difference(&view.problems) {
            tracing::info!(object = %problem.object, reason = problem.reason, "no longer a problem");
        }
        self.problems.clone_from(&view.problems);
        self.tell_health(view);
        if self.role != view.role {
            let role = match view.role {
                Some(mesh::Role::Leader) => "leads its segment",
                Some(mesh::Role::Member) => "routes through the leader of its location",
                None => "is not part of the mesh",
            };
            tracing::info!(nodes = view.counts.nodes, segments = view.counts.segments, "this node {role}");
            self.role = view.role;
        }
        events
    }

    fn tell_health(&mut self, view: &View) {
        let before = self.unhealthy.as_deref().unwrap_or_default();
        for reason in view.unhealthy.iter().filter(|reason| !before.contains(reason)) {
            tracing::warn!("unhealthy: {reason}");
        }
        if view.unhealthy.is_empty() && self.unhealthy.as_ref().is_none_or(|reasons| !reasons.is_empty()) {
            tracing::info!(
                nodes = view.counts.nodes,
                peers = view.counts.peers,
                "healthy: the host is as it should be"
            );
        }
        self.unhealthy = Some(view.unhealthy.clone());
    }
}
