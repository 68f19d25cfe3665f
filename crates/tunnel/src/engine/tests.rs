//! The engine on a simulated network: handshakes, timers, roaming, changes of the configuration, bad input.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{AllowedIpsChange, PeerChange, WhenMissing};
use crate::key::PresharedKey;
use crate::message::{DATA_OVERHEAD, INITIATION_SIZE, RESPONSE_SIZE};

use super::world::{Fate, World, packet, private_key, settings};
use super::{Engine, Opened};

const SECOND: Duration = Duration::from_secs(1);
const KEEPALIVE_SIZE: usize = DATA_OVERHEAD;
/// The packets of these tests have 32 bytes.
const DATA_SIZE: usize = 32 + DATA_OVERHEAD;

fn seconds(many: u64) -> Duration {
    Duration::from_secs(many)
}

#[test]
fn the_first_packet_waits_for_the_handshake_and_arrives() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 5));
    assert_eq!(world.sent_of_size(0, INITIATION_SIZE, world.now.moment), 1);
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered, [packet(0, 1, 5)]);
    world.send(1, &packet(1, 0, 6));
    world.pass(SECOND);
    assert_eq!(world.nodes[0].delivered, [packet(1, 0, 6)]);
    for node in 0..2 {
        let peer = world.peer(node);
        assert!(peer.last_handshake.is_some(), "node {node} shows a handshake");
        assert!(peer.rx_bytes > 100 && peer.tx_bytes > 100, "node {node}: {peer:?}");
    }
}

#[test]
fn both_may_begin_at_the_same_moment() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.send(1, &packet(1, 0, 2));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered, [packet(0, 1, 1)]);
    assert_eq!(world.nodes[0].delivered, [packet(1, 0, 2)]);
}

#[test]
fn packets_are_padded_to_sixteen_bytes_but_not_beyond_the_mtu() {
    let mut world = World::pair();
    let mut odd = packet(0, 1, 1);
    odd.push(0xaa);
    odd[3] = 33;
    world.send(0, &odd);
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered, [odd], "the padding is taken off again");
    assert_eq!(world.sent_of_size(0, 48 + DATA_OVERHEAD, world.nodes[0].sent[0].0), 1);
    let mut large = packet(0, 1, 2);
    large.resize(1418, 0);
    large[2..4].copy_from_slice(&1418u16.to_be_bytes());
    world.send(0, &large);
    assert_eq!(world.sent_of_size(0, 1420 + DATA_OVERHEAD, world.now.moment), 1);
}

#[test]
fn sessions_are_renewed_before_they_expire_and_no_packet_is_lost() {
    let mut world = World::pair();
    for number in 0..3600 {
        world.send(0, &packet(0, 1, number));
        world.pass(SECOND);
    }
    let expected: Vec<_> = (0..3600).map(|number| packet(0, 1, number)).collect();
    assert_eq!(world.nodes[1].delivered.len(), expected.len());
    assert_eq!(world.nodes[1].delivered, expected);
    let handshakes = world.nodes[0].sent.iter().filter(|(_, size)| *size == INITIATION_SIZE).count();
    assert!((29..=31).contains(&handshakes), "one handshake in 120 s: {handshakes} in an hour");
    assert_eq!(world.nodes[1].engine.drops.read().unknown_session, 0);
}

#[test]
fn who_only_receives_answers_after_ten_seconds() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(seconds(5));
    assert_eq!(world.sent_of_size(1, KEEPALIVE_SIZE, world.nodes[0].sent[0].0), 0);
    world.pass(seconds(6));
    assert_eq!(world.sent_of_size(1, KEEPALIVE_SIZE, world.nodes[0].sent[0].0), 1);
    let later = world.now.moment;
    world.pass(seconds(170));
    let quiet: usize = (0..2).map(|node| world.nodes[node].sent.iter().filter(|s| s.0 > later).count()).sum();
    assert_eq!(quiet, 0, "nothing to say, nothing said");
}

