//! The flags of `kg` and `kgctl`, each by what it does to a host or to packets. Which test shows what:
//!
//! | `kg` | test |
//! |---|---|
//! | `--backend` | [`who_a_node_is_and_what_it_is_part_of`] |
//! | `--clean-up`, `--clean-up-interface` | [`what_stays_when_the_agent_ends`]; restart.rs |
//! | `--cni`, `--cni-path` | [`what_pods_are_given_and_what_becomes_of_their_addresses`]; outside.rs |
//! | `--compatibility` | addons |
//! | `--pod-cidr-source` | the tests of the crates `kubernetes` and `kgctl` (pod_subnets.rs) |
//! | `--create-interface` | outside.rs, `an_interface_that_exists_is_used_and_left` |
//! | `--dry-run` | restart.rs, `a_dry_run_changes_nothing` |
//! | `--encapsulate` | [`only_other_subnets_are_reached_in_tunnels`]; encapsulation.rs (always), mesh.rs (always with IPIP, never) |
//! | `--encapsulation-type` | encapsulation.rs |
//! | `--hostname`, `--internal-cidr`, `--local`, `--topology-label` | [`who_a_node_is_and_what_it_is_part_of`] |
//! | `--interface`, `--listen`, `--mark-bits`, `--mtu`, `--port`, `--state-dir`, `--subnet`, `--wireguard` | [`the_device_and_where_it_is_reached`] |
//! | `--iptables-forward-rules` | [`forwarding_that_the_host_drops`] |
//! | `--kubeconfig`, `--log-format`, `--log-level`, `--master`, `--version`, `-v` | [`where_the_api_is_and_what_is_written`] |
//! | `--liveness-timeout` | [`how_long_a_node_may_be_silent`]; restart.rs, `a_leader_that_ends_hands_over_at_once` |
//! | `--mesh-granularity` | mesh.rs, `full_granularity_gives_every_pair_of_nodes_its_own_tunnel` |
//! | `--prioritise-private-addresses` | [`the_device_and_where_it_is_reached`] |
//! | `--resync-period` | repair.rs, `what_was_removed_comes_back` |
//! | `--service-cidr` | [`what_pods_are_given_and_what_becomes_of_their_addresses`] |
//! | `version`, `completion` | [`where_the_api_is_and_what_is_written`] |
//! | `tunnel` | outside.rs, `an_interface_that_exists_is_used_and_left` |
//! | `install-cni`, `webhook` | the tests of the crate `kg` |
//! | `/health`, `/metrics` | [`what_the_pages_say`] |
//! | `/graph` | mesh.rs, `locations_reach_each_other_through_their_leaders` |
//!
//! | `kgctl` | test |
//! |---|---|
//! | `--backend`, `--kubeconfig`, `--mesh-granularity`, `--port`, `--topology-label`, `--version`, `-v` | [`what_kgctl_reads_and_shows`] |
//! | `graph` | [`what_kgctl_reads_and_shows`], and the goldens of the crate `kgctl` |
//! | `showconf`: `--as-peer`, `-o`, `--allowed-ips` | multi_cluster.rs (YAML), and the goldens of the crate `kgctl` |
//! | `connect`: `-a` | connect.rs, `a_laptop_connects_follows_the_cluster_and_leaves_no_trace` |
//! | `connect`: `--allowed-ips`, `-i`, `--log-level`, `--liveness-timeout` | the same |
//! | `connect`: `--private-key` | connect.rs, `a_peer_that_exists_is_used_with_its_key_and_stays` |
//! | `connect`: `--once` | connect.rs, `without_clean_up_a_kernel_interface_stays_and_once_needs_one` |
//! | `connect`: `--clean-up`, `--mark-bits`, `--mtu`, `--persistent-keepalive`, `--port`, `--resync-period` | connect.rs, `flags_show_on_the_host` |
//!
//! That a wrong value names the flag, the value and what is allowed is tested for all flags in the crates of the programs,
//! which fail for a new flag that is not in their lists. Annotations are in annotations.rs.

mod common;

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, process::Output, time::Duration};

