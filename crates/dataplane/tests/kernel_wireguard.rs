//! WireGuard of the kernel. Built with the feature `stock-kernel` only, for a machine whose kernel has the module.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use dataplane::{Backend, Config, DataPlane, WireguardChoice};
use hostnet::{Address, Change, HostState, Link, Wireguard, WireguardPeer, plan};
use ipnet::IpNet;
use mesh::{PresharedKey, PrivateKey, PublicKey};
use support::*;

fn key(seed: u16) -> PrivateKey {
    let mut bytes = [7; 32];
    bytes[1..3].copy_from_slice(&seed.to_be_bytes());
    PrivateKey::from_random(bytes)
}

fn peer(allowed_ips: &[&str]) -> WireguardPeer {
    WireguardPeer {
        allowed_ips: allowed_ips.iter().map(|net| net.parse().unwrap()).collect(),
        ..WireguardPeer::default()
    }
}

const MARK: u32 = 0x10;

fn state(peers: BTreeMap<PublicKey, WireguardPeer>) -> HostState {
    let mut state = with_interface();
    state.wireguard = Some(Wireguard { private_key: Some(key(1)), listen_port: 51820, mark: MARK, peers });
    state
}

async fn observed(plane: &mut DataPlane) -> Wireguard {
    plane.observe().await.unwrap().host.wireguard.unwrap()
}

#[test]
fn the_kernel_is_chosen_and_peers_come_change_and_go() {
    in_namespace(async || {
        let mut plane = open_with(WireguardChoice::Auto).await;
        assert_eq!(plane.backend(), Backend::Kernel);
        let (a, b) = (key(2).public_key(), key(3).public_key());
        let rich = WireguardPeer {
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            persistent_keepalive: 25,
            preshared_key: PresharedKey::from_bytes([9; 32]),
            ..peer(&["10.2.1.0/24", "fd02::/64"])
        };
        let steps = [
            BTreeMap::from([(a, peer(&["10.2.1.0/24", "10.4.0.2/32"])), (b, peer(&["10.2.2.0/24"]))]),
            BTreeMap::from([(a, peer(&[])), (b, peer(&["10.2.2.0/24", "10.2.1.0/24"]))]),
            BTreeMap::from([(a, rich.clone()), (b, peer(&["10.2.2.0/24"]))]),
            BTreeMap::from([(a, WireguardPeer { preshared_key: None, persistent_keepalive: 0, ..rich })]),
            BTreeMap::new(),
        ];
        for peers in steps {
            reach(&mut plane, &state(peers.clone())).await;
            let expected = Wireguard { private_key: Some(key(1)), listen_port: 51820, mark: MARK, peers };
            assert_eq!(observed(&mut plane).await, expected);
        }
    });
}

/// A host whose interface was made before there were marks gets one, and its sessions go on.
#[test]
fn a_mark_is_set_changed_and_taken_away() {
    in_namespace(async || {
        let mut plane = open_with(WireguardChoice::Kernel).await;
        let a = key(2).public_key();
        let mut desired = state(BTreeMap::from([(a, peer(&["10.2.1.0/24"]))]));
        for (mark, shown) in [(0, "off"), (0x10, "0x10"), (0x70, "0x70"), (0, "off")] {
            desired.wireguard.as_mut().unwrap().mark = mark;
            reach(&mut plane, &desired).await;
            assert_eq!(observed(&mut plane).await.mark, mark);
            assert_eq!(run(&format!("wg show {KILO} fwmark")).trim(), shown);
        }
    });
}

/// More allowed IPs for one peer and more peers than fit into a message, written and read.
#[test]
fn large_configurations_are_split_and_merged() {
    in_namespace(async || {
        let mut plane = open_with(WireguardChoice::Kernel).await;
        let many: BTreeSet<IpNet> = (0..5_000u32)
            .flat_map(|i| [format!("11.{}.{}.0/24", i / 256, i % 256), format!("fd11:{i:x}::/64")])
            .map(|net| net.parse().unwrap())
            .collect();
        let mut peers =
            BTreeMap::from([(key(2).public_key(), WireguardPeer { allowed_ips: many, ..peer(&[]) })]);
        for i in 0..1_000u16 {
            let own = format!("10.4.{}.{}/32", i / 256, i % 256);
            peers.insert(key(i + 3).public_key(), WireguardPeer { persistent_keepalive: 5, ..peer(&[&own]) });
        }
        let start = Instant::now();
        reach(&mut plane, &state(peers.clone())).await;
        println!("1,001 peers with 11,000 allowed IPs: {:?}", start.elapsed());
        assert_eq!(observed(&mut plane).await.peers, peers);
        // One prefix goes: the rest of a long list stays.
        let first = peers.get_mut(&key(2).public_key()).unwrap();
        first.allowed_ips.pop_first();
        reach(&mut plane, &state(peers.clone())).await;
        assert_eq!(observed(&mut plane).await.peers, peers);
    });
}

