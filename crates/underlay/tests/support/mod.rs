//! A host with two ways: its own routes to the outside, and, for all that has no mark of the underlay, a mesh.
#![allow(dead_code, reason = "every test binary uses its own part of this")]
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    future::Future,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The mark of the underlay.
pub const MARK: u32 = 0x10;

/// Runs a test in a network namespace of its own, with `lo` up.
pub fn in_namespace<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send) {
    let work = || {
        // SAFETY: only this thread moves, and nothing in it has opened a socket yet.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .expect("a network namespace needs CAP_SYS_ADMIN: run as root");
        run("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    };
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(()) => {}
        Err(panic) => std::panic::resume_unwind(panic),
    });
}

/// A host somewhere else, in a namespace with a name, which goes when this is dropped.
pub struct Elsewhere(String);

impl Elsewhere {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("underlay-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        let elsewhere = Self(name);
        elsewhere.run("ip link set lo up");
        elsewhere
    }

    /// Runs a command there.
    pub fn run(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.0));
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::scope(|scope| {
            let moved = || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            };
            scope.spawn(moved).join().unwrap()
        })
    }

    /// Gives it an address.
    pub fn has(&self, address: &str) {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.run(&format!("ip addr add {address} dev lo{nodad}"));
    }

    /// Accepts connections to all of its addresses.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.inside(|| TcpListener::bind(("::", port)).unwrap())
    }

    /// Answers every datagram to all of its addresses with a DNS response that knows nothing.
    pub fn answer_dns(&self, address: &str) {
        let socket = self.inside(|| UdpSocket::bind((address, 53)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                buffer[2] |= 0x80;
                buffer[3] = 3;
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// What this namespace is connected to.
pub struct Ways {
    /// What the host's own routes lead to.
    pub outside: Elsewhere,
    /// What the mesh leads to.
    pub mesh: Elsewhere,
}

impl Ways {
    pub fn new() -> Self {
        let ways = Self { outside: Elsewhere::new(), mesh: Elsewhere::new() };
        for (link, network, end) in [("eth0", 1, &ways.outside), ("kilo0", 2, &ways.mesh)] {
            run(&format!("ip link add {link} type veth peer name eth0 netns {}", end.0));
            run(&format!("ip addr add 10.{network}.0.1/24 dev {link}"));
            run(&format!("ip addr add fd0{network}::1/64 dev {link} nodad"));
            run(&format!("ip link set {link} up"));
            end.run(&format!("ip addr add 10.{network}.0.2/24 dev eth0"));
            end.run(&format!("ip addr add fd0{network}::2/64 dev eth0 nodad"));
            end.run("ip link set eth0 up");
            end.run(&format!("ip route add default via 10.{network}.0.1"));
            end.run(&format!("ip route add default via fd0{network}::1"));
        }
        run("ip route add default via 10.1.0.2");
        run("ip route add default via fd01::2");
        // A new link takes a second until it knows its IPv6 neighbour. It refuses, which is enough.
        for neighbour in ["fd01::2", "fd02::2"] {
            let refused = TcpStream::connect_timeout(&at(neighbour, 1), Duration::from_secs(10)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        for family in ["-4", "-6"] {
            run(&format!("ip {family} rule add not fwmark 0x10/0x70 lookup 1108 pref 1000"));
        }
        ways
    }

    /// Lets the mesh route a prefix.
    pub fn mesh_routes(&self, prefix: &str) {
        let via = if prefix.contains(':') { "fd02::2" } else { "10.2.0.2" };
        run(&format!("ip route add {prefix} via {via} table 1108"));
    }
}

/// Runs a command line in this thread's namespace. It has to succeed.
pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Waits until a condition holds, at most ten seconds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited 10 s until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
