//! What hosts of clouds, homes and racks announce while everything else on them changes, in any order, across restarts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/hosts.rs"]
mod hosts;
mod support;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use hostnet::HostFacts;
use hosts::{OTHERS, add};
use mesh::{Forced, Node, Published};
use proptest::prelude::*;
use reconciler::{NodeUpdate, Watch};
use support::{World, key, node};

/// A host: its links, what its status names, and what it announces.
type Host = (&'static [&'static str], &'static str, &'static str);

const HOSTS: &[Host] = &[
    // Hetzner, with and without a cloud controller.
    (
        &[
            "UPLINK 203.0.113.9/32 2001:db8::1/64",
            "ens10 10.0.0.5/32",
            "via UPLINK 172.31.1.1 fe80::1",
            "net UPLINK 172.31.1.1/32",
            "from UPLINK 203.0.113.9",
            "net ens10 10.0.0.0/16",
        ],
        "",
        "203.0.113.9 | 10.0.0.5/32",
    ),
    (
        &[
            "UPLINK 203.0.113.9/32",
            "ens10 10.0.0.5/32",
            "via UPLINK 172.31.1.1",
            "net UPLINK 172.31.1.1/32",
            "from UPLINK 203.0.113.9",
            "net ens10 10.0.0.0/16",
        ],
        "203.0.113.9 10.0.0.5",
        "203.0.113.9 | 10.0.0.5/32",
    ),
    // OVH, DigitalOcean, Scaleway, Oracle.
    (&["UPLINK 203.0.113.9/24", "via UPLINK 203.0.113.254"], "203.0.113.9", "203.0.113.9 | "),
    (
        &["UPLINK 203.0.113.9/20 10.19.0.5/16", "eth1 10.110.0.5/20", "via UPLINK 203.0.113.1"],
        "203.0.113.9 10.110.0.5",
        "203.0.113.9 | 10.110.0.5/20",
    ),
    (&["UPLINK 10.194.0.5/31", "via UPLINK 10.194.0.4"], "", "10.194.0.5 | 10.194.0.5/31"),
    (
        &["UPLINK 10.0.0.50/24", "ens3.7:vlan 10.7.0.5/24", "via UPLINK 10.0.0.254"],
        "10.0.0.50",
        "10.0.0.50 | 10.0.0.50/24",
    ),
    // GCE, AWS with an address of IPv6, Azure.
    (
        &[
            "UPLINK 10.128.0.5/32",
            "via UPLINK 10.128.0.1",
            "net UPLINK 10.128.0.1/32",
            "from UPLINK 10.128.0.5",
        ],
        "",
        "10.128.0.5 | 10.128.0.5/32",
    ),
    (
        &[
            "UPLINK 172.31.0.5/20 2001:db8::5/128",
            "via UPLINK 172.31.0.1 fe80::1",
            "net UPLINK 2001:db8::/64",
        ],
        "172.31.0.5",
        "2001:db8::5 | 172.31.0.5/20",
    ),
    (&["UPLINK 10.1.0.4/24", "enP1<UPLINK", "via UPLINK 10.1.0.1"], "10.1.0.4", "10.1.0.4 | 10.1.0.4/24"),
    // Proxmox, bare metal with a bond, a container, a home server with Wi-Fi, PPPoE, Open vSwitch.
    (&["UPLINK:bridge 10.0.0.50/24", "eno1<UPLINK", "via UPLINK 10.0.0.254"], "", "10.0.0.50 | 10.0.0.50/24"),
    (
        &["UPLINK:bond 203.0.113.50/24", "bond0.7:vlan 10.0.0.50/24", "via UPLINK 203.0.113.1"],
        "",
        "203.0.113.50 | 10.0.0.50/24",
    ),
    (&["UPLINK:veth 172.18.0.3/16", "via UPLINK 172.18.0.1"], "172.18.0.3", "172.18.0.3 | 172.18.0.3/16"),
    (
        &[
            "UPLINK 192.168.1.50/24 2001:db8:5::50/64",
            "wlan0 192.168.1.51/24",
            "via UPLINK 192.168.1.1 fe80::1",
            "via wlan0 192.168.1.1",
        ],
        "",
        "2001:db8:5::50 | 192.168.1.50/24",
    ),
    (
        &[
            "eth0 192.168.1.1/24",
            "UPLINK:ppp 203.0.113.9/32",
            "via UPLINK 198.51.100.1",
            "net UPLINK 198.51.100.1/32",
        ],
        "",
        "203.0.113.9 | 192.168.1.1/24",
    ),
    (&["UPLINK:openvswitch 10.0.0.50/24", "via UPLINK 10.0.0.254"], "10.0.0.50", "10.0.0.50 | 10.0.0.50/24"),
    // Over Tailscale, over WireGuard beside a public address, over routes to an address on the loopback interface.
    (
        &["UPLINK 192.168.1.50/24", "tailscale9:tun 100.64.9.9/32", "via UPLINK 192.168.1.1"],
        "100.64.9.9",
        "100.64.9.9 | 192.168.1.50/24",
    ),
    (
        &["UPLINK 203.0.113.9/24", "wg9:wireguard 10.99.0.2/24", "via UPLINK 203.0.113.1"],
        "10.99.0.2",
        "203.0.113.9 | 10.99.0.2/24",
    ),
    (
        &["UPLINK 172.16.0.2/30", "lo 10.5.5.5/32", "via UPLINK 172.16.0.1"],
        "10.5.5.5",
        "10.5.5.5 | 10.5.5.5/32",
    ),
];

