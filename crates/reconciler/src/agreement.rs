//! In what this host's agent, or client, and those of the nodes differ. What counts as a difference is decided in
//! [`mesh::agreement`]; here is what goes into it.

use std::{net::IpAddr, sync::Arc};

use hostnet::{Compatibility, Encapsulation, EncapsulationType, HostFacts};
use mesh::{Granularity, Node, Observer, Problem, Problems, Settings, Topology, agreement};

use crate::{Now, machine::Reconciler};

impl Reconciler {
    /// What this agent tells the others about the way it was started.
    pub(crate) fn settings(&self) -> Settings {
        let mut services = self.services().to_vec();
        services.sort_unstable();
        let render = &self.config.render;
        let is_ours = render.compatibility == Compatibility::None
            && self.config.topology.granularity == Granularity::Location;
        let encapsulation = match (render.encapsulation, render.encapsulation_type) {
            (Encapsulation::Never, _) => "never",
            (_, EncapsulationType::Ipip) => "ipip",
            (_, EncapsulationType::Vxlan) => "vxlan",
        };
        let (port, forced) =
            (self.config.discovery.port, self.forced.endpoint.as_ref().map(|endpoint| endpoint.port));
        Settings {
            subnets: self.config.topology.subnets.iter().copied().collect(),
            services,
            topology_label: self.config.observer.topology_label.clone(),
            encapsulation: is_ours.then(|| encapsulation.to_owned()),
            port: Some(port),
            forced_port: forced.filter(|forced| *forced != port),
        }
    }

    /// Looks again in which settings nodes differ: the mesh has changed.
    pub(crate) fn judge_settings(&mut self) {
        let nodes: Vec<&Node> = self.known.alive().chain(&self.local).map(|node| &**node).collect();
        self.differing = agreement::settings(&nodes, &Observer::default());
    }

    /// Looks again in what agents, clocks and networks differ.
    pub(crate) fn judge_agreement(&mut self) {
        let mut problems: Problems = self.differing.iter().cloned().collect();
        problems.extend(agreement::clocks(self.known.clocks()));
        let own = self.config.node.as_str();
        let segment = self.topology.iter().filter_map(|topology| topology.segment_of(own));
        problems.extend(agreement::apart(
            segment,
            Some(&|node, net, _, others| {
                let to = if node.name == own { others } else { net };
                leads_to(&self.last.facts, to.addr()) || self.neighbours.is_known(to)
            }),
        ));
        if let Some(local) = &self.local {
            let segment = self.topology.as_ref().and_then(|topology| topology.segment_of(own));
            problems.extend(self.neighbours.problems(segment, local));
        }
        keep_if_same(&mut self.agreement, problems);
    }

    /// Which nodes of the own location to ask whether they answer.
    pub(crate) fn expect_neighbours(&mut self, now: Now) {
        let Some(local) = &self.local else { return };
        let segment = self.topology.as_ref().and_then(|topology| topology.segment_of(&local.name));
        let facts = &self.last.facts;
        self.neighbours.expect(segment, local, |address| leads_to(facts, address), now.instant);
    }
}

/// Of the same problems the same allocation stays.
pub(crate) fn keep_if_same(kept: &mut Arc<[Problem]>, problems: Problems) {
    let problems: Vec<Problem> = problems.into();
    if **kept != *problems {
        *kept = problems.into();
    }
}

/// Whether this host is in the network of an address, or has a route to it that is not the way to everything.
fn leads_to(facts: &HostFacts, address: IpAddr) -> bool {
    let interfaces = facts.interfaces.values().flat_map(|interface| &interface.addresses);
    let routes = facts.routes.iter().filter(|route| route.link.is_some()).map(|route| &route.destination);
    // A half of all addresses is a way to everything, too.
    interfaces.chain(routes).any(|net| net.prefix_len() > 1 && net.contains(&address))
}

/// What differs as a host sees it that is in no location: of nodes that are alive, and their mesh.
pub(crate) fn from_outside<'a>(
    nodes: &[&Node],
    topology: &Topology,
    clocks: impl Iterator<Item = (&'a str, i64)> + Clone,
    observer: &Observer,
) -> Problems {
    let mut problems: Problems = agreement::settings(nodes, observer).into_iter().collect();
    problems.extend(agreement::clocks(clocks));
    problems.extend(agreement::apart(topology.segments.iter(), None));
    problems
}