use kilo_lab::{Lab, NodeRef, Outage, Request, Running, Spec, topology};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// `--port`, `--mtu`, `--interface`, `--subnet`, `--listen`, `--state-dir`, `--wireguard`, `--prioritise-private-addresses`,
/// `--mark-bits`.
#[test]
fn the_device_and_where_it_is_reached() {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let state = directory.path().join("deep/kilo");
    let mut spec = common::with_agents("fdev");
    spec.mesh.subnet = "10.77.0.0/24,fd00:77::/112".into();
    arguments(
        &mut spec,
        "a1",
        &[
            "--port=51999",
            "--mtu=1380",
            "--interface=mesh0",
            "--listen=127.0.0.1:1234",
            "--mark-bits=0x700",
            &format!("--state-dir={}", state.display()),
            "--wireguard=embedded",
        ],
    );
    arguments(&mut spec, "b1", &["--prioritise-private-addresses"]);
    let lab = common::converged(spec);
    let rows = common::led(&lab);
    let leaders: Vec<&str> =
        rows.iter().filter(|row| !row.wireguard_ip.is_empty()).map(|row| row.node.as_str()).collect();
    // A node with a public endpoint goes before one with a private one, which b1 wants.
    assert_eq!(leaders, ["a1", "b2", "c1"], "{}", topology::render(&rows));
    assert_eq!(row(&rows, "b1").endpoint, "10.102.0.11:51820");
    assert_eq!(row(&rows, "a1").endpoint, "198.51.100.1:51999");

    let a1 = node(&lab, "a1");
    assert_eq!(a1.read(&["wg", "show", "mesh0", "listen-port"]).expect("it has the device").trim(), "51999");
    for (node, interface, mark) in [(a1, "mesh0", "0x100"), (node(&lab, "b2"), "kilo0", "0x10")] {
        let shown = node.read(&["wg", "show", interface, "fwmark"]).expect("it has the device");
        assert_eq!(shown.trim(), mark);
    }
    let link = a1.read(&["ip", "-d", "link", "show", "mesh0"]).expect("it has the device");
    assert!(link.contains("mtu 1380") && link.contains("tun"), "{link}");
    let addresses = a1.read(&["ip", "-o", "address", "show", "mesh0"]).expect("it has the device");
    assert!(addresses.contains("10.77.0.1/24") && addresses.contains("fd00:77::1/112"), "{addresses}");
    assert!(!a1.exec(&["ip", "link", "show", "kilo0"]).expect("ip runs").status.success());
    // The underlay's 1500 bytes less 80, where nothing else is said.
    let link = node(&lab, "b2").read(&["ip", "link", "show", "kilo0"]).expect("it has the device");
    assert!(link.contains("mtu 1420"), "{link}");
    // Where the others send to.
    let of_a1 = row(&rows, "a1").key.clone();
    let peers = node(&lab, "b2").wireguard_peers().expect("it leads");
    let peer = peers.iter().find(|peer| peer.public_key == of_a1).expect("a1 leads");
    assert_eq!(peer.endpoint.as_deref(), Some("198.51.100.1:51999"));

    let namespace = &a1.layout().namespace;
    let health = |address: &str| {
        let address: SocketAddr = address.parse().expect("it is an address");
        Request::get("/health").send(namespace, address)
    };
    assert_eq!(health("127.0.0.1:1234").expect("it listens there").status, 200);
    assert!(health("10.101.0.11:1234").is_err() && health("127.0.0.1:1107").is_err());
    // Without an address it listens on all, of both families.
    let b1 = lab.layout().node("b1").expect("the demo has it").namespace.as_str();
    for address in ["10.102.0.11:1107", "[fd00:102::11]:1107", "[::1]:1107"] {
        let answer = Request::get("/health").send(b1, address.parse().expect("it is an address"));
        assert_eq!(answer.unwrap_or_else(|error| panic!("{address}: {error}")).status, 200);
    }

    let key = state.join("key");
    let public = a1.read(&["sh", "-c", &format!("wg pubkey < {}", key.display())]).expect("it made the key");
    assert_eq!(public.trim(), of_a1);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&state)), (0o600, 0o700));
    let kernel = common::has_kernel_wireguard(node(&lab, "b2"));
    let output = run_kg(a1, &["--wireguard=kernel", "--interface=other0", "--listen=:0", "--dry-run"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), kernel, "{said}");
    assert!(kernel || said.contains("--wireguard"), "{said}");
}

