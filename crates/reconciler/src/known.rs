//! What an agent and a client know alike: the objects of the cluster, who of the nodes is alive, the addresses of names,
//! and whether anything is heard of all this.
//!
//! This only takes in what happens. What follows from it for a host is up to the machine, which is told whether the mesh
//! has changed.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::Wireguard;
use mesh::{
    Endpoint, Host, Node, Object, Peer, PresharedKey, PresharedKeys, Problem, Problems, SecretRef, Topology,
};

use crate::{
    NodeUpdate, Now, PeerUpdate, Watch,
    keys::{self, Keys},
    liveness::Liveness,
    lookups::{Answered, Owner},
    names::Names,
    objects::Objects,
};

/// What the API and the DNS have told.
#[derive(Debug)]
pub struct Known {
    /// The Node that the machine itself is the agent of. Whether it is alive is no question, and its `last-seen` was
    /// written by the clock that the others are judged with, so that it proves nothing about them but how late they are
    /// heard of.
    own: Option<String>,
    objects: Objects,
    liveness: Liveness,
    watch: Result<(), String>,
    access: Vec<Problem>,
    /// Whether everything was seen at least once; before, nothing is changed.
    synced: bool,
    names: Names,
    keys: Keys,
    /// Grows with every change of what is wrong with the access.
    revision: u64,
}

/// What the state of the connection to the API means for the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Everything was seen for the first time: the work begins.
    First,
    /// Other nodes are alive than before.
    Changed,
    /// The mesh is as it was.
    Same,
}

impl Known {
    /// Nothing is known yet. What the seed is does not matter, as long as no other host has the same.
    pub fn new(own: Option<String>, liveness_timeout: Duration, seed: &[u8]) -> Self {
        Self {
            own,
            objects: Objects::default(),
            liveness: Liveness::new(liveness_timeout),
            watch: Err("nothing has been received from the Kubernetes API yet".to_owned()),
            access: Vec::new(),
            synced: false,
            names: Names::new(seed),
            keys: keys::keys(seed),
            revision: 0,
        }
    }

    /// A Node was added or changed, or (`None`) removed. Returns whether the mesh has changed.
    pub fn handle_node(&mut self, name: &str, update: Option<NodeUpdate>, now: Now) -> bool {
        let silenced = self.liveness.hear(now.instant);
        let changed = match update {
            Some(update) => {
                let revived = self.see(name, update.node.last_seen, now);
                self.objects.set_node(name, update) || revived
            }
            None => {
                self.liveness.forget(name);
                self.objects.remove_node(name)
            }
        };
        silenced || changed
    }

    /// A Node is as it was, but for its `last_seen`. Returns whether the mesh has changed.
    pub fn handle_heartbeat(&mut self, name: &str, last_seen: i64, now: Now) -> bool {
        let silenced = self.liveness.hear(now.instant);
        let revived = self.objects.node(name).is_some() && self.see(name, last_seen, now);
        silenced || revived
    }

    fn see(&mut self, name: &str, last_seen: i64, now: Now) -> bool {
        if self.own.as_deref() == Some(name) {
            self.liveness.see_own(last_seen, now.unix);
            return false;
        }
        self.liveness.see(name, last_seen, now.instant, now.unix)
    }

    /// A Peer was added or changed, or (`None`) removed. Returns whether the mesh has changed.
    pub fn handle_peer(&mut self, name: &str, update: Option<PeerUpdate>) -> bool {
        let Some(update) = update else { return self.objects.remove_peer(name) };
        let reference = update.peer.as_ref().and_then(Peer::secret).cloned();
        let changed = self.objects.set_peer(name, update);
        if let Some(reference) = reference.filter(|_| changed) {
            self.keys.hurry(&reference);
        }
        changed
    }

    /// All that is wrong with an object by which another CNI gives pod subnets. Returns whether that is to be shown: at
    /// the beginning there is a view to come.
    pub fn handle_subnet_object(&mut self, name: &str, problems: Vec<Problem>) -> bool {
        self.objects.set_subnet_object(name, problems) && self.synced
    }