#[derive(Debug, Clone)]
enum Step {
    /// One of the others comes, or goes.
    Toggle(usize),
    /// A VPN or a second way out takes all default routes, or gives them back.
    Routes(bool),
    /// The links that lead out are gone for seconds.
    Flap(u32),
    Wait(u32),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..OTHERS.len() + MORE.len()).prop_map(Step::Toggle),
        1 => any::<bool>().prop_map(Step::Routes),
        1 => (1..9u32).prop_map(Step::Flap),
        1 => (1..40u32).prop_map(Step::Wait),
        2 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..25)
}

/// Further ones that come and go.
const MORE: &[&str] = &[
    "br-0123456789ab:bridge 10.0.0.1/16",
    "vi51:macvlan 10.0.0.60/32",
    "storage0 10.3.3.3/32",
    "dummy7:dummy 10.3.3.4/24 2001:db8:3::1/64",
    "tun7:tun 10.8.0.2/24 2001:db8:8::2/64",
    "eni1:veth 169.254.1.1/32",
    "cilium_host:veth 10.0.1.5/32",
    "tunl0:ipip 10.0.3.1/32",
    "weave:bridge 10.32.0.1/12",
    "genev_sys_6081:geneve 10.3.5.1/24",
];

struct Seen {
    world: World,
    own: HostFacts,
    others: BTreeSet<usize>,
    taken: bool,
    status: BTreeSet<IpAddr>,
    history: Vec<String>,
}

fn text(status: &Published) -> String {
    let endpoint = status.endpoint.as_ref().and_then(mesh::Endpoint::ip).map(|ip| ip.to_string());
    let internal: Vec<_> = status.internal_ips.iter().map(ToString::to_string).collect();
    format!("{} | {}", endpoint.unwrap_or_default(), internal.join(" "))
}

impl Seen {
    fn of((lines, status, _): &Host, others: &[usize]) -> Self {
        let mut own = HostFacts::default();
        for line in *lines {
            let line = line.replace("UPLINK", "eth7");
            add(&mut own, &line);
        }
        let status = status.split_whitespace().map(|address| address.parse().unwrap()).collect();
        let mut seen = Self {
            world: World::new(),
            own,
            others: others.iter().copied().collect(),
            taken: false,
            status,
            history: Vec::new(),
        };
        seen.world.facts = seen.facts();
        seen.start(Node { key: None, internal_ips: Vec::new(), endpoint: None, ..node("a", "one", 1) });
        seen
    }

    fn facts(&self) -> HostFacts {
        let mut facts = self.own.clone();
        for index in &self.others {
            let line = OTHERS.iter().chain(MORE).nth(*index).unwrap();
            add(&mut facts, &line.replace("UPLINK", "eth7"));
        }
        if self.taken {
            add(&mut facts, "taker:tun 10.88.0.2/24 192.0.2.88/32");
            facts.default_interface = "taker".parse().ok();
            facts.routes.iter_mut().filter(|route| route.destination.prefix_len() == 0).for_each(|route| {
                route.link = "taker".parse().ok();
                route.gateway = None;
            });
        }
        facts
    }

    fn start(&mut self, own: Node) {
        let update =
            NodeUpdate { node: Arc::new(own), problems: Vec::new(), forced: Some(Forced::default()) };
        self.world.reconciler.handle_node_addresses(&self.status, self.world.now);
        self.world.reconciler.handle_node("a", Some(update), self.world.now);
        self.world.see(node("b", "two", 2));
        self.world.reconciler.handle_watch(Watch::Synced, self.world.now);
        self.pass(1);
    }

    fn pass(&mut self, seconds: u32) {
        self.world.pass(Duration::from_secs(seconds.into()), &[]);
        self.history.extend(self.world.patches.iter().map(text));
        self.history.dedup();
    }

    fn change(&mut self) {
        self.world.facts = self.facts();
        self.world.reconciler.handle_notice(self.world.now);
        self.pass(1);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Toggle(index) => {
                if !self.others.remove(index) {
                    self.others.insert(*index);
                }
                self.change();
            }
            Step::Routes(taken) => {
                self.taken = *taken;
                self.change();
            }
            Step::Flap(seconds) => {
                self.world.facts.interfaces.values_mut().for_each(|link| link.running = false);
                self.world.reconciler.handle_notice(self.world.now);
                self.pass(*seconds);
                self.change();
            }
            Step::Wait(seconds) => self.pass(*seconds),
            Step::Restart => {
                let last = self.world.patches.last().unwrap().clone();
                let facts = self.world.facts.clone();
                self.world = World::new();
                self.world.facts = facts;
                self.start(Node {
                    endpoint: last.endpoint,
                    key: Some(key(1).public_key()),
                    internal_ips: last.internal_ips,
                    ..node("a", "one", 1)
                });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn only_what_a_host_has_for_itself_is_announced(
        host in proptest::sample::select(HOSTS),
        first in proptest::sample::subsequence((0..OTHERS.len() + MORE.len()).collect::<Vec<_>>(), 0..6),
        steps in steps(),
    ) {
        let mut seen = Seen::of(&host, &first);
        steps.iter().for_each(|step| seen.step(step));
        prop_assert_eq!(&seen.history[..], &[host.2.to_owned()][..]);
    }
}