/// `--hostname`, `--internal-cidr`, `--local`, `--topology-label`, and `--backend` with its only value.
#[test]
fn who_a_node_is_and_what_it_is_part_of() {
    let mut spec = common::with_agents("fwho");
    spec.mesh.agent_args =
        ["--topology-label=example.com/room", "--backend=kubernetes"].map(String::from).into();
    arguments(&mut spec, "a1", &["--local=false"]);
    let lab = common::up(spec);
    let room = |node: &str, room: &str| {
        let labels = json!({"metadata": {"labels": {"example.com/room": room}}});
        lab.api().patch("Node", node, &labels).expect("the API takes it");
    };
    for (node, name) in [("a1", "one"), ("a2", "one"), ("b1", "two"), ("b2", "three"), ("c1", "four")] {
        room(node, name);
    }
    let a1 = node(&lab, "a1");
    common::eventually("a tunnel to each of the other rooms", common::patiently(SOON), || {
        // The device may not be there yet.
        let peers = a1.wireguard_peers().unwrap_or_default();
        Ok((peers.len() != 3).then(|| format!("{peers:?}")))
    });
    // a2 routes to a1's pods, and a1, which leaves that to another CNI, does not route to a2's; both reach the rest.
    routes_to(&lab, "a2", "10.42.1.0/24", Some("via 10.101.0.11"));
    routes_to(&lab, "a1", "10.42.2.0/24", None);
    routes_to(&lab, "a1", "10.42.4.0/24", Some("dev kilo0"));
    restart(a1, &["--local=true"]);
    routes_to(&lab, "a1", "10.42.2.0/24", Some("via 10.101.0.12"));
    common::assert_converges(&lab);

    // The address that a2 had before comes first; those in the ranges count, which are given twice.
    let a2 = node(&lab, "a2");
    a2.read(&["ip", "address", "add", "10.101.0.99/24", "dev", "eth0"]).expect("the kernel takes it");
    a2.read(&["ip", "address", "add", "fd00:101::99/64", "nodad", "dev", "eth0"])
        .expect("the kernel takes it");
    a2.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    let ranges = ["--internal-cidr=10.101.0.99/32", "--internal-cidr", "192.168.0.0/16,fd00:101::99/128"];
    let agent = start_without(a2, &["--internal-cidr"], &ranges, &a2.log());
    healthy(a2);
    routes_to(&lab, "a1", "10.42.2.0/24", Some("via 10.101.0.99"));
    routes_to(&lab, "a1", "fd42:2::/64", Some("via fd00:101::99"));

    end(&agent, a2);
    // Not the host's name, but what --hostname says; without it the host's name.
    a2.start_agent(&["--hostname=nobody"]).expect("it starts");
    common::eventually("words about the name", common::patiently(SOON), || {
        let said = a2.http_get("/health").map_or_else(|error| error.to_string(), |answer| answer.body);
        Ok((!(said.contains("\"nobody\"") && said.contains("--hostname"))).then_some(said))
    });
    a2.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    let command = command_without(a2, &["--hostname"]);
    let named = format!("hostname A2 && exec {}", command.join(" "));
    let log = a2.log().with_extension("named.log");
    let agent = a2.place().start(&["unshare", "--uts", "sh", "-ec", &named], &log).expect("it starts");
    common::assert_converges(&lab);
    end(&agent, a2);
}