#[test]
fn a_silent_peer_is_tried_for_ninety_seconds_and_its_packets_are_dropped() {
    let mut world = World::pair();
    world.fate = Box::new(|_| Fate::Lose);
    let start = world.now.moment;
    world.send(0, &packet(0, 1, 1));
    world.pass(seconds(600));
    let tries = world.sent_of_size(0, INITIATION_SIZE, start);
    assert!((17..=20).contains(&tries), "one initiation in 5 s for 90 s: {tries}");
    assert_eq!(world.nodes[0].engine.drops.read().no_session, 1);
    world.fate = Box::new(|_| Fate::Arrive);
    world.send(0, &packet(0, 1, 2));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered, [packet(0, 1, 2)], "it is heard again when it is back");
}

#[test]
fn a_peer_that_lost_its_keys_is_found_again() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    world.nodes[1].engine.set_running(false);
    world.nodes[1].engine.set_running(true);
    world.send(0, &packet(0, 1, 2));
    world.pass(seconds(20));
    world.send(0, &packet(0, 1, 3));
    world.pass(SECOND);
    let last = world.nodes[1].delivered.last();
    assert_eq!(last, Some(&packet(0, 1, 3)), "after 15 s without an answer there is a new handshake");
}

#[test]
fn a_day_of_work_keepalives_and_silence() {
    let mut world = World::pair();
    // Eight hours of work: a packet every 7 s, answered.
    let hours8 = 8 * 3600;
    let mut count = 0;
    for number in 0..hours8 / 7 {
        world.send(0, &packet(0, 1, number));
        world.pass(seconds(3));
        world.send(1, &packet(1, 0, number));
        world.pass(seconds(4));
        count += 1;
    }
    assert_eq!((world.nodes[0].delivered.len(), world.nodes[1].delivered.len()), (count, count));
    let renewed = world.nodes[0].sent.iter().chain(&world.nodes[1].sent);
    let renewed = renewed.filter(|(_, size)| *size == INITIATION_SIZE).count();
    assert!((200..=260).contains(&renewed), "a handshake every two minutes: {renewed}");
    // Eight hours of silence with a persistent keepalive of 25 s.
    world.change(0, |peer| peer.keepalive = Some(25));
    let silence = world.now.moment;
    world.pass(seconds(u64::from(hours8)));
    let kept = world.sent_of_size(0, KEEPALIVE_SIZE, silence);
    let renewed = world.sent_of_size(0, INITIATION_SIZE, silence);
    assert!(
        (1350..=1420).contains(&kept),
        "one in 25 s and one per handshake: {kept}, {renewed} initiations"
    );
    assert!(renewed <= 245, "{renewed}");
    let age = world.now.wall - since_epoch(&world, 1);
    assert!(age < seconds(180), "the session is kept fresh: {age:?}");
    // Eight hours of nothing: the keys are forgotten, and work goes on at once.
    world.change(0, |peer| peer.keepalive = Some(0));
    world.pass(seconds(30));
    let nothing = world.now.moment;
    world.pass(seconds(u64::from(hours8)));
    let sent = world.nodes.iter().flat_map(|node| &node.sent).filter(|(at, _)| *at > nothing).count();
    assert_eq!(sent, 0);
    for node in 0..2 {
        assert!(world.nodes[node].engine.indices.load().is_empty(), "no keys are left at node {node}");
    }
    world.send(1, &packet(1, 0, 42));
    world.pass(SECOND);
    assert_eq!(world.nodes[0].delivered.last(), Some(&packet(1, 0, 42)));
}

