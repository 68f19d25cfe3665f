//! Long lists take time in proportion to their length.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use hostnet::{Encapsulation, HostRoute};
use ipnet::IpNet;

use crate::Fixture;

/// `b1` with this many pod subnets, each of which lies in a route of the host.
fn with_pod_subnets(count: u32) -> Fixture {
    let mut fixture = Fixture::v4("a1", Encapsulation::Never);
    fixture.facts.routes = vec![HostRoute {
        destination: "10.64.0.0/10".parse().unwrap(),
        gateway: None,
        link: Some("eth0".parse().unwrap()),
        table: 254,
    }];
    let first = u32::from(Ipv4Addr::new(10, 64, 0, 0));
    let subnets =
        (0..count).map(|number| IpNet::new(Ipv4Addr::from(first + (number << 4)).into(), 28).unwrap());
    fixture.nodes[2].pod_subnets = subnets.collect();
    fixture
}

fn time(count: u32) -> Duration {
    let fixture = with_pod_subnets(count);
    let times = (0..2).map(|_| {
        let begin = Instant::now();
        fixture.rendered();
        begin.elapsed()
    });
    times.min().unwrap()
}

/// Of pairs there would be sixteen times as many. Whoever else works on this machine makes a measurement worse, and never
/// better; so it may be tried again.
#[test]
fn pod_subnets_of_one_node() {
    assert!(with_pod_subnets(10).rendered().state.routes.len() >= 10);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (few, many) = (time(4_000), time(16_000));
        if many < 9 * few {
            return;
        }
        seen.push((few, many));
    }
    panic!("4,000 and 16,000 pod subnets: {seen:?}");
}
