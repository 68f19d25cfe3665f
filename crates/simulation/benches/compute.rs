//! What is computed when something in the cluster has changed: topology, perspective, render, plan; and what an
//! event costs the reconciler. Locations hold 20 nodes, families are both unless said otherwise.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

use divan::{Bencher, black_box};
use hostnet::{HostState, plan, render};
use mesh::{Granularity, Node, Perspective, PrivateKey};
use simulation::{
    alone::Alone,
    synthetic::{Cluster, Size, Stack, facts, render_config, render_input},
};

const SIZES: [usize; 3] = [100, 1_000, 10_000];

fn main() {
    divan::main();
}

fn cluster(nodes: usize, stack: Stack) -> Cluster {
    Cluster::new(Size { nodes, locations: nodes / 20, peers: 10, stack }, Granularity::Location)
}

/// The state of a host: node 0 leads its location, node 500 does not.
fn rendered(cluster: &Cluster, node: &Node) -> HostState {
    let topology = cluster.topology();
    let perspective = Perspective::of(&topology, &node.name).unwrap();
    render(&perspective, &facts(node), &render_config(PrivateKey::from_random([1; 32])), &render_input())
        .state
}

/// Another cluster that differs in one node: it has moved to another endpoint.
fn moved(cluster: &Cluster) -> Cluster {
    let mut after = cluster.clone();
    let node = std::sync::Arc::make_mut(&mut after.nodes[1]);
    node.endpoint = "198.51.100.7:51820".parse().ok();
    after
}

#[divan::bench(args = SIZES)]
fn topology(bencher: Bencher, nodes: usize) {
    let cluster = cluster(nodes, Stack::Dual);
    bencher.bench(|| cluster.topology());
}

#[divan::bench(args = SIZES)]
fn perspective(bencher: Bencher, nodes: usize) {
    let topology = cluster(nodes, Stack::Dual).topology();
    bencher.bench(|| black_box(Perspective::of(black_box(&topology), "node-00000")).is_some());
}

#[divan::bench(args = SIZES)]
fn render_leader(bencher: Bencher, nodes: usize) {
    let cluster = cluster(nodes, Stack::Dual);
    let (topology, facts) = (cluster.topology(), facts(&cluster.nodes[0]));
    let config = render_config(PrivateKey::from_random([1; 32]));
    let perspective = Perspective::of(&topology, "node-00000").unwrap();
    bencher.bench(|| render(&perspective, &facts, &config, &render_input()));
}

#[divan::bench(args = SIZES)]
fn render_member(bencher: Bencher, nodes: usize) {
    let cluster = cluster(nodes, Stack::Dual);
    let node = cluster.nodes.last().unwrap();
    let (topology, facts) = (cluster.topology(), facts(node));
    let config = render_config(PrivateKey::from_random([1; 32]));
    let perspective = Perspective::of(&topology, &node.name).unwrap();
    bencher.bench(|| render(&perspective, &facts, &config, &render_input()));
}

#[divan::bench(args = SIZES)]
fn plan_from_nothing(bencher: Bencher, nodes: usize) {
    let cluster = cluster(nodes, Stack::Dual);
    let desired = rendered(&cluster, &cluster.nodes[0]);
    bencher.bench(|| plan(&HostState::default(), black_box(&desired)));
}

#[divan::bench(args = SIZES)]
fn plan_one_change(bencher: Bencher, nodes: usize) {
    let before = cluster(nodes, Stack::Dual);
    let (observed, desired) =
        (rendered(&before, &before.nodes[0]), rendered(&moved(&before), &before.nodes[0]));
    bencher.bench(|| plan(black_box(&observed), black_box(&desired)));
}

/// All of it, as after a start (`observed` is empty) and after a change.
fn all(cluster: &Cluster, observed: &HostState) -> usize {
    let topology = cluster.topology();
    let node = &cluster.nodes[0];
    let perspective = Perspective::of(&topology, &node.name).unwrap();
    let config = render_config(PrivateKey::from_random([1; 32]));
    let rendered = render(&perspective, &facts(node), &config, &render_input());
    plan(observed, &rendered.state).len()
}

