//! Tells whoever reads the log what is new about the connection, once.

use std::time::Instant;

use program::problem_lines::{Line, ProblemLines};
use reconciler::ClientView;

/// What was told.
#[derive(Default)]
pub struct Teller {
    view: ClientView,
    problems: ProblemLines,
    /// The last size of the mesh that was told, in nodes and segments.
    size: Option<(usize, usize)>,
}

impl Teller {
    /// Tells what is new.
    pub fn tell(&mut self, view: ClientView) {
        for line in self.problems.update(&view.problems, Instant::now()) {
            match line {
                Line::New(problem) => tracing::warn!("{problem}"),
                Line::Gone(problem) => tracing::debug!("no longer a problem: {problem}"),
                Line::LeftOut(count) => tracing::warn!("{count} more lines about problems are left out"),
            }
        }
        for reason in view.unhealthy.iter().filter(|reason| !self.view.unhealthy.contains(reason)) {
            tracing::error!("{reason}");
        }
        if view.settled && (self.size != Some((view.nodes, view.segments)) || !self.view.unhealthy.is_empty())
        {
            tracing::info!(nodes = view.nodes, tunnels = view.segments, "connected");
            self.size = Some((view.nodes, view.segments));
        }
        self.view = view;
    }

    /// Whether the host is as the mesh wants it.
    pub fn settled(&self) -> bool {
        self.view.settled
    }

    /// Why it is not.
    pub fn missing(&self) -> String {
        if self.view.unhealthy.is_empty() {
            return "nothing has been received from the Kubernetes API".to_owned();
        }
        self.view.unhealthy.join("; ")
    }
}
