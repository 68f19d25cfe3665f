//! What is shown to people and to monitoring: is it healthy, what is wrong, what does the mesh look like.

use std::{collections::BTreeSet, sync::Arc};

use mesh::{Problem, Role, Topology};

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Why the agent is not healthy; empty: it is. Healthy means: the last reconcile succeeded and the watch lives.
    pub unhealthy: Vec<String>,
    /// What is wrong with objects. They are left out; everything else works, so they do not make the agent unhealthy.
    pub problems: BTreeSet<Problem>,
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
