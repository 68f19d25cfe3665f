//! Other implementations of WireGuard, configured with `wg(8)`, and what every one of them must be able to do with ours.

#![allow(dead_code, reason = "each test file uses what it needs")]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use tunnel::{PeerSettings, PublicKey};

use crate::common::{End, Namespace, connected, eventually, key, peer, run, terminate, transfer, unique};

/// Bytes that go through each tunnel in both directions. The emulated machine is slow.
const BYTES: usize = 4 << 20;

/// An interface of another implementation in a namespace of its own, set up as an [`End`] is.
pub struct Foreign {
    pub namespace: Namespace,
    pub interface: String,
    pub public: PublicKey,
    process: Option<Child>,
}

impl Foreign {
    /// The kernel's.
    pub fn kernel(namespace: Namespace, number: u32) -> Self {
        let interface = unique("w");
        run(&format!("ip -n {} link add {interface} type wireguard", namespace.name));
        Self { namespace, interface, public: key(number).public_key(), process: None }.configured(number)
    }

    /// The one in Go.
    pub fn wireguard_go(namespace: Namespace, number: u32) -> Self {
        let interface = unique("w");
        let program = std::env::var("WIREGUARD_GO").unwrap_or_else(|_| "wireguard-go".to_owned());
        let works = Command::new(&program).arg("--version").output();
        assert!(
            works.as_ref().is_ok_and(|output| output.status.success()),
            "{program} does not run: {works:?}; name a wireguard-go in WIREGUARD_GO, as \
             `WIREGUARD_GO=$(scripts/install-wireguard-go)` does"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace.name, &program, "-f", &interface]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ip is installed");
        let public = key(number).public_key();
        let foreign = Self { namespace, interface, public, process: Some(process) };
        eventually("an answer of wireguard-go", || {
            foreign.namespace.try_run(&format!("wg show {}", foreign.interface))
        });
        foreign.configured(number)
    }

    fn configured(self, number: u32) -> Self {
        let text = base64::engine::general_purpose::STANDARD.encode(key(number).as_bytes());
        let file = format!("/tmp/{}.key", self.interface);
        std::fs::write(&file, text + "\n").expect("a file in /tmp");
        self.namespace.run(&format!("wg set {} private-key {file}", self.interface));
        std::fs::remove_file(&file).expect("our file");
        self.ip(&format!("addr add 10.9.0.{number}/24 dev {}", self.interface));
        self.ip(&format!("addr add fd09::{number}/64 dev {} nodad", self.interface));
        self.ip(&format!("link set {} mtu 1420 up", self.interface));
        self
    }

    pub fn ip(&self, command: &str) -> String {
        run(&format!("ip -n {} {command}", self.namespace.name))
    }

    /// `wg set` of one peer.
    pub fn set(&self, peer: PublicKey, settings: &str) {
        self.namespace.run(&format!("wg set {} peer {peer} {settings}", self.interface));
    }

    /// One column of `wg show`, of the only peer.
    pub fn show(&self, what: &str) -> String {
        let text = self.namespace.run(&format!("wg show {} {what}", self.interface));
        text.split_whitespace().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            terminate(&mut process);
        }
    }
}

fn reach(namespace: &Namespace, to: &str) {
    eventually(&format!("an answer from {to}"), || namespace.ping(to));
}

fn exchange(ours: &End, theirs: &Foreign) {
    for (address, back) in [("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")] {
        reach(&ours.namespace, address);
        reach(&theirs.namespace, back);
        transfer(&ours.namespace, &theirs.namespace, address, BYTES);
        transfer(&theirs.namespace, &ours.namespace, back, BYTES);
    }
    let drops = ours.device.state().drops;
    assert_eq!((drops.forged, drops.bad_packet, drops.malformed, drops.tun_write), (0, 0, 0, 0));
}

/// Who knows where the other is, and so begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    Ours,
    Theirs,
}

/// Two ends over the network of these addresses, and everything they must do together.
pub fn work_together(start: fn(Namespace, u32) -> Foreign, begins: Begins, ips: [&str; 2]) {
    let (a, b) = connected();
    let (ours, theirs) = (End::start(a, 1, false), start(b, 2));
    let address = |ip: &str, port: u16| SocketAddr::new(ip.parse().expect("an address"), port);
    let their_port = theirs.show("listen-port").parse().expect("a port");
    let their_address = address(ips[1], their_port);
    let allowed = ["10.9.0.2/32", "fd09::2/128"];
    let known = (begins == Begins::Ours).then_some(their_address);
    ours.set(peer(theirs.public, known, &allowed));
    theirs.set(ours.public, "allowed-ips 10.9.0.1/32,fd09::1/128");
    match begins {
        Begins::Ours => reach(&ours.namespace, "10.9.0.2"),
        Begins::Theirs => {
            theirs.set(ours.public, &format!("endpoint {}", address(ips[0], ours.port())));
            reach(&theirs.namespace, "10.9.0.1");
        }
    }
    exchange(&ours, &theirs);
    assert_eq!(ours.device.state().peers[0].endpoint, Some(their_address));
    assert_eq!(theirs.show("endpoints"), address(ips[0], ours.port()).to_string());

    // A preshared key at both ends: the next handshake uses it.
    let file = format!("/tmp/{}.psk", theirs.interface);
    std::fs::write(&file, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=\n").expect("a file in /tmp");
    theirs.set(ours.public, &format!("preshared-key {file}"));
    std::fs::remove_file(&file).expect("our file");
    let mut psk = [0; 32];
    psk[31] = 1;
    let before = ours.device.state().peers[0].last_handshake;
    ours.set(PeerSettings { preshared_key: Some(psk.into()), ..PeerSettings::new(theirs.public) });
    eventually("a handshake with the preshared key", || {
        drop(ours.namespace.ping("10.9.0.2"));
        let state = ours.device.state().peers[0].clone();
        if state.last_handshake > before { Ok(()) } else { Err(format!("{state:?}")) }
    });

    // We move to another port; they follow. Then they move; we follow.
    ours.device.set_listen_port(0).expect("some port is free");
    reach(&ours.namespace, "10.9.0.2");
    eventually("our new port at their end", || {
        let seen = theirs.show("endpoints");
        if seen == address(ips[0], ours.port()).to_string() { Ok(()) } else { Err(seen) }
    });
    theirs.namespace.run(&format!("wg set {} listen-port {}", theirs.interface, their_port ^ 1));
    reach(&theirs.namespace, "10.9.0.1");
    eventually("their new port at our end", || {
        let seen = ours.device.state().peers[0].endpoint;
        if seen == Some(address(ips[1], their_port ^ 1)) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    exchange(&ours, &theirs);
}
