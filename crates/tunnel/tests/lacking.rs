//! Kernels that lack something: a device that does without must work with one that has everything, both ways and for both
//! families. Needs root and /dev/net/tun.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tunnel::{Config, Lack};

use common::{End, connected, eventually, introduce, receive, transfer, unique};

/// Traffic in both directions between a device that lacks this, and one that lacks nothing.
fn check(lacks: &'static [Lack]) {
    let (a, b) = connected();
    let a = End::start_with(a, 1, Config { lacks, ..Config::named(unique("w")) });
    let shown = a.ip(&format!("-d link show {}", a.interface));
    assert_eq!(shown.contains("vnet_hdr on"), !lacks.contains(&Lack::VirtioHeader), "{shown}");
    let b = End::start(b, 2, false);
    introduce(&a, &b, "192.0.2.2");
    for (address, back) in [("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")] {
        eventually("an answer", || a.namespace.ping(address));
        transfer(&a.namespace, &b.namespace, address, 1 << 20);
        transfer(&b.namespace, &a.namespace, back, 1 << 20);
        datagrams(&a, &b, address);
        datagrams(&b, &a, back);
        let largest = if address.contains(':') { 1372 } else { 1392 };
        for size in [0, 1, 100, largest] {
            a.namespace.run(&format!("ping -n -c 1 -W 5 -M do -s {size} {address}"));
        }
    }
    // A new port is as good as the first.
    a.device.set_listen_port(0).expect("some port is free");
    eventually("an answer", || a.namespace.ping("10.9.0.2"));
    for end in [&a, &b] {
        let drops = end.device.state().drops;
        let bad =
            (drops.not_ip, drops.bad_packet, drops.forged, drops.malformed, drops.tun_write, drops.udp_send);
        assert_eq!(bad, (0, 0, 0, 0, 0, 0), "{drops:?}");
    }
}

/// Datagrams of many sizes, few at a time, of which none may be lost or changed.
fn datagrams(from: &End, to: &End, address: &str) {
    let any = if address.contains(':') { "::" } else { "0.0.0.0" };
    let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 0);
    let receiver = to.namespace.enter(|| UdpSocket::bind(at(address))).expect("a socket");
    receiver.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    let sender = from.namespace.enter(|| UdpSocket::bind(at(any))).expect("a socket");
    sender.connect(receiver.local_addr().expect("a bound socket")).expect("an address");
    let mut buffer = vec![0; 9000];
    for size in (0..1400).step_by(97).chain([1372, 4000, 8000]) {
        let text: Vec<u8> = (0..size).map(|at| (at * 13 + size) as u8).collect();
        for _ in 0..8 {
            sender.send(&text).expect("the interface takes it");
        }
        for number in 0..8 {
            let length = receive(&receiver, &mut buffer)
                .unwrap_or_else(|error| panic!("{size} bytes, number {number}: {error}"));
            assert!(buffer[..length] == text, "{size} bytes, number {number}");
        }
    }
}

#[test]
fn nothing() {
    check(&[]);
}

#[test]
fn the_virtio_header() {
    check(&[Lack::VirtioHeader]);
}

#[test]
fn large_packets_of_every_kind() {
    check(&[Lack::TcpOffload, Lack::UdpOffload]);
}

#[test]
fn large_packets_of_udp() {
    check(&[Lack::UdpOffload]);
}

#[test]
fn runs_of_datagrams_to_send() {
    check(&[Lack::SentRuns]);
}

#[test]
fn runs_of_datagrams_received() {
    check(&[Lack::ReceivedRuns]);
}

#[test]
fn a_second_core() {
    check(&[Lack::SeveralQueues]);
}

#[test]
fn wide_registers() {
    check(&[Lack::WideRegisters]);
}

#[test]
fn everything() {
    check(&[
        Lack::VirtioHeader,
        Lack::TcpOffload,
        Lack::UdpOffload,
        Lack::SentRuns,
        Lack::ReceivedRuns,
        Lack::Ipv6,
        Lack::SeveralQueues,
        Lack::WideRegisters,
    ]);
}