    /// The connection to the API is there, or has broken.
    pub fn handle_watch(&mut self, watch: Watch, now: Now) -> Heard {
        match watch {
            Watch::Synced => {
                self.watch = Ok(());
                let judged = self.liveness.resume(now.instant, now.unix);
                match (std::mem::replace(&mut self.synced, true), judged) {
                    (false, _) => Heard::First,
                    (true, true) => Heard::Changed,
                    (true, false) => Heard::Same,
                }
            }
            Watch::Broken(reason) => {
                self.liveness.pause(now.instant);
                self.watch = Err(reason);
                Heard::Same
            }
        }
    }

    /// All that is wrong with the access to the API.
    pub fn handle_access(&mut self, problems: Vec<Problem>) {
        self.revision += u64::from(self.access != problems);
        self.access = problems;
    }

    /// The addresses of a name, or why there are none. Returns what that changes.
    pub fn handle_resolved(&mut self, name: &str, answer: Result<Vec<IpAddr>, String>, now: Now) -> Answered {
        self.names.answer(name, answer, now.instant)
    }

    /// Whether the own heartbeat would prove that a node is silent, and nothing else does; asked once.
    pub fn is_proof_wanted(&mut self, now: Now) -> bool {
        self.liveness.is_proof_wanted(now.instant)
    }

    /// When [`Known::is_proof_wanted`] may say yes.
    pub fn proof_timeout(&self) -> Option<Instant> {
        self.liveness.proof_timeout()
    }

    /// Whether everything was seen at least once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Why nothing is heard of the cluster; `None`: changes arrive.
    pub fn deaf(&self) -> Option<String> {
        let reason = self.watch.as_ref().err()?;
        Some(format!("no changes arrive from the Kubernetes API: {reason}"))
    }

