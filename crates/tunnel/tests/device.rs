//! Devices in network namespaces on the real kernel: traffic, roaming, interfaces, errors. Needs root and /dev/net/tun.

mod common;
#[path = "common/relay.rs"]
mod relay;

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use tunnel::{AllowedIpsChange, Config, Device, Error, PeerChange, PeerSettings};

use common::{End, Namespace, connected, eventually, key, peer, run, transfer, tunnel_over, unique};
use relay::Relay;

/// Pings until it works, as the first packets wait for the handshake.
fn reach(from: &End, to: &str) {
    eventually(&format!("an answer from {to}"), || {
        from.namespace.ping(to).map_err(|problem| format!("{problem}{:?}", from.device.state()))
    });
}

fn check_transport(ip_of_b: &str) {
    let (a, b) = tunnel_over(ip_of_b, false);
    for inner in ["10.9.0.2", "fd09::2"] {
        reach(&a, inner);
        transfer(&a.namespace, &b.namespace, inner, 20 << 20);
    }
    reach(&b, "10.9.0.1");
    let state = b.device.state();
    let learned = state.peers[0].endpoint.expect("an endpoint was learned");
    assert_eq!(learned.is_ipv6(), ip_of_b.contains(':'));
    assert_eq!(learned.port(), a.port());
    assert!(state.peers[0].rx_bytes > 20 << 20 && state.peers[0].last_handshake.is_some(), "{state:?}");
    assert_eq!((state.drops.forged, state.drops.bad_packet, state.drops.tun_write), (0, 0, 0));
}

#[test]
fn traffic_over_ipv4() {
    check_transport("192.0.2.2");
}

#[test]
fn traffic_over_ipv6() {
    check_transport("2001:db8::2");
}

#[test]
fn a_bad_network_costs_speed_only() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    let relay = Relay::start(&a, &b);
    a.set(PeerSettings { endpoint: Some(relay.address), ..PeerSettings::new(b.public) });
    reach(&a, "10.9.0.2");
    transfer(&a.namespace, &b.namespace, "10.9.0.2", 1 << 20);
    assert_eq!(b.device.state().peers[0].endpoint.map(|at| at.port()), Some(relay.address.port() + 1));
    eventually("a duplicate", || {
        let drops = b.device.state().drops;
        if drops.replayed > 0 { Ok(()) } else { Err(format!("{drops:?}")) }
    });
}

