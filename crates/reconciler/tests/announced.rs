//! What a node announces over time: across restarts, while links flap, and when the status or the operator says something else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use hostnet::{HostRoute, Interface, MAIN_TABLE};
use mesh::{Forced, Node, Published};
use reconciler::{NodeUpdate, Watch};
use support::{World, key, node};

const SECOND: Duration = Duration::from_secs(1);

/// `endpoint | internal addresses`.
fn text(status: &Published) -> String {
    let endpoint = status.endpoint.as_ref().and_then(mesh::Endpoint::ip).map(|ip| ip.to_string());
    let internal: Vec<_> = status.internal_ips.iter().map(ToString::to_string).collect();
    format!("{} | {}", endpoint.unwrap_or_default(), internal.join(" "))
}

fn announced(world: &World) -> String {
    text(world.patches.last().unwrap())
}

/// Everything different that was announced, in order.
fn history(world: &World) -> Vec<String> {
    let mut all: Vec<String> = world.patches.iter().map(text).collect();
    all.dedup();
    all
}

/// The links change, and the kernel says so.
fn change(world: &mut World, change: impl FnOnce(&mut hostnet::HostFacts)) {
    change(&mut world.facts);
    world.reconciler.handle_notice(world.now);
    world.settle();
}

fn set_link(world: &mut World, name: &str, kind: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|net| net.parse().unwrap()).collect();
    let link = Interface { running: true, mtu: 1500, kind: kind.to_owned(), addresses, ..Default::default() };
    change(world, |facts| drop(facts.interfaces.insert(name.parse().unwrap(), link)));
}

fn remove_link(world: &mut World, name: &str) {
    change(world, |facts| drop(facts.interfaces.remove(&name.parse().unwrap())));
}

/// An agent that starts where another one has announced this; the facts are as they are.
fn restarted(world: World, endpoint: &str, internal_ips: &[&str], forced: Forced) -> World {
    let mut next = World::new();
    next.facts = world.facts;
    let own = Node {
        endpoint: endpoint.parse().ok(),
        key: Some(key(1).public_key()),
        internal_ips: internal_ips.iter().map(|net| net.parse().unwrap()).collect(),
        internal_ips_forced: forced.internal_ips.is_some(),
        ..node("a", "one", 1)
    };
    let update = NodeUpdate { node: Arc::new(own), problems: Vec::new(), forced: Some(forced) };
    next.reconciler.handle_node("a", Some(update), next.now);
    next.see(node("b", "two", 2));
    next.reconciler.handle_watch(Watch::Synced, next.now);
    next.settle();
    next
}

const PLAIN: &str = "203.0.113.1 | 10.0.0.1/24";

#[test]
fn bridges_vpns_and_virtual_addresses_come_and_go() {
    let mut world = World::with([node("b", "two", 2)]);
    assert_eq!(history(&world), [PLAIN]);
    set_link(&mut world, "br-1f2e", "bridge", &["10.0.1.1/16"]);
    set_link(&mut world, "aaa", "wireguard", &["10.0.2.1/24", "192.0.2.1/24"]);
    set_link(
        &mut world,
        "eth0",
        "",
        &["10.0.0.1/24", "203.0.113.1/24", "10.0.0.0/32", "192.0.2.2/32", "10.0.3.1/24"],
    );
    world.pass(60 * SECOND, &[]);
    let mut world = restarted(world, "203.0.113.1:51820", &["10.0.0.1/24"], Forced::default());
    remove_link(&mut world, "aaa");
    remove_link(&mut world, "br-1f2e");
    set_link(&mut world, "eth0", "", &["10.0.0.1/24", "203.0.113.1/24"]);
    world.pass(60 * SECOND, &[]);
    assert_eq!(history(&world), [PLAIN]);
}

#[test]
fn an_address_that_is_gone_for_seconds_is_still_announced() {
    let mut world = World::with([node("b", "two", 2)]);
    set_link(&mut world, "eth1", "", &["192.168.1.5/24"]);
    let flap = |world: &mut World, seconds: u32| {
        change(world, |facts| facts.interfaces.get_mut(&"eth0".parse().unwrap()).unwrap().running = false);
        world.pass(seconds * SECOND, &[]);
        change(world, |facts| facts.interfaces.get_mut(&"eth0".parse().unwrap()).unwrap().running = true);
    };
    for _ in 0..5 {
        flap(&mut world, 7);
        // A lease that is renewed.
        set_link(&mut world, "eth0", "", &["203.0.113.1/24"]);
        set_link(&mut world, "eth0", "", &["10.0.0.1/24", "203.0.113.1/24"]);
    }
    assert_eq!(history(&world), [PLAIN]);
    flap(&mut world, 12);
    world.pass(60 * SECOND, &[]);
    assert_eq!(history(&world)[1..], ["192.168.1.5 | 192.168.1.5/24", "203.0.113.1 | 192.168.1.5/24"]);
}

