//! 5,000 peers with live sessions: memory, the time of a change, and that a change costs no packet of another peer. The
//! peers are another implementation, all behind one socket. Needs root and /dev/net/tun.
//!
//! The device has a process of its own, so that its memory is its alone: this program again, with other arguments.

mod common;

use std::net::UdpSocket;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use tunnel::uapi::Client;
use tunnel::{AllowedIpsChange, DeviceChange, PeerChange, PeerSettings};

use common::{Namespace, PATIENCE, eventually, key, peer, receive, run, terminate, unique};

const PEERS: u32 = 5000;
const DEVICE: u32 = 1_000_000;
/// Handshakes under way at the same time: fewer than the device takes for a flood.
const WINDOW: u32 = 50;
/// The type of a handshake response.
const RESPONSE: u8 = 2;
const ONE_PEER_MIB: f64 = 15.0;
const ALL_PEERS_MIB: f64 = 60.0;
/// Without optimisation it is the same work, but slower.
const A_CHANGE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5 } else { 1 });

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, interface] = &arguments[..]
        && command == "--device"
    {
        return match tunnel::run_foreground(interface) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    // A runner that asks what there is gets an answer.
    if arguments.iter().any(|argument| argument == "--list") {
        println!("five_thousand_live_peers: test");
        return ExitCode::SUCCESS;
    }
    println!("\nrunning 1 test");
    let start = Instant::now();
    five_thousand_live_peers();
    println!("test five_thousand_live_peers ... ok\n");
    println!(
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
        start.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}

fn five_thousand_live_peers() {
    let namespace = Namespace::new();
    let device = DeviceProcess::start(&namespace);
    let network = namespace.enter(|| UdpSocket::bind("127.0.0.1:0")).expect("a socket");
    network.set_read_timeout(Some(PATIENCE)).expect("a socket");
    network.connect(("127.0.0.1", device.port())).expect("a local address");
    let receiver = namespace.enter(|| UdpSocket::bind("10.0.0.1:7000")).expect("a socket");
    receiver.set_read_timeout(Some(PATIENCE)).expect("a socket");

    device.set(vec![PeerChange::Set(settings(0))]);
    let mut first = greet(&network, &[0]).pop().expect("one peer");
    send_all(&mut first, &network, &receiver, 20_000);
    let one = device.resident_mib();
    println!("one peer: {one:.1} MiB resident");
    assert!(one <= ONE_PEER_MIB, "{one:.1} MiB with one peer");

    device.set((1..PEERS).map(|number| PeerChange::Set(settings(number))).collect());
    let start = Instant::now();
    for group in (1..PEERS).collect::<Vec<_>>().chunks(WINDOW as usize) {
        greet(&network, group);
    }
    // The last keepalives, which confirm their sessions, may be on their way yet.
    eventually("every peer has a session", || {
        let peers = device.client().get().expect("the device answers").peers;
        let live = peers.iter().filter(|peer| peer.last_handshake.is_some()).count();
        if live == PEERS as usize { Ok(()) } else { Err(format!("{live} of {PEERS} peers")) }
    });
    println!("{PEERS} sessions in {:.1} s", start.elapsed().as_secs_f64());

    let done = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        let changes = scope.spawn(|| change_until(&device, &done));
        send_all(&mut first, &network, &receiver, 50_000);
        done.store(true, Ordering::Relaxed);
        changes.join().expect("all changes are taken")
    });
    let work = times.iter().map(|(_, work)| *work).max().unwrap_or_default();
    let mut times: Vec<Duration> = times.into_iter().map(|(time, _)| time).collect();
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let all = device.resident_mib();
    println!(
        "{PEERS} live peers: {all:.1} MiB resident; {} changes while 50,000 packets of another peer passed and none was \
         lost: typically {:?}, 99 of 100 within {:?}, the slowest {:?}; at most {work:?} of processor time",
        times.len(),
        at(50),
        at(99),
        at(100),
    );
    assert!(all <= ALL_PEERS_MIB, "{all:.1} MiB with {PEERS} peers");
    assert!(times.len() > 100 && at(50) < A_CHANGE, "{} changes, typically {:?}", times.len(), at(50));
    // How long a change waits for a processor is not ours to promise; how much there is to do for it is.
    assert!(work < A_CHANGE, "one change took {work:?} of processor time");
}

/// Adds and changes peers, one at a time; how long each request took, the way through the socket included, and how much
/// processor time of the device.
fn change_until(device: &DeviceProcess, done: &AtomicBool) -> Vec<(Duration, Duration)> {
    let mut times = Vec::new();
    for number in (PEERS..).take_while(|_| !done.load(Ordering::Relaxed)) {
        let other = key(1 + number % (PEERS - 1)).public_key();
        let add = vec!["10.255.0.0/16".parse().expect("a prefix")];
        let change = match number % 4 {
            0 => PeerChange::Set(settings(number % 65_000)),
            1 => PeerChange::Set(PeerSettings { keepalive: Some(3600), ..PeerSettings::new(other) }),
            2 => PeerChange::Set(PeerSettings {
                allowed_ips: AllowedIpsChange::Edit { add, remove: vec![] },
                ..PeerSettings::new(other)
            }),
            _ => PeerChange::Remove(key((number - 3) % 65_000).public_key()),
        };
        let (before, start) = (device.work_of_changes(), Instant::now());
        device.set(vec![change]);
        times.push((start.elapsed(), device.work_of_changes().saturating_sub(before)));
    }
    times
}

