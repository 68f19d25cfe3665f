//! The end of an agent: what it takes back, from the others and from the host.

use std::time::Duration;

use anyhow::{Context, Result};
use reconciler::{Reconciler, Removal};

use super::Runtime;

/// An API that does not answer must not hold up the end for longer.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

impl Runtime {
    /// Takes back what this node told the others: they find another way at once, not when its heartbeat is missed.
    async fn leave_mesh(&mut self) {
        if self.setup.removal == Removal::Nothing {
            return;
        }
        let node = &self.setup.reconciler.node;
        let farewell = kubernetes::patch::take_back(&self.client, node, &mut self.permission);
        match tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the others will miss this node only by its heartbeat"),
            Err(_) => {
                tracing::warn!("no answer from the API; the others will miss this node by its heartbeat")
            }
        }
    }

    /// Removes what is to be removed, and tells the API that this node is leaving.
    pub(super) async fn end(mut self, signal: &str) -> Result<()> {
        tracing::info!(signal, "ending");
        if self.setup.flags.dry_run {
            anyhow::bail!("ended by {signal} before the cluster was read");
        }
        self.leave_mesh().await;
        let observed =
            self.dataplane.observe().await.context("cannot read the host's network to clean up")?;
        let changes = Reconciler::removal(&observed.host, self.setup.removal);
        let failures = self.dataplane.apply(&changes).await;
        for failure in &failures {
            tracing::error!("{failure}");
        }
        tracing::info!(changes = changes.len(), failed = failures.len(), "ended");
        if failures.is_empty() {
            Ok(())
        } else {
            anyhow::bail!("{} changes failed at the end", failures.len())
        }
    }
}
