//! Routes to an endpoint that lead into the device itself: without a mark its datagrams come back and are dropped, with a
//! mark and a policy rule they pass beside the device. Needs root and /dev/net/tun.

mod common;

use std::net::SocketAddr;

use tunnel::{Config, Device, Drops, PeerChange, PeerSettings};

use common::{End, Namespace, connected, eventually, key, peer, run, unique};

/// The largest payload of a ping that the devices take in one packet, for each family.
const LARGEST: [usize; 2] = [1420 - 28, 1420 - 48];

/// Two ends, of which the first sends everything to the second, at this address.
fn ends(ip_of_b: &str) -> (End, End) {
    let (a, b) = connected();
    let (a, b) = (End::start(a, 1, false), End::start(b, 2, false));
    let endpoint = SocketAddr::new(ip_of_b.parse().expect("an address"), b.port());
    a.set(peer(b.public, Some(endpoint), &["0.0.0.0/0", "::/0"]));
    b.set(peer(a.public, None, &["10.9.0.1/32", "fd09::1/128"]));
    (a, b)
}

/// Bytes sent to the peer, and what was dropped.
fn counters(end: &End) -> (u64, Drops) {
    let state = end.device.state();
    (state.peers[0].tx_bytes, state.drops)
}

fn received(end: &End) -> u64 {
    end.device.state().peers[0].rx_bytes
}

/// Pings the other end for a second, 50 times per family.
fn ping_for_a_second(a: &End) {
    std::thread::scope(|scope| {
        for (address, size) in ["10.9.0.2", "fd09::2"].into_iter().zip(LARGEST) {
            scope.spawn(move || {
                // Whether there are answers is what the counters tell.
                let _ = a
                    .namespace
                    .try_run(&format!("ping -n -q -c 50 -i 0.02 -W 0.1 -M dont -s {size} {address}"));
            });
        }
    });
}

/// Where the route leads into the device, each packet is sealed once, and no datagram twice.
fn check_bounded(ip_of_b: &str) {
    let (a, b) = ends(ip_of_b);
    let route = format!("route add {ip_of_b} dev {}", a.interface);
    a.ip(&route);
    ping_for_a_second(&a);
    let (sent, drops) = counters(&a);
    assert!(sent > 0 && sent < 2_000, "a few handshake messages, not {sent} bytes");
    assert!(drops.looped > 0, "{drops:?}");
    // The same with a session that was made before the route.
    a.ip(&route.replace("add", "del"));
    eventually("an answer", || a.namespace.ping("10.9.0.2"));
    a.ip(&route);
    let ((before, drops_before), arrived) = (counters(&a), received(&b));
    ping_for_a_second(&a);
    let (after, drops) = counters(&a);
    let (sent, looped) = (after - before, drops.looped - drops_before.looped);
    // A datagram is larger than the MTU: it comes back in two fragments.
    let each = 1420 + 32;
    assert!((90 * each..104 * each).contains(&sent), "a hundred packets are sealed, not {sent} bytes");
    assert!((180..250).contains(&looped), "two fragments for each: {drops:?}");
    assert_eq!(received(&b), arrived, "nothing leaves");
    a.ip(&route.replace("add", "del"));
    eventually("an answer", || a.namespace.ping("10.9.0.2"));
}

#[test]
fn a_route_over_ipv4_into_the_device_makes_no_storm() {
    check_bounded("192.0.2.2");
}

#[test]
fn a_route_over_ipv6_into_the_device_makes_no_storm() {
    check_bounded("2001:db8::2");
}

/// As the agent sets it up: all routes into the device are in a table that its own packets are not looked up in.
fn check_marked(ip_of_b: &str) {
    let (a, _b) = ends(ip_of_b);
    for family in ["-4", "-6"] {
        a.ip(&format!("{family} rule add not fwmark 0x10/0x70 lookup 1108 pref 1108"));
        a.ip(&format!("{family} route add default dev {} table 1108", a.interface));
    }
    // Answers of the other end arrive where no unmarked packet to it would leave.
    a.namespace.run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.ve0.rp_filter=0");
    ping_for_a_second(&a);
    let (sent, drops) = counters(&a);
    assert!(sent < 2_000 && drops.looped > 0, "without a mark: {sent} bytes, {drops:?}");
    a.device.set_fwmark(0x10).expect("root may");
    for address in ["10.9.0.2", "fd09::2"] {
        eventually(&format!("an answer from {address}"), || a.namespace.ping(address));
    }
    // A new port and a new session keep the mark.
    a.device.set_listen_port(0).expect("some port is free");
    let looped = counters(&a).1.looped;
    for address in ["10.9.0.2", "fd09::2"] {
        eventually(&format!("an answer from {address}"), || a.namespace.ping(address));
    }
    a.namespace.run("ping -n -q -c 20 -i 0.02 -W 5 -s 1392 -M dont 10.9.0.2");
    assert_eq!(counters(&a).1.looped, looped, "nothing comes back");
}

#[test]
fn marked_datagrams_pass_a_policy_rule_over_ipv4() {
    check_marked("192.0.2.2");
}

#[test]
fn marked_datagrams_pass_a_policy_rule_over_ipv6() {
    check_marked("2001:db8::2");
}

/// A device in a namespace that knows one peer, with an address and up.
fn inner(namespace: &Namespace, number: u32, port: u16, other: PeerSettings) -> Device {
    let name = unique("w");
    let config = Config {
        private_key: Some(key(number)),
        listen_port: port,
        mtu: 1300,
        ..Config::named(name.clone())
    };
    let device = namespace.enter(|| Device::create(config)).expect("a device");
    device.apply(&[PeerChange::Set(other)]).expect("the device works");
    run(&format!("ip -n {} addr add 10.7.0.{number}/24 dev {name}", namespace.name));
    run(&format!("ip -n {} link set {name} up", namespace.name));
    device
}

/// The WireGuard of a pod may use the same port as the host's.
#[test]
fn wireguard_inside_of_wireguard_passes() {
    let (a, b) = ends("192.0.2.2");
    let pod = Namespace::new();
    run(&format!("ip -n {} link add ve1 type veth peer name ve1 netns {}", pod.name, a.namespace.name));
    for (namespace, address) in [(&pod, "10.8.0.2"), (&a.namespace, "10.8.0.1")] {
        run(&format!("ip -n {} addr add {address}/24 dev ve1", namespace.name));
        run(&format!("ip -n {} link set ve1 up", namespace.name));
    }
    run(&format!("ip -n {} route add default via 10.8.0.1", pod.name));
    a.namespace.run("sysctl -qw net.ipv4.ip_forward=1");
    b.set(peer(a.public, None, &["10.9.0.1/32", "10.8.0.0/24"]));
    b.ip(&format!("route add 10.8.0.0/24 dev {}", b.interface));

    let far = inner(&b.namespace, 4, 0, peer(key(3).public_key(), None, &["10.7.0.3/32"]));
    let at = SocketAddr::from(([10, 9, 0, 2], far.state().listen_port));
    let near = inner(&pod, 3, a.port(), peer(key(4).public_key(), Some(at), &["10.7.0.4/32"]));
    assert_eq!(near.state().listen_port, a.port());
    eventually("an answer through both tunnels", || pod.ping("10.7.0.4"));
    assert_eq!(counters(&a).1.looped, 0);
}