#[divan::bench(args = SIZES, consts = [4, 46])]
fn all_from_nothing<const FAMILIES: u8>(bencher: Bencher, nodes: usize) {
    let cluster = cluster(nodes, if FAMILIES == 4 { Stack::Single } else { Stack::Dual });
    bencher.bench(|| all(black_box(&cluster), &HostState::default()));
}

#[divan::bench(args = SIZES, consts = [4, 46])]
fn all_one_change<const FAMILIES: u8>(bencher: Bencher, nodes: usize) {
    let before = cluster(nodes, if FAMILIES == 4 { Stack::Single } else { Stack::Dual });
    let (observed, after) = (rendered(&before, &before.nodes[0]), moved(&before));
    bencher.bench(|| all(black_box(&after), &observed));
}

/// Every node its own segment: as many tunnels as nodes.
#[divan::bench(args = SIZES)]
fn all_full(bencher: Bencher, nodes: usize) {
    let size = Size { nodes, locations: nodes / 20, peers: 10, stack: Stack::Single };
    let cluster = Cluster::new(size, Granularity::Full);
    bencher.bench(|| all(black_box(&cluster), &HostState::default()));
}

/// All nodes in one location, seen by one that does not lead.
#[divan::bench(args = SIZES)]
fn all_one_location(bencher: Bencher, nodes: usize) {
    let size = Size { nodes, locations: 1, peers: 10, stack: Stack::Single };
    let cluster = Cluster::new(size, Granularity::Location);
    let node = cluster.nodes.last().unwrap();
    let (facts, config) = (facts(node), render_config(PrivateKey::from_random([1; 32])));
    bencher.bench(|| {
        let topology = cluster.topology();
        let perspective = Perspective::of(&topology, &node.name).unwrap();
        plan(&HostState::default(), &render(&perspective, &facts, &config, &render_input()).state).len()
    });
}

/// A range behind every location.
#[divan::bench(args = SIZES)]
fn topology_with_location_ips(bencher: Bencher, nodes: usize) {
    let mut cluster = cluster(nodes, Stack::Dual);
    for (index, node) in cluster.nodes.iter_mut().enumerate().take(nodes / 20) {
        let net = format!("100.{}.{}.0/24", 64 + index / 256, index % 256);
        std::sync::Arc::make_mut(node).allowed_location_ips.push(net.parse().unwrap());
    }
    bencher.bench(|| cluster.topology());
}

/// A heartbeat of another node, and asking what to do: nothing.
#[divan::bench(args = SIZES)]
fn event_heartbeat(bencher: Bencher, nodes: usize) {
    let cluster = cluster(nodes, Stack::Dual);
    let mut alone = Alone::new(&cluster, 0);
    let mut last_seen = 1_700_000_030;
    let mut index = 1;
    bencher.bench_local(|| {
        if index == cluster.nodes.len() {
            (last_seen, index) = (last_seen + 30, 1);
        }
        alone.hear(&cluster.nodes[index].name, last_seen);
        index += 1;
        (alone.reconciler.poll_action(alone.now), alone.reconciler.poll_timeout())
    });
}

/// Another node's endpoint moves: both looks at the (model of a) host and the change in between.
#[divan::bench(args = SIZES)]
fn event_change(bencher: Bencher, nodes: usize) {
    let cluster = cluster(nodes, Stack::Dual);
    let mut alone = Alone::new(&cluster, 0);
    let mut port = 1;
    bencher.bench_local(|| {
        port += 1;
        let endpoint = format!("198.51.100.7:{port}").parse().ok();
        alone.see(std::sync::Arc::new(Node { endpoint, ..(*cluster.nodes[1]).clone() }));
        let changes = alone.work();
        assert_eq!(changes.len(), 1);
    });
}
