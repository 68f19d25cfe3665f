//! What a node announces stays the same while virtual addresses, bridges of containers, VPNs and further addresses come, are there
//! when an agent starts, and go; and no packet between pods is lost meanwhile. Every further address sorts before the node's own.

mod common;

use std::{collections::BTreeMap, time::Duration};

use kilo_lab::{Access, Family, Lab, Node, NodeRef, Running, Site, Spec, Stream};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long an agent may take to have seen what has changed on its host.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// As keepalived and kube-vip give them to one host at a time: in the LAN, beside it, public, of IPv6.
const VIRTUAL: &[&str] = &[
    "address DO 10.SITE.0.10NODE/32 dev eth0",
    "address DO 10.1.1.10NODE/32 dev eth0",
    "address DO 192.0.2.10NODE/32 dev eth0",
    "address DO fd00:SITE::10NODE/128 dev eth0",
    "address DO 2001:db8:0:9::NODE/128 dev eth0",
    "address DO 10.SITE.0.9/32 dev lo",
];

/// Further addresses of networks: one in the LAN's, which the kernel says comes after another, and one in no other's.
const FURTHER: &[&str] = &[
    "address DO 10.SITE.0.10FURTHER/24 dev eth0",
    "address DO 10.1.2.10NODE/24 dev eth0",
    "address DO fd00:1::10NODE/64 dev eth0 nodad",
];

/// What `docker compose up` makes, the same on every host.
const CONTAINERS: &[&str] = &[
    "link add br-1f2e3d4c5b6a type bridge",
    "link add veth7a6b5c type veth peer name inner0",
    "link set veth7a6b5c master br-1f2e3d4c5b6a up",
    "link set inner0 up",
    "link set br-1f2e3d4c5b6a up",
    "address add 10.1.3.1/16 dev br-1f2e3d4c5b6a",
    "address add fd00:0:18::1/64 dev br-1f2e3d4c5b6a nodad",
];

const WITHOUT_CONTAINERS: &[&str] = &["link del veth7a6b5c", "link del br-1f2e3d4c5b6a"];

/// Addresses of Tailscale, which count as public, and of another VPN.
const VPNS: &[&str] = &[
    "link set tailscale0 up",
    "link set aaa up",
    "address add 100.64.0.NODE/32 dev tailscale0",
    "address add fd00:0:7a::NODE/128 dev tailscale0",
    "address add 10.1.4.NODE/24 dev aaa",
    "address add fd00:0:6::NODE/64 dev aaa nodad",
];

/// The nodes that have VPNs, each of which is a process.
const WITH_VPNS: [&str; 2] = ["a1", "b2"];

fn ip(node: NodeRef<'_>, commands: &[&str], what: &str) {
    let words = [
        ("DO", what.to_owned()),
        ("SITE", (100 + node.layout().site + 1).to_string()),
        ("FURTHER", (node.layout().number + 4).to_string()),
        ("NODE", node.layout().number.to_string()),
    ];
    let script: String = commands.iter().map(|command| format!("ip {command}\n")).collect();
    let script = words.iter().fold(script, |script, (word, value)| script.replace(word, value));
    node.read(&["sh", "-ec", &script]).unwrap_or_else(|error| panic!("{error}"));
}

/// Starts devices of user space: of the kind `tun`, as Tailscale, ZeroTier and OpenVPN have them.
fn start_vpns(node: NodeRef<'_>) -> [Running; 2] {
    let kg = node.agent_command().expect("kg is built").swap_remove(0);
    let started = ["tailscale0", "aaa"].map(|name| {
        let log = node.log().with_extension(format!("{name}.log"));
        let running = node.place().start(&[&kg, "tunnel", name], &log).expect("it starts");
        common::eventually("the device", SEEN_WITHIN, || {
            let found = node.exec(&["ip", "link", "show", name])?.status.success();
            Ok((!found).then(|| std::fs::read_to_string(&log).unwrap_or_default()))
        });
        running
    });
    ip(node, VPNS, "add");
    started
}