/// A change of allowed IPs, keepalive or preshared key leaves a learned endpoint alone.
#[test]
fn a_learned_endpoint_survives_changes() {
    in_namespace(async || {
        let mut plane = open_with(WireguardChoice::Kernel).await;
        let a = key(2).public_key();
        reach(&mut plane, &state(BTreeMap::from([(a, peer(&["10.2.1.0/24", "10.2.2.0/24"]))]))).await;
        run(&format!("wg set {KILO} peer {a} endpoint 192.0.2.7:1234"));
        for next in [
            peer(&["10.2.1.0/24"]),
            WireguardPeer { persistent_keepalive: 10, ..peer(&["10.2.1.0/24", "10.2.3.0/24"]) },
            WireguardPeer { preshared_key: PresharedKey::from_bytes([3; 32]), ..peer(&["10.2.3.0/24"]) },
        ] {
            reach(&mut plane, &state(BTreeMap::from([(a, next.clone())]))).await;
            let found = observed(&mut plane).await.peers.remove(&a).unwrap();
            assert_eq!(found, WireguardPeer { endpoint: Some("192.0.2.7:1234".parse().unwrap()), ..next });
        }
    });
}

#[test]
fn two_hosts_ping_each_other_and_a_new_data_plane_adopts_the_session() {
    in_namespace(async || {
        let other = Namespace::new();
        run(&format!("ip link add eth0 type veth peer name eth0 netns {}", other.0));
        run("ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up");
        run(&format!("ip -n {0} addr add 192.0.2.2/24 dev eth0; ip -n {0} link set eth0 up", other.0));
        let config = Config { interface: name(KILO), wireguard: WireguardChoice::Kernel, serve_uapi: false };
        let mut there = other.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(DataPlane::open(config)).unwrap()
        });
        let mut here = open_with(WireguardChoice::Kernel).await;
        let desired = |own: u16, far: u16| {
            let peer = WireguardPeer {
                endpoint: Some(format!("192.0.2.{far}:51820").parse().unwrap()),
                ..peer(&[&format!("10.4.0.{far}/32")])
            };
            let mut desired = state(BTreeMap::from([(key(far).public_key(), peer)]));
            desired.wireguard.as_mut().unwrap().private_key = Some(key(own));
            desired.addresses =
                [Address { link: name(KILO), net: format!("10.4.0.{own}/16").parse().unwrap() }].into();
            desired
        };
        reach(&mut here, &desired(1, 2)).await;
        reach(&mut there, &desired(2, 1)).await;
        run("ping -c 2 -W 5 -i 0.2 10.4.0.2");
        let handshake = here.observe().await.unwrap().handshakes[&key(2).public_key()];
        assert!(handshake.is_alive() && handshake.received > 0 && handshake.sent > 0, "{handshake:?}");

        drop(here);
        let mut again = open_with(WireguardChoice::Auto).await;
        let seen = again.observe().await.unwrap();
        assert_eq!(plan(&seen.host, &desired(1, 2)), [], "everything is as it should be");
        assert!(seen.handshakes[&key(2).public_key()].is_alive());
        run("ping -c 1 -W 5 10.4.0.2");
    });
}

/// With `--create-interface=false`.
#[test]
fn an_existing_interface_is_configured_and_left() {
    in_namespace(async || {
        run("ip link add kilo0 type wireguard; ip link set kilo0 up");
        let mut plane = open_with(WireguardChoice::Existing).await;
        assert_eq!(plane.backend(), Backend::Kernel);
        let mut desired = state(BTreeMap::from([(key(2).public_key(), peer(&["10.2.1.0/24"]))]));
        let link = Link { managed: false, mtu: None, ..desired.links[&name(KILO)].clone() };
        desired.links = [(name(KILO), link)].into();
        reach(&mut plane, &desired).await;
        reach(&mut plane, &HostState::default()).await;
        run("ip link show kilo0");
    });
}

#[test]
fn a_peer_that_is_refused_does_not_stop_the_others() {
    in_namespace(async || {
        let mut plane = open_with(WireguardChoice::Kernel).await;
        let good = BTreeMap::from([
            (key(2).public_key(), peer(&["10.2.1.0/24"])),
            (key(3).public_key(), peer(&["10.2.2.0/24"])),
        ]);
        let absent = state(BTreeMap::new());
        reach(&mut plane, &absent).await;
        let mut changes = plan(&plane.observe().await.unwrap().host, &state(good.clone()));
        // A change of a peer that is not there does nothing; a change on another interface fails.
        let stray = changes[0].clone();
        let Change::SetPeer(_, stray_key, stray_change) = stray else { panic!("{stray:?}") };
        changes.insert(1, Change::SetPeer(name("other0"), stray_key, stray_change));
        let failures = plane.apply(&changes).await;
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(observed(&mut plane).await.peers, good);
    });
}