/// `--iptables-forward-rules`, on hosts that forward nothing by themselves: with packets.
#[test]
fn forwarding_that_the_host_drops() {
    let mut spec = common::without_agents("ffwd");
    spec.mesh.agent_args = ["--cni=true", "--iptables-forward-rules"].map(String::from).into();
    let lab = common::up(spec);
    for node in lab.nodes() {
        for iptables in ["iptables", "ip6tables"] {
            node.read(&[iptables, "-P", "FORWARD", "DROP"]).unwrap_or_else(|error| panic!("{error}"));
        }
        node.start_agent(&[]).expect("it starts");
    }
    common::assert_converges(&lab);
    // Without it the host's own decision stands, for the pods of a member and for all of a leader's location.
    for (name, cut, whole) in
        [("b2", ["b2-p1", "a1-p1"], ["b1-p1", "a1-p1"]), ("a1", ["a2-p1", "c1-p1"], ["b1-p1", "c1-p1"])]
    {
        restart(node(&lab, name), &["--iptables-forward-rules=false"]);
        common::eventually("the host's decision", common::patiently(SOON), || {
            let matrix = lab.matrix_of(&cut, kilo_lab::Family::V4, Duration::from_millis(500))?;
            Ok((matrix.failures().len() < 2).then(|| format!("{name}: {:?}", matrix.failures())))
        });
        for family in [kilo_lab::Family::V4, kilo_lab::Family::V6] {
            let matrix =
                lab.matrix_of(&whole, family, Duration::from_secs(2)).expect("sockets can be opened");
            assert!(matrix.is_complete(), "{name}: {:?}", matrix.failures());
        }
        restart(node(&lab, name), &[]);
        common::assert_converges(&lab);
    }
}

/// `--service-cidr`, `--cni` and `--cni-path`: what is masqueraded, and the CNI's configuration.
#[test]
fn what_pods_are_given_and_what_becomes_of_their_addresses() {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let conflist = directory.path().join("10-kilo.conflist");
    let empty = r#"{"name":"kilo","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}"#;
    fs::write(&conflist, empty).expect("the directory can be written");
    let path = format!("--cni-path={}", conflist.display());
    let lab = common::converged(common::with_agents("fcni"));
    let a1 = node(&lab, "a1");
    // Three addresses that nobody has, as seen by the router.
    let addresses = ["10.43.0.7", "10.44.0.7", "10.45.0.7"];
    run(&lab, "router-a", "nft add table inet seen");
    run(&lab, "router-a", "nft 'add chain inet seen pre { type filter hook prerouting priority -300; }'");
    for address in addresses {
        run(
            &lab,
            "router-a",
            &format!("nft add rule inet seen pre ip saddr 10.42.1.11 ip daddr {address} counter"),
        );
    }
    let kept = || -> Vec<&str> {
        let counters =
            |text: &str| text.lines().filter(|line| line.contains("counter")).map(str::to_owned).collect();
        let before: Vec<String> = counters(&run(&lab, "router-a", "nft list table inet seen"));
        for address in addresses {
            // Nobody answers; that it has left is what is looked at.
            let _ = lab.exec("a1-p1", &["ping", "-c1", "-W1", address]);
        }
        let after: Vec<String> = counters(&run(&lab, "router-a", "nft list table inet seen"));
        let changed = before.iter().zip(&after).map(|(before, after)| before != after);
        addresses
            .into_iter()
            .zip(changed)
            .filter(|(_, changed)| *changed)
            .map(|(address, _)| address)
            .collect()
    };
    restart(
        a1,
        &["--cni=true", &path, "--service-cidr=10.44.0.0/16", "--service-cidr=fd44::/112,10.45.0.0/24"],
    );
    // The lab's own --service-cidr is 10.43.0.0/16: what is given several times adds up.
    assert_eq!(kept(), addresses);
    let written = fs::read_to_string(&conflist).expect("it is there");
    assert!(written.contains("10.42.1.0/24") && written.contains("fd42:1::/64"), "{written}");

    a1.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    let agent = start_without(a1, &["--service-cidr"], &["--cni=true", &path], &a1.log());
    healthy(a1);
    assert_eq!(kept(), Vec::<&str>::new(), "without a range of services everything outside is masqueraded");
    end(&agent, a1);

    fs::write(&conflist, empty).expect("the directory can be written");
    a1.start_agent(&["--cni=false", &path]).expect("it starts");
    healthy(a1);
    assert_eq!(kept(), addresses, "who leaves pods to another CNI does not masquerade them");
    assert_eq!(fs::read_to_string(&conflist).expect("it is there"), empty);
    restart(a1, &["--cni=true", "--cni-path=/nowhere/10-kilo.conflist"]);
    assert!(a1.agent_log().contains("--cni-path"), "{}", a1.agent_log());
}

