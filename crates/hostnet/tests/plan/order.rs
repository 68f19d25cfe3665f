//! The order of changes, for what happens to a host in its life.

use std::collections::{BTreeMap, BTreeSet};

use hostnet::{
    Address, Firewall, HostState, KILO_TABLE, Leftover, Link, LinkKind, MESH_TABLE, NextHop, Route, Rule,
    Wireguard, WireguardPeer, plan,
};
use mesh::{PrivateKey, prefix::Family};

use crate::clusters::key;

/// A host described by short lines, such as `link kilo0 up`, `peer 2 10.2.2.0/24`, `route 10.2.2.0/24 kilo0`.
fn state(lines: &[&str]) -> HostState {
    let mut state = HostState::default();
    for line in lines {
        let words: Vec<_> = line.split(' ').collect();
        add(&mut state, &words);
    }
    state
}

fn add(state: &mut HostState, words: &[&str]) {
    match words {
        ["link", name, up] => {
            let kind = if *name == "tunl0" { LinkKind::Ipip } else { LinkKind::Wireguard };
            let managed = !matches!(*name, "tunl0" | "given0");
            let link = Link { kind, mtu: Some(1420), up: *up == "up", managed };
            state.links.insert(name.parse().unwrap(), link);
        }
        ["wireguard", port, marks @ ..] => {
            let private_key = Some(PrivateKey::from_random([9; 32]));
            let listen_port = port.parse().unwrap();
            let mark = marks.first().map_or(0, |mark| mark.parse().unwrap());
            state.wireguard = Some(Wireguard { private_key, listen_port, mark, peers: BTreeMap::new() });
        }
        ["peer", seed, rest @ ..] => {
            let mut peer = WireguardPeer::default();
            for word in rest {
                match word.strip_prefix('@') {
                    Some(endpoint) => peer.endpoint = Some(endpoint.parse().unwrap()),
                    None => drop(peer.allowed_ips.insert(word.parse().unwrap())),
                }
            }
            let wireguard = state.wireguard.as_mut().unwrap();
            wireguard.peers.insert(key(seed.parse().unwrap()), peer);
        }
        ["address", net, link] => {
            let address = Address { link: link.parse().unwrap(), net: net.parse().unwrap() };
            state.addresses.insert(address);
        }
        ["route", destination, link, rest @ ..] => {
            let table = if rest.is_empty() { MESH_TABLE } else { KILO_TABLE };
            let (destination, link) = (destination.parse().unwrap(), link.parse().unwrap());
            state.routes.insert(Route {
                table,
                destination,
                next_hop: NextHop::Destination,
                link,
                source: None,
            });
        }
        ["rule", from] => {
            let from = Some(from.parse().unwrap());
            let rule = Rule {
                priority: 1107,
                from,
                to: None,
                iif: None,
                unless: None,
                table: KILO_TABLE,
                family: Family::V4,
            };
            state.rules.insert(rule);
        }
        ["firewall", nets @ ..] => {
            let masquerade_from: BTreeSet<_> = nets.iter().map(|net| net.parse().unwrap()).collect();
            state.firewall = Some(Firewall { masquerade_from, ..Firewall::default() });
        }
        ["forwarding"] => state.forwarding.v4 = true,
        ["leftover", family @ ("ip" | "ip6")] => {
            let family = if *family == "ip" { "ip" } else { "ip6" };
            state.leftovers.insert(Leftover::Iptables { family, table: "nat" });
        }
        other => panic!("{other:?}"),
    }
}

/// The changes, as lines; keys are written as their seeds.
fn check(from: &[&str], to: &[&str], expected: &[&str]) {
    let changes = plan(&state(from), &state(to));
    let mut lines: Vec<_> = changes.iter().map(ToString::to_string).collect();
    for line in &mut lines {
        for seed in 1..9 {
            *line = line.replace(&key(seed).to_string(), &seed.to_string());
        }
    }
    assert_eq!(lines, expected);
}

const LEADER: &[&str] = &[
    "link kilo0 up",
    "wireguard 51820 16",
    "peer 2 @192.0.2.2:51820 10.2.2.0/24 10.4.0.2/32",
    "address 10.4.0.1/16 kilo0",
    "route 10.2.2.0/24 kilo0",
    "firewall 10.2.1.0/24",
    "forwarding",
];

const MEMBER: &[&str] = &[
    "link kilo0 down",
    "wireguard 51820 16",
    "route 10.2.2.0/24 eth0",
    "firewall 10.2.1.0/24",
    "forwarding",
];

#[test]
fn a_host_that_has_nothing_begins_to_lead() {
    check(
        &[],
        LEADER,
        &[
            "+ link kilo0 wireguard mtu 1420",
            "~ wireguard kilo0 private key, port 51820, mark 0x10",
            "+ wireguard kilo0 peer 2 endpoint 192.0.2.2:51820 +10.2.2.0/24 +10.4.0.2/32",
            "~ link kilo0 up",
            "+ address 10.4.0.1/16 dev kilo0",
            "~ forwarding of IPv4 on",
            "+ firewall masquerade from: +10.2.1.0/24",
            "+ route 10.2.2.0/24 dev kilo0 table 1108",
        ],
    );
}

