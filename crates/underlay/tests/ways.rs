//! Connections and name servers that are reached without the mesh, through it, or not at all.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use support::{MARK, Ways, at, eventually, in_namespace, run};
use tokio::net::TcpStream;
use underlay::{Lifelines, State, Underlay, Way};

const API: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";
const PORT: u16 = 6443;

#[test]
fn what_answers_without_the_mesh_is_reached_without_it() {
    in_namespace(async || {
        let ways = Ways::new();
        let underlay = Underlay::new(Some(MARK));
        // The mesh would lead elsewhere, where somebody answers, too.
        for (address, prefix) in [(API, "192.0.2.0/24"), ("2001:db8::1", "2001:db8::/64")] {
            ways.outside.has(address);
            ways.mesh.has(address);
            ways.mesh_routes(prefix);
        }
        let outside = ways.outside.listen(PORT);
        let _mesh = ways.mesh.listen(PORT);
        for address in [API, "2001:db8::1"] {
            let stream = underlay.connect(at(address, PORT)).await.unwrap();
            let (_, from) = outside.accept().unwrap();
            assert_eq!(from.ip().to_canonical(), stream.local_addr().unwrap().ip());
            assert_eq!(underlay.state(address.parse().unwrap()), State::Underlay);
            // Without the mark it would have gone through the mesh.
            let plain = TcpStream::connect(at(address, PORT)).await.unwrap();
            assert_ne!(plain.local_addr().unwrap().ip(), stream.local_addr().unwrap().ip());
        }
    });
}

#[test]
fn what_is_behind_the_mesh_is_reached_through_it() {
    in_namespace(async || {
        let ways = Ways::new();
        ways.mesh.has(API);
        ways.mesh_routes("192.0.2.0/24");
        let _mesh = ways.mesh.listen(PORT);
        let underlay = Underlay::new(Some(MARK));
        let start = Instant::now();
        underlay.connect(at(API, PORT)).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(underlay.evidence().is_empty(), "the underlay has a further chance");
        let api = API.parse().unwrap();
        let protected = || Lifelines::of(&underlay, [api], []).protected();
        assert!(protected().is_empty(), "and meanwhile the way that is used stays");
        eventually("it is proven", || !underlay.evidence().is_empty()).await;
        assert_eq!(underlay.evidence(), [(api, Way::Mesh)].into());
        assert!(protected().is_empty());
        // Where the underlay refuses at once, nobody waits.
        ways.outside.has(API);
        let start = Instant::now();
        underlay.connect(at(API, PORT)).await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
        // And once the server listens there, it counts.
        let _outside = ways.outside.listen(PORT);
        underlay.connect(at(API, PORT)).await.unwrap();
        assert_eq!(underlay.evidence(), [(api, Way::Underlay)].into());
    });
}

#[test]
fn a_slow_underlay_is_not_taken_for_none() {
    in_namespace(async || {
        let ways = Ways::new();
        ways.mesh.has(API);
        ways.mesh_routes("192.0.2.0/24");
        let (_mesh, _outside) = (ways.mesh.listen(PORT), ways.outside.listen(PORT));
        let underlay = Underlay::new(Some(MARK));
        // The first packet is lost; the connection through the mesh is made before it is sent again.
        let stream = underlay.connect(at(API, PORT)).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), at("10.2.0.1", 0).ip());
        ways.outside.has(API);
        let api = API.parse().unwrap();
        eventually("the underlay has answered", || !underlay.evidence().is_empty()).await;
        assert_eq!(underlay.state(api), State::Underlay);
    });
}

#[test]
fn a_server_that_is_down_changes_nothing() {
    in_namespace(async || {
        let ways = Ways::new();
        let underlay = Underlay::new(Some(MARK));
        let (api, other) = (API.parse().unwrap(), OTHER.parse().unwrap());
        ways.mesh_routes("192.0.2.0/24");
        ways.outside.has(API);
        ways.mesh.has(OTHER);
        let listening = (ways.outside.listen(PORT), ways.mesh.listen(PORT));
        underlay.probe(at(API, PORT)).await;
        underlay.probe(at(OTHER, PORT)).await;
        let before = [(api, Way::Underlay), (other, Way::Mesh)].into();
        assert_eq!(underlay.evidence(), before);
        // Refused, then not even that.
        drop(listening);
        for _ in 0..2 {
            for address in [API, OTHER].map(|address| at(address, PORT)) {
                let connecting = tokio::time::timeout(Duration::from_secs(1), underlay.connect(address));
                let (connected, ()) = tokio::join!(connecting, underlay.probe(address));
                assert!(!matches!(connected, Ok(Ok(_))));
            }
            assert_eq!(underlay.evidence(), before);
            ways.outside.run("ip link set eth0 down");
            ways.mesh.run("ip link set eth0 down");
        }
    });
}

