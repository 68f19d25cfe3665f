//! What operators write on a Node, each by what it does to the hosts of others. See docs/annotations.md.
//!
//! | annotation or label | test |
//! |---|---|
//! | `location` | [`the_location_and_the_leader_that_are_wished_for`]; connect.rs |
//! | `leader` | [`the_location_and_the_leader_that_are_wished_for`]; multi_cluster.rs |
//! | `force-endpoint`, `force-external-ip` | [`where_a_node_is_reached`] |
//! | `force-internal-ip` | [`a_node_without_an_internal_address_is_alone`]; flags.rs, in `only_other_subnets_are_reached_in_tunnels` |
//! | `persistent-keepalive` | [`a_keepalive_is_that_of_all_tunnels`] |
//! | `allowed-location-ips` | outside.rs |
//! | `failure-domain.beta.kubernetes.io/region` | [`the_location_and_the_leader_that_are_wished_for`] |
//! | `endpoint`, `key`, `wireguard-ip`, `last-seen`, `granularity` | common/mod.rs, in `published`: how all tests wait |
//! | `internal-ip` | flags.rs, in `who_a_node_is_and_what_it_is_part_of`: others route to it |
//! | `discovered-endpoints` | restart.rs; outside.rs, where two that are behind NAT find each other |

mod common;

use std::time::Duration;

use kilo_lab::{Lab, NodeRef};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn the_location_and_the_leader_that_are_wished_for() {
    let lab = common::converged(common::with_agents("aloc"));
    let key = |node: &str| row(&lab, node).key;
    tunnels(&lab, "a1", &[&key("b1"), &key("c1")]);
    lab.api().annotate("b2", "kilo.squat.ai/leader", Some("")).expect("it is free text");
    tunnels(&lab, "a1", &[&key("b2"), &key("c1")]);
    common::assert_converges(&lab);
    lab.api().annotate("b2", "kilo.squat.ai/location", Some("d")).expect("it is free text");
    tunnels(&lab, "a1", &[&key("b1"), &key("b2"), &key("c1")]);
    common::assert_converges(&lab);
    lab.api().annotate("b2", "kilo.squat.ai/location", None).expect("it is free text");
    // The same by the label of old clusters, where the new one is missing.
    let (new, old) = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region");
    let labels = |new_value: Option<&str>, old_value: Option<&str>| {
        let patch = json!({"metadata": {"labels": {new: new_value, old: old_value}}});
        lab.api().patch("Node", "b2", &patch).expect("the API takes it");
    };
    labels(Some("b"), Some("d"));
    tunnels(&lab, "a1", &[&key("b2"), &key("c1")]);
    labels(None, Some("d"));
    tunnels(&lab, "a1", &[&key("b1"), &key("b2"), &key("c1")]);
    common::assert_converges(&lab);
}

#[test]
fn where_a_node_is_reached() {
    let lab = common::up(common::without_agents("aend"));
    // Everybody has to know the name: whether its address is public decides who leads.
    for node in lab.nodes() {
        let hosts = lab.state().node(&node.layout().name).join("hosts");
        let text = std::fs::read_to_string(&hosts).expect("the lab wrote it");
        std::fs::write(&hosts, text + "198.51.100.17 gate.example\n").expect("it can be written");
    }
    // The same node by another address.
    let b1 = node(&lab, "b1");
    b1.read(&["ip", "address", "add", "198.51.100.20/32", "dev", "eth0"]).expect("the kernel takes it");
    for node in lab.nodes() {
        node.start_agent(&[]).expect("it starts");
    }
    common::assert_converges(&lab);
    let key = row(&lab, "b1").key;
    let reached_at = |endpoint: &str, port: &str| {
        common::eventually(&format!("b1 at {endpoint}"), common::patiently(SOON), || {
            let peers = node(&lab, "a1").wireguard_peers().unwrap_or_default();
            let seen = peers.into_iter().find(|peer| peer.public_key == key).and_then(|peer| peer.endpoint);
            let listens = b1.read(&["wg", "show", "kilo0", "listen-port"]).unwrap_or_default();
            let as_wanted = seen.as_deref() == Some(endpoint) && listens.trim() == port;
            Ok((!as_wanted).then(|| format!("{seen:?}, {listens}")))
        });
        common::assert_converges(&lab);
    };
    let annotate = |key: &str, value: Option<&str>| {
        lab.api().annotate("b1", &format!("kilo.squat.ai/{key}"), value).expect("it is free text");
    };
    reached_at("198.51.100.17:51820", "51820");
    annotate("force-external-ip", Some("198.51.100.20"));
    reached_at("198.51.100.20:51820", "51820");
    // It wins, and what it says of the port the node itself does.
    annotate("force-endpoint", Some("198.51.100.17:4500"));
    reached_at("198.51.100.17:4500", "4500");
    annotate("force-endpoint", Some("[2001:db8:2::1]:4501"));
    reached_at("[2001:db8:2::1]:4501", "4501");
    annotate("force-endpoint", Some("gate.example:4502"));
    reached_at("198.51.100.17:4502", "4502");
    // What cannot be used is as good as none.
    annotate("force-endpoint", Some("gate"));
    reached_at("198.51.100.20:51820", "51820");
    annotate("force-external-ip", None);
    reached_at("198.51.100.17:51820", "51820");
}