#[test]
fn a_leader_steps_down_after_its_routes_have_moved() {
    check(
        LEADER,
        MEMBER,
        &[
            "+ route 10.2.2.0/24 dev eth0 table 1108",
            "- address 10.4.0.1/16 dev kilo0",
            "- wireguard kilo0 peer 2",
            "~ link kilo0 down",
        ],
    );
}

#[test]
fn a_member_leads_before_its_routes_move() {
    check(
        MEMBER,
        LEADER,
        &[
            "+ wireguard kilo0 peer 2 endpoint 192.0.2.2:51820 +10.2.2.0/24 +10.4.0.2/32",
            "~ link kilo0 up",
            "+ address 10.4.0.1/16 dev kilo0",
            "+ route 10.2.2.0/24 dev kilo0 table 1108",
        ],
    );
}

#[test]
fn an_address_is_added_before_the_old_one_goes() {
    check(
        &["link kilo0 up", "address 10.4.0.2/16 kilo0"],
        &["link kilo0 up", "address 10.4.0.1/16 kilo0"],
        &["+ address 10.4.0.1/16 dev kilo0", "- address 10.4.0.2/16 dev kilo0"],
    );
}

#[test]
fn allowed_ips_move_and_are_not_removed_before() {
    check(
        &["link kilo0 up", "wireguard 1", "peer 2 10.2.2.0/24 10.2.3.0/24", "peer 3 10.2.4.0/24"],
        &["link kilo0 up", "wireguard 1", "peer 2 10.2.3.0/24", "peer 4 10.2.2.0/24"],
        &["+ wireguard kilo0 peer 4 +10.2.2.0/24", "- wireguard kilo0 peer 3"],
    );
    check(
        &["link kilo0 up", "wireguard 1", "peer 2 10.2.2.0/24 10.2.3.0/24"],
        &["link kilo0 up", "wireguard 1", "peer 2 10.2.3.0/24 10.2.4.0/24"],
        &["~ wireguard kilo0 peer 2 +10.2.4.0/24", "~ wireguard kilo0 peer 2 -10.2.2.0/24"],
    );
}

#[test]
fn an_endpoint_that_was_learned_stays() {
    check(
        &["link kilo0 up", "wireguard 1", "peer 2 @192.0.2.9:1"],
        &["link kilo0 up", "wireguard 1", "peer 2"],
        &[],
    );
    check(
        &["link kilo0 up", "wireguard 1", "peer 2 @192.0.2.9:1"],
        &["link kilo0 up", "wireguard 2", "peer 2 @192.0.2.8:1"],
        &["~ wireguard kilo0 private key, port 2, no mark", "~ wireguard kilo0 peer 2 endpoint 192.0.2.8:1"],
    );
}

#[test]
fn a_mark_is_set_and_taken_away_without_touching_peers() {
    let unmarked = &["link kilo0 up", "wireguard 1", "peer 2 @192.0.2.9:1"];
    let marked = &["link kilo0 up", "wireguard 1 112", "peer 2"];
    check(unmarked, marked, &["~ wireguard kilo0 private key, port 1, mark 0x70"]);
    check(
        marked,
        unmarked,
        &["~ wireguard kilo0 private key, port 1, no mark", "~ wireguard kilo0 peer 2 endpoint 192.0.2.9:1"],
    );
    check(marked, marked, &[]);
}

#[test]
fn rules_come_after_the_routes_they_look_up_and_go_before_them() {
    let without = &["link tunl0 up"];
    let with = &["link tunl0 up", "route 10.1.0.2/32 tunl0 1107", "rule 10.2.1.0/24"];
    let (route, rule) = ("route 10.1.0.2/32 dev tunl0 table 1107", "rule 1107: from 10.2.1.0/24 lookup 1107");
    check(without, with, &[&format!("+ {route}"), &format!("+ {rule}")]);
    check(with, without, &[&format!("- {rule}"), &format!("- {route}")]);
}

#[test]
fn what_goes_with_a_link_is_not_removed_by_hand() {
    check(LEADER, &["firewall 10.2.1.0/24"], &["- link kilo0 wireguard mtu 1420"]);
}

#[test]
fn a_link_that_is_not_ours_is_left_in_place() {
    check(
        &["link given0 up", "address 10.4.0.1/16 given0", "route 10.2.2.0/24 given0", "link tunl0 up"],
        &[],
        &["- route 10.2.2.0/24 dev given0 table 1108", "- address 10.4.0.1/16 dev given0"],
    );
}

#[test]
fn leftovers_go_after_what_takes_their_place() {
    check(
        &["leftover ip", "leftover ip6", "forwarding"],
        &["firewall 10.2.1.0/24", "route 10.2.2.0/24 eth0", "forwarding"],
        &[
            "+ firewall masquerade from: +10.2.1.0/24",
            "+ route 10.2.2.0/24 dev eth0 table 1108",
            "- leftover Kilo's rules in table ip nat of iptables",
            "- leftover Kilo's rules in table ip6 nat of iptables",
        ],
    );
}

#[test]
fn a_firewall_is_updated_only_when_it_means_something_else() {
    check(&["firewall 10.2.0.0/24 10.2.1.0/24"], &["firewall 10.2.0.0/23"], &[]);
    check(
        &["firewall 10.2.0.0/24"],
        &["firewall 10.2.2.0/24"],
        &["~ firewall masquerade from: +10.2.2.0/24 -10.2.0.0/24"],
    );
    check(&["firewall 10.2.0.0/24"], &[], &["- firewall"]);
}