/// All that agents write about their nodes but for what changes by itself.
fn announced(lab: &Lab) -> BTreeMap<String, Value> {
    let nodes = lab.api().nodes().expect("the API answers");
    let of = |node: &Value| {
        let mut all = node["metadata"]["annotations"].clone();
        for own_time in ["last-seen", "discovered-endpoints"] {
            all.as_object_mut().and_then(|all| all.remove(&format!("kilo.squat.ai/{own_time}")));
        }
        (node["metadata"]["name"].as_str().unwrap_or_default().to_owned(), all)
    };
    nodes.iter().map(of).collect()
}

fn looks(node: NodeRef<'_>) -> Option<u64> {
    let page = node.http_get("/metrics").ok()?.body;
    page.lines().find_map(|line| line.strip_prefix("kilo_reconciles_total "))?.parse().ok()
}

/// Something changes on all hosts; every agent sees it, and announces what it did before.
fn stays(lab: &Lab, before: &BTreeMap<String, Value>, what: &str, change: impl FnOnce()) {
    let looked: Vec<_> = lab.nodes().map(|node| looks(node).unwrap_or_default()).collect();
    change();
    for (node, looked) in lab.nodes().zip(looked) {
        let seen = format!("{} seeing {what}", node.layout().name);
        common::eventually(&seen, common::patiently(SEEN_WITHIN), || {
            Ok(looks(node).is_none_or(|now| now <= looked).then(|| format!("{looked} looks")))
        });
    }
    assert_eq!(announced(lab), *before, "{what}");
}

fn streams(lab: &Lab) -> Vec<(String, Stream)> {
    let pairs = [
        ("a1-p1", "b1-p1", Family::V4),
        ("a2-p1", "b2-p1", Family::V6),
        ("b1-p1", "b2-p1", Family::V4),
        ("c1-p1", "a1-p1", Family::V6),
        ("c1-p1", "b2-p1", Family::V4),
    ];
    let start = |(from, to, family)| {
        let stream = lab.stream(from, to, family, Duration::from_millis(50));
        (format!("{from} to {to}, {family}"), stream.expect("sockets can be opened"))
    };
    pairs.into_iter().map(start).collect()
}

fn nothing_is_lost(streams: Vec<(String, Stream)>) {
    for (name, stream) in streams {
        let report = stream.stop();
        assert!(report.sent() > 0 && report.lost() == 0, "{name}: {report:?}");
    }
}

fn set_addresses(lab: &Lab, node: &str, addresses: &[Value]) {
    let status = json!({ "status": { "addresses": addresses } });
    lab.api().patch("Node", &format!("{node}/status"), &status).expect("the API takes it");
}

#[test]
fn nothing_that_comes_and_goes_changes_what_is_announced() {
    let lab = common::up(common::without_agents("addr"));
    // On half of the hosts nothing says which addresses are meant but what was announced before. At the first start all are in
    // several networks.
    ["a1", "a2", "c1"].iter().for_each(|node| set_addresses(&lab, node, &[]));
    let all = |commands: &[&str], what: &str| lab.nodes().for_each(|node| ip(node, commands, what));
    all(CONTAINERS, "add");
    all(FURTHER, "add");
    lab.nodes().for_each(|node| node.start_agent(&[]).expect("it starts"));
    common::assert_converges(&lab);
    common::led(&lab);
    let before = announced(&lab);
    for (node, endpoint, internal) in [
        ("a2", "198.51.100.2:51820", "10.101.0.12/24,fd00:101::12/64"),
        ("b2", "198.51.100.18:51820", "10.102.0.12/24,fd00:102::12/64"),
        ("c1", "10.103.0.11:51820", "10.103.0.11/24,fd00:103::11/64"),
    ] {
        let value = |key: &str| before[node][format!("kilo.squat.ai/{key}")].as_str();
        assert_eq!((value("endpoint"), value("internal-ips")), (Some(endpoint), Some(internal)), "{node}");
    }
    let running = streams(&lab);
    let mut vpns = Vec::new();
    stays(&lab, &before, "bridges and further addresses that went", || {
        all(WITHOUT_CONTAINERS, "del");
        all(FURTHER, "del");
    });
    stays(&lab, &before, "virtual addresses", || all(VIRTUAL, "add"));
    stays(&lab, &before, "virtual addresses that went", || all(VIRTUAL, "del"));
    stays(&lab, &before, "further addresses", || all(FURTHER, "add"));
    stays(&lab, &before, "bridges and VPNs", || {
        all(CONTAINERS, "add");
        all(VIRTUAL, "add");
        for name in WITH_VPNS {
            vpns.extend(start_vpns(lab.node(name).expect("the demo has it")));
        }
    });
    nothing_is_lost(running);

    // All of that is there when agents start.
    for node in lab.nodes() {
        node.kill9().expect("it runs");
        node.start_agent(&[]).expect("it starts");
    }
    common::assert_converges(&lab);
    assert_eq!(announced(&lab), before, "after a restart");

    let running = streams(&lab);
    stays(&lab, &before, "what went again", || {
        vpns.iter().for_each(|vpn| vpn.signal(Signal::TERM));
        all(WITHOUT_CONTAINERS, "del");
        all(VIRTUAL, "del");
        all(FURTHER, "del");
    });
    nothing_is_lost(running);
    common::assert_converges(&lab);
    assert_eq!(announced(&lab), before, "in the end");
}