#[test]
fn one_that_has_never_answered_is_silent_until_it_does() {
    in_namespace(async || {
        let ways = Ways::new();
        let underlay = Underlay::new(Some(MARK));
        let api = API.parse().unwrap();
        let lifelines = || Lifelines::of(&underlay, [api], []);
        assert!(lifelines().protected().is_empty() && !lifelines().are_known());
        underlay.probe(at(API, PORT)).await;
        assert!(lifelines().are_known());
        assert_eq!(underlay.state(api), State::Silent);
        assert!(lifelines().protected().is_empty());
        ways.mesh.has(API);
        ways.mesh_routes("192.0.2.0/24");
        let _mesh = ways.mesh.listen(PORT);
        underlay.probe(at(API, PORT)).await;
        assert_eq!(underlay.state(api), State::Mesh);
    });
}

#[test]
fn this_host_itself_proves_nothing() {
    in_namespace(async || {
        let _ways = Ways::new();
        let underlay = Underlay::new(Some(MARK));
        let _here = TcpListener::bind(("::", PORT)).unwrap();
        for address in ["127.0.0.1", "10.1.0.1", "fd01::1", "::1"] {
            // Nobody listens on the next port.
            underlay.connect(at(address, PORT)).await.unwrap();
            underlay.probe(at(address, PORT)).await;
            underlay.probe(at(address, PORT + 1)).await;
            underlay.probe_name_server(at(address, 53)).await;
        }
        assert!(underlay.evidence().is_empty());
        assert_eq!(underlay.state(at("10.1.0.1", 0).ip()), State::Unknown);
    });
}

#[test]
fn without_leave_to_set_marks_connections_are_plain_and_prove_nothing() {
    in_namespace(async || {
        let ways = Ways::new();
        ways.mesh.has(API);
        ways.mesh_routes("192.0.2.0/24");
        let _mesh = ways.mesh.listen(PORT);
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
        set_capabilities(None, sets).unwrap();
        for underlay in [Underlay::new(Some(MARK)), Underlay::plain()] {
            assert!(!underlay.measures());
            let start = Instant::now();
            underlay.connect(at(API, PORT)).await.unwrap();
            assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
            underlay.probe(at(API, PORT)).await;
            assert_eq!(underlay.state(API.parse().unwrap()), State::Unknown);
        }
    });
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    in_namespace(async || {
        let ways = Ways::new();
        ways.outside.has(OTHER);
        let _outside = ways.outside.listen(PORT);
        let underlay = Underlay::new(Some(MARK));
        let connect = async |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|address| at(address, PORT)).collect();
            let start = Instant::now();
            let connected = underlay.connect_any(&addresses, Duration::from_secs(4)).await;
            (connected.map(|stream| stream.peer_addr().unwrap().ip().to_string()), start.elapsed())
        };
        // One address after the other, with a fair part of the time; of another family soon.
        let (connected, took) = connect(&[API, OTHER]).await;
        assert_eq!(connected.unwrap(), OTHER);
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3), "{took:?}");
        let (connected, took) = connect(&["2001:db8::9", OTHER]).await;
        assert_eq!(connected.unwrap(), OTHER);
        assert!(took < Duration::from_millis(900), "{took:?}");
        // What is said of none is said of the first.
        run("ip route add unreachable 192.0.2.1");
        let (refused, _) = connect(&["10.1.0.2", "192.0.2.1"]).await;
        assert_eq!(refused.unwrap(), "10.1.0.2");
        let (refused, _) = connect(&["192.0.2.1", "2001:db8::9"]).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::HostUnreachable);
        assert!(connect(&[]).await.0.is_err());
    });
}

#[test]
fn name_servers_answer_without_the_mesh_or_through_it_or_not() {
    in_namespace(async || {
        let ways = Ways::new();
        let underlay = Underlay::new(Some(MARK));
        let (outside, behind, silent) = (at("192.0.2.3", 53), at("2001:db8::4", 53), at("192.0.2.5", 53));
        ways.mesh_routes("192.0.2.0/24");
        ways.mesh_routes("2001:db8::/64");
        for (end, server) in [(&ways.outside, outside), (&ways.mesh, outside), (&ways.mesh, behind)] {
            end.has(&server.ip().to_string());
            end.answer_dns(&server.ip().to_string());
        }
        let probe = async || {
            let probe = |server| underlay.probe_name_server(server);
            tokio::join!(probe(outside), probe(behind), probe(silent));
            [outside, behind, silent].map(|server| underlay.state(server.ip()))
        };
        assert_eq!(probe().await, [State::Underlay, State::Mesh, State::Silent]);
        // Name servers that are down are where they were.
        ways.outside.run("ip link set eth0 down");
        ways.mesh.run("ip link set eth0 down");
        assert_eq!(probe().await, [State::Underlay, State::Mesh, State::Silent]);
        // The one behind the mesh moves.
        ways.outside.run("ip link set eth0 up");
        ways.outside.run("ip addr replace fd01::2/64 dev eth0 nodad");
        ways.outside.run("ip route replace default via fd01::1");
        ways.outside.run("ip route replace default via 10.1.0.1");
        ways.outside.has("2001:db8::4");
        ways.outside.answer_dns("2001:db8::4");
        assert_eq!(probe().await, [State::Underlay, State::Underlay, State::Silent]);
    });
}
