//! The cluster as it is now: read once, decoded, computed.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use kube::Client;
use kubernetes::{preshared_keys::get_preshared_key, services::service_ranges};
use mesh::{
    Excerpt, Node, Peer, Perspective, PresharedKeys, Problems, Topology, TopologyConfig,
    agreement::{self, duration},
    allocation::{Subnets, said_by_most},
    text::Plain,
};
use program::{flags::all, print::say};

use crate::{Global, Granularity};

/// A node whose `last-seen` is older is not part of the mesh, in seconds.
const SILENT_FOR: i64 = 60;

/// As the Go kgctl says it.
const NOBODY: &str = "did not find any valid Kilo nodes in the cluster";

/// The cluster as it is now.
pub struct Cluster {
    /// The mesh of those nodes that are ready.
    pub topology: Topology,
    /// The peers as their objects say, by name: with all of their allowed IPs.
    pub peers: BTreeMap<String, Peer>,
    /// The ready nodes, by name.
    nodes: BTreeMap<String, Arc<Node>>,
    client: kube::Client,
}

impl Cluster {
    /// Reads nodes and peers. What is wrong with single objects is told on standard error.
    pub async fn read(global: &Global) -> Result<Self> {
        let client = kubernetes::client::connect(&global.api_access()).await?;
        let source = global.pod_cidr_source.named();
        let (decoded, of_nodes) = kubernetes::list::list_nodes(&client, &global.topology_label, source)
            .await
            .context("failed to list nodes")?;
        let (peers, mut problems) =
            kubernetes::list::list_peers(&client).await.context("failed to list peers")?;
        problems.extend(of_nodes);
        let peers: BTreeMap<String, Peer> = peers
            .into_iter()
            .filter(|peer| !peer.allowed_ips.is_empty())
            .map(|peer| (peer.name.clone(), peer))
            .collect();

        let config = TopologyConfig {
            granularity: granularity(global, &decoded)?,
            subnets: subnets(&decoded),
            services: services(&client, global).await?,
        };
        let now = program::clock::unix_seconds();
        let ready = |node: &&Node| node.lacks().is_empty() && node.seen_within(SILENT_FOR, now);
        if !decoded.iter().any(|node| ready(&node)) {
            bail!("{NOBODY}{}", why_nobody(&decoded, now));
        }
        problems.extend(agreement::at_a_glance(decoded.iter(), now));
        let nodes: Vec<&Node> = decoded.iter().filter(ready).collect();
        problems.extend(agreement::settings(&nodes, &global.observer()));
        let nodes: BTreeMap<String, Arc<Node>> =
            nodes.into_iter().map(|node| (node.name.clone(), Arc::new(node.clone()))).collect();
        let topology = Topology::new(config, nodes.values().cloned(), peers.values().cloned());
        problems.extend(agreement::apart(topology.segments.iter(), None));
        let problems: Problems = problems.into_iter().chain(topology.problems.iter().cloned()).collect();
        for problem in problems.iter() {
            say(format_args!("warning: {problem}"));
        }
        Ok(Self { topology, peers, nodes, client })
    }

    /// The preshared keys of these Peers that are in Secrets, read with the rights of the user.
    ///
    /// # Errors
    /// When one of them cannot be read: a configuration without it would be less protected than the Peer asks for.
    pub async fn preshared_keys(&self, peers: impl Iterator<Item = &Peer>) -> Result<PresharedKeys> {
        let mut keys = PresharedKeys::new();
        for (peer, reference) in peers.filter_map(|peer| Some((peer, peer.secret()?))) {
            if !keys.contains_key(reference) {
                let key = get_preshared_key(&self.client, reference).await;
                let key =
                    key.with_context(|| format!("failed to get the preshared key of peer {:?}", peer.name))?;
                keys.insert(reference.clone(), key);
            }
        }
        Ok(keys)
    }

    /// The mesh as a node sees it.
    pub fn perspective(&self, node: &str) -> Result<Perspective<'_>> {
        Perspective::of(&self.topology, node)
            .ok_or_else(|| anyhow!("did not find any node named {node:?} in the cluster"))
    }

    /// The mesh as nobody in particular sees it: by convention, as the last node.
    pub fn any_perspective(&self) -> Result<Perspective<'_>> {
        let in_mesh = self.nodes.keys().rev().find_map(|name| Perspective::of(&self.topology, name));
        in_mesh.ok_or_else(|| anyhow!("{NOBODY}: all were left out, see the warnings"))
    }
}

/// Why no node is part of the mesh, and what to do.
fn why_nobody(nodes: &[Node], now: i64) -> String {
    if nodes.is_empty() {
        return ": it has no Nodes; is it the right one, see --kubeconfig?".to_owned();
    }
    let complete = nodes.iter().filter(|node| node.lacks().is_empty());
    match complete.map(|node| node.last_seen).max() {
        Some(0) => {
            ": no agent has published a heartbeat yet (kilo.squat.ai/last-seen); look at the agents' logs"
                .to_owned()
        }
        Some(last_seen) => format!(
            ": all agents were last heard {} ago by the clock of this machine; either none of them runs or reaches the \
             API, or this machine's clock is ahead: compare it with `date` on a node",
            duration(now.saturating_sub(last_seen))
        ),
        None => {
            let lacking = nodes
                .iter()
                .map(|node| format!("node {} lacks {}", Plain(&node.name), node.lacks().join(" and ")));
            let mut named = Excerpt::of(3);
            lacking.for_each(|text| named.push(|| text));
            format!(": {named}; is kg running there? Its log says what is wrong")
        }
    }
}

/// The granularity that was asked for, or that most nodes say. One node alone, or one without an agent, decides nothing.
fn granularity(global: &Global, nodes: &[Node]) -> Result<mesh::Granularity> {
    match global.mesh_granularity {
        Granularity::Location => Ok(mesh::Granularity::Location),
        Granularity::Full => Ok(mesh::Granularity::Full),
        Granularity::Auto => {
            let first = nodes.first().ok_or_else(|| {
                anyhow!(
                    "could not get any nodes: the cluster has none; is it the right one, see --kubeconfig?"
                )
            })?;
            let said = nodes.iter().rev().filter_map(|node| node.granularity);
            said_by_most(said).ok_or_else(|| {
                anyhow!(
                    "failed to determine granularity: no node, such as {}, has a valid annotation \
                     kilo.squat.ai/granularity; are the agents running? Otherwise give --mesh-granularity",
                    Plain(&first.name)
                )
            })
        }
    }
}

/// Where services are: as the user says, else as the API does.
///
/// # Errors
/// When the API does not answer.
pub async fn services(client: &Client, global: &Global) -> Result<Vec<IpNet>> {
    if !global.service_cidr.is_empty() {
        return Ok(all(&global.service_cidr));
    }
    let ranges = service_ranges(client).await.context("failed to list service ranges")?;
    Ok(ranges.unwrap_or_default())
}

/// The WireGuard subnets that most leaders say.
fn subnets(nodes: &[Node]) -> Subnets {
    said_by_most(nodes.iter().filter_map(Subnets::said_by)).unwrap_or_default()
}
