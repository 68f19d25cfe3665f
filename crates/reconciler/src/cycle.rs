//! One reconcile: look, compute, plan, apply, look again until nothing is left to do.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use hostnet::{Handshake, Leftover, NextHop, Observation, RenderInput, Route};
use ipnet::IpNet;
use mesh::{Excerpt, Node, Perspective, Problem, PublicKey, Published, Role, Topology, prefix::Family};

use crate::{
    Now, PatchFailure,
    discovery::Discovered,
    intended::Intended,
    machine::{Action, Mtu, Reconciler},
    nat::Located,
    sessions::begin_anew,
    tunnel_ends::{Claim, Wanted, worth_telling},
};

/// What WireGuard adds to a packet at most: IPv6 40, UDP 8, WireGuard 32 bytes.
const WIREGUARD_OVERHEAD: u32 = 80;

/// The smallest MTU that IPv6 works with (RFC 8200, section 5).
const MIN_MTU: u32 = 1280;

impl Reconciler {
    /// What was seen on the host, or why nothing could be seen.
    pub fn handle_observation(&mut self, observed: Result<Observation, String>, now: Now) {
        if !self.rounds.observed() {
            return;
        }
        match observed {
            Ok(observation) => self.reconcile(observation, now),
            Err(error) => self.fail(vec![format!("the host's network cannot be read: {error}")], now),
        }
        self.publish();
    }

    /// The changes have been tried; what failed, as text.
    pub fn handle_applied(&mut self, failures: Vec<String>, now: Now) {
        if !self.rounds.applied() {
            return;
        }
        self.last.failed_changes += failures.len() as u64;
        self.watch_exposed(now);
        if failures.is_empty() {
            if let Some(intended) = &self.intended {
                intended.remember(&mut self.endpoints);
            }
            // Look again at once: what was applied has to be there.
            self.rounds.look_now(now.instant);
        } else {
            self.fail(failures, now);
            self.publish();
        }
    }

    fn reconcile(&mut self, observation: Observation, now: Now) {
        let (local, status_base) = self.local_node(&observation, now);
        self.compute_topology(local.clone());
        let Some(topology) = self.topology.clone() else { return };
        let Observation { mut host, mut facts, suspects, legacy_tables, mut handshakes } = observation;
        let of_go: Vec<Leftover> = suspects.into_iter().filter(|suspect| self.is_of_go(suspect)).collect();
        // Such a route leads where ours does, so it never keeps ours away.
        of_go.iter().for_each(|leftover| facts.leave_out(leftover));
        if self.last.reconciles == 0 {
            host.leftovers.extend(of_go);
        }
        self.last.facts = facts;
        self.last.legacy_tables = legacy_tables;
        self.expect_neighbours(now);
        self.judge_agreement();
        let lacking = local.lacks();
        let Some(perspective) = Perspective::of(&topology, &self.config.node) else {
            self.last.role = None;
            self.want_status(status_base, &local, None, now);
            let why = if self.known.node(&self.config.node).is_some() {
                let advice = match local.endpoint {
                    Some(_) => "",
                    None => {
                        "; no address that others can use was found on this host: give it one, or its Node the annotation \
                         kilo.squat.ai/force-endpoint"
                    }
                };
                format!("this node is not part of the mesh: it lacks {}{advice}", lacking.join(" and "))
            } else {
                format!("there is no Node named {:?} in the cluster; see --hostname", self.config.node)
            };
            let why = if lacking.is_empty() {
                "this node was left out of the mesh; see problems".to_owned()
            } else {
                why
            };
            return self.fail(vec![why], now);
        };
        self.last.role = Some(perspective.role);
        self.want_status(status_base, &local, Some(&perspective), now);
        // A member holds no WireGuard peers, so it needs no keys.
        let configured = if perspective.role == Role::Leader { topology.peers.as_slice() } else { &[] };
        self.known.read_keys(configured.iter(), host.wireguard.as_ref());
        let input = self.render_input();
        let last = self.intended.take().and_then(|last| last.still(&topology, &self.last.facts, &input));
        let config = &self.config.render;
        let mut intended =
            last.unwrap_or_else(|| Intended::new(&topology, &perspective, &self.last.facts, config, input));
        self.sessions.find(&handshakes, self.known.nodes().filter_map(|node| node.key), now.instant);
        let gone = self.sessions.forget(&mut host.wireguard, &mut handshakes, now.instant);
        let changes = intended.plan(&host, &handshakes, &self.endpoints);
        self.behind_nat.keep(&gone, now.instant);
        let changes = begin_anew(&gone, &self.config.render.interface, changes);
        self.intended = Some(intended);
        if changes.is_empty() {
            return self.succeed(now);
        }
        match self.rounds.apply(&changes) {
            Ok(()) => self.actions.push_back(Action::Apply(changes)),
            Err(why) => self.fail(vec![why], now),
        }
    }

