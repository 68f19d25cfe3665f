//! Network namespaces for tests, with devices of ours in them.

#![allow(dead_code, reason = "each test file uses what it needs")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tunnel::{AllowedIpsChange, Config, Device, PeerChange, PeerSettings, PrivateKey, PublicKey};

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A short name that no other test uses, now or in another process.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a command; its output, or a panic that tells everything.
pub fn run(command: &str) -> String {
    try_run(command).unwrap_or_else(|problem| panic!("{problem}"))
}

/// Runs a command that may fail.
pub fn try_run(command: &str) -> Result<String, String> {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command has a name");
    let output = Command::new(program).args(words).output().map_err(|e| format!("{command}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{command}: {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

/// Waits until `look` finds something; panics with what it saw last when it takes too long.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > PATIENCE => panic!("{what} did not happen; seen last: {seen}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Asks a process to end, so that it leaves nothing behind, and waits for that.
pub fn terminate(process: &mut Child) {
    let id = process.id().cast_signed();
    // SAFETY: no pointers are passed; the process is a child that nobody has waited for, so the number is still its own.
    unsafe { libc::kill(id, libc::SIGTERM) };
    let start = Instant::now();
    while process.try_wait().is_ok_and(|status| status.is_none()) {
        if start.elapsed() > PATIENCE {
            eprintln!("process {id} does not end");
            drop(process.kill());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Receives a datagram; a wait that was interrupted goes on.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A network namespace that is removed with this value.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new() -> Self {
        let name = unique("kgt");
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self { name }
    }

    /// Runs a command in it.
    pub fn run(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// Runs a command in it that may fail.
    pub fn try_run(&self, command: &str) -> Result<String, String> {
        try_run(&format!("ip netns exec {} {command}", self.name))
    }

    /// Runs `body` in a thread that lives in the namespace.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/var/run/netns/{}", self.name)).expect("the namespace exists");
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: setns changes the namespace of this thread alone, which ends here.
                let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(result, 0, "setns (root is needed): {}", std::io::Error::last_os_error());
                body()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    pub fn ping(&self, to: &str) -> Result<String, String> {
        self.try_run(&format!("ping -n -c 1 -W 1 {to}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Printed only: a panic here would hide the one that brought us here.
        if let Err(problem) = try_run(&format!("ip netns del {}", self.name)) {
            eprintln!("{problem}");
        }
    }
}

/// Two namespaces connected by `ve0` at both ends: 192.0.2.1 and .2, 2001:db8::1 and ::2.
pub fn connected() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new(), Namespace::new());
    run(&format!("ip -n {} link add ve0 type veth peer name ve0 netns {}", a.name, b.name));
    for (end, number) in [(&a, 1), (&b, 2)] {
        run(&format!("ip -n {} addr add 192.0.2.{number}/24 dev ve0", end.name));
        run(&format!("ip -n {} addr add 2001:db8::{number}/64 dev ve0 nodad", end.name));
        run(&format!("ip -n {} link set ve0 up", end.name));
    }
    (a, b)
}

/// A key made from a number.
pub fn key(number: u32) -> PrivateKey {
    let mut bytes = [3; 32];
    bytes[1..5].copy_from_slice(&number.to_le_bytes());
    PrivateKey::from(bytes)
}

/// Settings that give a peer exactly these allowed IPs.
pub fn peer(key: PublicKey, endpoint: Option<SocketAddr>, allowed: &[&str]) -> PeerSettings {
    let allowed = allowed.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
    PeerSettings { endpoint, allowed_ips: AllowedIpsChange::Replace(allowed), ..PeerSettings::new(key) }
}

/// A device in a namespace of its own.
pub struct End {
    pub device: Device,
    pub interface: String,
    pub public: PublicKey,
    pub namespace: Namespace,
}

impl End {
    /// The `number`-th end: 10.9.0.number and fd09::number, up.
    pub fn start(namespace: Namespace, number: u32, uapi: bool) -> Self {
        Self::start_with(namespace, number, Config { uapi, ..Config::named(unique("w")) })
    }

    /// The same with a configuration, whose key is replaced.
    pub fn start_with(namespace: Namespace, number: u32, config: Config) -> Self {
        let interface = config.name.clone();
        let config = Config { private_key: Some(key(number)), ..config };
        let device =
            namespace.enter(|| Device::create(config)).expect("a device (root and /dev/net/tun are needed)");
        let end = Self { device, interface, public: key(number).public_key(), namespace };
        end.ip(&format!("addr add 10.9.0.{number}/24 dev {}", end.interface));
        end.ip(&format!("addr add fd09::{number}/64 dev {} nodad", end.interface));
        end.ip(&format!("link set {} up", end.interface));
        end
    }

    pub fn ip(&self, command: &str) -> String {
        run(&format!("ip -n {} {command}", self.namespace.name))
    }

    pub fn port(&self) -> u16 {
        self.device.state().listen_port
    }

    pub fn set(&self, settings: PeerSettings) {
        self.device.apply(&[PeerChange::Set(settings)]).expect("the device works");
    }
}

/// Two devices that know each other; the first knows where the second is.
pub fn tunnel_over(ip_of_b: &str, uapi: bool) -> (End, End) {
    let (a, b) = connected();
    let (a, b) = (End::start(a, 1, uapi), End::start(b, 2, uapi));
    introduce(&a, &b, ip_of_b);
    (a, b)
}

/// Makes two ends know each other; the first learns where the second is.
pub fn introduce(a: &End, b: &End, ip_of_b: &str) {
    let endpoint = SocketAddr::new(ip_of_b.parse::<IpAddr>().expect("an address"), b.port());
    a.set(peer(b.public, Some(endpoint), &["10.9.0.2/32", "fd09::2/128"]));
    b.set(peer(a.public, None, &["10.9.0.1/32", "fd09::1/128"]));
}

/// Sends `bytes` bytes from one namespace to another and back, and compares them.
pub fn transfer(from: &Namespace, to: &Namespace, address: &str, bytes: usize) {
    let address: IpAddr = address.parse().expect("an address");
    let listener = to.enter(|| TcpListener::bind((address, 0))).expect("an address of the namespace");
    let address = listener.local_addr().expect("a bound socket");
    let pattern: Vec<u8> = (0..bytes).map(|at| (at * 31 + at / 251) as u8).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut got = vec![0; bytes];
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            stream.read_exact(&mut got).expect("all bytes arrive");
            stream.write_all(&got).expect("all bytes are taken");
        });
        from.enter(|| {
            let mut stream =
                TcpStream::connect_timeout(&address, PATIENCE).expect("a connection through the tunnel");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            let mut reader = stream.try_clone().expect("a socket");
            let mut got = vec![0; bytes];
            thread::scope(|scope| {
                scope.spawn(|| reader.read_exact(&mut got).expect("all bytes come back"));
                stream.write_all(&pattern).expect("all bytes are taken");
            });
            assert!(got == pattern, "what came back is what was sent");
        });
    });
}