#[test]
fn a_restart_goes_on_with_what_was_announced_but_not_with_a_wrong_choice() {
    let mut world = World::with([node("b", "two", 2)]);
    set_link(&mut world, "br-1f2e", "bridge", &["172.18.0.1/16"]);
    set_link(&mut world, "eth1", "", &["192.168.1.5/24"]);
    let world = restarted(world, "203.0.113.1:51820", &["192.168.1.5/24"], Forced::default());
    assert_eq!(history(&world), ["203.0.113.1 | 192.168.1.5/24"]);
    let mut world = restarted(world, "203.0.113.1:51820", &["172.18.0.1/16"], Forced::default());
    assert_eq!(history(&world), [PLAIN]);
    // A link that is slow at boot is waited for; then the address is another one.
    remove_link(&mut world, "eth1");
    let mut world = restarted(world, "203.0.113.1:51820", &["192.168.1.5/24"], Forced::default());
    assert_eq!(history(&world), ["203.0.113.1 | 192.168.1.5/24"]);
    world.pass(20 * SECOND, &[]);
    assert_eq!(history(&world)[1..], [PLAIN]);
}

#[test]
fn the_status_may_change_at_any_time() {
    let mut world = World::with([node("b", "two", 2)]);
    set_link(&mut world, "eth1", "", &["192.168.1.5/24", "198.51.100.1/24"]);
    world.reconciler.handle_node_addresses(&["192.168.1.5".parse().unwrap()].into(), world.now);
    world.settle();
    assert_eq!(announced(&world), "203.0.113.1 | 192.168.1.5/24");
    let all = ["192.168.1.5", "198.51.100.1"].map(|text| text.parse().unwrap());
    world.reconciler.handle_node_addresses(&all.into(), world.now);
    world.pass(5 * SECOND, &[]);
    assert_eq!(announced(&world), "198.51.100.1 | 192.168.1.5/24");
    // That it says less is no reason to leave what is there.
    world.reconciler.handle_node_addresses(&[].into(), world.now);
    world.pass(60 * SECOND, &[]);
    assert_eq!(announced(&world), "198.51.100.1 | 192.168.1.5/24");
}

/// A name server that is slow at the first start changes nothing in the end.
#[test]
fn the_hostname_may_be_known_later() {
    let mut world = World::new();
    world.see(Node { endpoint: None, key: None, internal_ips: Vec::new(), ..node("a", "one", 1) });
    set_link(&mut world, "eth1", "", &["192.168.1.5/24"]);
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.settle();
    assert_eq!(announced(&world), PLAIN);
    let named = vec!["192.168.1.5".parse().unwrap()];
    world.reconciler.handle_hostname(named.clone(), world.now);
    world.pass(5 * SECOND, &[]);
    assert_eq!(announced(&world), "203.0.113.1 | 192.168.1.5/24");
    let mut world = restarted(world, "203.0.113.1:51820", &["10.0.0.1/24"], Forced::default());
    world.reconciler.handle_hostname(named, world.now);
    world.pass(5 * SECOND, &[]);
    assert_eq!(history(&world), [PLAIN]);
}

/// What an operator forces is announced at once, and what was chosen comes back after it, also where the agent started meanwhile.
#[test]
fn what_is_forced_is_not_remembered() {
    let forced = Forced { endpoint: "192.0.2.9:1".parse().ok(), internal_ips: Some(Vec::new()) };
    let tell = |world: &mut World, forced: Forced| {
        let update =
            NodeUpdate { node: Arc::new(node("a", "one", 1)), problems: Vec::new(), forced: Some(forced) };
        world.reconciler.handle_node("a", Some(update), world.now);
        world.pass(5 * SECOND, &[]);
    };
    let mut world = World::with([node("b", "two", 2)]);
    tell(&mut world, forced.clone());
    assert_eq!(announced(&world), "192.0.2.9 | ");
    let mut world = restarted(world, "192.0.2.9:1", &[], forced);
    assert_eq!(announced(&world), "192.0.2.9 | ");
    tell(&mut world, Forced::default());
    assert_eq!(announced(&world), PLAIN);
}