    /// The Node of this name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.objects.node(name)
    }

    /// All Nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.objects.nodes()
    }

    /// The Nodes, but for the own one, whose agents are alive, by name.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<Node>> {
        // Both are sorted by name, so nobody has to be looked up.
        let mut alive = self.liveness.alive().peekable();
        self.objects.nodes().filter(move |node| {
            while alive.next_if(|name| *name < node.name.as_str()).is_some() {}
            alive.next_if_eq(&node.name.as_str()).is_some()
        })
    }

    /// By how many seconds the clocks of nodes that are alive were ahead of this host's when they were last heard.
    pub fn clocks(&self) -> impl Iterator<Item = (&str, i64)> + Clone {
        self.liveness.clocks()
    }

    /// All Peers that are valid, by name.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.objects.peers()
    }

    /// The mesh is made of these: their names are looked up from here on, and no others. Nodes that do not lead count as
    /// well, because addresses matter when leaders are chosen. Peers matter where there are tunnels to them.
    pub fn look_up<'a>(&mut self, nodes: &[Arc<Node>], peers: impl IntoIterator<Item = &'a Peer>) {
        let peers = peers.into_iter().filter_map(|peer| peer.endpoint.as_ref());
        let peers = peers.filter_map(dns_name).map(|name| (name.clone(), Owner::Peer));
        let nodes = nodes.iter().filter_map(|node| node.endpoint.as_ref());
        let nodes = nodes.filter_map(dns_name).map(|name| (name.clone(), Owner::Node));
        // Of two owners of a name the last one counts here.
        self.names.retain(peers.chain(nodes).collect());
    }

    /// A name to ask for. It counts as being asked until it is answered.
    pub fn next_name(&mut self, now: Now) -> Option<String> {
        self.names.next(now.instant)
    }

    /// When a name or a key is to be asked for again.
    pub fn lookups_timeout(&self) -> Option<Instant> {
        [self.names.timeout(), self.keys.timeout()].into_iter().flatten().min()
    }

    /// The addresses of names that are known.
    pub fn resolved(&self) -> BTreeMap<String, IpAddr> {
        self.names.resolved()
    }

    /// WireGuard is configured with the keys of these Peers: those in Secrets are read from here on, and no others.
    /// Until a key was read for the first time, the one that WireGuard has is good enough, so that an agent that starts
    /// again does not end sessions.
    pub fn read_keys<'a>(&mut self, peers: impl Iterator<Item = &'a Peer> + Clone, has: Option<&Wireguard>) {
        let used = peers.clone().filter_map(Peer::secret);
        self.keys.retain(used.map(|reference| (reference.clone(), Owner::Peer)).collect());
        let Some(has) = has else { return };
        let mut lent: BTreeMap<&SecretRef, Option<&PresharedKey>> = BTreeMap::new();
        for peer in peers {
            let key = has.peers.get(&peer.key).and_then(|found| found.preshared_key.as_ref());
            let Some(reference) = peer.secret() else { continue };
            // Where two Peers with one reference have different keys, one of them had another reference before.
            lent.entry(reference)
                .and_modify(|known| *known = known.filter(|known| Some(*known) == key))
                .or_insert(key);
        }
        for (reference, key) in lent.into_iter().filter_map(|(reference, key)| Some((reference, key?))) {
            self.keys.lend(reference, key.clone());
        }
    }

    /// A Secret to read. It counts as being read until it is answered.
    pub fn next_key(&mut self, now: Now) -> Option<SecretRef> {
        self.keys.next(now.instant)
    }

    /// The key in a Secret, or why there is none. Returns what that changes.
    pub fn handle_key(
        &mut self,
        reference: &SecretRef,
        answer: Result<PresharedKey, String>,
        now: Now,
    ) -> Answered {
        self.keys.answer(reference, answer, now.instant)
    }

    /// The keys of Secrets that are known.
    pub fn preshared_keys(&self) -> PresharedKeys {
        self.keys.values()
    }

    /// Why the key of a Peer could not be read, if it was tried.
    pub fn key_error(&self, peer: &Peer) -> Option<&str> {
        self.keys.error(peer.secret()?)
    }

    /// Whether every name and every key has been answered at least once.
    pub fn is_all_looked_up(&self) -> bool {
        self.names.is_all_answered() && self.keys.is_all_answered()
    }

    /// Grows whenever [`Known::problems`] may give others for the same mesh.
    pub fn revision(&self) -> u64 {
        self.revision + self.objects.revision() + self.names.revision() + self.keys.revision()
    }

    /// Everything that is wrong with objects, with the access to them, and in the mesh that was made of them.
    pub fn problems(&self, topology: Option<&Topology>) -> Problems {
        let of_mesh = topology.into_iter().flat_map(|topology| &topology.problems);
        let all = self.objects.problems().chain(&self.access).chain(of_mesh).cloned();
        all.chain(topology.map_or_else(Vec::new, |topology| self.unresolved(topology))).collect()
    }

    /// The endpoints in the mesh that have no fresh address, and the Peers that have no fresh key.
    fn unresolved(&self, topology: &Topology) -> Vec<Problem> {
        let mut problems = self.unresolved_names(topology);
        if self.keys.any_error() {
            problems.extend(keys::missing(&self.keys, topology.peers.iter()));
        }
        problems
    }

    fn unresolved_names(&self, topology: &Topology) -> Vec<Problem> {
        if !self.names.any_error() {
            return Vec::new();
        }
        let nodes = topology.nodes().map(|node| (Object::Node(node.name.clone()), &node.endpoint));
        let peers = topology.peers.iter().map(|peer| (Object::Peer(peer.name.clone()), &peer.endpoint));
        let problem = |(object, endpoint): (Object, &Option<Endpoint>)| {
            let name = dns_name(endpoint.as_ref()?)?;
            let why = self.names.error(name)?;
            let message = format!(
                "the endpoint {name} cannot be resolved ({why}), and the last address that is known, if any, stays in \
                 use; correct it or the DNS"
            );
            Some(Problem::new(object, "UnresolvableEndpoint", message))
        };
        nodes.chain(peers).filter_map(problem).collect()
    }
}

fn dns_name(endpoint: &Endpoint) -> Option<&String> {
    match &endpoint.host {
        Host::Dns(name) => Some(name),
        Host::Ip(_) => None,
    }
}
