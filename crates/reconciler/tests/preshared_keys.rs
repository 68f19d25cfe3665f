//! Preshared keys that are in Secrets: who reads them, when, and what is done without them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use mesh::{Peer, PresharedKey, PresharedKeySource, SecretRef};
use reconciler::{PeerUpdate, Reconciler, Watch};
use support::{World, client, config, key, node};

fn secret(name: &str) -> SecretRef {
    SecretRef::new(name, "presharedKey").unwrap()
}

fn psk(number: u8) -> PresharedKey {
    PresharedKey::from_bytes([number; 32]).unwrap()
}

fn peer(name: &str) -> Peer {
    Peer {
        name: "laptop".to_owned(),
        created: 0,
        changed: false,
        key: key(77).public_key(),
        allowed_ips: vec!["10.5.0.1/32".parse().unwrap()],
        endpoint: None,
        preshared_key: Some(PresharedKeySource::Secret(secret(name))),
        persistent_keepalive: 0,
    }
}

fn see(world: &mut World, peer: Peer) {
    let update = PeerUpdate { peer: Some(peer), problems: Vec::new() };
    world.reconciler.handle_peer("laptop", Some(update), world.now);
}

/// The leader of its location, with a Peer whose key is in the Secret `one`.
fn leader(key: Option<u8>) -> World {
    let mut world = World::with([node("b", "two", 2)]);
    world.secrets.extend(key.map(|key| (secret("one"), psk(key))));
    see(&mut world, peer("one"));
    settle(&mut world);
    world
}

/// The preshared key that WireGuard has for the Peer; `None`: there is no tunnel to it.
fn configured(world: &World) -> Option<Option<PresharedKey>> {
    let peers = &world.host.wireguard.as_ref().unwrap().peers;
    peers.get(&key(77).public_key()).map(|peer| peer.preshared_key.clone())
}

fn problems(world: &World) -> Vec<String> {
    world.view.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_leader_reads_the_key_once_and_again_after_a_while() {
    let mut world = leader(Some(1));
    assert_eq!(configured(&world), Some(Some(psk(1))));
    assert_eq!((problems(&world).len(), world.read.len()), (0, 1));
    world.pass(Duration::from_secs(200), &[node("a", "one", 1), node("b", "two", 2)]);
    assert_eq!(world.read.len(), 1);
    world.pass(Duration::from_secs(110), &[node("a", "one", 1), node("b", "two", 2)]);
    assert_eq!(world.read.len(), 2);
}

#[test]
fn without_the_key_there_is_no_tunnel_and_no_detour() {
    let mut world = leader(None);
    assert_eq!(configured(&world), None);
    let [problem] = &problems(&world)[..] else { panic!("{:?}", world.view.problems) };
    for word in ["peer laptop", "Secret one", "there is no such Secret", "MissingPresharedKey"] {
        assert!(problem.contains(word), "{problem}");
    }
    assert!(world.view.unhealthy.is_empty(), "one bad object hurts only itself");
    assert!(world.routes().contains(&"10.5.0.1/32".to_owned()), "its packets must not go another way");
    world.secrets.insert(secret("one"), psk(1));
    world.pass(Duration::from_secs(6), &[]);
    assert_eq!((configured(&world), problems(&world).len()), (Some(Some(psk(1))), 0));
}

#[test]
fn a_key_that_changes_is_taken_over() {
    let mut world = leader(Some(1));
    world.secrets.insert(secret("one"), psk(2));
    world.pass(Duration::from_secs(301), &[node("a", "one", 1), node("b", "two", 2)]);
    assert_eq!(configured(&world), Some(Some(psk(2))));
    // By reference it is at once.
    world.secrets.insert(secret("two"), psk(3));
    see(&mut world, peer("two"));
    settle(&mut world);
    assert_eq!(configured(&world), Some(Some(psk(3))));
    // The key that WireGuard has does not stand in for one that is known to be missing.
    see(&mut world, peer("three"));
    settle(&mut world);
    assert_eq!((configured(&world), problems(&world).len()), (None, 1));
}

#[test]
fn a_key_that_disappears_stays_in_use_until_the_next_start() {
    let mut world = leader(Some(1));
    world.secrets.clear();
    world.pass(Duration::from_secs(301), &[node("a", "one", 1), node("b", "two", 2)]);
    assert_eq!(configured(&world), Some(Some(psk(1))));
    assert!(problems(&world)[0].contains("read last stays in use"), "{:?}", problems(&world));
    restart(&mut world);
    assert_eq!((configured(&world), problems(&world).len()), (None, 1));
}

#[test]
fn a_start_does_not_end_the_session_of_a_peer_whose_key_is_still_to_be_read() {
    let mut world = leader(Some(1));
    let changes = world.applied.len();
    restart(&mut world);
    assert_eq!(configured(&world), Some(Some(psk(1))));
    let later: Vec<String> = world.applied[changes..].iter().map(ToString::to_string).collect();
    assert!(!later.iter().any(|change| change.contains(&key(77).public_key().to_string())), "{later:?}");
}

#[test]
fn a_member_reads_no_keys_and_one_that_ceases_to_lead_forgets_them() {
    let mut world = leader(Some(1));
    let first = mesh::Node { leader: true, ..node("0", "one", 3) };
    world.see(first.clone());
    settle(&mut world);
    assert_eq!(world.view.role, Some(mesh::Role::Member));
    assert_eq!(configured(&world), None);
    world.secrets.clear();
    world.pass(Duration::from_secs(301), &[first, node("a", "one", 1), node("b", "two", 2)]);
    assert_eq!((world.read.len(), problems(&world).len()), (1, 0));
}

#[test]
fn a_peer_that_changes_is_tried_at_once() {
    let mut world = leader(None);
    world.pass(Duration::from_secs(100), &[]);
    world.secrets.insert(secret("one"), psk(1));
    see(&mut world, Peer { persistent_keepalive: 5, ..peer("one") });
    settle(&mut world);
    assert_eq!(configured(&world), Some(Some(psk(1))));
}

/// A look, what is read because of it, and a look because of that.
fn settle(world: &mut World) {
    world.settle();
    world.settle();
}

/// The agent starts again; the kernel's WireGuard is as it was.
fn restart(world: &mut World) {
    world.reconciler = Reconciler::new(config());
    for node in [node("a", "one", 1), node("b", "two", 2)] {
        world.see(mesh::Node { last_seen: world.now.unix, ..node });
    }
    see(world, peer("one"));
    world.reconciler.handle_watch(Watch::Synced, world.now);
    settle(world);
}

#[test]
fn a_client_waits_for_its_key_and_leaves_the_host_as_it_is_without() {
    let nodes = || [client::told("a", "one", 1), client::told("b", "two", 2)];
    let mut world = client::World::with(nodes());
    let before = world.host.clone();
    let own = |name: &str| Peer { preshared_key: peer(name).preshared_key, ..client::laptop(100) };
    world.see_peer(Some(own("one")));
    world.settle();
    world.settle();
    assert!(
        !world.view.settled && world.view.unhealthy[0].contains("there is no such Secret"),
        "{:?}",
        world.view
    );
    assert_eq!(world.host, before);
    world.secrets.insert(secret("two"), psk(2));
    world.see_peer(Some(own("two")));
    world.settle();
    world.settle();
    assert!(world.view.settled, "{:?}", world.view);
    let peers = &world.host.wireguard.as_ref().unwrap().peers;
    assert!(peers.len() == 2 && peers.values().all(|peer| peer.preshared_key == Some(psk(2))), "{peers:?}");
}