/// A peer that never answers, one that answers and is then silent, both for a day.
#[test]
fn silent_peers_cost_nothing_that_grows() {
    let mut world = World::strangers(3);
    for (a, b) in [(0, 1), (1, 0), (0, 2)] {
        world.introduce(a, b);
    }
    world.nodes[2].engine.set_running(false);
    for node in [1, 2] {
        let peer = crate::config::PeerSettings {
            keepalive: Some(25),
            ..crate::config::PeerSettings::new(world.nodes[node].key)
        };
        world.nodes[0].engine.apply(&[PeerChange::Set(peer)], world.now.moment);
    }
    world.pass(seconds(600));
    world.nodes[1].engine.set_running(false);
    world.send(0, &packet(0, 1, 1));
    for hour in 0..24 {
        let start = world.now.moment;
        world.pass(seconds(3600));
        world.send(0, &packet(0, 2, hour));
        let tries = world.sent_of_size(0, INITIATION_SIZE, start);
        // One in 5 s while there is something to be sent, which is always.
        assert!((600..=2 * 720).contains(&tries), "hour {hour}: {tries} initiations to two peers");
        let sessions = world.nodes[0].engine.indices.load().iter().count();
        assert!(sessions <= 2, "hour {hour}: {sessions} handshakes are remembered");
    }
    world.nodes[1].engine.set_running(true);
    world.nodes[2].engine.set_running(true);
    world.introduce(2, 0);
    world.pass(seconds(30));
    for node in [1, 2] {
        assert!(world.peer(node).last_handshake.is_some(), "node {node} is heard at once when it is back");
    }
}

fn since_epoch(world: &World, node: usize) -> Duration {
    let handshake = world.peer(node).last_handshake.unwrap();
    handshake.duration_since(std::time::UNIX_EPOCH).unwrap()
}

#[test]
fn loss_reordering_and_duplication_lose_only_what_was_lost() {
    let mut world = World::pair();
    let mut turn = 0u32;
    world.fate = Box::new(move |datagram| {
        turn += 1;
        match turn % 10 {
            _ if datagram.len() != DATA_SIZE && turn.is_multiple_of(3) => Fate::Lose,
            3 => Fate::Lose,
            5 => Fate::Duplicate,
            7 => Fate::Delay,
            _ => Fate::Arrive,
        }
    });
    for number in 0..2000 {
        world.send(0, &packet(0, 1, number));
        world.pass(Duration::from_millis(15));
    }
    let mut got = world.nodes[1].delivered.clone();
    let total = got.len();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), total, "nothing arrives twice");
    assert!(total > 1700, "{total} of 2000 arrived");
    let drops = world.nodes[1].engine.drops.read();
    assert!(drops.replayed > 100, "duplicates are counted: {drops:?}");
    assert_eq!(drops.forged, 0);
}

#[test]
fn the_endpoint_follows_authentic_datagrams_only() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    let moved: SocketAddr = "198.51.100.7:4000".parse().unwrap();
    world.nodes[0].address = moved;
    // Garbage with the right type, from elsewhere, moves nothing.
    let mut garbage = vec![0; 64];
    garbage[0] = 4;
    world.arrive(1, "203.0.113.9:9".parse().unwrap(), garbage);
    assert_eq!(world.peer(1).endpoint, Some("192.0.2.0:1000".parse().unwrap()));
    world.send(0, &packet(0, 1, 2));
    world.pass(SECOND);
    assert_eq!(world.peer(1).endpoint, Some(moved));
    world.send(1, &packet(1, 0, 3));
    world.pass(SECOND);
    assert_eq!(world.nodes[0].delivered, [packet(1, 0, 3)], "the answer finds the new address");
    // Setting something else keeps what was learned; so does setting the same endpoint's neighbour values.
    world.change(1, |peer| peer.keepalive = Some(25));
    world.change(1, |peer| peer.preshared_key = Some([9; 32].into()));
    assert_eq!(world.peer(1).endpoint, Some(moved));
}

