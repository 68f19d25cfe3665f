//! What the agent tells others: the API about its own node, whoever reads the log, and by Events whoever looks at an object.

use std::time::Instant;

use kubernetes::patch::CONTROLLER;
use mesh::Published;
use reconciler::View;

use super::{Done, Runtime};

impl Runtime {
    pub(super) fn patch(&mut self, status: Published) {
        let (client, node) = (self.client.clone(), self.setup.reconciler.node.clone());
        let (annotations, mut permission) = (self.annotations.clone(), self.permission.clone());
        self.tasks.push(Box::pin(async move {
            let told = kubernetes::patch::tell(&client, &node, &annotations, &status, &mut permission).await;
            Done::Patched(told, permission)
        }));
    }

    pub(super) fn publish(&mut self, view: View) {
        self.reporter.tell(&view, &self.setup.reconciler.node, Instant::now());
        for _ in 0..self.reporter.events.take_left_out() {
            self.shown.metrics.error("event");
        }
        self.shown.set(view);
    }

    /// Writes the next Event, unless one is being written.
    pub(super) fn write_event(&mut self) {
        let Some(problem) = self.reporter.events.next(Instant::now()) else { return };
        let client = self.client.clone();
        let node = self.setup.reconciler.node.clone();
        // A problem of this host is shown at its Node.
        let problem = match problem.object {
            mesh::Object::Host => problem.of(mesh::Object::Node(node.clone())),
            _ => problem,
        };
        let reporter = kubernetes::patch::Reporter { controller: CONTROLLER.to_owned(), instance: node };
        self.tasks.push(Box::pin(async move {
            if let Err(error) = kubernetes::patch::report(&client, &reporter, &problem).await {
                tracing::debug!(%error, "an Event could not be written");
            }
            Done::Reported
        }));
    }

    /// Whoever writes objects decides how often the host changes, so not every change has a line.
    pub(super) fn say_changed(&mut self, changes: usize, failed: usize, milliseconds: u64) {
        const TEXT: &str = "changed the host's network";
        if self.change_lines.take(Instant::now()) {
            tracing::info!(changes, failed, milliseconds, "{TEXT}");
        } else {
            tracing::debug!(changes, failed, milliseconds, "{TEXT}");
        }
    }
}
