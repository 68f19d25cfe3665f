//! What a Go agent left on a host, read from the output of `ip`, `wg showconf` and `iptables-save`. Whatever is not
//! understood is an error: nothing is passed over.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use hostnet::{MAIN_TABLE, NextHop, Route, WireguardPeer};
use ipnet::IpNet;
use mesh::PublicKey;

use simulation::forwarding::Kernel;

/// What a Go agent left on a host.
pub struct Left {
    pub kernel: Kernel,
    pub link: LeftLink,
    pub listen_port: u16,
    pub iptables: Iptables,
}

/// `kilo0`.
pub struct LeftLink {
    pub up: bool,
    pub mtu: u32,
    pub addresses: Vec<IpNet>,
}

/// The rules of a host's iptables, by table and chain.
#[derive(Default)]
pub struct Iptables(BTreeMap<(String, String), Vec<IptablesRule>>);

struct IptablesRule {
    source: Option<IpNet>,
    destination: Option<IpNet>,
    target: String,
}

impl Left {
    /// Reads the files of one host.
    pub fn read(folder: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(read("rules"), "", "policy rules are not read yet");
        let link = link(&read("kilo0-link"), &read("kilo0-address"));
        let (listen_port, peers) = wireguard(&read("wireguard.conf"));
        let mut kernel = Kernel::default();
        kernel.wireguard = "kilo0".to_owned();
        kernel.peers = peers;
        if link.up {
            kernel.addresses.extend(link.addresses.iter().map(|net| ("kilo0".to_owned(), *net)));
        }
        kernel.routes.extend(read("routes").lines().map(route));
        Self { kernel, link, listen_port, iptables: Iptables::read(&read("iptables")) }
    }
}

/// A line such as `10.2.3.0/24 via 10.4.0.2 dev kilo0 proto static src 10.1.0.1 onlink`.
fn route(line: &str) -> Route {
    let mut words = line.split_whitespace();
    let mut route = Route {
        table: MAIN_TABLE,
        destination: prefix(words.next().unwrap()),
        next_hop: NextHop::Destination,
        link: "none".parse().unwrap(),
        source: None,
    };
    while let Some(word) = words.next() {
        match word {
            "via" => route.next_hop = NextHop::Gateway(words.next().unwrap().parse().unwrap()),
            "dev" => route.link = words.next().unwrap().parse().unwrap(),
            "src" => route.source = words.next().map(|text| text.parse().unwrap()),
            "proto" | "scope" => drop(words.next()),
            "onlink" => {}
            other => panic!("{other:?} in the route {line:?}"),
        }
    }
    route
}

/// A prefix, or an address for the prefix of it alone.
fn prefix(text: &str) -> IpNet {
    text.parse().unwrap_or_else(|_| text.parse::<IpAddr>().unwrap().into())
}

/// `<POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1420`, and lines such as `inet 10.4.0.1/16`.
fn link(flags: &str, addresses: &str) -> LeftLink {
    let (flags, mtu) = flags.trim().trim_start_matches('<').split_once("> mtu ").unwrap();
    let addresses = addresses.lines().map(|line| line.strip_prefix("inet ").unwrap().parse().unwrap());
    LeftLink {
        up: flags.split(',').any(|flag| flag == "UP"),
        mtu: mtu.parse().unwrap(),
        addresses: addresses.collect(),
    }
}

/// The output of `wg showconf`.
fn wireguard(conf: &str) -> (u16, BTreeMap<PublicKey, WireguardPeer>) {
    let mut sections = conf.split("[Peer]\n");
    let interface = sections.next().unwrap();
    let port = interface.trim().strip_prefix("[Interface]\nListenPort = ").unwrap().parse().unwrap();
    (port, sections.map(peer).collect())
}

fn peer(section: &str) -> (PublicKey, WireguardPeer) {
    let (mut key, mut peer) = (None, WireguardPeer::default());
    for line in section.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(" = ").unwrap();
        match name {
            "PublicKey" => key = Some(value.parse().unwrap()),
            "PresharedKey" => peer.preshared_key = Some(value.parse().unwrap()),
            "AllowedIPs" => peer.allowed_ips = value.split(", ").map(|ip| ip.parse().unwrap()).collect(),
            "Endpoint" => peer.endpoint = Some(value.parse().unwrap()),
            "PersistentKeepalive" => peer.persistent_keepalive = value.parse().unwrap(),
            other => panic!("{other:?} in a WireGuard peer"),
        }
    }
    (key.unwrap(), peer)
}

impl Iptables {
    /// The output of `iptables-save`, IPv4.
    fn read(text: &str) -> Self {
        let (mut rules, mut table) = (Self::default(), "");
        for line in text.lines() {
            match line.split_at(1) {
                ("*", name) => table = name,
                (":", _) | ("C", "OMMIT") => {}
                _ => {
                    let (chain, rule) = iptables_rule(line);
                    rules.0.entry((table.to_owned(), chain)).or_default().push(rule);
                }
            }
        }
        rules
    }

    /// Whether the first rule that decides about the packet in the chain has this target.
    fn decides(&self, table: &str, chain: &str, packet: (IpAddr, IpAddr), wanted: &str) -> Option<bool> {
        let rules = self.0.get(&(table.to_owned(), chain.to_owned())).into_iter().flatten();
        let holds = |net: &Option<IpNet>, address| net.as_ref().is_none_or(|net| net.contains(&address));
        let mut matching =
            rules.filter(|rule| holds(&rule.source, packet.0) && holds(&rule.destination, packet.1));
        // A chain that returns lets the one that jumped to it go on.
        matching.find_map(|rule| match rule.target.as_str() {
            "RETURN" => Some(None),
            "ACCEPT" | "MASQUERADE" => Some(Some(rule.target == wanted)),
            chain => self.decides(table, chain, packet, wanted).map(Some),
        })?
    }

    /// Whether the source of a connection is translated.
    pub fn masquerades(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.decides("nat", "POSTROUTING", (source, destination), "MASQUERADE").unwrap_or(false)
    }

    /// Whether forwarding is accepted.
    pub fn forwards(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.decides("filter", "FORWARD", (source, destination), "ACCEPT").unwrap_or(false)
    }
}

/// A line such as `-A KILO-NAT -d 10.1.0.2/32 -m comment --comment "…" -j RETURN`.
fn iptables_rule(line: &str) -> (String, IptablesRule) {
    let (before, rest) = line.split_once("-m comment --comment \"").unwrap();
    let (_, after) = rest.rsplit_once("\" ").unwrap();
    let (mut chain, mut rule) =
        (None, IptablesRule { source: None, destination: None, target: String::new() });
    let mut words = before.split_whitespace().chain(after.split_whitespace());
    while let Some(word) = words.next() {
        let value = words.next().unwrap();
        match word {
            "-A" => chain = Some(value.to_owned()),
            "-s" => rule.source = Some(value.parse().unwrap()),
            "-d" => rule.destination = Some(value.parse().unwrap()),
            "-j" => rule.target = value.to_owned(),
            other => panic!("{other:?} in the rule {line:?}"),
        }
    }
    (chain.unwrap(), rule)
}