/// `--encapsulate=crosssubnet`: by the addresses' own prefixes.
#[test]
fn only_other_subnets_are_reached_in_tunnels() {
    let mut spec = common::with_agents("fsub");
    spec.mesh.encapsulate = "crosssubnet".into();
    spec.mesh.agent_args.push("--encapsulation-type=vxlan".into());
    let lab = common::converged(spec);
    common::led(&lab);
    run(&lab, "a1", "nft add table netdev lan");
    run(&lab, "a1", "nft 'add chain netdev lan in { type filter hook ingress device eth0 priority 0; }'");
    for rule in ["ip saddr 10.42.2.0/24 counter", "udp dport 4790 counter"] {
        run(&lab, "a1", &format!("nft 'add rule netdev lan in {rule}'"));
    }
    let packets = || -> [u64; 2] {
        let listed = run(&lab, "a1", "nft list chain netdev lan in");
        let counted = |what: &str| {
            let line = listed.lines().find(|line| line.contains(what)).expect("the rule is there");
            let mut words = line.split_whitespace().skip_while(|word| *word != "packets");
            words.nth(1).and_then(|count| count.parse().ok()).expect("it counts")
        };
        [counted("10.42.2.0/24"), counted("4790")]
    };
    let ping = || run(&lab, "a2-p1", "ping -n -c 3 -i 0.2 -W 2 10.42.1.11");
    ping();
    let [bare, encapsulated] = packets();
    assert!(bare >= 3 && encapsulated == 0, "{bare} bare, {encapsulated} encapsulated");
    for (name, address) in [("a1", "10.101.0.11/32"), ("a2", "10.101.0.12/32")] {
        lab.api().annotate(name, "kilo.squat.ai/force-internal-ip", Some(address)).expect("it is free text");
    }
    routes_to(&lab, "a2", "10.42.1.0/24", Some("kilo-vxlan"));
    routes_to(&lab, "a1", "10.42.2.0/24", Some("kilo-vxlan"));
    let [bare, _] = packets();
    ping();
    let after = packets();
    assert!(after[0] == bare && after[1] >= 3, "{bare} bare before, {after:?} after");
}

/// `--liveness-timeout`: a node that says nothing any more is left out after this time, and not before.
#[test]
fn how_long_a_node_may_be_silent() {
    let mut spec = common::with_agents("flive");
    spec.mesh.liveness_timeout = 6;
    let lab = common::converged(spec);
    let c1 = lab.nodes().find(|node| node.layout().name == "c1").expect("the demo has it");
    let route =
        || node(&lab, "a1").read(&["ip", "route", "show", "table", "all", "10.42.5.0/24"]).expect("ip runs");
    assert!(route().contains("kilo0"));
    let killed = std::time::Instant::now();
    c1.kill9().expect("it runs");
    common::eventually("the end of the route", common::patiently(SOON), || {
        let route = route();
        Ok((!route.is_empty()).then_some(route))
    });
    // Its last heartbeat is at most half of the time old.
    assert!(killed.elapsed() > Duration::from_millis(2900), "after {:?}", killed.elapsed());
}

/// `--clean-up` and `--clean-up-interface`. Taking everything away is in restart.rs.
#[test]
fn what_stays_when_the_agent_ends() {
    let lab = common::converged(common::with_agents("fend"));
    common::led(&lab);
    let kernel = common::has_kernel_wireguard(node(&lab, "b1"));
    let interface = |name: &str| {
        node(&lab, name).exec(&["ip", "link", "show", "kilo0"]).expect("ip runs").status.success()
    };
    let member = node(&lab, "a2");
    restart(member, &["--clean-up=false", "--clean-up-interface"]);
    common::assert_converges(&lab);
    let before: Vec<String> =
        common::host_state(member).into_iter().filter(|line| !line.contains("kilo0")).collect();
    member.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    let after: Vec<String> =
        common::host_state(member).into_iter().filter(|line| !line.contains("kilo0")).collect();
    assert_eq!(common::difference(&before, &after), "", "routes and firewall stay");
    assert!(
        after.iter().any(|line| line.contains("10.42.4.0/24"))
            && after.iter().any(|line| line.starts_with("nft:"))
    );
    assert_eq!(interface("a2"), kernel, "an embedded device ends with its process");
    // Its pods are as well as before.
    let matrix = lab.matrix_of(&["a2-p1", "b2-p1"], kilo_lab::Family::V6, Duration::from_secs(2));
    assert!(matrix.as_ref().is_ok_and(kilo_lab::Matrix::is_complete), "{matrix:?}");
    let told =
        lab.api().get("/api/v1/nodes/a2").expect("the API answers")["metadata"]["annotations"].to_string();
    assert!(told.contains("kilo.squat.ai/key"), "it has said farewell: {told}");

    for (name, flag, stays) in
        [("b1", "--clean-up-interface=false", kernel), ("c1", "--clean-up-interface", false)]
    {
        restart(node(&lab, name), &[flag]);
        assert!(interface(name));
        node(&lab, name).stop_agent().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(interface(name), stays, "{name} {flag}");
        let routes = node(&lab, name).read(&["ip", "route", "show", "table", "all"]).expect("ip runs");
        assert!(!routes.contains("proto 107"), "{routes}");
    }
}

