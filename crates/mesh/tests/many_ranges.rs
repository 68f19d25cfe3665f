//! What anybody may write is written in large numbers here: ranges inside of each other, equal ones, and ones that everything
//! overlaps. The time that it takes must grow with the number of ranges, not with the number of their pairs.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use mesh::{
    Granularity, Node, Peer, PublicKey, Topology, TopologyConfig,
    conflict::{Claimed, Conflicts, conflicts},
};

/// Four times as many ranges take four times as long, or a little more; of pairs there are sixteen times as many.
const GROWTH: f64 = 9.0;

/// The shortest of some times that something takes for a number of ranges.
fn time(count: usize, work: &impl Fn(usize) -> Box<dyn Fn()>) -> Duration {
    let work = work(count);
    let times = (0..3).map(|_| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    });
    times.min().unwrap()
}

/// Whoever else works on this machine makes a measurement worse, and never better; so it may be tried again.
fn grows_with_the_number(name: &str, count: usize, work: impl Fn(usize) -> Box<dyn Fn()>) {
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (few, many) = (time(count, &work), time(4 * count, &work));
        if many.as_secs_f64() < GROWTH * few.as_secs_f64() {
            return;
        }
        seen.push((few, many));
    }
    panic!("{name}, {count} and four times as many: {seen:?}");
}

fn key(number: usize) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    PublicKey::from_bytes(bytes).unwrap()
}

fn peer(number: usize, allowed_ips: Vec<IpNet>) -> Peer {
    Peer {
        name: format!("p{number:05}"),
        created: 0,
        changed: false,
        key: key(number),
        allowed_ips,
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 0,
    }
}

/// Addresses below 10.0.0.0/8 with this length.
fn v4(numbers: impl Iterator<Item = usize>, length: u8) -> impl Iterator<Item = IpNet> {
    numbers.map(move |number| {
        let address = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + ((number as u32) << (32 - length));
        IpNet::new(Ipv4Addr::from(address).into(), length).unwrap()
    })
}

/// `::/0` to `/127` around one address: each inside of the one before.
fn chain_v6(last: u16) -> impl Iterator<Item = IpNet> {
    let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
    (0..128).map(move |length| IpNet::new(address.into(), length).unwrap().trunc())
}

/// 10.0.0.0/8 to /15, each inside of the one before.
fn chain_v4() -> impl Iterator<Item = IpNet> {
    (8..16).map(|length| IpNet::new(Ipv4Addr::new(10, 0, 0, 0).into(), length).unwrap())
}

/// Two peers whose ranges nest in each other: in chains, as halves, and everything in a few that are wide.
fn nested(count: usize) -> Vec<Peer> {
    let halves = v4(0..count / 2, 31);
    let singles = v4((0..count).map(|number| number + 1), 32);
    vec![
        peer(1, chain_v4().chain(halves).chain(chain_v6(0)).collect()),
        peer(2, singles.chain(chain_v6(0x8000)).collect()),
    ]
}

fn node() -> Arc<Node> {
    Arc::new(Node {
        endpoint: "203.0.113.1:51820".parse().ok(),
        key: Some(key(99_999)),
        pod_subnets: v4(0..1, 24).collect(),
        internal_ips: v4(300..301, 32).collect(),
        ..Node::named("n")
    })
}

fn topology(peers: &[Peer]) -> Topology {
    let subnets = "10.4.0.0/16".parse().unwrap();
    Topology::new(
        TopologyConfig { granularity: Granularity::Full, subnets, services: Vec::new() },
        [node()],
        peers.iter().cloned(),
    )
}

#[test]
fn ranges_of_peers_that_nest() {
    let problems = topology(&nested(2000)).problems;
    let of = |name: &str| {
        let named = problems.iter().filter(|problem| problem.object.to_string() == name);
        let overlaps = named.filter(|problem| problem.reason == "OverlappingAllowedIP");
        overlaps.map(|problem| 1 + problem.further).sum::<usize>()
    };
    // All of the later peer lie in one of the earlier one, but for the ranges that both have, which it loses.
    assert!(of("peer p00002") > 2000, "{}", of("peer p00002"));
    grows_with_the_number("nested ranges", 5000, |count| {
        let peers = nested(count);
        Box::new(move || {
            topology(&peers);
        })
    });
}

fn claimed(peer: &Peer) -> Claimed<'_> {
    Claimed { peer: "new", key: Some(peer.key), allowed_ips: peer.allowed_ips.clone() }
}

fn conflicts_with(new: &Peer, peers: &[Peer]) -> Conflicts {
    conflicts(&claimed(new), [&*node()].into_iter(), peers.iter(), 8)
}

#[test]
fn ranges_of_a_new_peer_that_overlap_all_others() {
    // As many Peers as each has ranges, all of them the same, and some around all of them.
    let all_alike = |count: usize| -> (Peer, Vec<Peer>) {
        let ranges = || chain_v4().chain(v4(0..count, 32));
        let peers = (0..10).map(|number| peer(number, ranges().collect())).collect();
        (peer(20_000, ranges().chain(chain_v6(0)).collect()), peers)
    };
    let (new, peers) = all_alike(100);
    let found = conflicts_with(&new, &peers);
    // Every one of 8 + 100 with the 8 around and itself, and the 8 with those inside of them, of each of ten Peers;
    // and the node's two.
    let pairs = 10 * (100 * (8 + 1 + 8) + 8 * 8);
    let of_node = 8 + 100 + 8;
    assert_eq!((found.named.len(), found.named.len() + found.more), (8, pairs + of_node));
    grows_with_the_number("equal and nested ranges", 2000, |count| {
        let (new, peers) = all_alike(count);
        Box::new(move || {
            conflicts_with(&new, &peers);
        })
    });
}

/// What the webhook is asked in the worst of cases: `cargo test --release -p mesh --test many_ranges -- --nocapture`
/// shows how long that takes.
#[test]
fn a_thousand_ranges_among_a_million() {
    let (peers, ranges) = if cfg!(debug_assertions) { (100, 200) } else { (1000, 1000) };
    let of_peer = |number: usize| v4((0..ranges).map(move |range| number * ranges + range), 32);
    let stored: Vec<Peer> = (0..peers).map(|number| peer(number, of_peer(number).collect())).collect();
    let spread = v4((0..ranges).map(|range| range * peers), 32);
    for (name, new, least) in [
        ("spread over all", peer(20_000, spread.collect()), ranges),
        ("around all", peer(20_000, chain_v4().chain(v4(0..ranges, 32)).collect()), peers * ranges),
    ] {
        let begin = Instant::now();
        let found = conflicts_with(&new, &stored);
        println!("{name}: {:?} for {ranges} among {}", begin.elapsed(), peers * ranges);
        assert!(found.more + found.named.len() >= least, "{name}: {}", found.more);
    }
}
