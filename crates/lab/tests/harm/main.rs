//! Nothing that is written into an object harms a host: whatever a Peer or a location claims, hosts keep their own ways, every
//! other pod is reached, the object is named, and when it is gone everything is as it was before.

#[path = "../common/mod.rs"]
mod common;

mod api_behind_the_mesh;
mod beside_others;
mod dead_leader;

use std::{collections::BTreeMap, time::Duration};

use kilo_lab::{Family, Lab, Matrix, NodeRef};
use serde_json::json;

/// How long everything may take to be as before, once an object is gone.
const RESTORED_WITHIN: Duration = Duration::from_secs(4);

/// On b1, an operator's own.
const STATIC_ROUTES: [&str; 5] = [
    "ip route add 192.168.200.0/24 via 10.102.0.1",
    "ip route add 192.168.201.0/24 via 10.102.0.1 metric 50",
    "ip route add 192.168.202.0/24 via 10.102.0.1 table 52",
    "ip route add blackhole 192.168.203.0/24",
    "ip -6 route add fd20:200::/64 via fd00:102::1",
];

/// Where something is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claimed {
    /// By a Peer.
    ByPeer,
    /// As a range of the location of this node.
    AtNode(&'static str),
}

/// Ranges, and the nodes on which they are nobody else's to claim.
const CLAIMS: &[(&str, &[&str])] = &[
    // Everything.
    ("0.0.0.0/0", ALL),
    ("0.0.0.0/1,128.0.0.0/1", ALL),
    ("::/0", ALL),
    ("::/1,8000::/1", ALL),
    // A site's LAN, in one and in two pieces, something around it, a neighbour, the gateway.
    ("10.101.0.0/24", &["a1", "a2"]),
    ("10.101.0.0/25,10.101.0.128/25", &["a1", "a2"]),
    ("10.101.0.0/16", &["a1", "a2"]),
    ("10.101.0.1/32", &["a1", "a2"]),
    ("10.102.0.1/32", &["b1", "b2"]),
    ("fd00:101::/64", &["a1", "a2"]),
    ("fd00:101::1/128", &["a1", "a2"]),
    // The public range of b's nodes, and their endpoints.
    ("198.51.100.16/28", ALL),
    ("198.51.100.17/32", ALL),
    // Endpoints are IPv4 here, so nobody else knows whose these are.
    ("2001:db8:2::/64", &["b1", "b2"]),
    // The API, alone and among others; the WAN.
    ("203.0.113.254/32", ALL),
    ("203.0.113.0/24", ALL),
    // An operator's static routes, with and without a metric, in another table, one that drops.
    ("192.168.200.0/24", &["b1"]),
    ("192.168.201.0/24", &["b1"]),
    ("192.168.202.0/24", &["b1"]),
    ("192.168.200.0/22", &["b1"]),
    ("fd20:200::/64", &["b1"]),
    ("192.168.200.0/25,192.168.200.128/25", &["b1"]),
    ("192.168.203.0/25,192.168.203.128/25", &["b1"]),
    // Wide, and nothing of a host is in there.
    ("32.0.0.0/3,16.0.0.0/4,3000::/4", ALL),
    // Pods and nodes, in part and around them.
    ("10.42.3.11/32,10.42.4.0/25", ALL),
    ("10.42.0.0/16", ALL),
    ("10.102.0.12/32,10.4.0.99/32", ALL),
    // Services, metadata, link-local, loopback, multicast.
    ("10.43.0.0/16", ALL),
    ("10.43.0.1/32", ALL),
    ("fd43::/112", ALL),
    ("169.254.169.254/32", ALL),
    ("169.254.0.0/16", ALL),
    ("127.0.0.0/8", ALL),
    ("224.0.0.0/4", ALL),
    ("fe80::/10", ALL),
];

const ALL: &[&str] = &["a1", "a2", "b1", "b2", "c1"];