/// What follows the same address, or the next lease, after it was gone for so long that something else was announced.
#[test]
fn what_was_lost_comes_back_beside_what_stayed() {
    const BOTH: [&str; 2] = ["10.0.0.1/24", "203.0.113.1/24"];
    for (left, lost, back, expected) in [
        (["10.0.0.1/24"], "10.0.0.1 | 10.0.0.1/24", BOTH, PLAIN),
        (["203.0.113.1/24"], "203.0.113.1 | ", BOTH, PLAIN),
        (
            ["10.0.0.1/24"],
            "10.0.0.1 | 10.0.0.1/24",
            ["10.0.0.1/24", "198.51.100.7/24"],
            "198.51.100.7 | 10.0.0.1/24",
        ),
        (
            ["203.0.113.1/24"],
            "203.0.113.1 | ",
            ["192.168.1.5/24", "203.0.113.1/24"],
            "203.0.113.1 | 192.168.1.5/24",
        ),
    ] {
        let mut world = World::with([node("b", "two", 2)]);
        set_link(&mut world, "eth0", "", &left);
        world.pass(20 * SECOND, &[]);
        assert_eq!(announced(&world), lost);
        set_link(&mut world, "eth0", "", &back);
        world.pass(5 * SECOND, &[]);
        assert_eq!(announced(&world), expected, "{left:?} {back:?}");
        // As at a boot where one of them is slow: the agent before this one announced both.
        set_link(&mut world, "eth0", "", &left);
        let mut world = restarted(world, "203.0.113.1:51820", &["10.0.0.1/24"], Forced::default());
        world.pass(20 * SECOND, &[]);
        assert_eq!(announced(&world), lost);
        set_link(&mut world, "eth0", "", &back);
        world.pass(5 * SECOND, &[]);
        assert_eq!(announced(&world), expected, "{left:?} {back:?} after a restart");
    }
    // A public address of a single host that went is a virtual one: it does not come back with each turn it takes.
    let mut world = World::with([node("b", "two", 2)]);
    set_link(&mut world, "eth0", "", &["10.0.0.1/24"]);
    world.pass(20 * SECOND, &[]);
    set_link(&mut world, "eth0", "", &["10.0.0.1/24", "203.0.113.1/32"]);
    world.pass(20 * SECOND, &[]);
    assert_eq!(announced(&world), "10.0.0.1 | 10.0.0.1/24");
}

#[test]
fn every_address_may_be_gone_for_its_own_ten_seconds() {
    let mut world = World::with([node("b", "two", 2)]);
    set_link(&mut world, "eth0", "", &["10.0.0.1/24"]);
    world.pass(6 * SECOND, &[]);
    set_link(&mut world, "eth0", "", &["203.0.113.1/24"]);
    world.pass(6 * SECOND, &[]);
    set_link(&mut world, "eth0", "", &["10.0.0.1/24", "203.0.113.1/24"]);
    world.pass(20 * SECOND, &[]);
    assert_eq!(history(&world), [PLAIN]);
}

/// With `promote_secondaries`, a lease that is renewed makes the virtual address the first of its network.
#[test]
fn a_virtual_address_that_the_kernel_promotes_replaces_nothing() {
    let mut world = World::with([node("b", "two", 2)]);
    let set = |world: &mut World, addresses: &[&str], secondary: &str| {
        set_link(world, "eth0", "", addresses);
        change(world, |facts| {
            let link = facts.interfaces.get_mut(&"eth0".parse().unwrap()).unwrap();
            link.secondary = secondary.parse().into_iter().collect();
        });
    };
    set(&mut world, &["10.0.0.1/24", "10.0.0.0/24", "203.0.113.1/24"], "10.0.0.0");
    set(&mut world, &["10.0.0.0/24", "203.0.113.1/24"], "");
    set(&mut world, &["10.0.0.0/24", "203.0.113.1/24", "10.0.0.1/24"], "10.0.0.1");
    world.pass(60 * SECOND, &[]);
    assert_eq!(history(&world), [PLAIN]);
    let mut world = restarted(world, "203.0.113.1:51820", &["10.0.0.1/24"], Forced::default());
    world.pass(60 * SECOND, &[]);
    assert_eq!(history(&world), [PLAIN]);
}

