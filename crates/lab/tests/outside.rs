//! Traffic between the mesh and what is outside of it: a Peer, a device in a location's network, the rest of the world.

mod common;

use std::{fs, path::Path, time::Duration};

use kilo_lab::{Lab, Running};
use serde_json::json;

/// The Peer's addresses.
const CLIENT: [&str; 2] = ["10.99.0.1", "fd99::1"];

#[test]
fn a_peer_reaches_every_pod_and_is_reached() {
    let mut spec = common::with_agents("peer");
    spec.mesh.log_level = "all".into();
    spec.mesh.agent_args.push("--resync-period=3s".into());
    let lab = common::converged(spec);
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let client = Client::connect(&lab, directory.path(), Kept::InThePeer);
    // c1 is behind NAT: neither can call the other, until a1 has told c1 where it sees the client.
    for pod in ["10.42.1.11", "10.42.4.11", "10.42.5.11", "fd42:2::11", "fd42:5::11"] {
        reaches(&lab, "api", pod);
    }
    for pod in ["a1-p1", "a2-p1", "b2-p1", "c1-p1"] {
        for address in CLIENT {
            reaches(&lab, pod, address);
        }
    }
    lab.api().delete("Peer", "laptop").expect("it is there");
    common::eventually("the end of the Peer's routes", common::patiently(Duration::from_secs(10)), || {
        let routes = lab.node("b2")?.read(&["ip", "route", "show", "table", "all", "10.99.0.1"])?;
        Ok((!routes.is_empty()).then_some(routes))
    });
    client.process.signal(rustix::process::Signal::TERM);
    no_log_holds_a_secret(&lab, &client.secrets);
}

/// Leaders read it, kgctl reads it, and while it cannot be read there is no tunnel.
#[test]
fn a_peer_whose_key_is_in_a_secret_has_no_tunnel_without_it() {
    let mut spec = common::with_agents("psk");
    spec.mesh.log_level = "all".into();
    let lab = common::converged(spec);
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let client = Client::connect(&lab, directory.path(), Kept::InASecret);
    reaches(&lab, "a1-p1", CLIENT[0]);
    let refer = |name: &str| {
        let change = json!({"spec": {"presharedKeySecretRef": {"name": name}}});
        lab.api().patch("Peer", "laptop", &change).expect("the API takes it");
    };
    refer("gone");
    common::eventually("the end of the tunnels", common::patiently(Duration::from_secs(10)), || {
        let shown = lab.node("a1")?.read(&["wg", "show", kilo_lab::INTERFACE, "allowed-ips"])?;
        Ok(shown.contains(CLIENT[0]).then_some(shown))
    });
    refer("laptop");
    // The client notices only by what it sends that its session is gone.
    reaches(&lab, "api", "10.42.1.11");
    client.process.signal(rustix::process::Signal::TERM);
    no_log_holds_a_secret(&lab, &client.secrets);
}

#[test]
fn a_device_in_a_location_is_reached_from_the_others() {
    let lab = common::converged(common::with_agents("locip"));
    run(&lab, "router-a", "ip address add 192.168.77.7/32 dev lo");
    run(&lab, "router-a", "ip address add fd77::7/128 dev lo");
    let ranges = "192.168.77.0/24,fd77::/64";
    lab.api().annotate("a1", "kilo.squat.ai/allowed-location-ips", Some(ranges)).expect("it is free text");
    // The router does not know the way to pods: an answer proves that the leader masquerades.
    for pod in ["b1-p1", "b2-p1", "c1-p1", "a2-p1"] {
        reaches(&lab, pod, "192.168.77.7");
    }
    reaches(&lab, "b2-p1", "fd77::7");
    lab.api().annotate("a1", "kilo.squat.ai/allowed-location-ips", None).expect("it is free text");
    common::eventually("the end of the routes", common::patiently(Duration::from_secs(10)), || {
        let routes = lab.node("b1")?.read(&["ip", "route", "show", "table", "all", "192.168.77.0/24"])?;
        Ok((!routes.is_empty()).then_some(routes))
    });
}

#[test]
fn pods_keep_their_addresses_inside_and_lose_them_outside() {
    let mut spec = common::with_agents("nat");
    spec.mesh.agent_args.push("--cni=true".into());
    let lab = common::converged(spec);
    let count = |place: &str, hook: &str, matching: &str| {
        let script = format!(
            "add table inet seen; add chain inet seen {hook} {{ type filter hook {hook} priority -300; }}; \
             add rule inet seen {hook} {matching} icmp type echo-request counter"
        );
        run(&lab, place, &format!("nft '{script}'"));
    };
    let seen = |place: &str| run(&lab, place, "nft list table inet seen");
    count("b2-p1", "input", "ip saddr 10.42.1.11");
    reaches(&lab, "a1-p1", "10.42.4.11");
    assert!(!seen("b2-p1").contains("packets 0 "), "the pod's address did not arrive: {}", seen("b2-p1"));
    // The API's address belongs to nobody in the mesh. The router masquerades too, so look before it does.
    count("router-a", "prerouting", "ip saddr 10.42.0.0/16");
    count("api", "input", "ip daddr 203.0.113.254");
    reaches(&lab, "a1-p1", "203.0.113.254");
    assert!(!seen("api").contains("packets 0 "), "nothing arrived: {}", seen("api"));
    assert!(seen("router-a").contains("packets 0 "), "the pod's address left: {}", seen("router-a"));
}