#[test]
fn no_peer_takes_anything_from_a_host() {
    everything_stays("hpeer", Claimed::ByPeer);
}

#[test]
fn no_location_takes_anything_from_a_host() {
    // A range of a location is no news to its own nodes, and this one is no other one's.
    everything_stays("hloc", Claimed::AtNode("c1"));
}

fn everything_stays(theme: &str, claimed: Claimed) {
    let lab = common::converged(common::with_agents(theme));
    let b1 = lab.node("b1").expect("the demo has it");
    for command in STATIC_ROUTES {
        b1.read(&command.split(' ').collect::<Vec<_>>()).expect("ip runs");
    }
    common::led(&lab);
    settle(&lab);
    let before: BTreeMap<String, Vec<String>> =
        lab.nodes().map(|node| (node.layout().name.clone(), common::host_state(node))).collect();
    for (ranges, concerned) in CLAIMS {
        claim(&lab, claimed, Some(ranges));
        // The location's own nodes have their own ways there.
        let concerned = concerned.iter().filter(|node| Claimed::AtNode(node) != claimed);
        is_named(&lab, claimed, ranges, &concerned.copied().collect::<Vec<_>>());
        hosts_are_well(&lab, ranges);
        claim(&lab, claimed, None);
        for node in lab.nodes() {
            let name = &node.layout().name;
            common::eventually(
                &format!("{name} being as before {ranges}"),
                common::patiently(RESTORED_WITHIN),
                || {
                    let now = common::host_state(node);
                    Ok((now != before[name]).then(|| common::difference(&before[name], &now)))
                },
            );
        }
    }
}

/// Where a tunnel is said to end is nobody else's business, and its owner does not speak as who is there.
#[test]
fn no_endpoint_takes_anything_from_anybody() {
    let lab = common::converged(common::with_agents("hend"));
    common::led(&lab);
    for endpoint in ["10.42.1.11", "10.102.0.12", "10.4.0.2", "203.0.113.254", "10.101.0.1", "198.51.100.17"]
    {
        let peer = json!({
            "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": "greedy"},
            "spec": {
                "publicKey": "5oxx9DpQgVSxbkPS8wQ0nnWYVfhuWlnvFhCo4zTHJhQ=",
                "allowedIPs": [format!("{endpoint}/32"), "192.168.77.1/32"],
                "endpoint": {"dnsOrIP": {"ip": endpoint}, "port": 51820},
            },
        });
        lab.api().apply(&peer).expect("the API takes it");
        let a1 = lab.node("a1").expect("the demo has it");
        common::eventually("the rest of the object", common::patiently(Duration::from_secs(10)), || {
            let routes = a1.read(&["ip", "route", "show", "table", "1108"])?;
            Ok((!routes.contains("192.168.77.1")).then_some(routes))
        });
        hosts_are_well(&lab, endpoint);
        let spoken = a1.read(&["wg", "show", "kilo0", "allowed-ips"]).expect("wg runs");
        let greedy = spoken.lines().find(|line| line.starts_with("5oxx9D")).expect("it is a peer");
        assert!(!greedy.contains(&format!("{endpoint}/32")), "who is at {endpoint}: {greedy}");
        lab.api().delete("Peer", "greedy").expect("it is there");
    }
}

/// Waits until no host changes any more.
fn settle(lab: &Lab) {
    let look = || lab.nodes().map(common::host_state).collect::<Vec<_>>();
    let mut last = look();
    common::eventually("the hosts coming to rest", common::patiently(Duration::from_secs(20)), || {
        std::thread::sleep(Duration::from_millis(700));
        let now = look();
        let same = std::mem::replace(&mut last, now.clone()) == now;
        Ok((!same).then(|| "something still changes".to_owned()))
    });
}

