//! Leaders whose internal address is their endpoint: pods reach them through the tunnel, hosts without it.

use hostnet::{Encapsulation, Lifeline, Responsible};

use crate::Fixture;

/// Locations `a` and `b`, each with two nodes; the leader of `b` is reached at this address alone.
fn fixture(host: &'static str, address: &str) -> Fixture {
    let b1 = format!("b1 {address}/24 10.2.3.0/24");
    let nodes =
        ["a1 10.1.0.1/24 10.2.1.0/24", "a2 10.1.0.2/24 10.2.2.0/24", &b1, "b2 10.1.9.2/24 10.2.4.0/24"];
    let mut fixture = Fixture::of(host, &nodes, "10.4.0.0/16", Encapsulation::Never);
    let b1 = fixture.nodes.iter_mut().find(|node| node.name == "b1").unwrap();
    b1.endpoint = format!("{address}:51820").parse().ok();
    b1.leader = true;
    fixture
}

/// The leader of `a` has a session with the leader of `b` there.
fn seen(mut fixture: Fixture, address: &str) -> Fixture {
    let key = fixture.nodes.iter().find(|node| node.name == "b1").unwrap().key.unwrap();
    let seen = (key, format!("{address}:51820").parse().unwrap());
    fixture.nodes.iter_mut().find(|node| node.name == "a1").unwrap().discovered_endpoints.extend([seen]);
    fixture
}

/// What packets from pods look into, and whether what pods send there is masqueraded.
fn check(fixture: &Fixture, address: &str, expected: &[&str], masqueraded: bool) {
    let state = fixture.rendered().state;
    let routes = state.routes.iter().map(ToString::to_string).filter(|route| route.ends_with("table 1110"));
    let rules = state.rules.iter().map(ToString::to_string).filter(|rule| rule.ends_with("lookup 1110"));
    assert_eq!(routes.chain(rules).collect::<Vec<_>>(), expected);
    let host = format!("{address}/32").parse().unwrap();
    assert!(!state.routes.iter().any(|route| route.table == 1108 && route.destination == host));
    let kept = &state.firewall.unwrap().never_masquerade;
    assert_eq!(!kept.iter().any(|net| net.contains(&host)), masqueraded, "{kept:?}");
}

#[test]
fn pods_of_a_leader_and_of_its_location() {
    let route = "10.1.9.1/32 dev kilo0 table 1110";
    check(
        &fixture("a1", "10.1.9.1"),
        "10.1.9.1",
        &[route, "1107: from 10.2.1.0/24 lookup 1110", "1107: from 10.2.2.0/24 lookup 1110"],
        false,
    );
}

#[test]
fn pods_of_a_member() {
    check(
        &fixture("a2", "10.1.9.1"),
        "10.1.9.1",
        &["10.1.9.1/32 via 10.1.0.1 dev eth0 table 1110", "1107: from 10.2.2.0/24 lookup 1110"],
        false,
    );
    // In the own location nothing changes.
    check(&fixture("b2", "10.1.9.1"), "10.1.9.1", &[], false);
    check(&fixture("b1", "10.1.9.1"), "10.1.9.1", &[], false);
}

/// Anybody can write a public address: until the tunnel is seen to end there, pods reach it as they reach the Internet.
#[test]
fn a_public_address_needs_a_session() {
    let address = "203.0.113.77";
    for host in ["a1", "a2"] {
        check(&fixture(host, address), address, &[], true);
        check(&seen(fixture(host, address), "203.0.113.78"), address, &[], true);
    }
    let there = [
        "203.0.113.77/32 dev kilo0 table 1110",
        "1107: from 10.2.1.0/24 lookup 1110",
        "1107: from 10.2.2.0/24 lookup 1110",
    ];
    check(&seen(fixture("a1", address), address), address, &there, false);
    let there = ["203.0.113.77/32 via 10.1.0.1 dev eth0 table 1110", "1107: from 10.2.2.0/24 lookup 1110"];
    check(&seen(fixture("a2", address), address), address, &there, false);
}

