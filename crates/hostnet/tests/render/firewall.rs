//! Source NAT and forwarding.

use hostnet::{Encapsulation, Responsible};

use crate::{Fixture, peer};

fn fixture(host: &'static str) -> Fixture {
    let mut fixture = Fixture::v4(host, Encapsulation::Never);
    fixture.peers.push(peer("p1 10.5.0.1/32"));
    for node in &mut fixture.nodes {
        if node.name == "a2" {
            node.allowed_location_ips.push("10.99.0.0/16".parse().unwrap());
        }
    }
    fixture
}

const MESH: &str = "never masquerade to: +10.1.0.1/32 +10.1.0.2/32 +10.1.9.1/32 +10.2.1.0/24 +10.2.2.0/24 +10.2.3.0/24 \
                    +10.4.0.1/32 +10.4.0.2/32 +10.5.0.1/32";

#[test]
fn pods_and_peers_are_masqueraded_outside_of_the_mesh() {
    fixture("a1").check_firewall(&[
        "masquerade from: +10.2.1.0/24 +10.5.0.1/32",
        "masquerade to: +10.99.0.0/16",
        MESH,
    ]);
}

/// Location IPs are masqueraded where they are, not where they are asked for.
#[test]
fn another_location_does_not_masquerade_to_location_ips() {
    fixture("b1").check_firewall(&["masquerade from: +10.2.3.0/24 +10.5.0.1/32", MESH]);
}

#[test]
fn services_are_never_masqueraded() {
    let mut fixture = fixture("b1");
    fixture.config.service_cidrs.push("10.43.0.0/16".parse().unwrap());
    let mesh = format!("{MESH} +10.43.0.0/16");
    fixture.check_firewall(&["masquerade from: +10.2.3.0/24 +10.5.0.1/32", &mesh]);
}

/// With `--cni=false` another CNI masquerades pods; peers stay ours. Nor do we accept forwarding for its pods.
#[test]
fn pods_of_another_cni_are_left_alone() {
    let mut fixture = fixture("b1");
    fixture.config.pod_nat_by = Responsible::Other;
    fixture.config.accept_forwarding = true;
    fixture.check_firewall(&["masquerade from: +10.5.0.1/32", MESH]);
}

#[test]
fn a_leader_forwards_for_its_location_and_a_member_for_its_pods() {
    let forward = |host| {
        let mut fixture = fixture(host);
        fixture.config.accept_forwarding = true;
        let forward = fixture.rendered().state.firewall.unwrap().forward;
        forward.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(forward("a1"), ["10.1.0.1/32", "10.1.0.2/32", "10.2.1.0/24", "10.2.2.0/24", "10.99.0.0/16"]);
    assert_eq!(forward("a2"), ["10.2.2.0/24"]);
    assert_eq!(forward("b1"), ["10.1.9.1/32", "10.2.3.0/24"]);
}
