//! Two clusters, linked by the commands of docs/multi-cluster.md as they are written there: what reaches what, under which
//! address, and what is said of ranges that both have.

mod common;

use std::{fs, path::Path, time::Duration};

use kilo_lab::{
    Access, Family, Lab, Matrix, Node, Site, Spec,
    probe::{Endpoint, Outcome, probe_pairs},
    spec::PERSISTENT_KEEPALIVE,
};

/// Services of the second cluster: the pod behind each, and its addresses.
const SERVICES: [(&str, &str, &str); 3] =
    [("d1-p1", "10.53.0.1", "fd53::1"), ("d2-p1", "10.53.0.2", "fd53::2"), ("e1-p1", "10.53.0.3", "fd53::3")];

#[test]
fn linked_clusters_reach_each_others_pods_and_services() {
    let (one, two) = clusters("mone", "mtwo", "10.5.0.0/16,fd00:5::/112");
    let link = Link { one: &one, two: &two };
    act_as_kube_proxy(&two);

    link.run("Link", &[("NODE1", "a1"), ("NODE2", "d1")]);
    link.wait_complete();
    link.services_answer();
    // A Service of the first cluster whose Endpoints are that Service of the second.
    for node in one.nodes() {
        nft(&one, &node.layout().name, "add table inet mirror");
        let chain = "add chain inet mirror pre { type nat hook prerouting priority -100; }";
        nft(&one, &node.layout().name, chain);
        nft(&one, &node.layout().name, "add rule inet mirror pre ip daddr 10.43.0.9 dnat ip to 10.53.0.3");
    }
    let mut mirrored = two.endpoint("e1-p1", Family::V4).expect("it is described");
    mirrored.service = "10.43.0.9".parse().ok();
    for from in ["a2-p1", "c1-p1"] {
        let outcome = probe(&one.endpoint(from, Family::V4).expect("it is described"), &mirrored);
        // By the leader whose location carries the services; e1 knows it by its WireGuard address.
        let expected = Outcome::Translated { seen: "10.5.0.1".parse().expect("an address") };
        assert_eq!(outcome, expected, "{from} to a Service with the name of another cluster's");
    }
    link.nothing_leaves_under_a_pods_address();

    // Another node takes the lead, and is linked in place of the earlier one.
    one.api().annotate("a2", "kilo.squat.ai/leader", Some("")).expect("it is free text");
    common::published(&one, "a2 leading alone", |rows| {
        kilo_lab::topology::leaders(rows, "a").map(|row| row.node.as_str()).eq(["a2"])
    });
    link.run("Again", &[("EARLIER1", "a1")]);
    link.run("Link", &[("NODE1", "a2"), ("NODE2", "d1")]);
    link.wait_complete();
    link.services_answer();

    link.run("Unlink", &[("LEADERS1", "a2 b1 c1"), ("LEADERS2", "d1 e1 f1")]);
    let patience = common::patiently(Duration::from_secs(10));
    for (lab, node, other) in [(&one, "a1", "10.52."), (&one, "b1", "10.52."), (&two, "e1", "10.42.")] {
        common::eventually("the end of the routes", patience, || {
            let routes = lab.node(node)?.read(&["ip", "route", "show", "table", "all"])?;
            Ok(routes.contains(other).then_some(routes))
        });
    }
}