#[test]
fn a_preshared_key_must_agree_and_its_change_keeps_the_session() {
    let mut world = World::pair();
    world.change(0, |peer| peer.preshared_key = Some([1; 32].into()));
    world.send(0, &packet(0, 1, 1));
    world.pass(seconds(3));
    assert!(world.nodes[1].delivered.is_empty(), "different preshared keys: no session");
    assert_eq!(world.peer(1).last_handshake, None, "and none is shown");
    world.change(1, |peer| peer.preshared_key = Some([1; 32].into()));
    world.pass(seconds(6));
    assert_eq!(world.nodes[1].delivered, [packet(0, 1, 1)]);
    // A change at both ends, not at the same moment: packets flow all the time.
    let before = world.now.moment;
    world.change(0, |peer| peer.preshared_key = Some([2; 32].into()));
    for number in 2..30 {
        if number == 15 {
            world.change(1, |peer| peer.preshared_key = Some([2; 32].into()));
        }
        world.send(0, &packet(0, 1, number));
        world.pass(SECOND);
    }
    assert_eq!(world.nodes[1].delivered.len(), 29, "no packet was lost");
    assert!(world.sent_of_size(1, RESPONSE_SIZE, before) > 0, "the new key was put to use");
    let age = world.now.wall - since_epoch(&world, 0);
    assert!(age < seconds(16), "there is a session with the new key: {age:?}");
    world.change(0, |peer| peer.preshared_key = Some(PresharedKey::NONE));
    assert!(world.peer(0).preshared_key.is_none());
}

#[test]
fn a_keepalive_takes_effect_at_once_and_without_a_new_session() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(seconds(30));
    let before = world.now.moment;
    world.change(0, |peer| peer.keepalive = Some(5));
    world.pass(seconds(60));
    let kept = world.sent_of_size(0, KEEPALIVE_SIZE, before);
    assert!((12..=14).contains(&kept), "{kept} keepalives in a minute");
    assert_eq!(world.sent_of_size(0, INITIATION_SIZE, before), 0, "the session stays");
    world.change(0, |peer| peer.keepalive = Some(0));
    world.pass(SECOND);
    let off = world.now.moment;
    world.pass(seconds(60));
    assert_eq!(world.sent_of_size(0, KEEPALIVE_SIZE, off), 0);
}

#[test]
fn a_persistent_keepalive_never_gives_up() {
    let mut world = World::pair();
    world.fate = Box::new(|_| Fate::Lose);
    world.change(0, |peer| peer.keepalive = Some(25));
    world.pass(seconds(3600));
    let late = world.now.moment;
    world.pass(seconds(600));
    assert!(world.sent_of_size(0, INITIATION_SIZE, late) > 20);
    world.fate = Box::new(|_| Fate::Arrive);
    world.pass(seconds(30));
    assert!(world.peer(1).last_handshake.is_some());
}

#[test]
fn an_allowed_ip_belongs_to_one_peer_and_moves_without_a_new_session() {
    let mut world = World::strangers(3);
    for (a, b) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
        world.introduce(a, b);
    }
    let shared = "10.0.0.9/32";
    let give = |world: &World, to: usize| {
        let key = world.nodes[to].key;
        let add = vec![shared.parse().unwrap()];
        let allowed_ips = AllowedIpsChange::Edit { add, remove: Vec::new() };
        let settings = crate::config::PeerSettings { allowed_ips, ..crate::config::PeerSettings::new(key) };
        world.nodes[0].engine.apply(&[PeerChange::Set(settings)], world.now.moment);
    };
    let owners = |world: &World| {
        let peers = world.nodes[0].engine.peers();
        let owners = peers.iter().filter(|peer| peer.allowed_ips.contains(&shared.parse().unwrap()));
        owners.map(|peer| peer.key).collect::<Vec<_>>()
    };
    for turn in 0..4 {
        let to = 1 + turn % 2;
        give(&world, to);
        assert_eq!(owners(&world), [world.nodes[to].key]);
        world.nodes[to].delivered.clear();
        world.send(0, &packet(0, 9, turn as u32));
        world.pass(SECOND);
        assert_eq!(world.nodes[to].delivered.len(), 1, "turn {turn}");
        // From the one that has it, a packet with that source is taken; from the other it is not.
        for node in 1..3 {
            let before = (world.nodes[0].delivered.len(), world.nodes[0].engine.drops.read().foreign_source);
            world.send(node, &packet(9, 0, 1));
            world.pass(SECOND);
            let after = (world.nodes[0].delivered.len(), world.nodes[0].engine.drops.read().foreign_source);
            let expected = if node == to { (before.0 + 1, before.1) } else { (before.0, before.1 + 1) };
            assert_eq!(after, expected, "turn {turn}, node {node}");
        }
    }
    let sent = world.nodes.iter().flat_map(|node| &node.sent);
    assert_eq!(
        sent.filter(|(_, size)| *size == INITIATION_SIZE).count(),
        2,
        "one session for each peer, kept through all moves"
    );
}

