//! Tests of devices that begin handshakes before there is a packet to send.

use std::time::Duration;

use super::world::World;
use crate::message::INITIATION_SIZE;

const SECOND: Duration = Duration::from_secs(1);

fn greeters() -> World {
    let world = World::strangers(2);
    world.nodes.iter().for_each(|node| node.engine.set_greets(true));
    world
}

#[test]
fn who_is_added_second_finds_the_other_ready() {
    let mut world = greeters();
    world.introduce(0, 1);
    world.pass(4 * SECOND);
    assert!(world.peer(0).last_handshake.is_none(), "the other does not know it yet");
    world.introduce(1, 0);
    world.pass(Duration::from_millis(200));
    assert!(world.peer(0).last_handshake.is_some() && world.peer(1).last_handshake.is_some());
}

/// Behind NAT only one of them can begin, and it may do so before the other one knows it.
#[test]
fn the_one_behind_nat_is_heard_soon_after_the_other_knows_it() {
    let mut world = greeters();
    world.introduce(0, 1);
    world.pass(Duration::from_millis(600));
    world.nodes[1].engine.set_greets(false);
    world.introduce(1, 0);
    let since = world.now.moment;
    world.pass(SECOND);
    assert!(world.peer(0).last_handshake.is_some(), "not within a second of {since:?}");
}

/// As an agent sets its device up: peers with keepalives first, then the interface up.
#[test]
fn going_up_with_a_keepalive_hurries_as_well() {
    let mut world = greeters();
    world.nodes[0].engine.set_running(false);
    world.introduce(0, 1);
    world.change(0, |peer| peer.keepalive = Some(10));
    world.nodes[0].engine.set_running(true);
    world.pass(Duration::from_millis(600));
    world.nodes[1].engine.set_greets(false);
    world.introduce(1, 0);
    world.pass(SECOND);
    assert!(world.peer(0).last_handshake.is_some(), "not within a second");
}

#[test]
fn who_never_answers_is_soon_tried_as_seldom_as_anyone() {
    let mut world = greeters();
    world.introduce(0, 1);
    let start = world.now.moment;
    world.pass(Duration::from_millis(5200));
    let hurried = world.sent_of_size(0, INITIATION_SIZE, start);
    assert_eq!(
        hurried, 5,
        "at 0, 0.25, 0.75, 1.75 and 3.75 s, and up to a third of a second later each time"
    );
    let later = world.now.moment;
    world.pass(10 * SECOND);
    let patient = world.sent_of_size(0, INITIATION_SIZE, later);
    assert!((1..=2).contains(&patient), "{patient} in ten seconds, not one every five");
}

#[test]
fn going_up_greets_again() {
    let mut world = World::pair();
    world.nodes[0].engine.set_greets(true);
    world.nodes[0].engine.set_running(false);
    world.nodes[0].engine.set_running(true);
    world.pass(SECOND);
    assert!(world.peer(1).last_handshake.is_some());
}