#[test]
fn a_node_without_an_internal_address_is_alone() {
    let lab = common::converged(common::with_agents("aint"));
    let key = |node: &str| row(&lab, node).key;
    for none in ["-", ""] {
        lab.api().annotate("a2", "kilo.squat.ai/force-internal-ip", Some(none)).expect("it is free text");
        tunnels(&lab, "a1", &[&key("a2"), &key("b1"), &key("c1")]);
        tunnels(&lab, "a2", &[&key("a1"), &key("b1"), &key("c1")]);
        common::assert_converges(&lab);
        lab.api().annotate("a2", "kilo.squat.ai/force-internal-ip", None).expect("it is free text");
        tunnels(&lab, "a1", &[&key("b1"), &key("c1")]);
    }
}

/// Two networks in one location, which no router connects: one node of the other is asked, does not answer, and is named.
#[test]
fn a_node_in_a_location_whose_network_it_does_not_share() {
    let lab = common::converged(common::with_agents("anet"));
    lab.api().annotate("b2", "kilo.squat.ai/location", Some("a")).expect("it is free text");
    let said = |host: &str, is_wanted: bool| {
        common::eventually(
            &format!("{host}: OtherNetwork"),
            common::patiently(Duration::from_secs(40)),
            || {
                let health = node(&lab, host).http_get("/health")?;
                let named = health.body.contains("its private network 10.102.0.0/24");
                Ok((health.status != 200 || named != is_wanted).then_some(health.body))
            },
        );
    };
    ["a1", "a2", "b2"].iter().for_each(|host| said(host, true));
    lab.api().annotate("b2", "kilo.squat.ai/location", None).expect("it is free text");
    ["a1", "a2", "b2"].iter().for_each(|host| said(host, false));
    common::assert_converges(&lab);
}

#[test]
fn a_keepalive_is_that_of_all_tunnels() {
    let lab = common::converged(common::with_agents("akeep"));
    let every = |seconds: &str| {
        common::eventually(&format!("keepalives: {seconds}"), common::patiently(SOON), || {
            let shown =
                node(&lab, "c1").read(&["wg", "show", "kilo0", "persistent-keepalive"]).unwrap_or_default();
            let each: Vec<&str> = shown.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
            Ok((each != [seconds, seconds]).then_some(shown))
        });
    };
    every("10");
    lab.api().annotate("c1", "kilo.squat.ai/persistent-keepalive", Some("1")).expect("it is free text");
    every("1");
    // And on the wire: an idle tunnel sends one each second.
    let received = || -> u64 {
        let shown = node(&lab, "b1").read(&["wg", "show", "kilo0", "transfer"]).expect("it leads");
        let key = row(&lab, "c1").key;
        let line = shown.lines().find(|line| line.starts_with(&key)).expect("c1 leads");
        line.split_whitespace().nth(1).and_then(|bytes| bytes.parse().ok()).expect("wg counts")
    };
    let before = received();
    common::eventually("three keepalives of 32 bytes", common::patiently(SOON), || {
        let now = received();
        Ok((now < before + 3 * 32).then(|| format!("{before}, {now}")))
    });
    lab.api().annotate("c1", "kilo.squat.ai/persistent-keepalive", Some("often")).expect("it is free text");
    every("off");
}

/// Waits until a node has tunnels to exactly these.
fn tunnels(lab: &Lab, name: &str, keys: &[&str]) {
    let mut wanted: Vec<&str> = keys.to_vec();
    wanted.sort_unstable();
    common::eventually(&format!("{} tunnels of {name}", keys.len()), common::patiently(SOON), || {
        let peers = node(lab, name).wireguard_peers().unwrap_or_default();
        let same = peers.iter().map(|peer| peer.public_key.as_str()).eq(wanted.iter().copied());
        Ok((!same).then(|| format!("{peers:?}, not {wanted:?}")))
    });
}

fn row(lab: &Lab, node: &str) -> kilo_lab::topology::Row {
    let rows = common::published(lab, "every node publishing itself", |_| true);
    rows.into_iter().find(|row| row.node == node).expect("the demo has it")
}

fn node<'a>(lab: &'a Lab, name: &str) -> NodeRef<'a> {
    lab.node(name).expect("the demo has it")
}