/// `--kubeconfig`, `--master`, `--log-level`, `--log-format`, `--version`, and sub-commands that only print.
#[test]
fn where_the_api_is_and_what_is_written() {
    let lab = common::converged(common::with_agents("fapi"));
    let a2 = node(&lab, "a2");
    let log = a2.log().with_extension("api.log");
    let api = lab.layout().api_address();
    let wrong = lab.state().directory().join("wrong-kubeconfig");
    let text = fs::read_to_string(lab.state().kubeconfig()).expect("the lab wrote it");
    fs::write(&wrong, text.replace(&api.v4.to_string(), "203.0.113.77"))
        .expect("the directory can be written");
    let masters = [
        // As nobody in particular, over IPv6; and as a kubeconfig says, but elsewhere.
        vec![format!("--master=http://[{}]:6443", api.v6), "--log-level=none".into()],
        vec![
            format!("--kubeconfig={}", wrong.display()),
            format!("--master=http://{}:6443", api.v4),
            "--log-level=info".into(),
            "--log-format=json".into(),
        ],
        vec![format!("--kubeconfig={}", lab.state().kubeconfig().display()), "--log-level=all".into()],
    ];
    let mut written = Vec::new();
    for flags in &masters {
        a2.stop_agent().unwrap_or_else(|error| panic!("{error}"));
        let _ = fs::remove_file(&log);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let agent = start_without(a2, &["--kubeconfig", "--log-level"], &flags, &log);
        healthy(a2);
        common::assert_converges(&lab);
        end(&agent, a2);
        written.push(fs::read_to_string(&log).expect("it was made"));
    }
    assert_eq!(written[0], "", "none is none");
    for line in written[1].lines() {
        let fields: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let known = ["info", "warn", "error"].iter().any(|level| fields["level"] == *level);
        assert!(known && fields["ts"].is_string() && fields["msg"].is_string(), "{line}");
    }
    assert!(written[1].contains("changed the host's network"));
    assert!(written[2].contains("DEBUG") && written[2].contains("TRACE"), "all is all");

    // What only shows when it is used names its flag, too.
    for (flags, named) in [
        (vec!["--kubeconfig=/nowhere/config"], "/nowhere/config"),
        (vec!["--kubeconfig=/etc/hostname"], "/etc/hostname"),
        (vec!["--master=not a URL"], "--master"),
        (vec!["--state-dir=/proc/none"], "/proc/none"),
        (vec!["--listen=192.0.2.1:1"], "--listen"),
    ] {
        let output = run_kg(a2, &flags);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(named), "{flags:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    let printed = |words: &[&str]| {
        let kg = kilo_lab::programs::find("kg", None).expect("it is built").display().to_string();
        let command: Vec<&str> = [&[kg.as_str()], words].concat();
        let output = a2.exec(&command).expect("it starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let version = printed(&["--version"]);
    assert!(version.split('.').count() == 3, "{version}");
    assert_eq!((printed(&["-v"]), printed(&["version"])), (version.clone(), version));
    for (shell, part) in [
        ("bash", "complete -F _kg"),
        ("zsh", "#compdef kg"),
        ("fish", "complete -c kg"),
        ("powershell", "kg"),
    ] {
        let script = printed(&["completion", shell]);
        assert!(script.contains(part) && script.contains("mesh-granularity"), "{shell}: {script}");
    }
}

/// The flags that all commands of `kgctl` have.
#[test]
fn what_kgctl_reads_and_shows() {
    let lab = common::converged(common::with_agents("fctl"));
    common::led(&lab);
    let kgctl = kilo_lab::programs::find("kgctl", None).expect("it is built").display().to_string();
    let kubeconfig = lab.state().kubeconfig().display().to_string();
    let home = tempfile::tempdir().expect("there is a place for temporary files");
    let says = |environment: &str, words: &str| {
        run(
            &lab,
            "api",
            &format!("env -u KUBECONFIG HOME={} {environment} {kgctl} {words}", home.path().display()),
        )
    };
    let locations = says("", &format!("--kubeconfig={kubeconfig} graph"));
    assert!(locations.contains("location:c") && !locations.contains("node:a1"), "{locations}");
    // The file of the environment, then that of the home directory. An empty flag is none.
    assert_eq!(
        says(&format!("KUBECONFIG={kubeconfig}"), "graph --backend=kubernetes --kubeconfig="),
        locations
    );
    fs::create_dir(home.path().join(".kube")).expect("the directory can be written");
    fs::copy(&kubeconfig, home.path().join(".kube/config")).expect("the directory can be written");
    assert_eq!(says("", "graph"), locations);
    let full = says("", "graph --mesh-granularity full");
    assert!(full.contains("node:a1") && !full.contains("location:c"), "{full}");
    assert_eq!(says("", "--mesh-granularity=auto graph"), locations);
    let labels = json!({"metadata": {"labels": {"example.com/room": "kitchen"}}});
    lab.api().patch("Node", "b2", &labels).expect("the API takes it");
    let rooms = says("", "graph --topology-label=example.com/room");
    assert!(rooms.contains("location:kitchen") && !rooms.contains("location:c"), "{rooms}");
    let conf = says("", "showconf node a1 --port=51777");
    assert!(conf.starts_with("[Interface]\nListenPort = 51777\n"), "{conf}");
    let version = says("", "--version");
    assert!(version.starts_with("kgctl version "), "{version}");
    assert_eq!(says("", "-v"), version);
}

/// `/health` and `/metrics` follow what happens. `/graph` is in mesh.rs.
#[test]
fn what_the_pages_say() {
    let mut spec = common::with_agents("fpage");
    spec.mesh.agent_args.push("--resync-period=1s".into());
    let lab = common::converged(spec);
    common::led(&lab);
    let metric = |node: &str, name: &str| -> f64 {
        let text = lab.node(node).and_then(|node| node.http_get("/metrics")).map(|answer| answer.body);
        let text = text.unwrap_or_else(|error| panic!("{node}: {error}"));
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_default()
    };
    let comes_to = |node: &str, name: &str, value: f64| {
        common::eventually(&format!("{name} of {node}"), common::patiently(SOON), || {
            let now = metric(node, name);
            Ok(((now - value).abs() > 0.1).then(|| now.to_string()))
        });
    };
    comes_to("a1", "kilo_leader ", 1.0);
    comes_to("a2", "kilo_leader ", 0.0);
    for (name, value) in
        [("kilo_nodes ", 5.0), ("kilo_peers ", 0.0), ("kilo_segments ", 3.0), ("kilo_healthy ", 1.0)]
    {
        comes_to("b2", name, value);
    }
    let before = metric("b2", "kilo_reconciles_total ");
    common::eventually("another reconcile", common::patiently(SOON), || {
        let now = metric("b2", "kilo_reconciles_total ");
        Ok((now < before + 2.0).then(|| format!("{before}, {now}")))
    });
    let peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": "p"},
        "spec": {"publicKey": "5oxx9DpQgVSxbkPS8wQ0nnWYVfhuWlnvFhCo4zTHJhQ=", "allowedIPs": ["10.99.0.1/32"]},
    });
    lab.api().apply(&peer).expect("the API takes it");
    comes_to("b2", "kilo_peers ", 1.0);
    lab.api().pause(Outage::Refusing).expect("it does as it is told");
    comes_to("b2", "kilo_healthy ", 0.0);
    common::eventually("an error that is counted", common::patiently(SOON), || {
        let errors = metric("b2", "kilo_errors_total{event=\"watch\"} ");
        Ok((errors < 1.0).then(|| errors.to_string()))
    });
    let health = node(&lab, "b2").http_get("/health").expect("it answers");
    assert!(health.status == 503 && health.body.contains("Kubernetes API"), "{health:?}");
    lab.api().resume().expect("it does as it is told");
    comes_to("b2", "kilo_healthy ", 1.0);
    healthy(node(&lab, "b2"));
    // A leader that cannot change its host.
    lab.api().annotate("a2", "kilo.squat.ai/leader", Some("")).expect("it is free text");
    comes_to("a2", "kilo_leader ", 1.0);
    comes_to("a1", "kilo_leader ", 0.0);
}

