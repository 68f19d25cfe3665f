//! How the tunnel looks to the network and to programs: congestion marks, errors for packets nobody takes, and prefixes
//! that move while packets flow. Needs root, /dev/net/tun and nftables.

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tunnel::{AllowedIpsChange, Config, Device, PeerChange, PeerSettings};

use common::{End, Namespace, eventually, key, peer, receive, tunnel_over, unique};

fn reach(from: &End, to: &str) {
    eventually(&format!("an answer from {to}"), || from.namespace.ping(to));
}

/// Loads a ruleset into a namespace.
fn nft(namespace: &Namespace, rules: &str) {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace.name, "nft", "-f", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("ip is installed");
    let mut input = child.stdin.take().expect("the input is piped");
    std::io::Write::write_all(&mut input, rules.as_bytes()).expect("nft reads");
    drop(input);
    assert!(child.wait().expect("our child").success(), "{rules}");
}

/// What the named counters of the ruleset have counted.
fn counted(namespace: &Namespace) -> BTreeMap<String, u64> {
    let text = namespace.run("nft list counters");
    let words: Vec<&str> = text.split_whitespace().collect();
    let counters = words.windows(5).filter(|words| words[0] == "counter" && words[3] == "packets");
    counters.map(|words| (words[1].to_owned(), words[4].parse().expect("a number"))).collect()
}

/// Congestion marks are copied out and in, over this network and for both families inside (RFC 6040).
fn check_marks(ip_of_b: &str) {
    let (a, b) = tunnel_over(ip_of_b, false);
    reach(&a, "10.9.0.2");
    reach(&a, "fd09::2");
    let (outer, port) = (if ip_of_b.contains(':') { "ip6" } else { "ip" }, b.port());
    let (wg, datagram) = (&b.interface, format!("udp dport {port} {outer}"));
    let rules = |which: &str| {
        format!(
            "table inet t {{
                counter capable {{}}; counter marked {{}}; counter class {{}}
                chain out {{
                    type filter hook prerouting priority -300
                    {datagram} ecn ect0 counter name capable
                    {datagram} dscp != cs0 counter name class
                    {datagram} ecn {which} {outer} ecn set ce
                }}
                chain in {{
                    type filter hook input priority 0
                    iifname {wg} ip ecn ce ip dscp af41 counter name marked
                    iifname {wg} ip6 ecn ce ip6 dscp af41 counter name marked
                }}
            }}"
        )
    };
    nft(&b.namespace, &rules("ect0"));
    for address in ["10.9.0.2", "fd09::2"] {
        // AF41 and ECT(0).
        a.namespace.run(&format!("ping -n -c 5 -i 0.05 -W 2 -Q 0x8a {address}"));
    }
    let seen = counted(&b.namespace);
    assert_eq!(seen["marked"], 10, "marks of the network arrive, beside the packet's own class: {seen:?}");
    assert!(seen["capable"] >= 10, "{seen:?}");
    assert_eq!(seen["class"], 0, "the class is not shown outside: {seen:?}");
    assert_eq!(b.device.state().drops.congestion, 0);
    // A sender that does not understand marks has to notice by loss.
    nft(&b.namespace, &format!("flush ruleset; {}", rules("not-ect")));
    for address in ["10.9.0.2", "fd09::2"] {
        let answer = a.namespace.try_run(&format!("ping -n -c 1 -W 1 {address}"));
        assert!(answer.is_err(), "{answer:?}");
    }
    assert!(b.device.state().drops.congestion >= 2, "{:?}", b.device.state().drops);
    nft(&b.namespace, "flush ruleset");
    reach(&a, "10.9.0.2");
}

#[test]
fn marks_pass_over_ipv4() {
    check_marks("192.0.2.2");
}

#[test]
fn marks_pass_over_ipv6() {
    check_marks("2001:db8::2");
}

