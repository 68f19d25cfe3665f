//! Tells whoever reads the log what is new about the connection, once.

use std::time::Instant;

use pace::Bucket;
use program::problem_lines::{HEALTH_LINES, Line, ProblemLines};
use reconciler::ClientView;

/// What was told.
pub struct Teller {
    view: ClientView,
    problems: ProblemLines,
    /// The last size of the mesh that was told, in nodes and segments.
    size: Option<(usize, usize)>,
    health_lines: Bucket,
}

impl Default for Teller {
    fn default() -> Self {
        Self {
            view: ClientView::default(),
            problems: ProblemLines::default(),
            size: None,
            health_lines: HEALTH_LINES,
        }
    }
}

impl Teller {
    /// Tells what is new.
    pub fn tell(&mut self, view: ClientView) {
        let now = Instant::now();
        for line in self.problems.update(&view.problems, now) {
            match line {
                Line::New(problem) => tracing::warn!("{problem}"),
                Line::Gone(problem) => tracing::debug!("no longer a problem: {problem}"),
                Line::LeftOut(count) => tracing::warn!("{count} more lines about problems are left out"),
            }
        }
        for reason in view.unhealthy.iter().filter(|reason| !self.view.unhealthy.contains(reason)) {
            if self.health_lines.take(now) {
                tracing::error!("{reason}");
            } else {
                tracing::debug!("{reason}");
            }
        }
        let size = Some((view.nodes, view.segments));
        if view.settled
            && (self.size != size || !self.view.unhealthy.is_empty())
            && self.health_lines.take(now)
        {
            tracing::info!(nodes = view.nodes, tunnels = view.segments, "connected");
            self.size = size;
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