fn node<'a>(lab: &'a Lab, name: &str) -> NodeRef<'a> {
    lab.node(name).expect("the demo has it")
}

fn row<'a>(rows: &'a [topology::Row], node: &str) -> &'a topology::Row {
    rows.iter().find(|row| row.node == node).expect("the demo has it")
}

fn arguments(spec: &mut Spec, node: &str, arguments: &[&str]) {
    let node = spec.node_mut(node).expect("the demo has it");
    node.agent_args = arguments.iter().map(ToString::to_string).collect();
}

/// Ends the agent and starts it with further flags, which come last and so override.
fn restart(node: NodeRef<'_>, further: &[&str]) {
    node.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    node.start_agent(further).expect("it starts");
    healthy(node);
}

fn healthy(node: NodeRef<'_>) {
    let name = &node.layout().name;
    common::eventually(&format!("a healthy agent on {name}"), common::patiently(SOON), || {
        let answer = node.http_get("/health").map_err(|error| error.to_string());
        let well = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        Ok((!well).then(|| format!("{answer:?}\n{}", node.agent_log())))
    });
}

/// The lab's command line without some flags: of those that add up, or whose default is asked about.
fn command_without(node: NodeRef<'_>, flags: &[&str]) -> Vec<String> {
    let mut command = node.agent_command().expect("kg is built");
    command.retain(|word| !flags.iter().any(|flag| word.starts_with(flag)));
    command
}