fn settings(number: u32) -> PeerSettings {
    let (high, low) = (number / 256, number % 256);
    let allowed = [
        format!("10.{}.{low}.0/24", 1 + high),
        format!("fd09:{number:x}::/64"),
        format!("172.{}.{low}.1/32", high % 256),
    ];
    peer(key(number).public_key(), None, &allowed.each_ref().map(String::as_str))
}

/// Peers that have shaken hands and sent their first message.
fn greet(network: &UdpSocket, numbers: &[u32]) -> Vec<Tunn> {
    let device = x25519::PublicKey::from(*key(DEVICE).public_key().as_bytes());
    let mut buffer = vec![0; 2048];
    let mut peers: Vec<Tunn> = (0..)
        .zip(numbers)
        .map(|(index, number)| {
            let secret = x25519::StaticSecret::from(*key(*number).as_bytes());
            let mut peer = Tunn::new(secret, device, None, None, index, None);
            match peer.format_handshake_initiation(&mut buffer, false) {
                TunnResult::WriteToNetwork(message) => network.send(message).expect("the device listens"),
                other => panic!("{other:?}"),
            };
            peer
        })
        .collect();
    for _ in numbers {
        let mut message = [0; 2048];
        let length = loop {
            let length = receive(network, &mut message).expect("the device answers every initiation");
            // The device also answers peers that have only sent, by keepalives.
            if message[0] == RESPONSE {
                break length;
            }
        };
        // A response names the index of its receiver, whose upper 24 bits are those given above.
        let index = u32::from_le_bytes([message[8], message[9], message[10], message[11]]) >> 8;
        let peer = &mut peers[index as usize];
        match peer.decapsulate(None, &message[..length], &mut buffer) {
            TunnResult::WriteToNetwork(keepalive) => network.send(keepalive).expect("the device listens"),
            other => panic!("peer {}: {other:?}", numbers[index as usize]),
        };
    }
    peers
}

/// Sends numbered packets of the first peer, never more than the receiver can hold, and counts that each arrives once.
fn send_all(from: &mut Tunn, network: &UdpSocket, receiver: &UdpSocket, many: u32) {
    const AT_ONCE: u32 = 25;
    let mut seen = vec![0u8; many as usize];
    let (mut buffer, mut sealed) = ([0; 2048], vec![0; 2048]);
    for start in (0..many).step_by(AT_ONCE as usize) {
        for number in start..start + AT_ONCE {
            match from.encapsulate(&packet(number), &mut sealed) {
                TunnResult::WriteToNetwork(message) => network.send(message).expect("the device listens"),
                other => panic!("{other:?}"),
            };
        }
        for _ in 0..AT_ONCE {
            let length = receive(receiver, &mut buffer).unwrap_or_else(|error| {
                let missing =
                    seen.iter().take((start + AT_ONCE) as usize).filter(|times| **times == 0).count();
                panic!("{error}: {missing} packets were lost around number {start}")
            });
            assert_eq!(length, 1300);
            let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
            seen[number as usize] += 1;
        }
    }
    assert!(seen.iter().all(|times| *times == 1), "each packet arrives once");
}

/// UDP from 10.1.0.5 to 10.0.0.1, port 7000, without a checksum.
fn packet(number: u32) -> Vec<u8> {
    const LENGTH: usize = 28 + 1300;
    let mut packet = vec![0; LENGTH];
    packet[..12].copy_from_slice(&[0x45, 0, (LENGTH >> 8) as u8, LENGTH as u8, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet[12..20].copy_from_slice(&[10, 1, 0, 5, 10, 0, 0, 1]);
    let sum: u32 = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet[20..24].copy_from_slice(&[0x1b, 0x57, 0x1b, 0x58]);
    packet[24..26].copy_from_slice(&((LENGTH - 20) as u16).to_be_bytes());
    packet[28..32].copy_from_slice(&number.to_be_bytes());
    packet
}

/// A device in a process of its own. It ends with this value.
struct DeviceProcess {
    process: Child,
    interface: String,
}

impl DeviceProcess {
    fn start(namespace: &Namespace) -> Self {
        let interface = unique("w");
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace.name]).arg(program).args(["--device", &interface]);
        let process = command.spawn().expect("ip is installed");
        let device = Self { process, interface };
        eventually("an answer of the device", || device.client().get().map_err(|error| error.to_string()));
        let change = DeviceChange { private_key: Some(Some(key(DEVICE))), ..DeviceChange::default() };
        device.client().set(&change).expect("the device takes a key");
        let (name, link) = (&namespace.name, &device.interface);
        run(&format!("ip -n {name} addr add 10.0.0.1/8 dev {link}"));
        run(&format!("ip -n {name} link set {link} up"));
        device
    }

    fn client(&self) -> Client {
        Client::new(&self.interface)
    }

    fn port(&self) -> u16 {
        self.client().get().expect("the device answers").listen_port
    }

    fn set(&self, peers: Vec<PeerChange>) {
        self.client()
            .set(&DeviceChange { peers, ..DeviceChange::default() })
            .expect("the device takes the change");
    }

    /// The processor time of the thread that does what requests ask for (proc(5), schedstat).
    fn work_of_changes(&self) -> Duration {
        let threads = format!("/proc/{}/task", self.process.id());
        let threads = std::fs::read_dir(threads).expect("the device runs").filter_map(Result::ok);
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let mut uapi =
            threads.map(|thread| thread.path()).filter(|path| read(path.join("comm")) == "wg-uapi\n");
        let schedstat = read(uapi.next().expect("there is such a thread").join("schedstat"));
        let nanos = schedstat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.expect("a number"))
    }

    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("the device runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        let kib = line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
        kib.expect("a number") / 1024.0
    }
}

impl Drop for DeviceProcess {
    fn drop(&mut self) {
        terminate(&mut self.process);
    }
}