#[test]
fn removed_peers_leave_nothing_behind() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    let key = world.nodes[1].key;
    world.nodes[0].engine.apply(&[PeerChange::Remove(key)], world.now.moment);
    assert!(world.nodes[0].engine.indices.load().is_empty());
    world.send(0, &packet(0, 1, 2));
    world.send(1, &packet(1, 0, 3));
    world.pass(SECOND);
    let drops = world.nodes[0].engine.drops.read();
    assert_eq!((drops.no_peer, drops.unknown_session), (1, 1));
    let mut settings = settings(key, None, &["10.0.0.1/32"]);
    settings.when_missing = WhenMissing::Skip;
    world.nodes[0].engine.apply(&[PeerChange::Set(settings)], world.now.moment);
    assert!(
        world.nodes[0].engine.peers().is_empty(),
        "settings for a missing peer are skipped when so asked"
    );
}

#[test]
fn a_new_private_key_ends_sessions_and_keeps_peers() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    let new = private_key(99);
    world.nodes[0].engine.set_private_key(Some(new.clone()));
    world.nodes[0].key = new.public_key();
    assert!(world.nodes[0].engine.indices.load().is_empty());
    world.introduce(1, 0);
    let old = private_key(1).public_key();
    world.nodes[1].engine.apply(&[PeerChange::Remove(old)], world.now.moment);
    world.send(0, &packet(0, 1, 2));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered.last(), Some(&packet(0, 1, 2)));
    // A peer cannot be ourselves.
    world.nodes[0]
        .engine
        .apply(&[PeerChange::Set(settings(new.public_key(), None, &["10.0.0.7/32"]))], world.now.moment);
    assert_eq!(world.nodes[0].engine.peers().len(), 1);
}

/// Handshakes are computed without a lock: what changes meanwhile must win, and nothing may be left behind.
#[test]
fn changes_in_the_middle_of_handshakes_leave_nothing_behind() {
    let mut world = World::pair();
    let engines = world.nodes.iter().map(|node| (&node.engine, node.key, node.address));
    let [(a, key_a, address_a), (b, key_b, address_b)] = engines.collect::<Vec<_>>()[..] else { panic!() };
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            for turn in 0..3000u16 {
                let mut add = settings(key_b, Some(address_b), &["10.0.0.1/32"]);
                add.preshared_key = Some([turn.to_le_bytes()[0] % 2; 32].into());
                match turn % 4 {
                    0 => a.apply(&[PeerChange::Remove(key_b)], world.now.moment),
                    1 => b.set_private_key(Some(private_key(if turn % 8 == 1 { 9 } else { 2 }))),
                    2 => {
                        a.apply(&[PeerChange::RemoveAll, PeerChange::Set(add.clone())], world.now.moment);
                    }
                    _ => a.apply(&[PeerChange::Set(add.clone())], world.now.moment),
                }
            }
        });
        let mut now = world.now;
        while !changer.is_finished() {
            now.moment = now.moment.plus(seconds(6));
            now.wall += seconds(6);
            let mut out = super::Outbox::new();
            a.handle_packet(&packet(0, 1, 1), now.moment, &mut out);
            a.handle_jobs(now, &mut out);
            a.handle_timers(now, &mut out);
            for (from, to) in [(address_a, b), (address_b, a), (address_a, b)] {
                let mut answers = super::Outbox::new();
                for (_, mut datagram) in out.drain(..) {
                    to.inbound(now.moment).open(&from.into(), &mut datagram);
                }
                to.handle_jobs(now, &mut answers);
                out = answers;
            }
        }
    });
    a.apply(&[PeerChange::RemoveAll], world.now.moment);
    b.apply(&[PeerChange::Remove(key_a)], world.now.moment);
    assert!(a.indices.load().is_empty() && b.indices.load().is_empty());
    // And it goes on.
    b.set_private_key(Some(private_key(2)));
    world.introduce(0, 1);
    world.introduce(1, 0);
    world.now.moment = world.now.moment.plus(seconds(1 << 32));
    world.now.wall += seconds(1 << 32);
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered.last(), Some(&packet(0, 1, 1)));
}