#[test]
fn datagrams_are_marked() {
    for ip_of_b in ["192.0.2.2", "2001:db8::2"] {
        let (a, b) = tunnel_over(ip_of_b, false);
        let marked = |mark: u32| {
            let port = a.port();
            nft(
                &a.namespace,
                &format!(
                    "flush ruleset; table inet t {{
                        counter marked {{}}; counter other {{}}
                        chain out {{
                            type filter hook output priority 0
                            udp sport {port} meta mark {mark} counter name marked
                            udp sport {port} meta mark != {mark} counter name other
                        }}
                    }}"
                ),
            );
            reach(&a, "10.9.0.2");
            let seen = counted(&a.namespace);
            (seen["marked"] > 0, seen["other"])
        };
        assert_eq!(marked(0), (true, 0));
        a.device.set_fwmark(0x20).expect("root may");
        assert_eq!(marked(0x20), (true, 0), "data under the session there is");
        a.device.set_listen_port(0).expect("some port is free");
        assert_eq!(marked(0x20), (true, 0), "from a new port");
        a.device.apply(&[PeerChange::Remove(b.public)]).expect("the device works");
        let endpoint = SocketAddr::new(ip_of_b.parse().expect("an address"), b.port());
        a.set(peer(b.public, Some(endpoint), &["10.9.0.2/32"]));
        assert_eq!(marked(0x20), (true, 0), "handshakes");
        a.device.set_fwmark(0).expect("root may");
        assert_eq!(marked(0), (true, 0));
    }
}

#[test]
fn packets_nobody_takes_are_refused_at_once() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    let refused = |end: &End, address: &str, what: &str| {
        let answer = end.namespace.try_run(&format!("ping -n -c 1 -W 10 {address}"));
        let text = answer.expect_err("nobody is there");
        assert!(text.contains(what), "{text}");
    };
    // No peer has the address.
    refused(&a, "10.9.0.77", "Destination Host Unreachable");
    refused(&a, "fd09::77", "Address unreachable");
    // The interface has packets of its own, as those that look for routers.
    assert!(a.device.state().drops.no_peer >= 2, "{:?}", a.device.state().drops);
    // A peer has it, but is nowhere.
    refused(&b, "10.9.0.1", "Destination Host Unreachable");
    refused(&b, "fd09::1", "Address unreachable");
    assert!(b.device.state().drops.no_endpoint >= 2, "{:?}", b.device.state().drops);
    a.namespace.enter(|| {
        let target = "10.9.0.77:9".parse().expect("an address");
        let error = TcpStream::connect_timeout(&target, common::PATIENCE).expect_err("nobody answers");
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
    });
    // What works is not disturbed.
    reach(&a, "10.9.0.2");
    reach(&b, "10.9.0.1");
}

/// Programs may hand over many small datagrams at once, and all of them pass as one from end to end.
#[test]
fn bursts_of_small_datagrams_arrive() {
    const AT_ONCE: usize = 60;
    let (a, b) = tunnel_over("192.0.2.2", false);
    for (address, family) in [("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")] {
        reach(&a, address);
        let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 0);
        let receiver = b.namespace.enter(|| UdpSocket::bind(at(address))).expect("a socket");
        set_option(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20);
        receiver.set_read_timeout(Some(Duration::from_secs(2))).expect("a socket");
        let sender = a.namespace.enter(|| UdpSocket::bind(at(family))).expect("a socket");
        sender.connect(receiver.local_addr().expect("a bound socket")).expect("an address of the tunnel");
        for size in [4, 20, 100, 500] {
            set_option(&sender, libc::SOL_UDP, libc::UDP_SEGMENT, size);
            let burst = vec![7; AT_ONCE * size as usize];
            for _ in 0..5 {
                for _ in 0..16 {
                    sender.send(&burst).expect("the interface takes it");
                }
                let mut buffer = [0; 1000];
                for number in 0..16 * AT_ONCE {
                    receive(&receiver, &mut buffer).unwrap_or_else(|error| {
                        panic!("{size} bytes, number {number}: {error}; {:?}", b.device.state().drops)
                    });
                }
            }
        }
    }
}