/// A VPN, or a second way out, takes the default routes of links that count because of them.
#[test]
fn what_this_agent_chose_stays_when_default_routes_move() {
    for (kind, addresses, expected) in [
        ("ppp", &["203.0.113.1/32"][..], "203.0.113.1 | "),
        ("openvswitch", &["10.0.0.1/24", "203.0.113.1/24"], PLAIN),
        ("bridge", &["10.0.0.1/24"], "10.0.0.1 | 10.0.0.1/24"),
        ("veth", &["10.0.0.1/32"], "10.0.0.1 | 10.0.0.1/32"),
        ("", &["10.0.0.1/24", "2001:db8::1/128"], "2001:db8::1 | 10.0.0.1/24"),
    ] {
        let mut world = World::new();
        let link = world.facts.interfaces.values_mut().next().unwrap();
        link.kind = kind.to_owned();
        link.addresses = addresses.iter().map(|net| net.parse().unwrap()).collect();
        world.facts.routes = ["0.0.0.0/0", "::/0"].map(|all| route(all, "eth0")).into();
        world.see(Node { endpoint: None, key: None, internal_ips: Vec::new(), ..node("a", "one", 1) });
        world.reconciler.handle_watch(Watch::Synced, world.now);
        world.settle();
        set_link(&mut world, "tun0", "tun", &["10.8.0.2/24", "192.0.2.8/32"]);
        change(&mut world, |facts| {
            facts.default_interface = "tun0".parse().ok();
            facts.routes = ["0.0.0.0/0", "::/0"].map(|all| route(all, "tun0")).into();
        });
        world.pass(60 * SECOND, &[]);
        assert_eq!(history(&world), [expected], "{kind}");
    }
}

/// What another agent announced wrongly does not become right by coming late.
#[test]
fn a_bridge_that_another_agent_announced_is_not_kept_when_it_comes_after_the_start() {
    let world = World::with([node("b", "two", 2)]);
    let mut world = restarted(world, "203.0.113.1:51820", &["172.18.0.1/16"], Forced::default());
    set_link(&mut world, "br0", "bridge", &["172.18.0.1/16"]);
    world.pass(20 * SECOND, &[]);
    assert_eq!(announced(&world), PLAIN);
}

/// A new lease, another network card, another prefix, another dialled session; and, at once, a further network card.
#[test]
fn what_really_changes_is_announced_within_seconds() {
    type Links = [(&'static str, &'static str, &'static [&'static str])];
    let start: &Links = &[("eth0", "", &["10.0.0.1/24", "203.0.113.1/24"])];
    let changes: &[(&Links, &str)] = &[
        (&[("eth0", "", &["10.0.0.77/24", "203.0.113.1/24"])], "203.0.113.1 | 10.0.0.77/24"),
        (&[("eth0", "", &["10.0.0.1/24", "198.51.100.3/24"])], "198.51.100.3 | 10.0.0.1/24"),
        (&[("eth5", "", &["10.9.9.1/24", "198.51.100.3/24"])], "198.51.100.3 | 10.9.9.1/24"),
        (
            &[("vmbr0", "bridge", &["10.0.0.1/24"]), ("ppp0", "ppp", &["198.51.100.3/32"])],
            "198.51.100.3 | 10.0.0.1/24",
        ),
        (&[("eth0", "", &["10.0.0.1/24", "2001:db8:2::5/64"])], "2001:db8:2::5 | 10.0.0.1/24"),
        (&[("eth0", "", &["fd00:2::5/64"])], "fd00:2::5 | fd00:2::5/64"),
        (
            &[("eth0", "", &["10.0.0.1/24", "203.0.113.1/24"]), ("eth1", "", &["fd00:1::5/64"])],
            "203.0.113.1 | 10.0.0.1/24 fd00:1::5/64",
        ),
    ];
    for (links, expected) in changes {
        let mut world = World::with([node("b", "two", 2)]);
        assert_eq!(announced(&world), PLAIN);
        for (links, expected) in [(*links, *expected), (start, PLAIN)] {
            let set = |facts: &mut hostnet::HostFacts| {
                facts.interfaces.clear();
                facts.default_interface = links.last().and_then(|(name, ..)| name.parse().ok());
                for (name, kind, addresses) in links {
                    let addresses = addresses.iter().map(|net| net.parse().unwrap()).collect();
                    let kind = (*kind).to_owned();
                    let link = Interface { running: true, mtu: 1500, kind, addresses, ..Default::default() };
                    facts.interfaces.insert(name.parse().unwrap(), link);
                }
            };
            change(&mut world, set);
            world.pass(15 * SECOND, &[]);
            assert_eq!(announced(&world), expected, "{links:?}");
        }
    }
}

fn route(destination: &str, link: &str) -> HostRoute {
    HostRoute {
        destination: destination.parse().unwrap(),
        gateway: None,
        link: link.parse().ok(),
        table: MAIN_TABLE,
    }
}