/// An API server at the address of a leader: with a session it may be reached through the tunnel, too, and answers that come
/// through it are accepted. A name server never is.
#[test]
fn a_lifeline_at_the_address_of_a_leader() {
    for address in ["10.1.9.1", "203.0.113.77"] {
        let with = |lifeline, is_seen| {
            let mut fixture = fixture("a2", address);
            fixture.input.lifelines.insert(address.parse().unwrap(), lifeline);
            if is_seen { seen(fixture, address) } else { fixture }
        };
        check(&with(Lifeline::ApiServer, false), address, &[], true);
        let route = format!("{address}/32 via 10.1.0.1 dev eth0 table 1110");
        let there = [route.as_str(), "1107: from 10.2.2.0/24 lookup 1110"];
        check(&with(Lifeline::ApiServer, true), address, &there, false);
        check(&with(Lifeline::NameServer, false), address, &[], true);
        check(&with(Lifeline::NameServer, true), address, &[], true);
    }
}

/// In two homes with the same network, the address may be a neighbour's, and nobody gets what pods send to a neighbour by writing
/// his address. A large network that both locations are parts of is another matter.
#[test]
fn a_neighbour_is_no_leader_of_another_location() {
    for host in ["a1", "a2"] {
        check(&fixture(host, "10.1.0.77"), "10.1.0.77", &[], false);
        check(&seen(fixture(host, "10.1.0.77"), "10.1.0.77"), "10.1.0.77", &[], false);
        assert_eq!(fixture(host, "10.1.0.77").problems(), []);
    }
    let mut fixture = fixture("a2", "10.1.0.77");
    for node in fixture.nodes.iter_mut().filter(|node| node.location == "a") {
        node.internal_ips =
            node.internal_ips.iter().map(|net| format!("{}/16", net.addr()).parse().unwrap()).collect();
    }
    fixture
        .facts
        .interfaces
        .values_mut()
        .for_each(|eth0| eth0.addresses = vec!["10.1.0.2/16".parse().unwrap()]);
    let there = ["10.1.0.77/32 via 10.1.0.1 dev eth0 table 1110", "1107: from 10.2.2.0/24 lookup 1110"];
    check(&fixture, "10.1.0.77", &there, false);
}

/// Where another container network masquerades, what a member's pods send comes with the member's address, and goes on through the
/// tunnel. No member makes that of what this host sends.
#[test]
fn pods_of_members_that_masquerade() {
    let route = "10.1.9.1/32 dev kilo0 table 1110";
    let pods = ["1107: from 10.2.1.0/24 lookup 1110", "1107: from 10.2.2.0/24 lookup 1110"];
    let mut fixture = fixture("a1", "10.1.9.1");
    fixture.config.pod_nat_by = Responsible::Other;
    let there = [route, "1107: from 10.1.0.2/32 lookup 1110", pods[0], pods[1]];
    check(&fixture, "10.1.9.1", &there, false);
    fixture.nodes[1].internal_ips = vec!["10.1.0.1/24".parse().unwrap()];
    check(&fixture, "10.1.9.1", &[route, pods[0], pods[1]], false);
    // Many members: their addresses become wider, around those of this host.
    fixture.nodes.extend((20..120).map(|index| {
        let mut node = crate::node("a3");
        node.name = format!("a{index}");
        node.key = mesh::PublicKey::from_bytes([index; 32]).ok();
        node.internal_ips = vec![format!("10.1.0.{}/24", 2 * index).parse().unwrap()];
        node.pod_subnets = vec![format!("10.2.{index}.0/24").parse().unwrap()];
        node
    }));
    fixture
        .facts
        .interfaces
        .values_mut()
        .for_each(|eth0| eth0.addresses.push("10.1.0.77/24".parse().unwrap()));
    let state = fixture.rendered().state;
    let from = state.rules.iter().filter(|rule| rule.table == hostnet::LEADER_TABLE);
    let from: Vec<ipnet::IpNet> = from.filter_map(|rule| rule.from).collect();
    let holds = |address: &str| {
        let address = address.parse::<std::net::IpAddr>().unwrap();
        from.iter().any(|net| net.contains(&address))
    };
    assert!(
        holds("10.1.0.76") && holds("10.1.0.238") && !holds("10.1.0.77") && !holds("10.1.0.1"),
        "{from:?}"
    );
    assert!(from.len() <= 64, "{from:?}");
}
