//! What has to be true when all is quiet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;
use mesh::{
    Node, PublicKey, Topology,
    prefix::{self, Family},
};

use super::{HANDSHAKES, Simulation, agent::Agent};
use crate::{
    forwarding::{Kernel, Packet, Way},
    network::{Host, Network, pod},
};

impl Simulation {
    /// Everyone has the same mesh and is content, nothing is written any more, nothing is left over, and every pod
    /// reaches every other.
    pub(super) fn check(&mut self, when: &str, before: &BTreeMap<String, usize>) {
        self.check_unchanged(when, before);
        let nodes = self.truth();
        let peers: Vec<_> = self.api.peers().map(|(_, peer)| peer.clone()).collect();
        let topology = Topology::new(self.config.clone(), nodes.iter().cloned(), peers);
        if topology.nodes().count() != nodes.len() {
            self.fail(&format!("{when}: a node is left out: {:#?}", topology.problems));
        }
        let (known, keys, wanted) = (destinations(&topology), keys(&topology), outline(&topology));
        for agent in self.running() {
            if !agent.view.unhealthy.is_empty() {
                self.fail(&format!("{when}: {} is not healthy: {:#?}", agent.name, agent.view.unhealthy));
            }
            let seen = agent.view.topology.as_deref().map(outline);
            if seen.as_ref() != Some(&wanted) {
                self.fail(&format!("{when}: {} sees {seen:#?}, but it is {wanted:#?}", agent.name));
            }
            // No route to what is not there, no peer that is not there.
            let state = &agent.machine.0;
            if let Some(route) = state.routes.iter().find(|route| !known.contains(&route.destination)) {
                self.fail(&format!("{when}: {} has a stale route {route}", agent.name));
            }
            if let Some(key) = agent.tunnels().find(|key| !keys.contains(*key)) {
                self.fail(&format!("{when}: {} has a stale peer {key}", agent.name));
            }
        }
        self.check_paths(when, &topology);
    }

    /// Nobody has changed anything since.
    pub(super) fn check_unchanged(&self, when: &str, before: &BTreeMap<String, usize>) {
        for agent in &self.agents {
            let changes = before.get(&agent.name).map_or(0, |before| agent.changes - before);
            if changes > 0 {
                self.fail(&format!("{when}: {} still makes changes: {changes}", agent.name));
            }
        }
    }

    fn running(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().filter(|agent| agent.is_running())
    }

    fn check_paths(&mut self, when: &str, topology: &Topology) {
        // Two behind NAT find each other only if they keep their mappings alive, and somebody who is not sees both.
        let is_open = |node: &Node| self.agents.iter().any(|agent| agent.name == node.name && !agent.nat);
        let leaders = || topology.segments.iter().map(|segment| segment.leader());
        let sessions =
            leaders().any(is_open) && leaders().all(|node| is_open(node) || node.persistent_keepalive > 0);
        let since = self.time.saturating_sub(HANDSHAKES + Duration::from_secs(1));
        let host = |agent: &Agent| {
            let node = topology.node(&agent.name)?;
            Some(Host {
                name: agent.name.clone(),
                location: agent.site.clone(),
                key: node.key?,
                internal_ips: node.internal_ips.clone(),
                kernel: Kernel::new(&agent.machine.0, &agent.facts).indexed(),
                firewall: agent.machine.0.firewall.clone()?,
                sessions: sessions.then(|| agent.sessions(since)),
            })
        };
        let network = Network::new(self.running().filter_map(host).collect());
        let mut segments = BTreeMap::new();
        for (index, segment) in topology.segments.iter().enumerate() {
            segments.extend(segment.nodes.iter().map(|node| (node.name.as_str(), index)));
        }
        let mut paths = 0;
        for (from, to) in topology.nodes().flat_map(|from| topology.nodes().map(move |to| (from, to))) {
            for family in Family::ALL.into_iter().filter(|_| from.name != to.name) {
                let Some((source, destination)) = pod(from, family).zip(pod(to, family)) else { continue };
                let packet = Packet { source, destination, iif: Some("cni0") };
                let path = match network.path(&from.name, &to.name, packet) {
                    Ok(path) => path,
                    Err(why) => {
                        self.fail(&format!("{when}: {} does not reach {}: {why}", from.name, to.name))
                    }
                };
                let tunnels = path.iter().filter(|(_, way)| matches!(way, Way::Tunnel { .. })).count();
                let apart = segments[from.name.as_str()] != segments[to.name.as_str()];
                if tunnels != usize::from(apart) {
                    self.fail(&format!("{when}: {} reaches {} by {path:?}", from.name, to.name));
                }
                paths += 1;
            }
        }
        self.summary.paths += paths;
    }
}

/// Everything that there may be a route to.
fn destinations(topology: &Topology) -> BTreeSet<IpNet> {
    let of_segments = topology.segments.iter().flat_map(|segment| segment.all_allowed_ips());
    let of_peers = topology.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let internal = topology.nodes().flat_map(|node| &node.internal_ips).map(|net| prefix::host(net.addr()));
    of_segments.chain(of_peers).map(IpNet::trunc).chain(internal).collect()
}

/// Everyone with whom there may be a tunnel.
fn keys(topology: &Topology) -> BTreeSet<PublicKey> {
    let segments = topology.segments.iter().map(|segment| segment.key);
    segments.chain(topology.peers.iter().map(|peer| peer.key)).collect()
}

/// What all agents have to agree on.
fn outline(topology: &Topology) -> Vec<String> {
    let segments = topology.segments.iter().map(|segment| {
        format!(
            "{} led by {} with {}: {:?} {:?} {:?}",
            segment.name,
            segment.leader().name,
            segment.key,
            segment.wireguard_ips,
            segment.allowed_ips,
            segment.allowed_location_ips
        )
    });
    let peers =
        topology.peers.iter().map(|peer| format!("{} {} {:?}", peer.name, peer.key, peer.allowed_ips));
    segments.chain(peers).collect()
}