fn set_option(socket: &UdpSocket, level: i32, name: i32, value: i32) {
    let length = std::mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: `length` bytes are read from `value`.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_prefix_moves_between_live_peers_and_no_packet_is_lost() {
    const ADDRESS: &str = "10.77.0.1";
    const MANY: u32 = 20_000;
    let (a, b) = tunnel_over("192.0.2.2", false);
    // A second device at the other end, with a session of its own.
    let interface = unique("w");
    let config = Config { private_key: Some(key(3)), ..Config::named(interface.clone()) };
    let c = b.namespace.enter(|| Device::create(config)).expect("a device");
    b.ip(&format!("addr add 10.9.0.3/32 dev {interface}"));
    b.ip(&format!("link set {interface} up"));
    b.ip(&format!("addr add {ADDRESS}/32 dev lo"));
    b.namespace.run("sysctl -qw net.ipv4.conf.all.rp_filter=0");
    let port = c.state().listen_port;
    let endpoint = SocketAddr::new("192.0.2.2".parse().expect("an address"), port);
    let (key_b, key_c) = (b.public, key(3).public_key());
    a.set(peer(key_c, Some(endpoint), &["10.9.0.3/32"]));
    a.ip(&format!("route add {ADDRESS}/32 dev {} src 10.9.0.1", a.interface));
    // A route back through the second device, so that its session gets to work.
    c.apply(&[PeerChange::Set(peer(a.public, None, &["10.9.0.1/32"]))]).expect("the device works");
    b.ip(&format!("route add 10.9.0.1/32 dev {interface} table 3"));
    b.ip("rule add from 10.9.0.3 table 3");
    reach(&a, "10.9.0.2");
    reach(&a, "10.9.0.3");

    let give = |to| {
        let allowed_ips =
            AllowedIpsChange::Edit { add: vec!["10.77.0.0/16".parse().expect("a prefix")], remove: vec![] };
        a.set(PeerSettings { allowed_ips, ..PeerSettings::new(to) });
    };
    give(key_b);
    let receiver = b.namespace.enter(|| UdpSocket::bind((ADDRESS, 0))).expect("a socket");
    let target = receiver.local_addr().expect("a bound socket");
    receiver.set_read_timeout(Some(Duration::from_secs(2))).expect("a socket");
    let sender = a.namespace.enter(|| UdpSocket::bind("10.9.0.1:0")).expect("a socket");
    let done = AtomicBool::new(false);
    let (seen, moves) = thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut moves = 0u64;
            while !done.load(Ordering::Relaxed) {
                give(if moves.is_multiple_of(2) { key_c } else { key_b });
                moves += 1;
            }
            moves
        });
        // As fast as the receiver takes them: what is lost, the tunnel has lost.
        let mut seen = vec![0u32; MANY as usize];
        let mut buffer = [0; 4];
        for first in (0..MANY).step_by(20) {
            for number in first..first + 20 {
                sender.send_to(&number.to_be_bytes(), target).expect("the interface takes it");
            }
            for _ in 0..20 {
                match receive(&receiver, &mut buffer) {
                    Ok(_) => seen[u32::from_be_bytes(buffer) as usize] += 1,
                    Err(_) => break,
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        (seen, mover.join().expect("the mover ends"))
    });
    let wrong = seen.iter().filter(|times| **times != 1).count();
    let (b_got, c_got) = (b.device.state().peers[0].rx_bytes, c.state().peers[0].rx_bytes);
    assert_eq!(wrong, 0, "each packet arrives once, after {moves} moves; {:?}", a.device.state().drops);
    assert!(moves > 100 && b_got > 100_000 && c_got > 100_000, "{moves} moves, {b_got} and {c_got} bytes");
}
