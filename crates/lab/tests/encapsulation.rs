//! Encapsulation inside of a location, with packets: in UDP, which every kernel can.

mod common;

use kilo_lab::Lab;

/// Everything that two nodes of a location send to each other for pods is in UDP; nothing of it is bare.
#[test]
fn vxlan_carries_a_location() {
    let mut spec = common::with_agents("vxlan");
    spec.mesh.encapsulate = "always".into();
    spec.mesh.agent_args.push("--encapsulation-type=vxlan".into());
    let lab = common::up(spec);
    // What a network that knows no pods would drop.
    for node in ["a1", "a2", "b1", "b2"] {
        run(
            &lab,
            node,
            "nft 'add table netdev lan; \
             add chain netdev lan in { type filter hook ingress device eth0 priority 0; }; \
             add rule netdev lan in ip saddr 10.42.0.0/16 drop; \
             add rule netdev lan in ip6 saddr fd42::/16 drop; \
             add rule netdev lan in udp dport 4790 counter'",
        );
    }
    common::assert_converges(&lab);
    // A pod and a node of its location, too: through the tunnel there, and through it back.
    let from_pod = |address: &str| run(&lab, "a2-p1", &format!("ping -n -c 2 -i 0.2 -W 2 {address}"));
    from_pod("10.101.0.11");
    from_pod("fd00:101::11");
    // And a node of another location.
    from_pod("10.102.0.12");
    let counted = run(&lab, "a1", "nft list table netdev lan");
    assert!(!counted.contains("packets 0 "), "{counted}");
    let a2 = lab.node("a2").expect("the demo has it");
    let link = a2.read(&["ip", "-d", "link", "show", "kilo-vxlan"]).expect("it has the interface");
    assert!(link.contains("mtu 1464") && link.contains("gpe"), "{link}");
    a2.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    let link = a2.exec(&["ip", "link", "show", "kilo-vxlan"]).expect("ip runs");
    assert!(!link.status.success(), "it has stayed: {}", String::from_utf8_lossy(&link.stdout));
}

/// Nodes that know each other by IPv6 alone carry the pods' IPv4 as it is: IPIP cannot, and need not where they are neighbours.
#[test]
fn ipv4_goes_by_way_of_ipv6_neighbours() {
    let mut spec = common::with_agents("via6");
    spec.mesh.encapsulate = "always".into();
    spec.mesh.agents = false;
    let lab = common::up(spec);
    for (node, address) in [
        ("a1", "fd00:101::11/64"),
        ("a2", "fd00:101::12/64"),
        ("b1", "fd00:102::11/64"),
        ("b2", "fd00:102::12/64"),
    ] {
        lab.api().annotate(node, "kilo.squat.ai/force-internal-ip", Some(address)).expect("it is free text");
    }
    for node in lab.nodes() {
        node.start_agent(&[]).expect("it starts");
    }
    common::assert_converges(&lab);
    let routes = run(&lab, "a2", "ip -4 route show table 1108");
    assert!(routes.contains("10.42.1.0/24 via inet6 fd00:101::11 dev eth0"), "{routes}");
    for node in ["a1", "a2", "b1", "b2"] {
        let health = lab.node(node).expect("the demo has it").http_get("/health").expect("it answers");
        assert!(health.status == 200 && !health.body.contains("NoNextHop"), "{node}: {}", health.body);
    }
}

fn run(lab: &Lab, place: &str, script: &str) -> String {
    let output = lab.exec(place, &["sh", "-ec", script]).expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{place}: {script}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