    /// Whether this is a route to a part of the mesh by way of a node: a Go agent's. Only what is there at the start can
    /// be; what an operator adds later is the operator's.
    fn is_of_go(&self, suspect: &Leftover) -> bool {
        let Leftover::Route { route: Route { next_hop: NextHop::Gateway(via), destination, .. }, .. } =
            suspect
        else {
            return false;
        };
        let mut addresses = self.known.nodes().flat_map(|node| &node.internal_ips);
        let is_part = |node: &Arc<Node>| {
            let nets =
                [&node.pod_subnets, &node.allowed_location_ips].into_iter().flatten().map(IpNet::trunc);
            let internal = node.internal_ips.iter().map(|net| mesh::prefix::host(net.addr()));
            nets.chain(internal).any(|net| net == *destination)
        };
        let mut peers = self.known.peers().flat_map(|peer| &peer.allowed_ips);
        addresses.any(|net| net.addr() == *via)
            && (self.config.topology.subnets.iter().any(|subnet| subnet.contains(destination))
                || self.known.nodes().any(is_part)
                || peers.any(|net| net.trunc() == *destination))
    }

    /// What the host routes now may take the API server away.
    fn watch_exposed(&mut self, now: Now) {
        if let Some(intended) = &self.intended {
            self.watchdog.applied(&intended.exposed, now.instant);
        }
    }

    fn succeed(&mut self, now: Now) {
        self.last.failures = Some(Vec::new());
        self.last.reconciles += 1;
        self.watch_exposed(now);
        let missing = self.last.somebody_missing && self.last.role == Some(Role::Leader);
        let sooner = [
            self.behind_nat.next_look(missing),
            self.sessions.next_look(now.instant),
            self.announced.next_look(now.instant),
        ];
        self.rounds.succeed(sooner.into_iter().flatten().min(), now.instant);
    }

    fn fail(&mut self, failures: Vec<String>, now: Now) {
        self.last.failures = Some(in_short(failures));
        self.rounds.fail(now.instant);
    }

    fn compute_topology(&mut self, local: Arc<Node>) {
        if !self.outdated && self.local.as_deref() == Some(&*local) {
            return;
        }
        let nodes: Vec<_> = self.known.alive().chain([&local]).cloned().collect();
        let peers: Vec<_> = self.known.peers().cloned().collect();
        let resolved = self.known.resolved();
        let mut config = self.config.topology.clone();
        config.services = self.services().to_vec();
        let topology = Topology::with_resolved(config, nodes.clone(), peers, &resolved);
        // A member has no tunnels to Peers.
        let leads = Perspective::of(&topology, &self.config.node)
            .is_some_and(|perspective| perspective.role == Role::Leader);
        self.known.look_up(&nodes, topology.peers.iter().filter(|_| leads));
        self.topology = Some(Arc::new(topology));
        self.outdated = false;
        self.local = Some(local);
        self.judge_settings();
    }

