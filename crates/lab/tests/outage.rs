//! The Kubernetes API is away for three minutes.

mod common;

use std::{
    thread,
    time::{Duration, Instant},
};

use kilo_lab::{Family, Lab, Outage, Stream};
use serde_json::json;

/// Nobody says that the server is gone: its packets vanish, as when a cable is out.
#[test]
fn three_minutes_without_the_api_cost_nothing() {
    away_for("away", Outage::Unplugged, Duration::from_secs(180));
}

/// The server's machine is there, the server is not: every connection is refused.
#[test]
fn a_minute_of_refused_connections_costs_nothing() {
    away_for("refu", Outage::Refusing, Duration::from_secs(60));
}

/// Both times are many times what the lab's agents allow a silent node, so that an agent that counted the outage would
/// drop everyone.
fn away_for(theme: &str, outage: Outage, away: Duration) {
    let lab = common::converged(common::with_agents(theme));
    thread::sleep(Duration::from_secs(2));
    let before: Vec<_> = observe(&lab);
    let streams =
        [("a1-p1", "b2-p1", Family::V4), ("c1-p1", "a2-p1", Family::V6), ("b1-p1", "c1-p1", Family::V4)].map(
            |(from, to, family)| {
                lab.stream(from, to, family, Duration::from_millis(100)).expect("sockets can be opened")
            },
        );
    lab.api().pause(outage).expect("it can be set up");
    let begin = Instant::now();
    // What happens meanwhile, the agents learn afterwards.
    let key = "5oxx9DpQgVSxbkPS8wQ0nnWYVfhuWlnvFhCo4zTHJhQ=";
    let peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": "meanwhile"},
        "spec": {"publicKey": key, "allowedIPs": ["10.99.0.1/32"]},
    });
    lab.api().apply(&peer).expect("the API takes it");
    while begin.elapsed() < away {
        thread::sleep(Duration::from_secs(5));
        for ((name, before), (_, now)) in before.iter().zip(observe(&lab)) {
            // An agent may still learn from its own device meanwhile; but nothing that was there may go.
            let gone: Vec<&String> = before.iter().filter(|line| !now.contains(line)).collect();
            assert!(gone.is_empty(), "{name} lost {gone:#?} {:?} after the API went away", begin.elapsed());
        }
        for (stream, report) in streams.iter().map(|stream| (stream, stream.so_far())) {
            assert_eq!(report.lost(), 0, "{:?} after the API went away: {stream:?}", begin.elapsed());
        }
    }
    let health: Vec<u16> =
        lab.nodes().filter_map(|node| node.http_get("/health").ok()).map(|answer| answer.status).collect();
    assert_eq!(health, [503; 5], "every agent says that it is blind");
    lab.api().resume().expect("the port exists");
    let caught_up = common::patiently(Duration::from_secs(90));
    common::eventually("the agents catching up", caught_up, || {
        let peers = lab.node("b1")?.wireguard_peers()?;
        let healthy =
            lab.nodes().all(|node| node.http_get("/health").is_ok_and(|answer| answer.status == 200));
        let known = peers.iter().any(|peer| peer.public_key == key);
        Ok((!known || !healthy).then(|| format!("{peers:?}; {:?}", lab.health())))
    });
    for report in streams.map(Stream::stop) {
        assert_eq!(report.lost(), 0, "of {} packets: {:?}", report.sent(), report.longest_gap());
    }
}

/// Addresses, routes, rules and WireGuard peers of every node.
fn observe(lab: &Lab) -> Vec<(String, Vec<String>)> {
    let look = |node: kilo_lab::NodeRef<'_>| {
        let mut lines = common::host_state(node);
        // Sets are printed as merged intervals: a line may change because something was added.
        lines.retain(|line| !line.starts_with("nft:"));
        let peers = node.wireguard_peers().unwrap_or_default();
        lines
            .extend(peers.into_iter().map(|peer| format!("peer {} {:?}", peer.public_key, peer.allowed_ips)));
        (node.layout().name.clone(), lines)
    };
    lab.nodes().map(look).collect()
}
