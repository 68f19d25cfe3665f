//! What a host's network should be, given the node's place in the mesh.

use mesh::Perspective;

use crate::{HostFacts, HostState};

/// When packets inside of a location are encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Never.
    Never,
    /// Only to nodes outside of the prefix of the own internal address.
    CrossSubnet,
    /// Always.
    Always,
}

/// What the operator decides for one host.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderConfig {}

/// What a host's network should be.
pub fn render(_perspective: &Perspective<'_>, _facts: &HostFacts, _config: &RenderConfig) -> HostState {
    HostState::default()
}