/// Two hosts that have a public address and a bridge of containers, and one behind NAT.
#[test]
fn hosts_with_public_addresses_only_stay_so_beside_bridges_of_containers() {
    let mut spec = Spec::demo().named(common::unique("publ"));
    spec.programs.lab = Some(common::kilo_lab());
    spec.mesh.agents = false;
    let behind_nat = spec.sites.pop().expect("the demo's last site is behind NAT");
    let one = |name: &str, node: &str| Site::new(name, Access::Public, vec![Node::new(node)]);
    spec.sites = vec![one("a", "a1"), one("b", "b1"), behind_nat];
    // As nobody has said where they are: with an address in the same network, each would take the other for a neighbour.
    for name in ["a1", "b1"] {
        let node = spec.node_mut(name).expect("it is there");
        node.annotations.insert("kilo.squat.ai/location".into(), "somewhere".into());
    }
    let lab = common::up(spec);
    for name in ["a1", "b1"] {
        let node = lab.node(name).expect("it is there");
        let (lan, public) = (node.layout().lan, node.layout().public.expect("its site is public"));
        let site = 100 + node.layout().site + 1;
        let (v4, v6) = (format!("10.{site}.0.1"), format!("fd00:{site}::1"));
        let commands = [
            format!("address del {}/24 dev eth0", lan.v4),
            format!("address del {}/64 dev eth0", lan.v6),
            format!("route replace {v4} dev eth0"),
            format!("route replace {v6} dev eth0"),
            format!("route replace default via {v4} dev eth0 src {}", public.v4),
            format!("route replace default via {v6} dev eth0 src {}", public.v6),
        ];
        ip(node, &commands.each_ref().map(String::as_str), "add");
        set_addresses(&lab, name, &[json!({ "type": "InternalIP", "address": public.v4 })]);
        ip(node, CONTAINERS, "add");
        ip(node, &VIRTUAL[..2], "add");
    }
    lab.nodes().for_each(|node| node.start_agent(&[]).expect("it starts"));
    let all_pairs = |what: &str| {
        common::assert_converges(&lab);
        for name in ["a1", "b1"] {
            let annotations = &announced(&lab)[name];
            assert_eq!(annotations["kilo.squat.ai/internal-ip"], "", "{name} {what}: {annotations}");
            let public = lab.node(name).ok().and_then(|node| node.layout().public).expect("it is public").v4;
            assert_eq!(annotations["kilo.squat.ai/endpoint"], format!("{public}:51820"), "{name} {what}");
        }
    };
    all_pairs("with bridges at the start");
    let before = announced(&lab);
    let public = || ["a1", "b1"].map(|name| lab.node(name).expect("it is there"));
    let stream = lab.stream("a1-p1", "b1-p1", Family::V4, Duration::from_millis(50)).expect("a socket");
    let change = |commands: &[&str], virtual_addresses: &str| {
        for node in public() {
            ip(node, commands, "add");
            ip(node, &VIRTUAL[..2], virtual_addresses);
        }
    };
    change(WITHOUT_CONTAINERS, "del");
    all_pairs("without bridges");
    change(CONTAINERS, "add");
    all_pairs("with bridges that came");
    nothing_is_lost(vec![("a1-p1 to b1-p1".to_owned(), stream)]);
    assert_eq!(announced(&lab), before);
}
