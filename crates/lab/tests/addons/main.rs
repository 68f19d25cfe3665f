//! Kilo as an add-on: other container networks with the devices, addresses and routes that they make, and Kilo for what
//! leaves a location. Their routes know no locations, and stay.

#[path = "../common/mod.rs"]
mod common;
mod networks;

use std::time::Duration;

use kilo_lab::{Lab, NodeRef, Spec};
use networks::{calico_block, calico_ipip, calico_vxlan, cilium, flannel};

/// The flags that every add-on has.
fn addon(theme: &str, flags: &[&str]) -> Spec {
    let mut spec = common::without_agents(theme);
    spec.mesh.encapsulate = "always".into();
    let all = ["--cni=false", "--local=false"].into_iter().chain(flags.iter().copied());
    spec.mesh.agent_args = all.map(str::to_owned).collect();
    spec
}

fn start_agents(lab: &Lab) {
    for node in lab.nodes() {
        node.start_agent(&[]).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The routes of the main table that are not ours, without what agents of this project have made.
fn foreign_routes(node: NodeRef<'_>) -> Vec<String> {
    ["-4", "-6"]
        .iter()
        .flat_map(|family| {
            let text = node.read(&["ip", family, "route", "show", "table", "main"]).expect("ip runs");
            text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        })
        .filter(|line| !line.contains("proto 107") && !line.contains("kilo0") && !line.contains("fe80::"))
        // The kernel adds it when the device goes up.
        .filter(|line| !line.contains("dev sit0 proto kernel"))
        .collect()
}

/// The mesh forms, packets take the other network's devices inside of locations, and its routes are as they were, also after
/// the agents have ended.
fn works_beside(lab: &Lab, device: &str) {
    let before: Vec<_> = lab.nodes().map(foreign_routes).collect();
    start_agents(lab);
    common::assert_converges(lab);
    let counted = |node: &str| {
        let node = lab.node(node).expect("the demo has it");
        let text = node.read(&["cat", &format!("/sys/class/net/{device}/statistics/tx_packets")]);
        text.expect("the device is there").trim().parse::<u64>().expect("a number")
    };
    let a2 = counted("a2");
    // A member's pod to another location's member: through both overlays and one tunnel. And a node's own packets.
    ping(lab, "a2-p1", "10.42.4.11");
    ping(lab, "a2", "10.42.4.11");
    ping(lab, "a2-p1", "10.102.0.12");
    assert!(counted("a2") > a2, "nothing went through {device}");
    for (node, before) in lab.nodes().zip(&before) {
        let after = foreign_routes(node);
        assert_eq!(common::difference(before, &after), "", "{}", node.layout().name);
        let health = node.http_get("/health").expect("the agent answers");
        assert_eq!(health.status, 200, "{}: {}", node.layout().name, health.body);
    }
    for (node, before) in lab.nodes().zip(&before) {
        node.stop_agent().unwrap_or_else(|error| panic!("{error}"));
        let name = &node.layout().name;
        assert_eq!(common::difference(before, &foreign_routes(node)), "", "{name} after the end");
        let rules = node.read(&["ip", "rule", "show"]).expect("ip runs");
        assert!(!rules.contains("1108") && !rules.contains("1107"), "{name}: {rules}");
    }
}

fn ping(lab: &Lab, from: &str, to: &str) {
    let output = lab.exec(from, &["ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", to]).expect("ping runs");
    assert!(output.status.success(), "{from} to {to}: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn flannel_with_vxlan() {
    let lab = common::up(addon("flan", &["--compatibility=flannel"]));
    flannel(&lab);
    works_beside(&lab, "flannel.1");
}

/// Without its device the operator is told, and the private network is used.
#[test]
fn flannel_without_its_device() {
    let lab = common::up(addon("flno", &["--compatibility=flannel"]));
    start_agents(&lab);
    let a2 = lab.node("a2").expect("the demo has it");
    common::eventually("a warning", common::patiently(Duration::from_secs(20)), || {
        let log = a2.agent_log();
        Ok((!log.contains("there is no interface flannel.1")).then_some(log))
    });
    // b1 leads; nobody routes to the pods of b2 here.
    ping_until(&lab, "a2", "10.42.3.1");
}

/// The lab's kernel has no IPIP; in UDP the packets go through Cilium's network just the same.
#[test]
fn cilium_in_tunnel_mode() {
    let kind = if has_ipip() { "ipip" } else { "vxlan" };
    let kind = format!("--encapsulation-type={kind}");
    let lab = common::up(addon("cili", &["--compatibility=cilium", &kind]));
    cilium(&lab);
    works_beside(&lab, "cilium_vxlan");
    let told = lab.api().get("/api/v1/nodes/a2").expect("the API answers");
    let told = told["metadata"]["annotations"]["kilo.squat.ai/cni-compatibility-ip"].clone();
    assert!(told.is_null(), "an agent that has ended takes back what it told: {told}");
}

#[test]
fn calico_with_vxlan() {
    let lab = common::up(addon("calv", &["--compatibility=calico"]));
    calico_vxlan(&lab);
    start_agents(&lab);
    common::assert_converges(&lab);
    a_block_is_taken_and_is_reached(&lab);
    works_beside(&lab, "vxlan.calico");
}

/// Calico takes another block for a node when the first ones are full: the mesh follows.
fn a_block_is_taken_and_is_reached(lab: &Lab) {
    let b1 = lab.node("b1").expect("the demo has it");
    b1.read(&["ip", "address", "add", "10.42.77.1/32", "dev", "kube-bridge"]).expect("ip runs");
    calico_block(lab, "b1", "10.42.77.0/26");
    ping_until(lab, "a2-p1", "10.42.77.1");
    let a1 = lab.node("a1").expect("the demo has it");
    let routes = a1.read(&["ip", "route", "show", "table", "1108"]).expect("ip runs");
    assert!(
        routes.contains("10.42.77.0/26") && !routes.contains("10.42.3.0/24"),
        "blocks alone count: {routes}"
    );
    lab.api().delete("BlockAffinity", "b1-10-42-77-0-26").expect("it is there");
    common::eventually("the end of the block", common::patiently(Duration::from_secs(10)), || {
        let routes = a1.read(&["ip", "route", "show", "table", "1108"])?;
        Ok(routes.contains("10.42.77.0").then_some(routes))
    });
}

/// Where Calico encapsulates in IP, with the kernel's device, that is shared; without IPIP in the kernel, ours is in UDP.
#[test]
fn calico_with_routes() {
    let ipip = has_ipip();
    let kind = if ipip { "--encapsulation-type=ipip" } else { "--encapsulation-type=vxlan" };
    let lab = common::up(addon("calr", &["--compatibility=calico", kind]));
    calico_ipip(&lab, ipip);
    works_beside(&lab, if ipip { "tunl0" } else { "kilo-vxlan" });
}

fn ping_until(lab: &Lab, from: &str, to: &str) {
    common::eventually(&format!("{to} answering {from}"), common::patiently(Duration::from_secs(30)), || {
        let output = lab.exec(from, &["ping", "-n", "-c", "1", "-W", "1", to])?;
        Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    });
}

/// Whether the kernel can encapsulate in IP.
fn has_ipip() -> bool {
    let modules = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    modules.lines().any(|line| line.starts_with("ipip "))
        || std::process::Command::new("modprobe").arg("ipip").status().is_ok_and(|status| status.success())
}
