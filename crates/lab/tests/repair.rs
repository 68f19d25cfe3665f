//! What someone else takes away from a node comes back by itself.

mod common;

use std::time::{Duration, Instant};

use kilo_lab::{Lab, NodeRef};

/// What the agent promises for everything the kernel tells it about.
const SOON: Duration = Duration::from_secs(1);
const RESYNC: Duration = Duration::from_secs(3);

#[test]
fn what_was_removed_comes_back() {
    let mut spec = common::with_agents("fix");
    // Where the kernel tells of a change, the period must not be what repairs it: it is far away.
    for (node, period) in
        [("a1", "10m".into()), ("a2", "10m".into()), ("b1", format!("{}s", RESYNC.as_secs()))]
    {
        spec.node_mut(node).expect("the demo has it").agent_args.push(format!("--resync-period={period}"));
    }
    let lab = common::converged(spec);
    let leader = lab.node("a1").expect("the demo has it");
    let member = lab.node("a2").expect("the demo has it");
    settled(leader);
    settled(member);
    for family in ["-4", "-6"] {
        deleted_routes(leader, family, "kilo0");
        deleted_routes(member, family, "eth0");
    }
    removed(leader, &["ip", "-4", "address", "flush", "dev", "kilo0"], SOON);
    removed(leader, &["nft", "flush", "table", "inet", "kilo"], SOON);
    removed(leader, &["nft", "delete", "table", "inet", "kilo"], SOON);
    removed(leader, &["ip", "link", "set", "kilo0", "down"], SOON);
    removed_peer(&lab);
    common::assert_converges(&lab);
}

/// Deletes, one after the other, the first three routes of a device that the agent made.
fn deleted_routes(node: NodeRef<'_>, family: &str, device: &str) {
    let routes =
        node.read(&["ip", family, "route", "show", "table", "1108", "dev", device]).expect("ip runs");
    let ours =
        |line: &&str| line.contains("via") && !line.starts_with("default") && !line.contains("proto kernel");
    let routes: Vec<&str> = routes.lines().filter(ours).take(3).collect();
    assert!(!routes.is_empty(), "{} has routes of the agent on {device}", node.layout().name);
    for route in routes {
        let prefix = route.split(' ').next().expect("a line has a first word");
        removed(node, &["ip", family, "route", "delete", prefix, "dev", device, "table", "1108"], SOON);
    }
}

fn removed(node: NodeRef<'_>, command: &[&str], within: Duration) {
    let before = common::host_state(node);
    let begin = Instant::now();
    node.read(command).unwrap_or_else(|error| panic!("{error}"));
    common::assert_same_state(node, &before, common::patiently(within));
    println!("{}: `{}` was repaired after {:?}", node.layout().name, command.join(" "), begin.elapsed());
}

fn removed_peer(lab: &Lab) {
    let node = lab.node("b1").expect("the demo has it");
    let before = node.wireguard_peers().expect("a leader has a device");
    let victim = before[0].public_key.clone();
    node.read(&["wg", "set", "kilo0", "peer", &victim, "remove"]).unwrap_or_else(|error| panic!("{error}"));
    let keys = |peers: &[kilo_lab::WireGuardPeer]| {
        peers.iter().map(|peer| peer.public_key.clone()).collect::<Vec<_>>()
    };
    common::eventually("the peer being back", common::patiently(RESYNC + SOON), || {
        let peers = node.wireguard_peers()?;
        Ok((keys(&peers) != keys(&before)).then(|| format!("{peers:?}")))
    });
}

/// Waits until two looks in a row see the same.
fn settled(node: NodeRef<'_>) {
    let mut before = Vec::new();
    common::eventually("the node's state being settled", common::patiently(Duration::from_secs(10)), || {
        let now = common::host_state(node);
        let same = now == before && !now.is_empty();
        let seen = common::difference(&before, &now);
        before = now;
        std::thread::sleep(Duration::from_millis(500));
        Ok((!same).then_some(seen))
    });
}