#[test]
fn the_tunnel_follows_an_end_that_moves() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    reach(&a, "10.9.0.2");
    a.ip("addr del 192.0.2.1/24 dev ve0");
    a.ip("addr add 192.0.2.77/24 dev ve0");
    reach(&a, "10.9.0.2");
    eventually("the new address at the other end", || {
        let endpoint = b.device.state().peers[0].endpoint;
        match endpoint {
            Some(at) if at.ip().to_string() == "192.0.2.77" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // And one that moves to another port.
    let old = a.port();
    a.device.set_listen_port(0).expect("some port is free");
    assert_ne!(a.port(), old);
    reach(&a, "10.9.0.2");
    reach(&b, "10.9.0.1");
    assert_eq!(b.device.state().peers[0].endpoint.map(|at| at.port()), Some(a.port()));
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    b.ip("addr add 192.0.2.200/24 dev ve0");
    let endpoint = SocketAddr::new("192.0.2.200".parse().expect("an address"), b.port());
    a.set(PeerSettings { endpoint: Some(endpoint), ..PeerSettings::new(b.public) });
    reach(&a, "10.9.0.2");
    reach(&a, "fd09::2");
    assert_eq!(
        a.device.state().peers[0].endpoint,
        Some(endpoint),
        "the other end did not answer from 192.0.2.2"
    );
}

/// Up to the MTU and beyond it, over this network.
fn check_sizes(ip_of_b: &str) {
    let (a, b) = tunnel_over(ip_of_b, false);
    for (address, headers) in [("10.9.0.2", 28), ("fd09::2", 48)] {
        reach(&a, address);
        let ping = |size: usize, patience: u32| {
            let payload = size - headers;
            a.namespace.try_run(&format!("ping -n -c 1 -W {patience} -M do -s {payload} {address}"))
        };
        for size in [headers, headers + 1, 63, 64, 65, 576, 1279, 1280, 1281, 1419, 1420] {
            ping(size, 5).unwrap_or_else(|problem| panic!("{size} bytes: {problem}"));
        }
        let refused = ping(1421, 1);
        assert!(refused.is_err(), "larger than the MTU: {refused:?}");
        // Larger than the network: the datagrams are fragmented there. The largest that a datagram can carry.
        for mtu in [1500, 9000, 65_455] {
            for end in [&a, &b] {
                end.ip(&format!("link set {} mtu {mtu}", end.interface));
            }
            for size in [mtu - 1, mtu] {
                ping(size, 5).unwrap_or_else(|problem| panic!("{size} bytes of {mtu}: {problem}"));
            }
            transfer(&a.namespace, &b.namespace, address, 1 << 20);
        }
        // The smallest that IPv6 allows.
        for end in [&a, &b] {
            end.ip(&format!("link set {} mtu 1280", end.interface));
        }
        ping(1280, 5).expect("the smallest MTU");
        transfer(&a.namespace, &b.namespace, address, 1 << 20);
        for end in [&a, &b] {
            end.ip(&format!("link set {} mtu 1420", end.interface));
        }
    }
    let drops = (a.device.state().drops, b.device.state().drops);
    assert_eq!((drops.0.udp_send, drops.1.udp_send, drops.1.bad_packet), (0, 0, 0), "{drops:?}");
}

#[test]
fn packets_of_every_size_pass_over_ipv4() {
    check_sizes("192.0.2.2");
}

#[test]
fn packets_of_every_size_pass_over_ipv6() {
    check_sizes("2001:db8::2");
}

/// The sockets stay where the device was made: that is how a container gets a tunnel without a way around it.
#[test]
fn an_interface_that_is_moved_to_another_namespace_works_there() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    reach(&a, "10.9.0.2");
    let container = Namespace::new();
    let (from, to, interface) = (&b.namespace.name, &container.name, &b.interface);
    run(&format!("ip -n {from} link set {interface} netns {to}"));
    // Another interface of that name is none of our business.
    run(&format!("ip -n {from} link add {interface} type veth peer name decoy"));
    run(&format!("ip -n {to} addr add 10.9.0.2/24 dev {interface}"));
    run(&format!("ip -n {to} link set {interface} up mtu 1300"));
    eventually("an answer to the container", || container.ping("10.9.0.1"));
    transfer(&container, &a.namespace, "10.9.0.1", 1 << 20);
    run(&format!("ip -n {to} link set {interface} down"));
    eventually("silence", || match a.namespace.ping("10.9.0.2") {
        Ok(answer) => Err(answer),
        Err(_) => Ok(()),
    });
    run(&format!("ip -n {to} link set {interface} up"));
    eventually("an answer to the container", || container.ping("10.9.0.1"));
    assert_eq!(&b.device.name().expect("the device works"), interface);
    run(&format!("ip -n {to} link del {interface}"));
    eventually("the end of the device", || match b.device.check() {
        Err(Error::InterfaceGone { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn garbage_harms_nothing() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    reach(&a, "10.9.0.2");
    let target = SocketAddr::new("192.0.2.2".parse().expect("an address"), b.port());
    a.namespace.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for length in 0..1500usize {
            for kind in 0..5u8 {
                let mut datagram = vec![0; length];
                datagram.iter_mut().skip(4).enumerate().for_each(|(at, byte)| *byte = (at * length) as u8);
                if let Some(first) = datagram.first_mut() {
                    *first = kind;
                }
                socket.send_to(&datagram, target).expect("loopback takes it");
            }
        }
    });
    reach(&a, "10.9.0.2");
    eventually("counted drops", || {
        let drops = b.device.state().drops;
        if drops.malformed > 3000 && drops.unknown_session > 1000 {
            Ok(())
        } else {
            Err(format!("{drops:?}"))
        }
    });
}

#[test]
fn an_interface_that_is_down_is_silent_and_comes_back() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    reach(&a, "10.9.0.2");
    b.ip(&format!("link set {} down", b.interface));
    eventually("silence", || match a.namespace.ping("10.9.0.2") {
        Ok(answer) => Err(answer),
        Err(_) => Ok(()),
    });
    b.ip(&format!("link set {} up", b.interface));
    b.ip(&format!("addr replace 10.9.0.2/24 dev {}", b.interface));
    reach(&a, "10.9.0.2");
}

#[test]
fn changes_cost_no_packet_of_another_peer() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    reach(&a, "10.9.0.2");
    let many: Vec<PeerChange> = (100..1100)
        .map(|number| {
            let prefix = format!("10.{}.{}.0/24", 16 + number / 256, number % 256);
            PeerChange::Set(peer(
                key(number).public_key(),
                Some("192.0.2.9:9".parse().expect("an endpoint")),
                &[&prefix],
            ))
        })
        .collect();
    a.device.apply(&many).expect("the device works");
    assert_eq!(a.device.state().peers.len(), 1001);
    thread::scope(|scope| {
        let ping = scope.spawn(|| a.namespace.run("ping -n -c 200 -i 0.01 -W 1 10.9.0.2"));
        let mut turn = 0;
        let mut slowest = Duration::ZERO;
        while !ping.is_finished() {
            // One prefix goes to and fro between two of the many.
            let to = key(100 + turn % 2).public_key();
            let add = vec!["10.200.0.0/16".parse().expect("a prefix")];
            let allowed_ips = AllowedIpsChange::Edit { add, remove: Vec::new() };
            let start = Instant::now();
            a.set(PeerSettings { allowed_ips, keepalive: Some((turn % 2) as u16), ..PeerSettings::new(to) });
            slowest = slowest.max(start.elapsed());
            turn += 1;
            let owners = a.device.state().peers;
            let owners =
                owners.iter().filter(|peer| peer.allowed_ips.len() == 2).filter(|peer| peer.key != b.public);
            assert_eq!(owners.count(), 1, "the prefix has one owner");
        }
        let answer = ping.join().expect("ping ends");
        assert!(answer.contains(" 0% packet loss"), "{answer}");
        assert!(turn > 20, "{turn} changes while pinging; the slowest took {slowest:?}");
    });
}

#[test]
fn names_ports_and_mtus_that_cannot_be_used_are_refused() {
    let namespace = Namespace::new();
    namespace.enter(|| {
        for name in ["", "a name", "sixteen-bytes-xx", "a/b"] {
            assert!(matches!(Device::create(Config::named(name)), Err(Error::BadName { .. })), "{name:?}");
        }
        let config = Config { mtu: 100, ..Config::named("wtest") };
        assert!(matches!(Device::create(config), Err(Error::BadMtu { .. })));
        let taken = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        let port = taken.local_addr().expect("a bound socket").port();
        let name = unique("w");
        let error = Device::create(Config { listen_port: port, ..Config::named(name.clone()) }).map(drop);
        let text = error.expect_err("the port is taken").to_string();
        assert!(
            text.contains(&port.to_string()) && text.contains("another process uses this port"),
            "{text}"
        );
        let links = run("ip link show");
        assert!(!links.contains(&name), "nothing is left behind: {links}");
        let device = Device::create(Config::named(name.clone())).expect("a device");
        assert!(matches!(device.set_listen_port(port), Err(Error::Listen { .. })));
        let again =
            Device::create(Config::named(name)).map(drop).expect_err("the name is in use").to_string();
        assert!(again.contains("used by another process"), "{again}");
    });
}

#[test]
fn a_removed_interface_ends_the_device_with_an_error() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    reach(&a, "10.9.0.2");
    a.ip(&format!("link del {}", a.interface));
    eventually("the end of the device", || match a.device.wait(Some(Duration::from_millis(100))) {
        Err(Error::InterfaceGone { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let error = a.device.apply(&[PeerChange::Remove(b.public)]).expect_err("it is gone");
    assert!(error.to_string().contains("was removed"), "{error}");
}

#[test]
fn closing_removes_the_interface() {
    let (a, b) = connected();
    let a = End::start(a, 1, true);
    drop(b);
    let (interface, namespace) = (a.interface.clone(), a.namespace);
    assert!(tunnel::uapi::socket_path(&interface).exists());
    a.device.close();
    assert!(namespace.try_run(&format!("ip link show {interface}")).is_err());
    assert!(!tunnel::uapi::socket_path(&interface).exists());
}
