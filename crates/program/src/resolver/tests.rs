//! Name servers that are reached without the mesh, through it, or not at all.

use std::{
    fs::File,
    future::Future,
    net::UdpSocket,
    os::fd::AsFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use underlay::{State, Underlay};

use super::Resolver;

/// Runs a test in a network namespace of its own, with a way to the outside, and one to the mesh for all that has no mark
/// of the underlay.
fn in_namespace<F: Future<Output = ()>>(name: &'static str, body: impl FnOnce(Ends) -> F + Send) {
    let work = || {
        // SAFETY: only this thread moves, and nothing in it has opened a socket yet.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .expect("a network namespace needs CAP_SYS_ADMIN: run as root");
        let ends = Ends::new(name);
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body(ends));
    };
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(()) => {}
        Err(panic) => std::panic::resume_unwind(panic),
    });
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The namespaces at the other ends.
struct Ends(&'static str);

impl Ends {
    fn new(name: &'static str) -> Self {
        let ends = Self(name);
        run("ip link set lo up");
        for (end, link, network) in [("outside", "eth0", 1), ("mesh", "kilo0", 2)] {
            let end = ends.name(end);
            run(&format!(
                "ip netns add {end}
                 ip link add {link} type veth peer name eth0 netns {end}
                 ip addr add 10.{network}.0.1/24 dev {link}
                 ip link set {link} up
                 ip -n {end} link set lo up
                 ip -n {end} addr add 10.{network}.0.2/24 dev eth0
                 ip -n {end} addr add 192.0.2.{network}/32 dev lo
                 ip -n {end} link set eth0 up
                 ip -n {end} route add default via 10.{network}.0.1"
            ));
        }
        run("ip route add default via 10.1.0.2
             ip rule add not fwmark 0x10/0x70 lookup 1108 pref 1000
             ip route add 192.0.2.2 via 10.2.0.2 table 1108");
        ends
    }

    fn name(&self, end: &str) -> String {
        format!("{}-{}-{end}", self.0, std::process::id())
    }

    /// Answers at an address of an end: of `known.example.` there is an IPv4 address, and nothing else.
    fn serve(&self, end: &str, address: &'static str) {
        let file = File::open(format!("/run/netns/{}", self.name(end))).unwrap();
        let bind = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            UdpSocket::bind((address, 53)).unwrap()
        };
        let socket = thread::spawn(bind).join().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&response(&buffer[..length]), from);
            }
        });
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        for end in ["outside", "mesh"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(end)]).status();
        }
    }
}

/// A response in the form of RFC 1035.
fn response(question: &[u8]) -> Vec<u8> {
    let name_ends = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap();
    let mut response = question[..name_ends + 5].to_vec();
    let known = response[12..].starts_with(b"\x05known\x07example\x00\x00\x01");
    response[2] |= 0x80;
    response[3] = if response[12..].starts_with(b"\x05known") { 0 } else { 3 };
    response[6..12].copy_from_slice(&[0, known.into(), 0, 0, 0, 0]);
    if known {
        response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 8, 7]);
    }
    response
}

fn resolver(underlay: &Underlay, servers: &[&str]) -> Resolver {
    let servers = servers.iter().map(|server| NameServerConfig::udp_and_tcp(server.parse().unwrap()));
    let config = ResolverConfig::from_name_servers(servers.collect());
    Resolver::of(config, ResolverOpts::default(), underlay.clone()).unwrap()
}

/// What came of a look-up, and how long it took.
async fn ask(resolver: &Resolver, name: &str) -> (Result<Vec<String>, String>, Duration) {
    let start = Instant::now();
    let answer = resolver.resolve(name).await;
    (answer.map(|all| all.iter().map(ToString::to_string).collect()), start.elapsed())
}

const OUTSIDE: &str = "192.0.2.1";
const BEHIND: &str = "192.0.2.2";
const SILENT: &str = "192.0.2.3";
const QUICKLY: Duration = Duration::from_secs(1);

#[test]
fn a_name_server_outside_of_the_mesh_is_asked_past_it() {
    in_namespace("dns-out", async |ends| {
        ends.serve("outside", OUTSIDE);
        // What the mesh would lead to knows nothing.
        run("ip route add 192.0.2.1 via 10.2.0.2 table 1108");
        let underlay = Underlay::new(Some(0x10));
        let resolver = resolver(&underlay, &[OUTSIDE]);
        let (answer, took) = ask(&resolver, "known.example").await;
        assert_eq!(answer.unwrap(), ["10.9.8.7"]);
        assert!(took < QUICKLY, "{took:?}");
        // That there is no such name is an answer, too, and nobody else is asked.
        let (answer, took) = ask(&resolver, "unknown.example").await;
        assert!(answer.unwrap_err().contains("no records found") && took < QUICKLY);
        resolver.probe_all(resolver.servers.clone()).await;
        assert_eq!(underlay.state(OUTSIDE.parse().unwrap()), State::Underlay);
    });
}

#[test]
fn a_name_server_behind_the_mesh_is_asked_through_it() {
    in_namespace("dns-mesh", async |ends| {
        ends.serve("mesh", BEHIND);
        let underlay = Underlay::new(Some(0x10));
        let mut told = underlay.subscribe();
        let resolver = resolver(&underlay, &[BEHIND]);
        let (answer, took) = ask(&resolver, "known.example").await;
        assert_eq!(answer.unwrap(), ["10.9.8.7"]);
        assert!(took > QUICKLY && took < super::TIMEOUT, "{took:?}");
        // That is looked into, and from then on nobody waits.
        let changed = tokio::time::timeout(Duration::from_secs(10), told.changed()).await;
        changed.unwrap().unwrap();
        assert_eq!(underlay.state(BEHIND.parse().unwrap()), State::Mesh);
        let (answer, took) = ask(&resolver, "known.example").await;
        assert!(answer.is_ok() && took < QUICKLY, "{answer:?} {took:?}");
        let (answer, took) = ask(&resolver, "unknown.example").await;
        assert!(answer.unwrap_err().contains("no records found") && took < QUICKLY);
    });
}

#[test]
fn name_servers_that_are_down_cost_no_more_time_than_before_and_prove_nothing() {
    in_namespace("dns-none", async |_| {
        let underlay = Underlay::new(Some(0x10));
        let resolver = resolver(&underlay, &[SILENT, BEHIND]);
        let (answer, took) = ask(&resolver, "known.example").await;
        assert!(answer.is_err(), "{answer:?}");
        assert!(took < super::TIMEOUT + QUICKLY, "{took:?}");
        assert_eq!(underlay.state(SILENT.parse().unwrap()), State::Unknown);
        resolver.probe_all(resolver.servers.clone()).await;
        for server in [SILENT, BEHIND] {
            assert_eq!(underlay.state(server.parse().unwrap()), State::Silent);
        }
        assert!(underlay.evidence().is_empty());
    });
}

#[test]
fn without_marks_there_is_one_way_to_ask() {
    in_namespace("dns-plain", async |ends| {
        ends.serve("mesh", BEHIND);
        let underlay = Underlay::plain();
        let resolver = resolver(&underlay, &[BEHIND]);
        let (answer, took) = ask(&resolver, "known.example").await;
        assert!(answer.is_ok() && took < QUICKLY, "{answer:?} {took:?}");
        resolver.probe_all(resolver.servers.clone()).await;
        assert!(underlay.evidence().is_empty());
    });
}