#[test]
fn a_device_that_is_down_is_silent() {
    let mut world = World::pair();
    world.change(1, |peer| peer.keepalive = Some(10));
    world.pass(SECOND);
    world.nodes[1].engine.set_running(false);
    let down = world.now.moment;
    world.send(0, &packet(0, 1, 1));
    world.pass(seconds(60));
    assert_eq!(world.nodes[1].sent.iter().filter(|(at, _)| *at > down).count(), 0);
    world.nodes[1].engine.set_running(true);
    world.pass(SECOND);
    let sent = world.sent_of_size(1, INITIATION_SIZE, down);
    assert_eq!(sent, 1, "its persistent keepalive begins at once");
}

#[test]
fn what_was_asked_for_when_the_device_went_down_is_asked_for_again() {
    let mut world = World::pair();
    let mut out = super::Outbox::new();
    world.nodes[0].engine.handle_packet(&packet(0, 1, 1), world.now.moment, &mut out);
    world.nodes[0].engine.set_running(false);
    world.work(0);
    world.nodes[0].engine.set_running(true);
    world.send(0, &packet(0, 1, 2));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered, [packet(0, 1, 2)]);
}

/// The owner of an address in the tunnel is nobody else in the other family, however the address is written.
#[test]
fn sources_are_checked_in_their_own_family() {
    let mut world = World::pair();
    let v6 = |source: &str| {
        let mut packet = vec![0; 40];
        (packet[0], packet[6], packet[7]) = (0x60, 59, 64);
        packet[8..24].copy_from_slice(&source.parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet[24..40].copy_from_slice(&"fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet
    };
    world.change(0, |peer| {
        let all = ["10.0.0.1/32", "fd00::1/128"].map(|prefix| prefix.parse().unwrap());
        peer.allowed_ips = AllowedIpsChange::Replace(all.to_vec());
    });
    world.change(1, |peer| {
        let all = ["10.0.0.0/32", "fd00:a::/64"].map(|prefix| prefix.parse().unwrap());
        peer.allowed_ips = AllowedIpsChange::Replace(all.to_vec());
    });
    world.send(0, &v6("fd00:a::5"));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered.len(), 1);
    let foreign =
        ["::ffff:10.0.0.0", "::10.0.0.0", "64:ff9b::10.0.0.0", "2002:a00:0::1", "a00::", "fd00:b::5", "::1"];
    for source in foreign {
        world.send(0, &v6(source));
        world.pass(SECOND);
    }
    world.send(0, &packet(7, 1, 1));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered.len(), 1);
    assert_eq!(world.nodes[1].engine.drops.read().foreign_source, foreign.len() as u64 + 1);
    // And the other way round: what looks like an IPv4 prefix is none.
    world.change(1, |peer| {
        let all = ["::ffff:10.0.0.0/104", "::/96"].map(|prefix| prefix.parse().unwrap());
        peer.allowed_ips = AllowedIpsChange::Replace(all.to_vec());
    });
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered.len(), 1);
}