    /// Where services are: as the operator says, else as the API does.
    pub(crate) fn services(&self) -> &[IpNet] {
        let configured = &self.config.render.service_cidrs;
        if configured.is_empty() { &self.surroundings.services } else { configured }
    }

    /// The own node: what its object says, and what this host finds out about itself.
    fn local_node(&mut self, observation: &Observation, now: Now) -> (Arc<Node>, Discovered) {
        let mut node = match self.known.node(&self.config.node) {
            Some(node) => (**node).clone(),
            None => Node::named(&self.config.node),
        };
        let discovery = &self.config.discovery;
        let mut found = self.announced.choose(&observation.facts, &node.pod_subnets, discovery, now.instant);
        if let Some(endpoint) = &self.forced.endpoint {
            found.endpoint = Some(endpoint.clone());
        }
        self.last.undiscovered = found.problem.take().filter(|_| self.forced.internal_ips.is_none());
        if let Some(internal_ips) = &self.forced.internal_ips {
            found.internal_ips = internal_ips.clone();
        }
        node.endpoint = found.endpoint.clone();
        node.internal_ips = found.internal_ips.clone();
        node.key = Some(self.key);
        node.granularity = Some(self.config.topology.granularity);
        node.settings = self.settings();
        node.pod_cidr_source.clone_from(&self.config.observer.pod_cidr_source);
        node.cni_compatibility_ips = self.config.render.compatibility.addresses(&observation.facts);
        // What this node writes does not decide how it sees the mesh; what its WireGuard sees does.
        node.wireguard_ips = Vec::new();
        let Located { mut endpoints, missing } = self.locate(&observation.handshakes, now);
        self.last.somebody_missing = missing;
        self.prove_tunnel_ends(observation, &node.discovered_endpoints, &mut endpoints);
        node.discovered_endpoints = endpoints;
        (Arc::new(node), found)
    }

    /// Where others behind NAT are, as the own WireGuard sees them.
    fn locate(&mut self, handshakes: &BTreeMap<PublicKey, Handshake>, now: Now) -> Located {
        let own = self.key;
        let nodes = self.known.nodes().filter_map(|node| Some((node.key?, node.persistent_keepalive)));
        let peers = self.known.peers().map(|peer| (peer.key, peer.persistent_keepalive));
        let behind_nat = nodes.chain(peers).filter(|(key, keepalive)| *keepalive != 0 && *key != own);
        let others = self.known.nodes().filter(|node| node.name != self.config.node);
        let told: HashSet<&PublicKey> = others.flat_map(|node| node.discovered_endpoints.keys()).collect();
        let others = |key: &PublicKey| told.contains(key);
        self.behind_nat.endpoints(behind_nat.map(|(key, _)| key), handshakes, others, now.instant)
    }

    /// Adds where other leaders' tunnels end, as the own WireGuard sees them: the proof that pods need. Takes away what would
    /// count as one and is none.
    fn prove_tunnel_ends(
        &mut self,
        observation: &Observation,
        written: &BTreeMap<PublicKey, SocketAddr>,
        endpoints: &mut BTreeMap<PublicKey, SocketAddr>,
    ) {
        let wanted = self.addresses_to_prove();
        if self.last.role == Some(Role::Member) {
            self.tunnel_ends.forget();
        } else {
            let wireguard = observation.host.wireguard.as_ref();
            self.tunnel_ends.look(&wanted, wireguard, &observation.handshakes, written);
            self.last.somebody_missing |= self.tunnel_ends.is_missing(&wanted);
            endpoints.extend(self.tunnel_ends.proven(&wanted));
        }
        endpoints.retain(|key, at| !self.tunnel_ends.is_doubtful(&wanted, key, at.ip()));
    }

