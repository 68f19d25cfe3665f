//! The sites as packets see them, before any agent runs: who reaches whom, under which address, in both
//! families.

mod common;

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use kilo_lab::{
    Family, Lab, Outage, Outcome, Request,
    layout::{API_PORT, API_V4, API_V6},
    probe::{Endpoint, probe_pairs},
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const WITHIN: Duration = Duration::from_millis(700);

#[test]
fn sites_are_connected_as_described() {
    let lab = common::up(common::without_agents("fab"));
    for family in FAMILIES {
        public_nodes_reach_each_other(&lab, family);
        neighbours_reach_each_other_on_the_lan(&lab, family);
        nat_hides_a_site(&lab, family);
        the_firewall_drops_what_was_not_asked_for(&lab, family);
        pods_reach_only_their_node(&lab, family);
    }
    the_machine_itself_has_no_new_device();
}

#[test]
fn a_cable_can_be_pulled_and_plugged() {
    let lab = common::up(common::without_agents("cab"));
    let node = lab.node("a1").expect("the demo has it");
    let reaches = |expect: bool| {
        let look = || {
            let matrix = lab.matrix_of(&["a1", "a2"], Family::V4, Duration::from_millis(300))?;
            Ok((matrix.is_complete() != expect).then(|| matrix.failures().join(", ")))
        };
        common::eventually(&format!("a1 and a2 reaching each other: {expect}"), Duration::from_secs(5), look);
    };
    reaches(true);
    node.cut_link().expect("the port exists");
    reaches(false);
    node.restore_link().expect("the port exists");
    reaches(true);
}

#[test]
fn the_api_is_reachable_and_can_be_away() {
    let lab = common::up(common::without_agents("apis"));
    let ask = |from: &str, address: IpAddr| {
        let namespace = lab.place(from).expect("the demo has it").namespace;
        Request::get("/readyz")
            .send(&namespace, SocketAddr::new(address, API_PORT))
            .map(|answer| answer.status)
    };
    let status = |expect: u16| {
        for (from, address) in [
            ("a1", IpAddr::from(API_V4)),
            ("c1", API_V4.into()),
            ("b2", API_V6.into()),
            ("c1", API_V6.into()),
        ] {
            let look = || {
                Ok(match ask(from, address) {
                    Ok(status) if status == expect => None,
                    other => Some(format!("{from} {address}: {other:?}")),
                })
            };
            common::eventually(&format!("status {expect}"), Duration::from_secs(5), look);
        }
    };
    status(200);
    lab.api().pause(Outage::Forbidding).expect("rules can be set");
    status(403);
    lab.api().pause(Outage::Refusing).expect("rules can be set");
    let begin = Instant::now();
    let refused = ask("a1", API_V4.into()).expect_err("it is refused").to_string();
    assert!(begin.elapsed() < Duration::from_secs(1) && refused.contains("refused"), "{refused}");
    assert_eq!(lab.api().nodes().expect("the lab itself still reads").len(), 5);
    lab.api().pause(Outage::Unplugged).expect("the port exists");
    let unanswered = ask("c1", API_V4.into()).expect_err("nothing answers").to_string();
    assert!(!unanswered.contains("refused"), "packets vanish: {unanswered}");
    lab.api().resume().expect("it comes back");
    status(200);
}

fn public_nodes_reach_each_other(lab: &Lab, family: Family) {
    let endpoints = ["a1", "a2", "b1", "b2"].map(|name| public(lab, name, family));
    let outcomes = probe_pairs(&endpoints, Duration::from_secs(5)).expect("sockets can be opened");
    for (pair, outcome) in outcomes {
        assert!(matches!(outcome, Outcome::Reached { .. }), "{family} {pair:?}: {outcome:?}");
    }
}

fn neighbours_reach_each_other_on_the_lan(lab: &Lab, family: Family) {
    let matrix = lab.matrix_of(&["a1", "a2"], family, Duration::from_secs(5)).expect("sockets can be opened");
    assert!(matrix.is_complete(), "{family}: {:?}", matrix.failures());
    let apart = lab.matrix_of(&["a1", "b1"], family, WITHIN).expect("sockets can be opened");
    assert_eq!(apart.score().0, 0, "{family}: LANs are private: {apart:?}");
}

fn nat_hides_a_site(lab: &Lab, family: Family) {
    let hidden = lab.endpoint("c1", family).expect("the demo has it");
    let outcomes = probe_pairs(&[hidden, public(lab, "a1", family)], WITHIN).expect("sockets can be opened");
    let router = lab.layout().sites[2].wan().of(family);
    assert_eq!(
        outcomes[&(0, 1)],
        Outcome::Translated { seen: router },
        "{family}: outward under the router's address"
    );
    assert_eq!(outcomes[&(1, 0)], Outcome::Lost, "{family}: not inward");
}

/// Someone on the WAN sends straight to the NATed node's address, by way of its router.
fn the_firewall_drops_what_was_not_asked_for(lab: &Lab, family: Family) {
    let site = &lab.layout().sites[2];
    let (lan, router) = match family {
        Family::V4 => (site.lan_v4().to_string(), site.wan().v4.to_string()),
        Family::V6 => (site.lan_v6().to_string(), site.wan().v6.to_string()),
    };
    let added = lab.exec("router-b", &["ip", "route", "add", &lan, "via", &router]).expect("ip runs");
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let hidden = lab.endpoint("c1", family).expect("the demo has it");
    let outcomes = probe_pairs(&[public(lab, "b1", family), hidden], WITHIN).expect("sockets can be opened");
    assert_eq!(outcomes[&(0, 1)], Outcome::Lost, "{family}: the firewall lets an unsolicited packet in");
    let rules =
        lab.exec("router-c", &["nft", "list", "chain", "inet", "router", "forward"]).expect("nft runs");
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    assert!(
        rules.contains("drop") && !rules.contains("packets 0"),
        "{family}: it was the firewall that dropped: {rules}"
    );
}

fn pods_reach_only_their_node(lab: &Lab, family: Family) {
    let near =
        lab.matrix_of(&["a1-p1", "a1"], family, Duration::from_secs(5)).expect("sockets can be opened");
    assert!(near.is_complete(), "{family}: {:?}", near.failures());
    let far = lab.matrix(family).expect("sockets can be opened");
    assert_eq!(far.score().0, 0, "{family}: no agent connects the nodes yet: {far:?}");
}

fn the_machine_itself_has_no_new_device() {
    let entries = fs::read_dir("/sys/class/net").expect("sysfs is mounted");
    let devices: BTreeSet<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    for ours in ["kube-bridge", "wan", "lan", "wan0", "site1", "node1", "pod1", "api"] {
        assert!(!devices.contains(ours), "{ours} is in the machine's own namespace: {devices:?}");
    }
}

fn public(lab: &Lab, node: &str, family: Family) -> Endpoint {
    let layout = lab.layout().node(node).expect("the demo has it");
    let address = layout.public.expect("its site is public").of(family);
    Endpoint { name: node.into(), namespace: layout.namespace.clone(), address, service: None }
}