/// Authentic, but no packets.
#[test]
fn what_a_peer_sends_must_be_a_packet_of_the_length_it_tells() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    let right = packet(0, 1, 2);
    let change = |at: usize, value: u8| {
        let mut packet = right.clone();
        packet[at] = value;
        packet
    };
    let long = |length: u16| {
        let mut packet = right.clone();
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet
    };
    let send = |world: &mut World, packet: &[u8]| {
        let address = "10.0.0.1".parse().unwrap();
        let Ok(carrier) = world.nodes[0].engine.carrier(address, world.now.moment) else {
            panic!("no session")
        };
        let mut out = super::Outbox::new();
        world.nodes[0].engine.seal_one(&carrier, packet, world.now.moment, &mut out);
        let source = world.nodes[0].address;
        world.arrive(1, source, out.remove(0).1)
    };
    let bad = [
        vec![0x45],
        vec![0x60; 20],
        change(0, 0x05),
        change(0, 0x55),
        change(0, 0xf5),
        long(19),
        long(0),
        long(33),
        long(u16::MAX),
    ];
    for packet in &bad {
        assert_eq!(send(&mut world, packet), Opened::Nothing, "{packet:x?}");
    }
    assert_eq!(world.nodes[1].engine.drops.read().bad_packet, bad.len() as u64);
    // Shorter than what was sent is possible: the rest is padding.
    send(&mut world, &long(20));
    assert_eq!(world.nodes[1].delivered.last(), Some(&long(20)[..20].to_vec()));
}

#[test]
fn a_peer_whose_key_nobody_can_have_harms_nobody() {
    let mut world = World::pair();
    for (number, key) in [[0; 32], [1; 32], [0xff; 32]].into_iter().enumerate() {
        let prefix = format!("10.0.0.{}/32", 100 + number);
        let endpoint = world.nodes[1].address;
        let peer = settings(key.into(), Some(endpoint), &[&prefix]);
        world.nodes[0].engine.apply(&[PeerChange::Set(peer)], world.now.moment);
        world.send(0, &packet(0, 100 + number as u8, 1));
    }
    world.pass(seconds(200));
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered, [packet(0, 1, 1)]);
}

#[test]
fn a_clock_that_is_set_back_does_not_end_the_handshakes() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    world.now.wall -= seconds(3600);
    for number in 2..400 {
        world.send(0, &packet(0, 1, number));
        world.pass(SECOND);
    }
    assert_eq!(world.nodes[1].delivered.len(), 399, "no packet was lost");
}

#[test]
fn replayed_and_altered_handshakes_are_refused() {
    let mut world = World::pair();
    let mut seen = Vec::new();
    let mut out = super::Outbox::new();
    world.nodes[0].engine.handle_packet(&packet(0, 1, 1), world.now.moment, &mut out);
    world.nodes[0].engine.handle_jobs(world.now, &mut out);
    seen.extend(out.drain(..).map(|(_, datagram)| datagram));
    let initiation = seen.remove(0);
    let source = world.nodes[0].address;
    for at in [0, 5, 20, 50, 100, 120] {
        let mut altered = initiation.clone();
        altered[at] ^= 1;
        world.arrive(1, source, altered);
        world.work(1);
        assert!(world.nodes[1].sent.is_empty(), "byte {at}");
    }
    for replay in 0..3 {
        world.arrive(1, source, initiation.clone());
        world.work(1);
        assert_eq!(world.nodes[1].sent.len(), 1, "the first is answered, replay {replay} is not");
        world.pass(seconds(1));
    }
}