#[test]
fn an_interface_that_exists_is_used_and_left() {
    let lab = common::converged(common::with_agents("exist"));
    let node = lab.node("b1").expect("the demo has it");
    let kernel = common::has_kernel_wireguard(node);
    node.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    if kernel {
        node.read(&["ip", "link", "add", kilo_lab::INTERFACE, "type", "wireguard"]).expect("the kernel can");
        node.start_agent(&["--create-interface=false"]).expect("it starts");
    } else {
        node.start_device().expect("it starts");
        node.start_agent(&[]).expect("it starts");
    }
    common::assert_converges(&lab);
    node.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    let link = node.read(&["ip", "link", "show", kilo_lab::INTERFACE]);
    assert!(link.is_ok(), "the agent removed what it had not made: {link:?}");
    node.stop_device().unwrap_or_else(|error| panic!("{error}"));
}

/// Where the preshared key of the client is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    InThePeer,
    InASecret,
}

/// A WireGuard client beside the API, outside of all sites.
struct Client {
    process: Running,
    secrets: Vec<String>,
}

impl Client {
    fn connect(lab: &Lab, directory: &Path, kept: Kept) -> Self {
        // Two tests are in one process, and a kernel that is not in a namespace yet has them all.
        let which = match kept {
            Kept::InThePeer => "p",
            Kept::InASecret => "s",
        };
        let interface = format!("cl{which}{}", std::process::id());
        let [private, shared] = [["wg", "genkey"], ["wg", "genpsk"]].map(|command| {
            let output = lab.exec("api", &command).expect("wireguard-tools are installed");
            String::from_utf8(output.stdout).expect("keys are text").trim().to_owned()
        });
        let key_file = directory.join("key");
        fs::write(&key_file, &private).expect("the directory can be written");
        let public = run(lab, "api", &format!("wg pubkey < {}", key_file.display()));
        let mut peer = json!({
            "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": "laptop"},
            "spec": {
                "publicKey": public.trim(), "persistentKeepalive": 5,
                "allowedIPs": [format!("{}/32", CLIENT[0]), format!("{}/128", CLIENT[1])],
            },
        });
        match kept {
            Kept::InThePeer => peer["spec"]["presharedKey"] = shared.clone().into(),
            Kept::InASecret => {
                keep_in_a_secret(lab, &shared);
                peer["spec"]["presharedKeySecretRef"] = json!({"name": "laptop"});
            }
        }
        lab.api().apply(&peer).expect("the API takes it");
        let kg = kilo_lab::programs::find("kg", None).expect("it is built").display().to_string();
        let place = lab.place("api").expect("every lab has it");
        let log = directory.join("log");
        let process = place.start(&[kg.as_str(), "tunnel", &interface], &log).expect("it starts");
        common::eventually("the client's device", common::patiently(Duration::from_secs(10)), || {
            let shown = lab.exec("api", &["wg", "show", &interface])?;
            Ok((!shown.status.success()).then(|| fs::read_to_string(&log).unwrap_or_default()))
        });
        run(lab, "api", &format!("wg set {interface} private-key {}", key_file.display()));
        let kgctl = kilo_lab::programs::find("kgctl", None).expect("it is built").display().to_string();
        run(lab, "api", &format!("{kgctl} showconf peer laptop > {}", directory.join("conf").display()));
        run(lab, "api", &format!("wg addconf {interface} {}", directory.join("conf").display()));
        for address in [format!("{}/32", CLIENT[0]), format!("{}/128 nodad", CLIENT[1])] {
            run(lab, "api", &format!("ip address add {address} dev {interface}"));
        }
        run(lab, "api", &format!("ip link set {interface} up"));
        for (range, source) in [("10.42.0.0/16", CLIENT[0]), ("fd42::/16", CLIENT[1])] {
            run(lab, "api", &format!("ip route add {range} dev {interface} src {source}"));
        }
        Self { process, secrets: vec![private, shared] }
    }
}

fn keep_in_a_secret(lab: &Lab, key: &str) {
    let namespace = "kilo-preshared-keys";
    let base64 = run(lab, "api", &format!("printf %s '{key}' | base64 -w0"));
    for object in [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kilo.squat.ai/preshared-key",
            "metadata": {"name": "laptop", "namespace": namespace}, "data": {"presharedKey": base64.trim()},
        }),
    ] {
        lab.api().apply(&object).expect("the API takes it");
    }
}

fn no_log_holds_a_secret(lab: &Lab, secrets: &[String]) {
    let mut secrets = secrets.to_vec();
    let nodes: Vec<_> = lab.nodes().collect();
    for node in &nodes {
        let key = fs::read_to_string(node.agent_directory().join("key")).expect("the agent made it");
        secrets.push(key.trim().to_owned());
    }
    for node in nodes {
        let log = node.agent_log();
        assert!(log.lines().count() > 50, "at this level there is a lot to tell:\n{log}");
        assert!(!secrets.iter().any(|secret| log.contains(secret)), "{} tells a key", node.layout().name);
    }
}

/// Waits until a place gets an answer from an address.
fn reaches(lab: &Lab, from: &str, address: &str) {
    let what = format!("an answer of {address} to {from}");
    common::eventually(&what, common::patiently(Duration::from_secs(45)), || {
        let ping = lab.exec(from, &["ping", "-c1", "-W1", address])?;
        Ok((!ping.status.success()).then(|| String::from_utf8_lossy(&ping.stdout).into_owned()))
    });
}

/// Runs a line of shell in a place; it has to succeed.
fn run(lab: &Lab, place: &str, line: &str) -> String {
    let output = lab.exec(place, &["sh", "-c", line]).expect("there is a shell");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{place}: {line}: {}", text(&output.stderr));
    text(&output.stdout)
}
