//! Notices: what others do to our things is told at once, what we do ourselves and what does not matter is not.
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, time::Duration};

use dataplane::{DataPlane, Notice, Subject, Watch};
use hostnet::{Address, Firewall, HostState, Rule};
use mesh::prefix::Family;
use support::*;

fn desired() -> HostState {
    let mut desired = with_interface();
    desired.addresses = [Address { link: name(KILO), net: "10.4.0.1/16".parse().unwrap() }].into();
    desired.routes =
        [route("10.7.0.0/24", Some("10.4.0.2"), KILO), route("fd07::/64", Some("fd01::2"), "eth0")].into();
    desired.rules = [Rule {
        priority: 1107,
        from: Some("10.2.1.0/24".parse().unwrap()),
        to: None,
        iif: None,
        unless: None,
        table: hostnet::KILO_TABLE,
        family: Family::V4,
    }]
    .into();
    desired.firewall = Some(Firewall {
        masquerade_from: ["10.2.1.0/24".parse().unwrap()].into(),
        forward: ["10.2.1.0/24".parse().unwrap()].into(),
        ..Firewall::default()
    });
    desired
}

/// Everything that is told until nothing more comes for a while.
async fn settle(watch: &mut Watch) -> BTreeSet<Subject> {
    let mut seen = BTreeSet::new();
    while let Ok(notice) = tokio::time::timeout(Duration::from_millis(300), watch.next()).await {
        match notice.unwrap() {
            Notice::Changed(subjects) => seen.extend(subjects),
            Notice::Resync => panic!("nothing should be lost here"),
        }
    }
    seen
}

/// Waits for a notice about a subject.
async fn told(watch: &mut Watch, what: &str) -> BTreeSet<Subject> {
    match tokio::time::timeout(Duration::from_secs(5), watch.next()).await {
        Ok(Ok(Notice::Changed(subjects))) => subjects,
        other => panic!("{what}: no notice but {other:?}"),
    }
}

async fn prepared() -> (DataPlane, Watch) {
    underlay();
    run("iptables -P FORWARD DROP");
    let mut plane = open().await;
    let mut watch = plane.watch().await.unwrap();
    reach(&mut plane, &desired()).await;
    settle(&mut watch).await;
    (plane, watch)
}

#[test]
fn what_others_do_is_told() {
    in_namespace(async || {
        let (mut plane, mut watch) = prepared().await;
        for (command, subject) in [
            ("ip route del 10.7.0.0/24 table 1108", Subject::Routes),
            ("ip -6 route del fd07::/64 table 1108", Subject::Routes),
            ("ip route replace 10.7.0.0/24 via 10.1.0.5 dev eth0 table 1108", Subject::Routes),
            ("ip -6 route replace fd07::/64 via fd01::5 dev eth0 table 1108", Subject::Routes),
            ("ip route add default via 10.1.0.254", Subject::Routes),
            ("ip rule del priority 1107", Subject::Rules),
            ("ip rule add not fwmark 0xca6c table 51820", Subject::Rules),
            ("ip addr del 10.4.0.1/16 dev kilo0", Subject::Addresses),
            ("ip addr add 10.1.0.77/16 dev eth0", Subject::Addresses),
            ("ip link set kilo0 mtu 1300", Subject::Links),
            ("ip link set kilo0 down", Subject::Links),
            ("ip link del kilo0", Subject::Links),
            ("nft flush table inet kilo", Subject::Firewall),
            ("nft delete table inet kilo", Subject::Firewall),
            ("nft flush ruleset", Subject::Firewall),
            ("nft delete element inet kilo masquerade_from4 '{ 10.2.1.0/24 }'", Subject::Firewall),
        ] {
            run(command);
            let subjects = told(&mut watch, command).await;
            assert!(subjects.contains(&subject), "{command}: {subjects:?}");
            reach(&mut plane, &desired()).await;
            settle(&mut watch).await;
        }
        run("iptables -P FORWARD DROP");
        reach(&mut plane, &desired()).await;
        settle(&mut watch).await;
        run("iptables -F FORWARD");
        assert_eq!(told(&mut watch, "flushing FORWARD").await, [Subject::Firewall].into());
    });
}

#[test]
fn our_own_changes_are_not_told() {
    in_namespace(async || {
        let (mut plane, mut watch) = prepared().await;
        let mut next = desired();
        next.routes = (0..500)
            .map(|i| route(&format!("10.8.{}.{}/32", i / 250, i % 250), Some("10.4.0.2"), KILO))
            .collect();
        next.rules.clear();
        next.addresses = [Address { link: name(KILO), net: "10.4.0.3/16".parse().unwrap() }].into();
        next.firewall = Some(Firewall::default());
        reach(&mut plane, &next).await;
        next.firewall = None;
        reach(&mut plane, &next).await;
        assert_eq!(settle(&mut watch).await, [].into());
    });
}

#[test]
fn what_does_not_matter_is_not_told() {
    in_namespace(async || {
        let (_plane, mut watch) = prepared().await;
        for command in [
            "ip -6 route add fe80:7::/64 dev eth0",
            "ip rule add from 10.2.0.0/16 table 100",
            "nft add table ip other",
            "iptables -t nat -A POSTROUTING -j ACCEPT",
            "iptables -A INPUT -j ACCEPT",
        ] {
            run(command);
            assert_eq!(settle(&mut watch).await, [].into(), "{command}");
        }
    });
}

/// Routes of others say what the mesh may not have; there may be many of them.
#[test]
fn routes_of_others_are_a_subject_of_their_own() {
    in_namespace(async || {
        let (_plane, mut watch) = prepared().await;
        for command in [
            "ip route add 10.200.0.0/16 via 10.1.0.9 dev eth0 proto bird",
            "ip route del 10.200.0.0/16",
            "ip route add 10.7.0.0/24 dev eth0 table 100",
            "ip route add blackhole 192.0.2.0/24",
            "ip -6 route add fd99::/64 via fd01::9 dev eth0",
        ] {
            run(command);
            assert_eq!(settle(&mut watch).await, [Subject::HostRoutes].into(), "{command}");
        }
    });
}

/// A thousand deletions are told in a few notices, and none of them is lost.
#[test]
fn notices_are_joined() {
    in_namespace(async || {
        let (mut plane, mut watch) = prepared().await;
        let mut next = desired();
        next.routes = (0..1000)
            .map(|i| route(&format!("10.8.{}.{}/32", i / 250, i % 250), Some("10.4.0.2"), KILO))
            .collect();
        reach(&mut plane, &next).await;
        run("ip route flush table 1108");
        let subjects = told(&mut watch, "flushing the routes").await;
        assert_eq!(subjects, [Subject::Routes].into());
        assert_eq!(settle(&mut watch).await, [].into());
        reach(&mut plane, &next).await;
    });
}