fn start_without(node: NodeRef<'_>, flags: &[&str], further: &[&str], log: &Path) -> Running {
    let mut command = command_without(node, flags);
    command.extend(further.iter().map(ToString::to_string));
    node.place().start(&command, log).expect("it starts")
}

fn end(agent: &Running, node: NodeRef<'_>) {
    agent.signal(rustix::process::Signal::TERM);
    assert!(agent.wait(common::patiently(SOON)), "the agent on {} does not end", node.layout().name);
}

/// Runs the agent with the lab's flags and these to its end, which has to come by itself.
fn run_kg(node: NodeRef<'_>, further: &[&str]) -> Output {
    let mut command = vec!["timeout".to_owned(), "30".to_owned()];
    command.extend(node.agent_command().expect("kg is built"));
    command.extend(further.iter().map(ToString::to_string));
    node.exec(&command).expect("it starts")
}

/// Waits until a node has a route to exactly this destination, with these words, or has none.
fn routes_to(lab: &Lab, name: &str, destination: &str, words: Option<&str>) {
    let family = if destination.contains(':') { "-6" } else { "-4" };
    common::eventually(&format!("{words:?} of {name} to {destination}"), common::patiently(SOON), || {
        let routes =
            node(lab, name).read(&["ip", family, "route", "show", "table", "all", "exact", destination])?;
        let as_wanted = words.map_or(routes.is_empty(), |words| routes.contains(words));
        Ok((!as_wanted).then_some(routes))
    });
}

/// Runs a line of shell in a place; it has to succeed.
fn run(lab: &Lab, place: &str, line: &str) -> String {
    let output = lab.exec(place, &["sh", "-c", line]).expect("there is a shell");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{place}: {line}: {}", text(&output.stderr));
    text(&output.stdout)
}