    /// What leaders of other segments have to prove. Nobody but leaders has sessions; before the first topology it is not
    /// known who leads.
    fn addresses_to_prove(&self) -> Wanted {
        let claim = |leader: &Node, nodes: &[Arc<Node>]| {
            Claim::of(leader, nodes.iter().map(Arc::as_ref), &self.surroundings)
        };
        let Some(topology) = &self.topology else {
            let nodes = self.known.nodes().filter(|node| node.key != Some(self.key));
            return nodes
                .filter_map(|node| Some((node.key?, claim(node, std::slice::from_ref(node))?)))
                .collect();
        };
        let segments = topology.segments.iter().filter(|segment| !segment.contains(&self.config.node));
        let claims = segments.map(|segment| Some((segment.key, claim(segment.leader(), &segment.nodes)?)));
        claims.flatten().collect()
    }

    /// What the host's network follows from besides the mesh, the host and the operator's flags.
    fn render_input(&self) -> RenderInput {
        let mtu = match self.config.mtu {
            Mtu::Fixed(mtu) => mtu,
            Mtu::Auto => {
                let facts = &self.last.facts;
                let underlay = facts.default_interface.as_ref().and_then(|name| facts.interfaces.get(name));
                let underlay = underlay.map_or(1500, |interface| interface.mtu);
                underlay.saturating_sub(WIREGUARD_OVERHEAD).max(MIN_MTU)
            }
        };
        RenderInput {
            mtu,
            // Where a router forwards a port it is the same one inside, as with the Go agent.
            forced_port: self.forced.endpoint.as_ref().map(|endpoint| endpoint.port),
            preshared_keys: self.known.preshared_keys(),
            lifelines: self.surroundings.lifelines.clone(),
            api_servers: self.surroundings.api_servers.clone(),
            withdrawn: self.watchdog.withdrawn(),
            resolved: self.known.resolved(),
        }
    }

    fn want_status(
        &mut self,
        found: Discovered,
        local: &Node,
        perspective: Option<&Perspective<'_>>,
        now: Now,
    ) {
        let leads = perspective.filter(|perspective| perspective.role == Role::Leader);
        let wireguard_ips = leads.map_or_else(Vec::new, |perspective| {
            let subnets = &self.config.topology.subnets;
            let ips = perspective.segment().wireguard_ips.iter();
            ips.filter_map(|ip| ipnet::IpNet::new(*ip, subnets.prefix_len(Family::of(*ip))?).ok()).collect()
        });
        let discovered_endpoints =
            perspective.map_or_else(|| local.discovered_endpoints.clone(), worth_telling);
        let status = Published {
            endpoint: found.endpoint,
            internal_ips: found.internal_ips,
            key: self.key,
            wireguard_ips,
            granularity: self.config.topology.granularity,
            discovered_endpoints,
            cni_compatibility_ips: local.cni_compatibility_ips.clone(),
            pod_cidr_source: self
                .config
                .observer
                .pod_cidr_source
                .clone()
                .unwrap_or_else(|| "node".to_owned()),
            settings: Box::new(local.settings.clone()),
            last_seen: now.unix,
        };
        self.telling.want(status, now.instant);
    }

    /// What of the status a policy of the cluster refuses at this time, as a problem of the own Node; `None`: nothing. It
    /// comes before [`Reconciler::handle_patched`].
    pub fn handle_refusal(&mut self, refused: Option<Problem>) {
        self.refused = refused;
    }

    /// The others have been told, or why not.
    pub fn handle_patched(&mut self, result: Result<(), PatchFailure>, now: Now) {
        match result {
            Ok(()) => {
                if let Some(pause) = self.sessions.told(now.instant) {
                    self.rounds.look_within(pause, now.instant);
                }
            }
            Err(_) => self.watchdog.lost(now.instant),
        }
        self.telling.answered(result, now.instant);
        self.publish();
    }
}

/// How many failures are shown: each of thousands of changes may fail for the same reason.
const SHOWN: usize = 10;

/// The first of many failures. Also used by the client.
pub(crate) fn in_short(failures: Vec<String>) -> Vec<String> {
    let mut shown = Excerpt::of(SHOWN);
    failures.into_iter().for_each(|failure| shown.push(|| failure));
    shown.into_texts()
}
