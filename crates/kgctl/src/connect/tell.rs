//! Tells whoever reads the log what is new about the connection, once.

use std::collections::BTreeSet;

use mesh::Problem;
use reconciler::ClientView;

/// What was told.
#[derive(Default)]
pub struct Teller {
    view: ClientView,
    /// Problems that were told; each is told again only after it was gone.
    told: BTreeSet<Problem>,
    /// The last size of the mesh that was told, in nodes and segments.
    size: Option<(usize, usize)>,
}

impl Teller {
    /// Tells what is new.
    pub fn tell(&mut self, view: ClientView) {
        for problem in view.problems.difference(&self.told) {
            tracing::warn!("{problem}");
        }
        self.told.clone_from(&view.problems);
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
