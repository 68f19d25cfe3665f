//! What is shown to people and to monitoring: is it healthy, what is wrong, what does the mesh look like.

use std::{sync::Arc, time::Duration};

use mesh::{Object, Problem, Role, Topology};

use crate::{
    Now,
    machine::{Action, Reconciler},
    shown::Sources,
};

/// How long problems that have nothing to do with what the host does are gathered before they are shown: a thousand names
/// that do not resolve are one view and not a thousand.
pub(crate) const GATHER: Duration = Duration::from_secs(1);

/// What is shown. It is cheap to clone and to compare.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Why the agent is not healthy; empty: it is. Healthy means: the last reconcile succeeded and the watch lives.
    pub unhealthy: Vec<String>,
    /// What is wrong with objects, one for each object and reason, and in that order. They are left out; everything else
    /// works, so they do not make the agent unhealthy.
    pub problems: Arc<[Problem]>,
    /// What this node does for its segment; `None`: it is not part of the mesh.
    pub role: Option<Role>,
    /// The nodes and peers in the mesh.
    pub counts: Counts,
    /// Completed reconciles.
    pub reconciles: u64,
    /// Changes that could not be made, since the start.
    pub failed_changes: u64,
    /// The mesh as it was last computed.
    pub topology: Option<Arc<Topology>>,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Nodes in the mesh.
    pub nodes: usize,
    /// Peers in the mesh.
    pub peers: usize,
    /// Segments in the mesh.
    pub segments: usize,
}

impl Reconciler {
    /// Puts a new view into the queue, if it differs from the last one.
    pub(crate) fn publish(&mut self) {
        self.show_at = None;
        let view = self.view();
        if self.published.as_ref() != Some(&view) {
            self.actions.push_back(Action::Publish(Box::new(view.clone())));
            self.published = Some(view);
        }
    }

    /// The same a while later.
    pub(crate) fn publish_soon(&mut self, now: Now) {
        self.show_at = Some(self.show_at.unwrap_or(now.instant + GATHER));
    }

    fn view(&mut self) -> View {
        let mut unhealthy: Vec<_> = self.known.deaf().into_iter().collect();
        match &self.last.failures {
            Some(failures) => unhealthy.extend(failures.iter().cloned()),
            None => unhealthy.push("the host has not been configured yet".to_owned()),
        }
        if let Some(error) = self.telling.error() {
            unhealthy.push(format!(
                "the own Node cannot be updated, others will take this node for dead: {error}"
            ));
        }
        let problems = self.problems();
        let topology = self.topology.as_deref();
        View {
            unhealthy,
            problems,
            role: self.last.role,
            counts: topology.map_or_else(Counts::default, |topology| Counts {
                nodes: topology.nodes().count(),
                peers: topology.peers.len(),
                segments: topology.segments.len(),
            }),
            reconciles: self.last.reconciles,
            failed_changes: self.last.failed_changes,
            topology: self.topology.clone(),
        }
    }

    /// Everything that is wrong with objects.
    fn problems(&mut self) -> Arc<[Problem]> {
        let sources = Sources {
            topology: self.topology.clone(),
            rendered: self.intended.as_ref().map_or_else(Arc::default, |intended| intended.problems.clone()),
            agreement: self.agreement.clone(),
            own: [self.beyond_reach(), self.last.undiscovered.clone(), self.refused.clone()]
                .into_iter()
                .flatten()
                .collect(),
        };
        self.shown.update(&self.known, sources)
    }

    fn beyond_reach(&self) -> Option<Problem> {
        let tables = &self.last.legacy_tables;
        let named: Vec<String> =
            tables.iter().map(|found| format!("{} {}", found.family, found.table)).collect();
        (!tables.is_empty()).then(|| {
            let message = format!(
                "the tables {} of iptables-legacy hold rules of a Go agent, which masquerade or drop what nodes and \
                 Peers send that it did not know; kg cannot change them: run `iptables-legacy-save | grep -v -e KILO- \
                 -e 'Kilo: ' | iptables-legacy-restore`, with ip6tables for ip6, or reboot",
                named.join(", ")
            );
            Problem::new(Object::Host, "LegacyIptables", message)
        })
    }
}