/// Both have the same WireGuard subnet; and a Peer was written that claims pods, services and a Peer's addresses, too.
#[test]
fn what_both_clusters_have_is_told_and_taken_from_nobody() {
    let (one, two) = clusters("mdup", "mdup2", &common::with_agents("x").mesh.subnet);
    let link = Link { one: &one, two: &two };
    link.run(
        "Link",
        &[("NODE1", "a1"), ("NODE2", "d1"), ("SERVICES2", "10.42.0.0/16,10.43.0.0/16,10.109.0.0/24")],
    );
    let told = |lab: &Lab, node: &str, texts: &[&str]| {
        common::eventually("words about it", common::patiently(Duration::from_secs(20)), || {
            let said = lab.node(node)?.http_get("/health")?.body;
            Ok((!texts.iter().all(|text| said.contains(text))).then_some(said))
        });
    };
    for node in ["a1", "a2"] {
        told(
            &one,
            node,
            &[
                "peer d1: the allowed IP 10.4.0.1/32 belongs to location:a",
                "the allowed IP fd00:4::1/128 belongs to location:a",
                "peer e1: the allowed IP 10.4.0.2/32 belongs to location:b",
                "the allowed IP 10.42.0.0/16 overlaps the pod subnet 10.42.1.0/24 of node a1, and 3 more",
                "10.43.0.0/16 is where the services of this cluster are",
            ],
        );
    }
    told(&two, "d2", &["peer a1: the allowed IP 10.4.0.1/32 belongs to location:d"]);
    // Everything that belonged to somebody still does, and what nobody contests is reached.
    common::assert_converges(&one);
    common::assert_converges(&two);
    link.wait_complete();
}

/// Each has a location of two nodes, one of one, and one behind NAT.
fn clusters(first: &str, second: &str, second_subnet: &str) -> (Lab, Lab) {
    let behind_nat = |name| {
        let mut node = Node::new(name);
        node.annotations.insert(PERSISTENT_KEEPALIVE.into(), "5".into());
        node
    };
    let mut one = common::with_agents(first);
    one.sites = vec![
        Site::new("a", Access::Public, vec![Node::new("a1"), Node::new("a2")]),
        Site::new("b", Access::Public, vec![Node::new("b1")]),
        Site::new("c", Access::Nat, vec![behind_nat("c1")]),
    ];
    let mut two = common::with_agents(second);
    two.sites = vec![
        Site::new("d", Access::Public, vec![Node::new("d1"), Node::new("d2")]),
        Site::new("e", Access::Public, vec![Node::new("e1")]),
        Site::new("f", Access::Nat, vec![behind_nat("f1")]),
    ];
    two.mesh.subnet = second_subnet.to_owned();
    two.joins = Some(one.name.clone());
    // Masquerading is what is asked about.
    let up = |mut spec: Spec| {
        spec.mesh.agent_args.push("--cni=true".into());
        let lab = common::converged(spec);
        common::led(&lab);
        lab
    };
    let one = up(one);
    let two = up(two);
    (one, two)
}

/// Two clusters, and the page that says how to link them.
struct Link<'a> {
    one: &'a Lab,
    two: &'a Lab,
}

