//! Hosts on which others have routes, filters and rules, too: the mesh works beside them, whoever came first.

use kilo_lab::{Lab, NodeRef};

use crate::common;

/// A corporate network, all of RFC 1918 and RFC 4193, by way of the LAN's router.
const WIDE: &str = "\
ip route add 10.0.0.0/8 via GATEWAY4
ip route add 172.16.0.0/12 via GATEWAY4 metric 10
ip route add 192.168.0.0/16 via GATEWAY4
ip -6 route add fd00::/8 via GATEWAY6
";

/// Only packets that come from where answers go to are taken.
const STRICT: &str = "\
sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1
";

/// As `tailscaled` makes them (net/tsconst, wgengine/router), with a route of its own.
const TAILSCALE: &str = "\
ip FAMILY rule add priority 5210 fwmark 0x80000/0xff0000 table main
ip FAMILY rule add priority 5230 fwmark 0x80000/0xff0000 table default
ip FAMILY rule add priority 5250 fwmark 0x80000/0xff0000 type unreachable
ip FAMILY rule add priority 5270 table 52
";

/// As `wg-quick` makes them for a tunnel that takes everything; the tunnel itself is the LAN's router here.
const WG_QUICK: &str = "\
ip FAMILY rule add not fwmark 0xca6c table 51820
ip FAMILY rule add table main suppress_prefixlength 0
";

fn run(node: NodeRef<'_>, script: &str) {
    let number = 101 + u32::from(node.layout().name.as_bytes()[0] - b'a');
    for line in script.lines() {
        let families: &[&str] = if line.contains("FAMILY") { &["-4", "-6"] } else { &[""] };
        for family in families {
            let line = line
                .replace("FAMILY", family)
                .replace("GATEWAY4", &format!("10.{number}.0.1"))
                .replace("GATEWAY6", &format!("fd00:{number}::1"));
            node.read(&["sh", "-c", &line]).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

fn everywhere(lab: &Lab, script: &str) {
    lab.nodes().for_each(|node| run(node, script));
}

fn wide_tunnel(lab: &Lab) {
    everywhere(
        lab,
        "ip route add default via GATEWAY4 table 51820\nip -6 route add default via GATEWAY6 table 51820\n",
    );
    everywhere(lab, WG_QUICK);
}

#[test]
fn pods_reach_each_other_on_hosts_with_wide_routes_and_strict_filters() {
    let mut spec = common::without_agents("hwide");
    // Half of it is there before the agents, half comes later.
    spec.mesh.agents = true;
    let lab = common::up(spec);
    everywhere(&lab, WIDE);
    everywhere(&lab, STRICT);
    common::assert_converges(&lab);
    for node in lab.nodes() {
        let filters = node.read(&["sysctl", "-n", "net.ipv4.conf.all.rp_filter"]).expect("it is there");
        assert_eq!(filters.trim(), "1");
    }
    // Agents that start with the routes already there.
    for name in ["a1", "b1"] {
        let node = lab.node(name).expect("the demo has it");
        node.kill9().expect("it runs");
        node.start_agent(&[]).expect("it starts");
    }
    common::assert_converges(&lab);
}

#[test]
fn pods_reach_each_other_beside_tailscale_and_wg_quick_whoever_comes_first() {
    let lab = common::converged(common::with_agents("hrule"));
    let rules = |node: NodeRef<'_>| node.read(&["ip", "rule"]).expect("ip runs");
    everywhere(&lab, TAILSCALE);
    common::assert_converges(&lab);
    // Without a priority the kernel puts these before ours.
    wide_tunnel(&lab);
    for node in lab.nodes() {
        let name = &node.layout().name;
        common::eventually(
            &format!("our rule being the first on {name}"),
            common::patiently(std::time::Duration::from_secs(10)),
            || {
                let text = rules(node);
                let position = |words: &str| text.lines().position(|line| line.contains(words));
                let first = position("lookup 1108")
                    .zip(position("lookup 51820"))
                    .is_some_and(|(ours, other)| ours < other);
                Ok((!first).then_some(text))
            },
        );
    }
    common::assert_converges(&lab);
    // An agent that starts where all of them are.
    for name in ["a1", "a2"] {
        let node = lab.node(name).expect("the demo has it");
        node.stop_agent().unwrap_or_else(|error| panic!("{error}"));
        assert!(!rules(node).contains("1108"), "{}", rules(node));
        assert!(
            rules(node).contains("51820") && rules(node).contains("5270"),
            "theirs stay: {}",
            rules(node)
        );
        node.start_agent(&[]).expect("it starts");
    }
    common::assert_converges(&lab);
    // The tunnel of wg-quick ends: ours go back to where they belong.
    everywhere(
        &lab,
        "ip FAMILY rule del table 51820\nip FAMILY rule del table main suppress_prefixlength 0\n",
    );
    for node in lab.nodes() {
        let name = &node.layout().name;
        common::eventually(
            &format!("our rule's own place on {name}"),
            common::patiently(std::time::Duration::from_secs(10)),
            || {
                let text = rules(node);
                Ok((!text.contains("1108:")).then_some(text))
            },
        );
    }
    common::assert_converges(&lab);
}
