//! A leader whose internal address is its endpoint: pods of other locations reach it, and it reaches them, although the
//! networks between drop what has a pod's address as source.

mod common;

use std::time::Duration;

use kilo_lab::{Lab, Spec};

/// Sites `a` and `b` alone, each with two nodes and a router that drops sources that are not the site's.
fn lab(theme: &str) -> Lab {
    let mut spec: Spec = common::with_agents(theme);
    spec.sites.truncate(2);
    let lab = common::up(spec);
    for (router, lan) in [("router-a", 101), ("router-b", 102)] {
        let script = format!(
            "table inet cloud {{ chain forward {{ type filter hook forward priority -10; \
             iifname lan oifname wan0 ip saddr != {{ 10.{lan}.0.0/24, 198.51.100.0/24 }} drop; \
             iifname lan oifname wan0 ip6 saddr != {{ fd00:{lan}::/64, 2001:db8::/32, fe80::/10 }} drop\n}}\n}}"
        );
        run(&lab, router, &["nft", &script]);
    }
    lab
}

fn run(lab: &Lab, place: &str, words: &[&str]) -> String {
    let output = lab.exec(place, words).expect("there is a program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{place}: {words:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn annotate(lab: &Lab, node: &str, key: &str, value: &str) {
    lab.api().annotate(node, &format!("kilo.squat.ai/{key}"), Some(value)).expect("it is free text");
}

/// Pods of both nodes of `a` reach the leader of `b`, it reaches them, and the hosts have no route of ours to it.
fn assert_reached(lab: &Lab, address: &str, pods: [&str; 2]) {
    common::assert_converges(lab);
    let within = common::patiently(Duration::from_secs(30));
    let reaches = |from: &str, to: &str| {
        let ping = ["ping", "-n", "-c", "1", "-W", "1", to];
        common::eventually(&format!("{from} reaching {to}"), within, || {
            let output = lab.exec(from, &ping)?;
            let table = || lab.exec("a1", &["sh", "-c", "ip rule; ip route show table 1110; wg show"]);
            let seen = || Ok(String::from_utf8_lossy(&table()?.stdout).into_owned());
            if output.status.success() { Ok(None) } else { seen().map(Some) }
        });
    };
    for (pod, pod_address) in [("a1-p1", pods[0]), ("a2-p1", pods[1])] {
        reaches(pod, address);
        reaches("b1", pod_address);
    }
    for host in ["a1", "a2"] {
        let way = run(lab, host, &["ip", "route", "get", address]);
        assert!(way.contains("dev eth0") && !way.contains("table 11"), "{host}: {way}");
        reaches(host, address);
    }
}

/// The other container network masquerades what pods send to no pod, as Flannel does, and the cloud drops what the leader sends
/// as another machine.
fn masquerade_as_others_do(lab: &Lab) {
    let to_others = "ip saddr 10.42.0.0/16 ip daddr != 10.42.0.0/16 masquerade";
    let table =
        format!("table ip other {{ chain post {{ type nat hook postrouting priority 90; {to_others}; }}; }}");
    for host in ["a1", "a2"] {
        run(lab, host, &["nft", &table]);
    }
    let mac = run(lab, "a1", &["cat", "/sys/class/net/eth0/address"]);
    let as_another = format!("ether saddr {} ip saddr 10.101.0.12 drop", mac.trim());
    run(lab, "router-a", &["nft", &format!("insert rule inet cloud forward iifname lan {as_another}")]);
}

/// Networks that are connected by routers, and no public address.
#[test]
fn leaders_with_private_addresses_alone() {
    let lab = lab("lpriv");
    for (router, other, via) in [("router-a", 102, 2), ("router-b", 101, 1)] {
        run(
            &lab,
            router,
            &["ip", "route", "add", &format!("10.{other}.0.0/24"), "via", &format!("203.0.113.{via}")],
        );
        let (net, via) = (format!("fd00:{other}::/64"), format!("2001:db8::{via}"));
        run(&lab, router, &["ip", "route", "add", &net, "via", &via]);
        let rule = |family: &str, net: &str| {
            format!("insert rule inet router postrouting oifname wan0 {family} daddr {net} accept")
        };
        run(&lab, router, &["nft", &rule("ip", &format!("10.{other}.0.0/24"))]);
        run(&lab, router, &["nft", &rule("ip6", &format!("fd00:{other}::/64"))]);
    }
    annotate(&lab, "a1", "force-endpoint", "10.101.0.11:51820");
    annotate(&lab, "b1", "force-endpoint", "10.102.0.11:51820");
    for leader in ["a1", "b1"] {
        annotate(&lab, leader, "leader", "");
    }
    assert_reached(&lab, "10.102.0.11", ["10.42.1.11", "10.42.2.11"]);
    masquerade_as_others_do(&lab);
    assert_reached(&lab, "10.102.0.11", ["10.42.1.11", "10.42.2.11"]);
    annotate(&lab, "a1", "force-endpoint", "[fd00:101::11]:51820");
    annotate(&lab, "b1", "force-endpoint", "[fd00:102::11]:51820");
    assert_reached(&lab, "fd00:102::11", ["fd42:1::11", "fd42:2::11"]);
}

/// One public address, which is the internal one as well. It is proven by a session before pods take the tunnel; and strict
/// reverse-path filters take what comes back.
#[test]
fn leaders_with_one_public_address() {
    let lab = lab("lpub");
    for host in ["a1", "a2", "b1", "b2"] {
        run(&lab, host, &["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1"]);
    }
    for (leader, addresses) in
        [("a1", "198.51.100.1/32,fd00:101::11/64"), ("b1", "198.51.100.17/32,fd00:102::11/64")]
    {
        annotate(&lab, leader, "leader", "");
        annotate(&lab, leader, "force-internal-ip", addresses);
    }
    assert_reached(&lab, "198.51.100.17", ["10.42.1.11", "10.42.2.11"]);
    common::eventually("a session as the proof", common::patiently(Duration::from_secs(40)), || {
        let seen = run(&lab, "a2", &["ip", "route", "show", "table", "1110"]);
        Ok((!seen.contains("198.51.100.17")).then_some(seen))
    });
    assert_reached(&lab, "198.51.100.17", ["10.42.1.11", "10.42.2.11"]);
}
