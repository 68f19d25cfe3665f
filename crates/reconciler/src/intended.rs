//! What the host's network should be, kept for as long as what it follows from stays the same: most looks at the
//! host find nothing new, and then nothing is rendered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hostnet::{
    Change, Handshake, HostFacts, HostRoute, HostState, RenderConfig, RenderInput, Rendered, plan, render,
};
use ipnet::IpNet;
use mesh::{Perspective, Problem, PublicKey, Topology};

use crate::endpoints::Endpoints;

/// What the host's network should be, and what it follows from.
#[derive(Debug)]
pub struct Intended {
    topology: Arc<Topology>,
    facts: HostFacts,
    input: RenderInput,
    state: HostState,
    /// What stands in its way.
    pub problems: Arc<[Problem]>,
    /// The ranges in it that hold an API server.
    pub exposed: BTreeSet<IpNet>,
}

impl Intended {
    /// Renders. The perspective is one of the topology.
    pub fn new(
        topology: &Arc<Topology>,
        perspective: &Perspective<'_>,
        facts: &HostFacts,
        config: &RenderConfig,
        input: RenderInput,
    ) -> Self {
        let Rendered { mut state, problems, exposed } = render(perspective, facts, config, &input);
        // In the form that the kernel shows, so that most looks only compare.
        state.firewall = state.firewall.map(|firewall| firewall.normalised());
        Self {
            topology: topology.clone(),
            facts: facts.clone(),
            input,
            state,
            problems: problems.into(),
            exposed,
        }
    }

    /// The same, if rendering again would give it.
    pub fn still(mut self, topology: &Arc<Topology>, facts: &HostFacts, input: &RenderInput) -> Option<Self> {
        let holds = Arc::ptr_eq(&self.topology, topology)
            && self.input == *input
            && self.facts.same_but_routes(facts)
            && !self.concerns(&self.facts.routes, &facts.routes);
        if holds && self.facts.routes != facts.routes {
            self.facts.routes.clone_from(&facts.routes);
        }
        holds.then_some(self)
    }

    /// Whether it matters for the mesh which routes of others there are: most are none of its business, and a container
    /// network may set one for each pod.
    fn concerns(&self, before: &[HostRoute], after: &[HostRoute]) -> bool {
        if before == after {
            return false;
        }
        let gone = before.iter().filter(|route| after.binary_search(route).is_err());
        let new = after.iter().filter(|route| before.binary_search(route).is_err());
        let changed: Vec<&HostRoute> = gone.chain(new).collect();
        self.topology
            .destinations()
            .any(|destination| changed.iter().any(|route| route.concerns(destination)))
    }

    /// The changes that lead there from what is, without the endpoints that should stay as they were learned.
    pub fn plan(
        &mut self,
        host: &HostState,
        handshakes: &BTreeMap<PublicKey, Handshake>,
        endpoints: &Endpoints,
    ) -> Vec<Change> {
        let asked = self.state.wireguard.clone();
        if let Some(wireguard) = &mut self.state.wireguard {
            endpoints.keep_learned(wireguard, handshakes);
        }
        let changes = plan(host, &self.state);
        self.state.wireguard = asked;
        changes
    }

    /// It is applied: these are the endpoints that were asked for.
    pub fn remember(&self, endpoints: &mut Endpoints) {
        if let Some(wireguard) = &self.state.wireguard {
            endpoints.remember(crate::endpoints::asked(wireguard));
        }
    }
}
