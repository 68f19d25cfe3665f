//! What the tests share: a network namespace for each test, commands in it, and looking at the result.
#![allow(dead_code, reason = "every test binary uses its own part of this")]
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    future::Future,
    os::fd::AsFd,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use dataplane::{Config, DataPlane, WireguardChoice};
use hostnet::{
    Change, HostState, Link, LinkKind, LinkName, MESH_TABLE, MarkMatch, NextHop, Route, Rule, plan,
};
use mesh::prefix::Family;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The WireGuard interface of the tests.
pub const KILO: &str = "kilo0";

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

/// A second namespace, with a name, which goes when this is dropped.
pub struct Namespace(pub String);

impl Namespace {
    /// A namespace with `lo` up.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dataplane-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        let namespace = Self(name);
        namespace.run("ip link set lo up");
        namespace
    }

    /// Runs a command in it.
    pub fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.0))
    }

    /// Runs a closure in it, on a thread of its own; sockets that it opens stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::scope(|scope| {
            let moved = || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            };
            scope.spawn(moved).join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs a command line in this thread's namespace, and returns what it printed. It has to succeed.
pub fn run(command: &str) -> String {
    let output = attempt(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a command line of a shell, whatever comes of it.
pub fn attempt(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).output().unwrap()
}

/// What a command prints as JSON.
pub fn json(command: &str) -> Vec<serde_json::Value> {
    serde_json::from_str(&run(command)).unwrap()
}

/// An interface name.
pub fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

/// A data plane with the embedded device.
pub async fn open() -> DataPlane {
    open_with(WireguardChoice::Embedded).await
}

/// A data plane.
pub async fn open_with(wireguard: WireguardChoice) -> DataPlane {
    DataPlane::open(Config { interface: name(KILO), wireguard, serve_uapi: false }).await.unwrap()
}

/// An interface that stands for the one with the private network, with an address of each family, up.
pub fn underlay() {
    run("ip link add eth0 type veth peer name eth0-peer");
    run("ip addr add 10.1.0.1/16 dev eth0");
    run("ip addr add fd01::1/64 dev eth0 nodad");
    run("ip link set eth0 up");
    run("ip link set eth0-peer up");
}

/// A state with the WireGuard interface and nothing else.
pub fn with_interface() -> HostState {
    let link = Link { kind: LinkKind::Wireguard, mtu: Some(1420), up: true, managed: true };
    HostState { links: [(name(KILO), link)].into(), ..HostState::default() }
}

/// A route of the mesh.
pub fn route(destination: &str, via: Option<&str>, link: &str) -> Route {
    Route {
        table: MESH_TABLE,
        destination: destination.parse().unwrap(),
        next_hop: via.map_or(NextHop::Destination, |via| NextHop::Gateway(via.parse().unwrap())),
        link: name(link),
        source: None,
    }
}

/// The rules by which packets of both families find the routes of the mesh.
pub fn mesh_rules() -> impl Iterator<Item = Rule> {
    Family::ALL.into_iter().map(|family| Rule {
        unless: Some(MarkMatch { mark: 0x10, mask: 0x70 }),
        ..Rule::all(1108, MESH_TABLE, family)
    })
}

/// Applies changes that all have to succeed.
pub async fn apply(plane: &mut DataPlane, changes: &[Change]) {
    let failures = plane.apply(changes).await;
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Brings the host into a state, and checks that nothing is left to do then.
pub async fn reach(plane: &mut DataPlane, desired: &HostState) {
    let observed = plane.observe().await.unwrap().host;
    apply(plane, &plan(&observed, desired)).await;
    let observed = plane.observe().await.unwrap().host;
    let rest = plan(&observed, desired);
    assert!(rest.is_empty(), "still to do: {rest:#?}");
}

/// Waits until a condition holds, at most ten seconds; `seen` is what is printed when it does not.
pub async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<(), T>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match look().await {
            Ok(()) => return,
            Err(seen) if Instant::now() > deadline => panic!("waited 10 s until {what}; last seen: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
