//! The mesh forms: locations and full granularity, both families, a site behind NAT, encapsulation.

mod common;

use std::{collections::BTreeSet, time::Duration};

use kilo_lab::{Family, Lab, topology};

#[test]
fn locations_reach_each_other_through_their_leaders() {
    let lab = common::converged(common::with_agents("loc"));
    for family in [Family::V4, Family::V6] {
        let matrix = lab.matrix(family).expect("sockets can be opened");
        assert!(matrix.is_complete(), "{family}: {:?}", matrix.failures());
    }
    let rows = common::led(&lab);
    let leaders: Vec<&str> =
        rows.iter().filter(|row| row.role == topology::Role::Leader).map(|row| row.node.as_str()).collect();
    assert_eq!(leaders, ["a1", "b1", "c1"], "{}", topology::render(&rows));
    for node in lab.nodes() {
        let name = node.layout().name.as_str();
        if leaders.contains(&name) {
            let peers = node.wireguard_peers().expect("a leader has a device");
            assert_eq!(peers.len(), 2, "{name} has a peer per other location: {peers:?}");
        }
    }
    every_agent_is_healthy(&lab);
    sessions_are_measured(&lab);
    the_mesh_is_drawn(&lab);
    the_site_behind_nat_is_known_by_its_routers_address(&lab);
}

#[test]
fn full_granularity_gives_every_pair_of_nodes_its_own_tunnel() {
    let mut spec = common::with_agents("full");
    spec.mesh.granularity = "full".into();
    let lab = common::converged(spec);
    let rows = common::published(&lab, "a WireGuard address of each node", |rows| {
        let addresses =
            rows.iter().map(|row| row.wireguard_ip.as_str()).filter(|address| !address.is_empty());
        addresses.collect::<BTreeSet<_>>().len() == rows.len()
    });
    for node in lab.nodes() {
        let name = &node.layout().name;
        let others: BTreeSet<&str> =
            rows.iter().filter(|row| row.node != *name).map(|row| row.key.as_str()).collect();
        common::eventually(
            "a handshake with every other node",
            common::patiently(Duration::from_secs(20)),
            || {
                let peers = node.wireguard_peers()?;
                let keys: BTreeSet<&str> = peers.iter().map(|peer| peer.public_key.as_str()).collect();
                let shaken = peers.iter().all(|peer| peer.last_handshake.is_some());
                Ok((keys != others || !shaken).then(|| format!("{name}: {peers:?}")))
            },
        );
    }
}

/// Where the kernel has IPIP the mesh forms over it; where it has not, the agent says which flag to use.
#[test]
fn encapsulation_works_or_names_its_flag() {
    let mut spec = common::with_agents("ipip");
    spec.mesh.encapsulate = "always".into();
    let lab = common::up(spec);
    let made = lab
        .exec("a1-p1", &["ip", "link", "add", "probe0", "type", "ipip", "local", "10.42.1.11"])
        .expect("ip runs");
    if made.status.success() {
        common::assert_converges(&lab);
        let device =
            lab.node("a2").expect("the demo has it").read(&["ip", "-d", "link", "show", "type", "ipip"]);
        assert!(device.as_ref().is_ok_and(|text| text.contains("ipip")), "{device:?}");
        return;
    }
    let node = lab.node("a1").expect("the demo has it");
    common::eventually("a message that names the flag", common::patiently(Duration::from_secs(20)), || {
        let log = node.agent_log();
        Ok((!log.contains("--encapsulate")).then_some(log))
    });
}

/// A leader counts what goes to and comes from every other location; a member has no sessions.
fn sessions_are_measured(lab: &Lab) {
    let wanted = |node: &str| match node {
        "a1" => vec![
            "kilo_wireguard_peers{state=\"alive\"} 2",
            "sent_bytes_total{peer=\"location:b\"}",
            "{peer=\"location:c\"}",
        ],
        _ => vec!["kilo_wireguard_peers{state=\"alive\"} 0"],
    };
    for name in ["a1", "a2"] {
        let node = lab.node(name).expect("the demo has it");
        // Looked at with the host, at least every 30 s.
        common::eventually("the metrics of sessions", common::patiently(Duration::from_secs(45)), || {
            let metrics = node.http_get("/metrics")?.body;
            let missing: Vec<_> = wanted(name).into_iter().filter(|text| !metrics.contains(text)).collect();
            Ok((!missing.is_empty()).then(|| format!("{name} lacks {missing:?}\n{metrics}")))
        });
    }
}

fn every_agent_is_healthy(lab: &Lab) {
    for node in lab.nodes() {
        let name = &node.layout().name;
        // That pods reach each other does not need every agent to have heard of every node.
        common::eventually(
            "a healthy agent that knows all nodes",
            common::patiently(Duration::from_secs(10)),
            || {
                let answer = node.http_get("/health")?;
                let metrics = node.http_get("/metrics")?.body;
                let well = answer.status == 200 && metrics.contains("kilo_nodes 5");
                Ok((!well).then(|| format!("{name}: {} {}\n{metrics}", answer.status, answer.body)))
            },
        );
        assert!(!node.agent_log().contains("ERROR"), "{name}: {}", node.agent_log());
    }
}

fn the_mesh_is_drawn(lab: &Lab) {
    let node = lab.node("b2").expect("the demo has it");
    for (path, status, part) in [
        ("/graph", 200, "<svg"),
        ("/graph?format=dot", 200, "digraph kilo {"),
        ("/graph?format=svg&layout=circo", 200, "location:c"),
        ("/graph?format=png", 400, "svg, dot"),
        ("/graph?layout=spiral", 400, "circo, dot"),
    ] {
        let answer = node.http_get(path).expect("the agent serves it");
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.body.contains(part), "{path}: {}", answer.body);
    }
}

fn the_site_behind_nat_is_known_by_its_routers_address(lab: &Lab) {
    let key = common::led(lab)
        .into_iter()
        .find(|row| row.node == "c1")
        .map(|row| row.key)
        .expect("c1 published itself");
    let wan = lab.layout().sites[2].wan();
    for leader in ["a1", "b1"] {
        let node = lab.node(leader).expect("the demo has it");
        let peers = node.wireguard_peers().expect("a leader has a device");
        let endpoint = peers.into_iter().find(|peer| peer.public_key == key).and_then(|peer| peer.endpoint);
        let from_nat = [format!("{}:", wan.v4), format!("[{}]:", wan.v6)];
        let seen = endpoint.unwrap_or_default();
        assert!(
            from_nat.iter().any(|router| seen.starts_with(router)),
            "{leader} sends to {seen:?}, not to {from_nat:?}"
        );
    }
}
