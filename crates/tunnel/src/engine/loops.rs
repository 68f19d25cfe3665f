//! Tests of routes to endpoints that lead into the interface: what the device sends comes back to it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::world::{World, private_key, settings};
use crate::config::PeerChange;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Two nodes with a session; the first one sends everything to the second.
fn gateway() -> World {
    let mut world = World::pair();
    let everything = settings(world.nodes[1].key, None, &["0.0.0.0/0", "::/0"]);
    apply(&world, PeerChange::Set(everything));
    world.send(0, &super::world::packet(0, 1, 1));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.nodes[1].delivered.len(), 1);
    world
}

fn apply(world: &World, change: PeerChange) {
    world.nodes[0].engine.apply(&[change], world.now.moment);
}

/// A packet of this protocol from some address and this port.
fn packet(protocol: u8, from: u16, to: SocketAddr) -> Vec<u8> {
    let ports = [from.to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut packet = match to.ip() {
        IpAddr::V4(to) => {
            let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 0];
            packet.extend(to.octets());
            packet
        }
        IpAddr::V6(to) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 20, protocol, 64];
            packet.extend([[0xfd; 16], to.octets()].concat());
            packet
        }
    };
    packet.extend(ports);
    packet.resize(packet.len() + 16, 0);
    packet
}

/// Whether the first node sends the packet on. What it drops it counts as looped.
fn passes(world: &mut World, packet: &[u8]) -> bool {
    let counts = |world: &World| (world.nodes[0].sent.len(), world.nodes[0].engine.drops.read().looped);
    let (sent, looped) = counts(world);
    world.send(0, packet);
    match counts(world) {
        now if now == (sent + 1, looped) => true,
        now if now == (sent, looped + 1) => false,
        now => panic!("{now:?} after {:?}", (sent, looped)),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn own_datagrams_that_come_back_are_dropped_and_nothing_else_is() {
    for endpoint in [address("192.0.2.1:1000"), address("[2001:db8::1]:1000")] {
        let mut world = gateway();
        world.change(0, |peer| peer.endpoint = Some(endpoint));
        let elsewhere = SocketAddr::new("192.0.2.77".parse().unwrap(), endpoint.port());
        let other_port = SocketAddr::new(endpoint.ip(), 1001);
        assert!(!passes(&mut world, &packet(UDP, 1000, endpoint)));
        assert!(passes(&mut world, &packet(UDP, 999, endpoint)), "from another program");
        assert!(passes(&mut world, &packet(UDP, 1000, other_port)), "to another program");
        assert!(passes(&mut world, &packet(UDP, 1000, elsewhere)), "WireGuard inside of WireGuard");
        assert!(passes(&mut world, &packet(TCP, 1000, endpoint)), "not UDP");
    }
}

#[test]
fn what_one_peer_is_sent_does_not_go_round_by_way_of_another() {
    let mut world = gateway();
    let third = settings(private_key(9).public_key(), Some(address("203.0.113.3:7")), &["10.3.0.0/16"]);
    let key = third.key;
    apply(&world, PeerChange::Set(third));
    let datagram = packet(UDP, 1000, address("203.0.113.3:7"));
    assert!(!passes(&mut world, &datagram), "it would go to the second node");
    apply(&world, PeerChange::Remove(key));
    assert!(passes(&mut world, &datagram), "nobody is there any more");
}

#[test]
fn the_endpoints_are_those_that_count_now() {
    let mut world = gateway();
    let [before, after] = [address("192.0.2.1:1000"), address("198.51.100.1:4500")];
    assert!(passes(&mut world, &packet(UDP, 1000, after)));
    // The peer is heard from elsewhere.
    world.nodes[1].address = after;
    world.send(1, &super::world::packet(1, 0, 2));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.peer(0).endpoint, Some(after));
    assert!(!passes(&mut world, &packet(UDP, 1000, after)));
    assert!(passes(&mut world, &packet(UDP, 1000, before)));
    // Two peers at one address, of which one goes.
    let third = settings(private_key(9).public_key(), Some(after), &["10.3.0.0/16"]);
    let key = third.key;
    apply(&world, PeerChange::Set(third));
    apply(&world, PeerChange::Remove(key));
    assert!(!passes(&mut world, &packet(UDP, 1000, after)));
    world.nodes[0].engine.set_port(1234);
    assert!(passes(&mut world, &packet(UDP, 1000, after)), "the device has another port now");
}
