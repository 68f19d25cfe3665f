//! Single changes of a cluster at rest, each repeated: how long from the write of the object until the kernel has it.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    api::{Api, unix_now},
    clock::Moment,
    cluster::{self, Cluster, node_name, peer_name, peer_object},
    host::Host,
    report::Change,
    routes::{Routes, Wanted},
    wireguard::{self, Peers},
};
use crate::{LabError, interrupt};

/// How long the agent is left alone before each change.
const REST: Duration = Duration::from_millis(200);
/// How often WireGuard is looked at; it tells nothing by itself. Where a look takes long, less often: the agent itself may
/// be who answers.
const LOOK: Duration = Duration::from_millis(1);

/// The cluster, and where its agent's doings are seen.
pub struct Changes<'a> {
    pub host: &'a Host,
    pub api: &'a Api,
    pub routes: &'a Routes,
    pub cluster: Cluster,
    pub deadline: Duration,
}

/// What has to be so at the WireGuard interface.
type Condition<'a> = Option<&'a dyn Fn(&Peers) -> bool>;

impl Changes<'_> {
    /// All kinds of changes, each so many times there and back.
    ///
    /// # Errors
    /// When one is not applied in time.
    pub fn run(&mut self, repetitions: usize) -> Result<Vec<Change>, LabError> {
        Ok([
            self.peer(repetitions)?,
            self.endpoint(repetitions)?,
            self.leader(repetitions)?,
            self.node(repetitions)?,
            self.location(repetitions)?,
        ]
        .concat())
    }

    /// A Peer comes and goes.
    fn peer(&mut self, repetitions: usize) -> Result<Vec<Change>, LabError> {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        for repetition in 0..repetitions {
            let peer = 10_000 + repetition;
            let key = cluster::peer_key(peer);
            let there = |peers: &Peers| peers.contains_key(&key);
            came.push(self.apply(
                "a new Peer",
                Some(&there),
                |cluster| cluster.set_peer(peer, true),
                |api| api.apply(peer_object(peer)),
            )?);
            let gone = |peers: &Peers| !peers.contains_key(&key);
            went.push(self.apply(
                "a Peer's end",
                Some(&gone),
                |cluster| cluster.set_peer(peer, false),
                |api| api.delete("peers", &peer_name(peer)),
            )?);
        }
        Ok(vec![Change::of("a Peer added", came), Change::of("a Peer removed", went)])
    }

    /// The leader of another segment has another endpoint.
    fn endpoint(&mut self, repetitions: usize) -> Result<Vec<Change>, LabError> {
        let Some(node) = self.remote_nodes().first().copied() else { return Ok(Vec::new()) };
        let key = cluster::key(node);
        let mut times = Vec::new();
        for repetition in 0..2 * repetitions {
            let endpoint = cluster::endpoint(node, if repetition % 2 == 0 { 40_000 } else { 51_820 });
            let set = |peers: &Peers| peers.get(&key).is_some_and(|seen| seen.as_ref() == Some(&endpoint));
            times.push(self.apply(
                "another endpoint",
                Some(&set),
                |_| {},
                |api| api.annotate(node, "kilo.squat.ai/endpoint", Some(&endpoint)),
            )?);
        }
        Ok(vec![Change::of("an endpoint changed", times)])
    }

    /// Another node of another location leads, and the first one again.
    fn leader(&mut self, repetitions: usize) -> Result<Vec<Change>, LabError> {
        let remote = self.remote_nodes();
        // Where every node is its own segment, nobody can follow.
        let (Some(first), Some(second)) = (remote.first(), remote.get(1)) else { return Ok(Vec::new()) };
        if self.cluster.tunnels() >= self.cluster.nodes().count() - 1 {
            return Ok(Vec::new());
        }
        let (first, second) = (cluster::key(*first), cluster::key(*second));
        let node = remote[1];
        let mut times = Vec::new();
        for repetition in 0..2 * repetitions {
            let (value, new, old) =
                if repetition % 2 == 0 { (Some(""), second, first) } else { (None, first, second) };
            let led = |peers: &Peers| peers.contains_key(&new) && !peers.contains_key(&old);
            times.push(self.apply(
                "another leader",
                Some(&led),
                |_| {},
                |api| api.annotate(node, "kilo.squat.ai/leader", value),
            )?);
        }
        Ok(vec![Change::of("a leader changed", times)])
    }

    /// A node that does not lead goes and comes.
    fn node(&mut self, repetitions: usize) -> Result<Vec<Change>, LabError> {
        let Some(node) = self.remote_nodes().last().copied() else { return Ok(Vec::new()) };
        self.leave_and_return(["a node gone", "a node back"], &[node], repetitions)
    }

    /// All nodes of a location go and come. The WireGuard addresses of all locations behind it change.
    fn location(&mut self, repetitions: usize) -> Result<Vec<Change>, LabError> {
        let nodes = self.remote_nodes();
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        self.leave_and_return(["a location gone", "a location back"], &nodes, repetitions)
    }

    fn leave_and_return(
        &mut self,
        names: [&'static str; 2],
        nodes: &[usize],
        repetitions: usize,
    ) -> Result<Vec<Change>, LabError> {
        let (mut gone, mut back) = (Vec::new(), Vec::new());
        for _ in 0..repetitions {
            gone.push(self.apply(
                names[0],
                None,
                |cluster| nodes.iter().for_each(|node| cluster.set_node(*node, false)),
                |api| nodes.iter().try_for_each(|node| api.delete("nodes", &node_name(*node))),
            )?);
            let objects: Vec<_> =
                nodes.iter().map(|node| self.cluster.node_object(*node, unix_now())).collect();
            back.push(self.apply(
                names[1],
                None,
                |cluster| nodes.iter().for_each(|node| cluster.set_node(*node, true)),
                |api| objects.into_iter().try_for_each(|object| api.apply(object)),
            )?);
        }
        Ok(vec![Change::of(names[0], gone), Change::of(names[1], back)])
    }

    /// The nodes of a location in the middle, by name.
    fn remote_nodes(&self) -> Vec<usize> {
        self.cluster.members(self.cluster.locations() / 2)
    }

    /// Makes one change and waits until routes and WireGuard follow; the time counts from the first write.
    fn apply(
        &mut self,
        what: &str,
        condition: Condition<'_>,
        foresee: impl FnOnce(&mut Cluster),
        write: impl FnOnce(&Api) -> Result<(), LabError>,
    ) -> Result<Duration, LabError> {
        interrupt::check()?;
        thread::sleep(REST);
        let before = self.cluster.routes();
        foresee(&mut self.cluster);
        let after = self.cluster.routes();
        let gone = before.keys().filter(|prefix| !after.contains_key(*prefix));
        let changed = after.iter().filter(|(prefix, hop)| before.get(*prefix) != Some(*hop));
        let mut wanted: Wanted = gone.map(|prefix| (*prefix, None)).collect();
        wanted.extend(changed.map(|(prefix, hop)| (*prefix, Some(*hop))));
        self.routes.want(&wanted);
        let begin = Moment::now();
        write(self.api)?;
        let deadline =
            |seen: String| LabError::Deadline { what: what.to_owned(), within: self.deadline, seen };
        let mut end = match self.routes.wait(self.deadline)? {
            Ok(moment) => moment,
            Err(missing) => return Err(deadline(format!("{missing} routes are not as they should be"))),
        };
        if let Some(condition) = condition {
            end = self.look(condition).map_err(deadline)?.max(end);
        }
        Ok(end.since(begin))
    }

    fn look(&self, condition: &dyn Fn(&Peers) -> bool) -> Result<Moment, String> {
        let begin = Instant::now();
        loop {
            let asked = Instant::now();
            let seen = wireguard::peers(self.host);
            // What is seen was so when the answer came.
            let now = Moment::now();
            match seen {
                Ok(peers) if condition(&peers) => return Ok(now),
                seen if begin.elapsed() > self.deadline => {
                    return Err(match seen {
                        Ok(peers) => format!("{} WireGuard peers are not as they should be", peers.len()),
                        Err(error) => error.to_string(),
                    });
                }
                _ => thread::sleep(LOOK.max(asked.elapsed() * 2)),
            }
        }
    }
}
