//! A host as an agent of Go Kilo 0.7 leaves it: its routes, policy rules, iptables-nft, WireGuard device and annotations,
//! in the order and with the words of the real one (`tests/data/golden/*/host`). It is for the demo's sites with the
//! granularity `location` and one subnet, 10.4.0.0/16, and the agent's flags are `--cni --iptables-forward-rules`.

use std::{fmt::Write as _, fs::OpenOptions, io::Write as _, net::Ipv4Addr, os::unix::fs::OpenOptionsExt};

use kilo_lab::{Access, INTERFACE, Lab, NodeRef, layout::NodeLayout};
use serde_json::{Value, json};

/// The Peer that [`add_peer`] adds: its allowed IP and its key.
const PEER: &str = "10.99.0.1/32";
const PEER_KEY: &str = "FNm+gUrgQMMW4Q8fyHSTOZoBa8q2gDe0vHnvyQJkHVE=";

/// Whether the agent encapsulates inside of its location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// `--encapsulate=never`.
    Plain,
    /// `--encapsulate=always`.
    Ipip,
}

/// Adds a Peer, which every agent routes to and masquerades.
pub fn add_peer(lab: &Lab) {
    let spec = json!({"publicKey": PEER_KEY, "allowedIPs": [PEER]});
    let peer = json!({"apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": "laptop"}, "spec": spec});
    lab.api().apply(&peer).expect("the API takes it");
}

/// A node whose agent is Go's.
pub struct GoHost<'a> {
    lab: &'a Lab,
    node: NodeRef<'a>,
    inside: Inside,
}

impl<'a> GoHost<'a> {
    /// The node's host becomes that of a Go agent, with the device that the kernel makes, or one that outlives agents.
    pub fn make(lab: &'a Lab, name: &str, inside: Inside) -> Self {
        let node = lab.node(name).expect("the lab has it");
        let host = Self { lab, node, inside };
        if node.has_kernel_wireguard().expect("ip runs") {
            host.run(&format!("ip link add {INTERFACE} type wireguard\n"));
        } else {
            node.start_device().expect("it starts");
        }
        let key = node.read(&["wg", "genkey"]).expect("wg runs");
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(host.key_file());
        file.and_then(|mut file| file.write_all(key.trim().as_bytes())).expect("the directory is there");
        host.run(&host.device());
        host.run(&host.routes());
        host.restore("iptables-restore", &host.filter());
        host.restore("ip6tables-restore", &host.filter_v6());
        // Who is told calls at once, and again after five seconds only.
        host.annotate();
        host
    }

    /// What the agent leaves when it is asked to end with `--clean-up`: its device as it is, and nothing else. It takes its
    /// annotations back, too.
    pub fn clean_up(&self) {
        self.run(
            "ip -4 route flush proto static\n\
             ip -4 route flush table 1107 2>/dev/null || true\n\
             while ip rule delete table 1107 2>/dev/null; do :; done\n\
             for v in iptables ip6tables; do $v-save | grep -v -e KILO- -e 'Kilo: ' | $v-restore; done\n",
        );
        let told = [
            "endpoint",
            "internal-ip",
            "key",
            "last-seen",
            "wireguard-ip",
            "discovered-endpoints",
            "granularity",
        ];
        self.patch(told.map(|key| (key, Value::Null)).into());
    }

    /// What of the agent is on the host.
    pub fn traces(node: NodeRef<'_>) -> Vec<String> {
        let read = |command: &[&str]| node.read(command).unwrap_or_else(|error| panic!("{error}"));
        let routes = read(&["ip", "route", "show", "table", "all", "proto", "static"]);
        let rules = read(&["ip", "rule"]);
        let rules = rules.lines().filter(|line| line.contains("lookup 1107") && !line.starts_with("1107:"));
        let tables = [read(&["iptables-save"]), read(&["ip6tables-save"])].concat();
        let tables = tables.lines().filter(|line| line.contains("KILO") || line.contains("Kilo: "));
        routes.lines().chain(rules).chain(tables).map(str::to_owned).collect()
    }

    fn annotate(&self) {
        let public =
            self.node.read(&["sh", "-c", &format!("wg pubkey < {}", self.key_file())]).expect("wg runs");
        let layout = self.node.layout();
        let endpoint = layout.public.map_or(layout.lan.v4, |public| public.v4);
        let wireguard_ip =
            if self.leads() { format!("{}/16", self.wireguard_ip(layout)) } else { String::new() };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later");
        self.patch(vec![
            ("cni-compatibility-ip", "".into()),
            ("discovered-endpoints", "{}".into()),
            ("endpoint", format!("{endpoint}:51820").into()),
            ("granularity", "location".into()),
            ("internal-ip", format!("{}/24", layout.lan.v4).into()),
            ("key", public.trim().into()),
            ("last-seen", now.as_secs().to_string().into()),
            ("wireguard-ip", wireguard_ip.into()),
        ]);
    }