impl Link<'_> {
    /// Runs the marked blocks below a heading.
    fn run(&self, heading: &str, words: &[(&str, &str)]) {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/multi-cluster.md");
        let page = fs::read_to_string(page).expect("the page is there");
        let section = page.split("\n## ").find(|section| section.starts_with(&format!("{heading}\n")));
        let section = section.unwrap_or_else(|| panic!("the page has no {heading}"));
        let kubeconfigs = [self.one, self.two].map(|lab| lab.state().kubeconfig().display().to_string());
        let everywhere = [
            ("KUBECONFIG1", kubeconfigs[0].as_str()),
            ("KUBECONFIG2", kubeconfigs[1].as_str()),
            ("NATTED1", "c1"),
            ("NATTED2", "f1"),
            ("SERVICES1", "10.43.0.0/16,fd43::/112"),
            ("SERVICES2", "10.53.0.0/16,fd53::/112"),
        ];
        let blocks = common::blocks(section, &[words, &everywhere].concat());
        assert!(!blocks.is_empty(), "nothing below {heading} is marked");
        for block in blocks {
            let script = format!("{}\n{block}", common::tools());
            let output = self.one.exec("api", &["sh", "-ec", &script]).expect("there is a shell");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{heading}: {}: {said}\n{block}", output.status);
        }
    }

    /// Every pod and every node's internal address of both clusters.
    fn endpoints(&self, family: Family) -> Vec<Endpoint> {
        let of = |lab: &Lab| -> Vec<Endpoint> {
            let nodes = lab.layout().nodes.iter().map(|node| node.name.as_str());
            let names = lab.pods().into_iter().chain(nodes);
            names.map(|name| lab.endpoint(name, family).expect("it is described")).collect()
        };
        [of(self.one), of(self.two)].concat()
    }

    /// Waits until everybody reaches everybody under his own address.
    fn wait_complete(&self) {
        for family in [Family::V4, Family::V6] {
            let endpoints = self.endpoints(family);
            let patience = common::patiently(Duration::from_secs(45));
            common::eventually("both clusters reaching each other", patience, || {
                let cells = probe_pairs(&endpoints, Duration::from_secs(1))?;
                let names = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
                let matrix = Matrix { family, names, cells };
                Ok((!matrix.is_complete()).then(|| matrix.failures().join(", ")))
            });
        }
    }

    /// From each location of the first cluster to Services of the second. Answers come from the address that was asked.
    fn services_answer(&self) {
        for family in [Family::V4, Family::V6] {
            for (pod, v4, v6) in SERVICES {
                let mut service = self.two.endpoint(pod, family).expect("it is described");
                service.service = (if family == Family::V4 { v4 } else { v6 }).parse().ok();
                for from in ["a1-p1", "a2-p1", "b1-p1", "c1-p1", "a2", "b1"] {
                    let from = self.one.endpoint(from, family).expect("it is described");
                    let outcome = probe(&from, &service);
                    // As with kube-proxy everywhere: who asks from outside of the pods' range is masqueraded.
                    let answered = matches!(outcome, Outcome::Translated { .. });
                    assert!(answered, "{family}: {} to the Service of {pod}: {outcome:?}", from.name);
                }
            }
        }
    }

    /// What a pod sends to the other cluster is in the tunnel when it leaves the site, and what it sends elsewhere is
    /// masqueraded.
    fn nothing_leaves_under_a_pods_address(&self) {
        let place = "router-a";
        nft(self.one, place, "add table inet seen");
        nft(self.one, place, "add chain inet seen leaving { type filter hook forward priority -300; }");
        let rule = "oifname wan0 ip saddr { 10.42.0.0/16, 10.52.0.0/16 } counter";
        nft(self.one, place, &format!("add rule inet seen leaving {rule}"));
        let outside = self.one.exec("a2-p1", &["ping", "-c1", "-W2", "203.0.113.254"]).expect("it runs");
        assert!(outside.status.success(), "{}", String::from_utf8_lossy(&outside.stdout));
        self.services_answer();
        let seen = self.one.exec(place, &["nft", "list", "table", "inet", "seen"]).expect("it runs");
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        assert!(seen.contains("packets 0 "), "a pod's address left: {seen}");
    }
}

/// What kube-proxy does on every node, with `clusterCIDR`: addresses of Services become those of pods, and what does not
/// come from pods of the cluster is masqueraded.
fn act_as_kube_proxy(lab: &Lab) {
    let mut script = String::from(
        "table inet proxy {
            chain services {
                ip daddr 10.53.0.0/16 ip saddr != 10.52.0.0/16 meta mark set meta mark or 0x4000
                ip6 daddr fd53::/112 ip6 saddr != fd52::/32 meta mark set meta mark or 0x4000\n",
    );
    for (pod, v4, v6) in SERVICES {
        let pod = lab.layout().pod(pod).expect("it is described").address;
        script += &format!("ip daddr {v4} dnat ip to {}\nip6 daddr {v6} dnat ip6 to {}\n", pod.v4, pod.v6);
    }
    script += "}
            chain pre { type nat hook prerouting priority -100; jump services; }
            chain out { type nat hook output priority -100; jump services; }
            chain post { type nat hook postrouting priority 100; meta mark and 0x4000 == 0x4000 masquerade; }
        }";
    for node in lab.nodes() {
        nft(lab, &node.layout().name, &script);
    }
}

fn nft(lab: &Lab, place: &str, script: &str) {
    let output = lab.exec(place, &["nft", script]).expect("it is installed");
    assert!(output.status.success(), "{place}: {script}: {}", String::from_utf8_lossy(&output.stderr));
}

fn probe(from: &Endpoint, to: &Endpoint) -> Outcome {
    let within = common::patiently(Duration::from_secs(3));
    let outcomes = probe_pairs(&[from.clone(), to.clone()], within).expect("sockets can be opened");
    outcomes[&(0, 1)]
}