/// Who has recorded initiations sends them again from elsewhere after the receiver has lost its timestamps.
#[test]
fn a_replay_after_a_start_does_not_move_the_endpoint() {
    let mut world = World::pair();
    let mut recorded = Vec::new();
    for _ in 0..2 {
        let mut out = super::Outbox::new();
        world.nodes[0].engine.handle_packet(&packet(0, 1, 1), world.now.moment, &mut out);
        world.nodes[0].engine.handle_jobs(world.now, &mut out);
        recorded.extend(out.drain(..).map(|(_, datagram)| datagram).filter(|datagram| datagram[0] == 1));
        world.pass(seconds(200));
    }
    assert_eq!(recorded.len(), 2);
    let home = world.nodes[0].address;
    world.nodes[1].engine = Engine::new(Some(private_key(2)), 1420, Box::new(|| {}));
    world.nodes[1].engine.set_port(1000);
    world.introduce(1, 0);
    let elsewhere = SocketAddr::from(([203, 0, 113, 66], 6666));
    for replay in &recorded {
        world.arrive(1, elsewhere, replay.clone());
        world.work(1);
        assert_eq!(world.peer(1).endpoint, Some(home));
        world.pass(SECOND);
    }
    // The peer itself moves it, with the first packet of a session.
    let moved = SocketAddr::from(([192, 0, 2, 77], 1000));
    world.nodes[0].address = moved;
    world.pass(seconds(200));
    world.send(0, &packet(0, 1, 2));
    world.pass(seconds(10));
    assert_eq!(world.peer(1).endpoint, Some(moved));
    assert!(world.nodes[1].delivered.contains(&packet(0, 1, 2)));
}

#[test]
fn under_load_only_those_who_prove_their_address_get_a_handshake() {
    let mut world = World::pair();
    let mut out = super::Outbox::new();
    world.nodes[0].engine.handle_packet(&packet(0, 1, 1), world.now.moment, &mut out);
    world.nodes[0].engine.handle_jobs(world.now, &mut out);
    let (_, initiation) = out.remove(0);
    // A flood of initiations with a valid mac1, from many addresses.
    for port in 1..2000 {
        world.arrive(1, SocketAddr::from(([203, 0, 113, 1], port)), initiation.clone());
    }
    world.work(1);
    let cookies = world.sent_of_size(1, crate::message::COOKIE_REPLY_SIZE, world.now.moment);
    let responses = world.sent_of_size(1, RESPONSE_SIZE, world.now.moment);
    assert!(cookies > 1500, "{cookies} cookies");
    assert!(responses <= 1, "{responses} responses");
    // The real one is refused as well, gets a cookie, and its next try is accepted while the flood goes on.
    let source = world.nodes[0].address;
    let mut got_through = false;
    for _ in 0..20 {
        for port in 1..1000 {
            world.arrive(1, SocketAddr::from(([203, 0, 113, 2], port)), initiation.clone());
        }
        world.pass(SECOND);
        world.send(0, &packet(0, 1, 7));
        got_through = !world.nodes[1].delivered.is_empty();
        if got_through {
            break;
        }
    }
    assert!(got_through, "the peer at {source} gets its session");
}

#[test]
fn garbage_is_counted_and_nothing_else() {
    let mut world = World::pair();
    world.send(0, &packet(0, 1, 1));
    world.pass(SECOND);
    let source = world.nodes[0].address;
    let before = world.nodes[1].delivered.len();
    for length in 0..300 {
        for kind in 0..6u8 {
            let mut datagram = vec![length as u8; length];
            if let Some(first) = datagram.first_mut() {
                *first = kind;
            }
            // Half of them with the reserved bytes right.
            if length % 2 == 0 {
                datagram.iter_mut().skip(1).take(3).for_each(|byte| *byte = 0);
            }
            assert_eq!(world.arrive(1, source, datagram), Opened::Nothing);
        }
    }
    world.work(1);
    assert_eq!(world.nodes[1].delivered.len(), before);
    let drops = world.nodes[1].engine.drops.read();
    assert!(drops.malformed > 1000 && drops.unknown_session > 100, "{drops:?}");
    world.send(0, &packet(0, 1, 2));
    world.pass(SECOND);
    assert_eq!(world.nodes[1].delivered.len(), before + 1, "the device works on");
    for bad in [&[][..], &[0x45], &[0x60; 39], &[0x45; 20], &[0xff; 100]] {
        world.send(0, bad);
    }
    assert_eq!(world.nodes[0].engine.drops.read().not_ip, 5);
}