    fn patch(&self, annotations: Vec<(&str, Value)>) {
        let annotations: serde_json::Map<String, Value> =
            annotations.into_iter().map(|(key, value)| (format!("kilo.squat.ai/{key}"), value)).collect();
        let patch = json!({"metadata": {"annotations": annotations}});
        self.lab.api().patch("Node", &self.node.layout().name, &patch).expect("the API takes it");
    }

    fn device(&self) -> String {
        let own = self.node.layout();
        let mut script = format!(
            "ip link set {INTERFACE} mtu 1420\n\
             ip address add {}/16 dev {INTERFACE}\n\
             wg set {INTERFACE} listen-port 51820 private-key {}\n\
             wg set {INTERFACE} peer {PEER_KEY} allowed-ips {PEER}\n",
            self.wireguard_ip(own),
            self.key_file()
        );
        self.other_leaders().for_each(|leader| script += &self.wireguard_peer(leader));
        // A member that led when it was the first in its location keeps what it had then; its interface is down.
        if self.leads() {
            let _ = writeln!(script, "ip link set {INTERFACE} up");
        }
        if self.inside == Inside::Ipip {
            let _ = writeln!(
                script,
                // It is there already when its module is.
                "ip tunnel add tunl0 mode ipip 2>/dev/null || true\n\
                 ip link set tunl0 mtu 1480 up\n\
                 ip address add {}/32 dev tunl0",
                own.bridge().v4
            );
        }
        script
    }

    fn wireguard_peer(&self, leader: &NodeLayout) -> String {
        let object = self.lab.api().get(&format!("/api/v1/nodes/{}", leader.name)).expect("the API answers");
        let told = |key: &str| {
            let value = &object["metadata"]["annotations"][format!("kilo.squat.ai/{key}")];
            value.as_str().filter(|value| !value.is_empty()).expect("it is in the mesh").to_owned()
        };
        // Of a node behind NAT the router's address has been discovered.
        let site = &self.lab.layout().sites[leader.site];
        let endpoint = match site.access {
            Access::Public => told("endpoint"),
            Access::Nat => format!("{}:51820", site.wan().v4),
        };
        let nodes = self.location_of(leader);
        let mut allowed: Vec<String> =
            nodes.flat_map(|node| [node.pods_v4().to_string(), host(node.lan.v4)]).collect();
        allowed.push(host(self.wireguard_ip(leader)));
        format!(
            "wg set {INTERFACE} peer {} endpoint {endpoint} persistent-keepalive {} allowed-ips {}\n",
            told("key"),
            self.keepalive(),
            allowed.join(",")
        )
    }

    fn routes(&self) -> String {
        let own = self.node.layout();
        let mut script = String::new();
        let mut route = |destination: String, hop: String| {
            let _ = writeln!(script, "ip route add {destination} {hop}");
        };
        let inside = |via: Ipv4Addr| match self.inside {
            Inside::Plain => format!("via {via} dev eth0 proto static onlink"),
            Inside::Ipip => format!("via {via} dev tunl0 proto static src {} onlink", own.lan.v4),
        };
        let leader = self.leader_of(own);
        for node in &self.lab.layout().nodes {
            let its_leader = self.leader_of(node);
            if node.name == own.name {
                continue;
            }
            if node.site == own.site {
                route(node.pods_v4().to_string(), inside(node.lan.v4));
                if self.inside == Inside::Ipip {
                    route(host(node.lan.v4), format!("{} table 1107", inside(node.lan.v4)));
                }
                continue;
            }
            let via = self.wireguard_ip(its_leader);
            let through = format!("via {via} dev {INTERFACE} proto static src {} onlink", own.lan.v4);
            for destination in [node.pods_v4().to_string(), host(node.lan.v4)] {
                route(destination, if self.leads() { through.clone() } else { inside(leader.lan.v4) });
            }
        }
        if self.leads() {
            route(PEER.to_owned(), format!("dev {INTERFACE} proto static scope global src {}", own.lan.v4));
        } else {
            route(PEER.to_owned(), inside(leader.lan.v4));
            for site in &self.lab.layout().sites {
                route(host(Ipv4Addr::new(10, 4, 0, site.number)), inside(leader.lan.v4));
            }
        }
        if self.inside == Inside::Ipip {
            for node in self.location_of(own).filter(|node| node.name != own.name) {
                let _ = writeln!(
                    script,
                    "ip rule add from {} to {} table 1107",
                    own.pods_v4(),
                    host(node.lan.v4)
                );
                if self.leads() {
                    let _ =
                        writeln!(script, "ip rule add to {} iif {INTERFACE} table 1107", host(node.lan.v4));
                }
            }
        }
        script
    }