fn claim(lab: &Lab, claimed: Claimed, ranges: Option<&str>) {
    match (claimed, ranges) {
        (Claimed::ByPeer, Some(ranges)) => {
            let ranges: Vec<&str> = ranges.split(',').collect();
            peer(lab, "greedy", &ranges);
        }
        (Claimed::ByPeer, None) => lab.api().delete("Peer", "greedy").expect("it is there"),
        (Claimed::AtNode(node), ranges) => {
            lab.api()
                .annotate(node, "kilo.squat.ai/allowed-location-ips", ranges)
                .map(drop)
                .expect("it is free text");
        }
    }
}

/// Writes a Peer with these ranges.
fn peer(lab: &Lab, name: &str, ranges: &[&str]) {
    let peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": name},
        "spec": {"publicKey": "5oxx9DpQgVSxbkPS8wQ0nnWYVfhuWlnvFhCo4zTHJhQ=", "allowedIPs": ranges},
    });
    lab.api().apply(&peer).expect("the API takes it");
}

/// Waits until these nodes name the object, and the ranges or a part of them.
fn is_named(lab: &Lab, claimed: Claimed, ranges: &str, nodes: &[&str]) {
    let object = match claimed {
        Claimed::ByPeer => "peer greedy: ".to_owned(),
        Claimed::AtNode(node) => format!("node {node}: "),
    };
    for name in nodes {
        common::eventually(
            &format!("{name} naming {ranges}"),
            common::patiently(Duration::from_secs(10)),
            || {
                let health = lab.node(name)?.http_get("/health")?;
                let named = |line: &str| {
                    line.contains(&object) && ranges.split(',').any(|range| line.contains(range))
                };
                let well = health.status == 200 && health.body.lines().any(named);
                Ok((!well).then(|| format!("{} {}", health.status, health.body)))
            },
        );
    }
}

/// Every pod reaches every other, and every host what it needs, as a program without any mark would.
fn hosts_are_well(lab: &Lab, claim: &str) {
    common::eventually(
        &format!("every pair with {claim}"),
        common::patiently(Duration::from_secs(10)),
        || {
            let matrices = [lab.matrix(Family::V4)?, lab.matrix(Family::V6)?];
            let whole = matrices.iter().all(Matrix::is_complete);
            Ok((!whole).then(|| format!("{matrices:?}\n{:?}", lab.health())))
        },
    );
    for node in lab.nodes() {
        let name = &node.layout().name;
        reaches_api(node, "203.0.113.254")
            .unwrap_or_else(|error| panic!("{name} and the API with {claim}: {error}"));
        let (v4, v6) = (format!("10.{}.0.1", 100 + site(name)), format!("fd00:{}::1", 100 + site(name)));
        for gateway in [v4, v6] {
            node.read(&["ping", "-c", "1", "-W", "2", &gateway])
                .unwrap_or_else(|error| panic!("{name} and its gateway with {claim}: {error}"));
        }
    }
    let b1 = lab.node("b1").expect("the demo has it");
    for (address, words) in [
        ("192.168.200.7", "via 10.102.0.1"),
        ("192.168.201.7", "via 10.102.0.1"),
        ("fd20:200::7", "via fd00:102::1"),
        ("10.102.0.12", "dev eth0"),
        ("169.254.169.254", "via 10.102.0.1"),
        ("198.51.100.18", "via 10.102.0.1"),
    ] {
        let way = b1.read(&["ip", "route", "get", address]).expect("there is a route");
        assert!(way.contains(words) && !way.contains("kilo0"), "b1 to {address} with {claim}: {way}");
    }
}

fn site(node: &str) -> u32 {
    u32::from(node.as_bytes()[0] - b'a') + 1
}

/// Asks the API from a node, at one of its addresses.
fn reaches_api(node: NodeRef<'_>, address: &str) -> Result<(), kilo_lab::LabError> {
    let open = format!("exec 3<>/dev/tcp/{address}/6443");
    node.read(&["timeout", "2", "bash", "-c", &open]).map(drop)
}
