//! An API server that a node reaches through the mesh alone: the mesh carries it. And one of which the agent does not know
//! where it is: what takes it away is found out.

use std::time::Duration;

use kilo_lab::{Lab, NodeRef};

use crate::{common, peer, reaches_api};

const INSIDE: &str = "192.168.50.1";

/// Another address of the API server, which it tells nobody.
const UNKNOWN: &str = "203.0.113.77";

fn run(lab: &Lab, place: &str, line: &str) {
    let output = lab.exec(place, &["sh", "-c", line]).expect("there is a shell");
    assert!(output.status.success(), "{place}: {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A lab in which the agent of c1 asks the API through the mesh: at an address in the network of site b, which b1 brings
/// into the mesh. Its device outlives its agent, as the kernel's would.
fn lab() -> Lab {
    let mut spec = common::with_agents("hapi");
    spec.mesh.agents = false;
    let lab = common::up(spec);
    run(&lab, "router-b", &format!("ip address add {INSIDE}/32 dev lo"));
    run(
        &lab,
        "router-b",
        &format!(
            "nft 'add table ip inside; add chain ip inside pre {{ type nat hook prerouting priority dstnat; }}; \
             add chain ip inside post {{ type nat hook postrouting priority srcnat; }}; \
             add rule ip inside pre ip daddr {INSIDE} tcp dport 6443 dnat to 203.0.113.254:6443; \
             add rule ip inside post ip daddr 203.0.113.254 masquerade'"
        ),
    );
    lab.api()
        .annotate("b1", "kilo.squat.ai/allowed-location-ips", Some("192.168.50.0/24"))
        .expect("it is free text");
    let c1 = lab.node("c1").expect("the demo has it");
    c1.start_device().expect("it starts");
    for node in lab.nodes() {
        let further: &[&str] = if node.layout().name == "c1" { &["--clean-up=false"] } else { &[] };
        node.start_agent(further).expect("it starts");
    }
    common::assert_converges(&lab);
    c1.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    c1.start_agent(&["--clean-up=false", &format!("--master=http://{INSIDE}:6443")]).expect("it starts");
    lab
}

fn is_healthy(node: NodeRef<'_>, what: &str, named: Option<&str>) {
    common::eventually(what, common::patiently(Duration::from_secs(30)), || {
        let Ok(health) = node.http_get("/health") else { return Ok(Some(node.agent_log())) };
        let said = named.is_none_or(|words| health.body.contains(words));
        Ok((health.status != 200 || !said).then(|| format!("{}\n{}", health.body, node.agent_log())))
    });
}

#[test]
fn an_api_server_behind_the_mesh_is_reached_and_kept() {
    let lab = lab();
    let c1 = lab.node("c1").expect("the demo has it");
    is_healthy(c1, "c1 hearing from the API through the mesh", None);
    common::assert_converges(&lab);
    let way = c1.read(&["ip", "route", "get", INSIDE]).expect("there is a route");
    assert!(way.contains("kilo0"), "{way}");
    reaches_api(c1, INSIDE).expect("it is reached through the mesh");
    // The others have it as well, without depending on it.
    let health = lab.node("a1").expect("the demo has it").http_get("/health").expect("it answers");
    assert!(!health.body.contains("192.168.50.0"), "{}", health.body);
}

/// Behind an address of the host itself, as k3s' agents have one, there is an API server that nobody knows. A Peer has its
/// address: programs without a mark lose it, the agent notices, and takes back what it has routed last.
#[test]
fn an_api_server_that_nobody_knows_is_given_back() {
    let lab = common::converged(common::with_agents("hdog"));
    let c1 = lab.node("c1").expect("the demo has it");
    run(&lab, "api", &format!("ip address add {UNKNOWN}/32 dev lo"));
    run(
        &lab,
        "api",
        &format!(
            "nft 'add table ip other; add chain ip other pre {{ type nat hook prerouting priority -100; }}; \
             add rule ip other pre ip daddr {UNKNOWN} tcp dport 6443 dnat to 203.0.113.254:6443'"
        ),
    );
    run(&lab, "router-c", &format!("ip route add {UNKNOWN}/32 via 203.0.113.254"));
    run(
        &lab,
        "c1",
        &format!(
            "nft 'add table ip proxy; add chain ip proxy out {{ type nat hook output priority -100; }}; \
             add rule ip proxy out ip daddr 10.103.0.11 tcp dport 7443 dnat to {UNKNOWN}:6443'"
        ),
    );
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    run(&lab, "api", &format!("curl -sf -X DELETE http://127.0.0.1:6443{slice}"));
    c1.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    c1.start_agent(&["--master=http://10.103.0.11:7443"]).expect("it starts");
    is_healthy(c1, "c1 hearing from the API", None);
    common::assert_converges(&lab);

    peer(&lab, "greedy", &[&format!("{UNKNOWN}/32")]);
    is_healthy(c1, "c1 finding out", Some("RangeWithdrawn"));
    common::eventually("the API being reached again", common::patiently(Duration::from_secs(15)), || {
        Ok(reaches_api(c1, UNKNOWN).err().map(|error| error.to_string()))
    });
    // Longer than a trial takes: what helped is not given back. Another object is not held against it.
    std::thread::sleep(Duration::from_secs(14));
    is_healthy(c1, "c1 keeping it out", Some("RangeWithdrawn"));
    reaches_api(c1, UNKNOWN).expect("it is reached");
    lab.api()
        .annotate("b1", "kilo.squat.ai/allowed-location-ips", Some("192.168.60.0/24"))
        .expect("it is free text");
    common::eventually("another range", common::patiently(Duration::from_secs(10)), || {
        let routes = c1.read(&["ip", "route", "show", "table", "1108"])?;
        Ok((!routes.contains("192.168.60.0/24")).then_some(routes))
    });
    common::assert_converges(&lab);
    lab.api().delete("Peer", "greedy").expect("it is there");
    common::eventually("the end of the problem", common::patiently(Duration::from_secs(10)), || {
        let health = c1.http_get("/health")?;
        Ok((health.status != 200 || health.body.contains("greedy")).then_some(health.body))
    });
}