    /// As `iptables-save` shows it.
    fn filter(&self) -> String {
        let own = self.node.layout();
        let comment = |text: &str| format!("-m comment --comment \"Kilo: {text}\"");
        let mut nat = "*nat\n:KILO-NAT - [0:0]\n".to_owned();
        let jump = [
            format!("-s {PEER} {}", comment("jump to NAT chain")),
            format!("-s {} {}", own.pods_v4(), comment("jump to KILO-NAT chain")),
        ];
        for rule in jump {
            let _ = writeln!(nat, "-A POSTROUTING {rule} -j KILO-NAT");
        }
        let known = comment("do not NAT packets destined for known IPs");
        for node in &self.lab.layout().nodes {
            for destination in [host(node.lan.v4), node.pods_v4().to_string()] {
                let _ = writeln!(nat, "-A KILO-NAT -d {destination} {known} -j RETURN");
            }
        }
        for site in &self.lab.layout().sites {
            let wireguard = host(Ipv4Addr::new(10, 4, 0, site.number));
            // The word is Go Kilo's.
            let of_wireguard = comment("do not NAT packets destined for WireGuared IPs");
            let _ = writeln!(nat, "-A KILO-NAT -d {wireguard} {known} -j RETURN");
            let _ = writeln!(nat, "-A KILO-NAT -d {wireguard} {of_wireguard} -j RETURN");
        }
        let peers = comment("do not NAT packets destined for peers");
        let _ = writeln!(nat, "-A KILO-NAT -d {PEER} {peers} -j RETURN");
        let services = self.lab.layout().services().0;
        let of_services = comment("do not NAT packets destined for service CIDRs");
        let _ = writeln!(nat, "-A KILO-NAT -d {services} {of_services} -j RETURN");
        let _ = writeln!(nat, "-A KILO-NAT {} -j MASQUERADE\nCOMMIT", comment("NAT remaining packets"));

        let mut filter = "*filter\n".to_owned();
        if self.inside == Inside::Ipip {
            filter += &ipip();
            for node in self.location_of(own) {
                let allow = comment("allow IPIP traffic");
                let _ = writeln!(filter, "-A KILO-IPIP -s {} {allow} -j ACCEPT", host(node.lan.v4));
            }
        }
        let mut forward = |net: String, of: &str| {
            for (way, option) in [("to", "-d"), ("from", "-s")] {
                let comment = comment(&format!("forward packets {way} {of}"));
                let _ = writeln!(filter, "-A FORWARD {option} {net} {comment} -j ACCEPT");
            }
        };
        if self.leads() {
            for node in self.location_of(own) {
                forward(node.pods_v4().to_string(), "the pod subnet");
                forward(host(node.lan.v4), "private IPs");
            }
        } else {
            forward(own.pods_v4().to_string(), "the node's pod subnet");
        }
        format!("{nat}{filter}COMMIT\n")
    }

    fn filter_v6(&self) -> String {
        let services = self.lab.layout().services().1;
        let nat = format!(
            "*nat\n:KILO-NAT - [0:0]\n\
             -A KILO-NAT -d {services} -m comment --comment \"Kilo: do not NAT packets destined for service CIDRs\" -j RETURN\n\
             -A KILO-NAT -m comment --comment \"Kilo: NAT remaining packets\" -j MASQUERADE\nCOMMIT\n"
        );
        if self.inside == Inside::Ipip { format!("{nat}*filter\n{}COMMIT\n", ipip()) } else { nat }
    }

    fn leads(&self) -> bool {
        self.leader_of(self.node.layout()).name == self.node.layout().name
    }

    /// All are equally good: the first by name.
    fn leader_of(&self, node: &NodeLayout) -> &NodeLayout {
        self.location_of(node).min_by_key(|node| &node.name).expect("it is one itself")
    }

    fn location_of(&self, node: &NodeLayout) -> impl Iterator<Item = &NodeLayout> {
        let site = node.site;
        self.lab.layout().nodes.iter().filter(move |other| other.site == site)
    }

    fn other_leaders(&self) -> impl Iterator<Item = &NodeLayout> {
        let site = self.node.layout().site;
        let nodes = self.lab.layout().nodes.iter();
        nodes.filter(move |node| node.site != site && self.leader_of(node).name == node.name)
    }

    /// The demo's sites are in the order of their names.
    fn wireguard_ip(&self, leader: &NodeLayout) -> Ipv4Addr {
        Ipv4Addr::new(10, 4, 0, self.lab.layout().sites[leader.site].number)
    }

    fn keepalive(&self) -> String {
        let annotations = self.lab.spec().node(&self.node.layout().name).map(|node| &node.annotations);
        annotations
            .and_then(|all| all.get("kilo.squat.ai/persistent-keepalive"))
            .cloned()
            .unwrap_or("0".to_owned())
    }

    fn key_file(&self) -> String {
        self.node.agent_directory().join("key").display().to_string()
    }

    fn restore(&self, program: &str, text: &str) {
        self.run(&format!("{program} --noflush <<'END'\n{text}END\n"));
    }

    fn run(&self, script: &str) {
        let output = self.node.exec(&["sh", "-e", "-c", script]).expect("there is a shell");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}\n{script}", self.node.layout().name);
    }
}

fn ipip() -> String {
    ":KILO-IPIP - [0:0]\n\
     -A INPUT -p 4 -m comment --comment \"Kilo: jump to IPIP chain\" -j KILO-IPIP\n\
     -A INPUT -p 4 -m comment --comment \"Kilo: reject other IPIP traffic\" -j DROP\n"
        .to_owned()
}

fn host(address: Ipv4Addr) -> String {
    format!("{address}/32")
}
