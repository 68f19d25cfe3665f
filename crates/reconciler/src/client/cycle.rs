//! One reconcile of a client: look, compute, plan, apply, look again until nothing is left to do.

use std::sync::Arc;

use hostnet::{
    HostState, Observation, Rendered,
    render::client::{ClientConfig, own_part, render},
};
use mesh::{
    Node, Perspective, Topology, TopologyConfig,
    allocation::{Subnets, said_by_most},
};

use super::{Client, ClientAction};
use crate::{
    Now,
    agreement::{from_outside, keep_if_same},
    cycle::in_short,
    endpoints::asked,
};

impl Client {
    /// What was seen on the host, or why nothing could be seen.
    pub fn handle_observation(&mut self, observed: Result<Observation, String>, now: Now) {
        if !self.rounds.observed() {
            return;
        }
        let result = match observed {
            Ok(observation) => self.reconcile(&observation, now),
            Err(error) => Err(format!("the host's network cannot be read: {error}")),
        };
        if let Err(why) = result {
            self.fail(vec![why], now);
        }
        self.publish();
    }

    /// The changes have been tried; what failed, as text.
    pub fn handle_applied(&mut self, failures: Vec<String>, now: Now) {
        if !self.rounds.applied() {
            return;
        }
        let applied = self.asked.take();
        if failures.is_empty() {
            if let Some(wireguard) = applied.and_then(|state| state.wireguard) {
                self.endpoints.remember(asked(&wireguard));
            }
            // Look again at once: what was applied has to be there.
            self.rounds.look_now(now.instant);
        } else {
            self.fail(failures, now);
            self.publish();
        }
    }

    fn reconcile(&mut self, observation: &Observation, now: Now) -> Result<(), String> {
        let topology = self.topology()?;
        let nodes: Vec<&Node> = self.known.alive().map(|node| &**node).collect();
        let differences = from_outside(&nodes, &topology, self.known.clocks(), &self.settings.observer);
        keep_if_same(&mut self.agreement, differences);
        self.check_peer()?;
        self.read_key()?;
        let config = ClientConfig {
            resolved: self.known.resolved(),
            preshared_keys: self.known.preshared_keys(),
            ..self.settings.host.clone()
        };
        let nobody = || "no node of the mesh has a place in it".to_owned();
        let last = topology.nodes().max_by_key(|node| &node.name).ok_or_else(nobody)?;
        let perspective = Perspective::of(&topology, &last.name).ok_or_else(nobody)?;
        let Rendered { state, problems, .. } =
            render(&perspective, &observation.facts, &config).ok_or_else(|| {
                format!("the Peer {:?} was left out of the mesh; see what is wrong with it", config.peer)
            })?;
        if *self.rendered != *problems {
            self.rendered = problems.into();
        }
        let mut desired = state.clone();
        if let Some(wireguard) = &mut desired.wireguard {
            self.endpoints.keep_learned(wireguard, &observation.handshakes);
        }
        let observed = own_part(&observation.host, &config.interface);
        // What another client on this host has set, and shares.
        let shared = &observation.host.rules;
        desired.rules.retain(|rule| observed.rules.contains(rule) || !shared.contains(rule));
        let changes = hostnet::plan(&observed, &desired);
        if changes.is_empty() {
            self.succeed(&state, now);
        } else {
            self.rounds.apply(&changes)?;
            self.asked = Some(state);
            self.actions.push_back(ClientAction::Apply(changes));
        }
        Ok(())
    }

    fn succeed(&mut self, state: &HostState, now: Now) {
        self.failures = Some(Vec::new());
        if let Some(wireguard) = &state.wireguard {
            self.endpoints.remember(asked(wireguard));
        }
        self.settled = self.known.is_all_looked_up();
        self.rounds.succeed(None, now.instant);
    }

    fn fail(&mut self, failures: Vec<String>, now: Now) {
        self.settled = false;
        self.failures = Some(in_short(failures));
        self.rounds.fail(now.instant);
    }

    /// The mesh of those who are alive, computed when it is not known.
    fn topology(&mut self) -> Result<Arc<Topology>, String> {
        if std::mem::take(&mut self.outdated) {
            self.topology = Some(self.compute());
        }
        let known = self.topology.clone();
        known.unwrap_or_else(|| Err("the mesh was not computed".to_owned()))
    }

    fn compute(&mut self) -> Result<Arc<Topology>, String> {
        let ready = self.known.alive().filter(|node| node.lacks().is_empty());
        let nodes: Vec<Arc<Node>> = ready.cloned().collect();
        let peers: Vec<_> = self.known.peers().cloned().collect();
        self.known.look_up(&nodes, &peers);
        if nodes.is_empty() {
            return Err("there is no node in the cluster whose agent is alive; do the agents run, and do they reach the API?"
                .to_owned());
        }
        let granularity = self
            .settings
            .granularity
            .or_else(|| said_by_most(nodes.iter().rev().filter_map(|node| node.granularity)));
        let granularity = granularity.ok_or(
            "no node has the annotation kilo.squat.ai/granularity; give --mesh-granularity as the agents have it",
        )?;
        let subnets = said_by_most(nodes.iter().filter_map(|node| Subnets::said_by(node)));
        let subnets = subnets.ok_or("no node has told its WireGuard address yet; does the agent of any leader run, and may it write its Node?")?;
        let config = TopologyConfig { granularity, subnets, services: self.settings.services.clone() };
        Ok(Arc::new(Topology::with_resolved(config, nodes, peers, &self.known.resolved())))
    }

    /// The key that this host shares with the cluster is known, if its Peer refers to one. Segments have it; other Peers
    /// have theirs with the cluster, and they are none of this host's business.
    fn read_key(&mut self) -> Result<(), String> {
        let name = &self.settings.host.peer;
        let Some(peer) = self.known.peers().find(|peer| peer.name == *name).cloned() else { return Ok(()) };
        self.known.read_keys([&peer].into_iter(), None);
        if peer.shared_key(&self.known.preshared_keys()).is_some() {
            return Ok(());
        }
        Err(match self.known.key_error(&peer) {
            Some(why) => format!("the preshared key of the Peer {name:?} cannot be read: {why}"),
            None => format!("the preshared key of the Peer {name:?} has not been read yet"),
        })
    }

    /// The client's Peer object is there and means this host.
    fn check_peer(&self) -> Result<(), String> {
        let name = &self.settings.host.peer;
        let peer = self.known.peers().find(|peer| peer.name == *name).ok_or_else(|| {
            format!("there is no valid Peer {name:?} in the cluster: the others do not let this host in")
        })?;
        let own = self.settings.host.private_key.public_key();
        if peer.key != own {
            return Err(format!(
                "the Peer {name:?} has the key {} now, this host has {own}: somebody else connects by this name",
                peer.key
            ));
        }
        Ok(())
    }
}
