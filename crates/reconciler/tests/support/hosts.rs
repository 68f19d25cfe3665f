//! Hosts as text, for the choice of addresses.

use std::net::IpAddr;

use hostnet::{HostFacts, HostRoute, Interface, LinkName, MAIN_TABLE};

/// Links as `NAME[:KIND][<MASTER] ADDRESS…`, where `!` after an address says that it is a secondary one; `via NAME GATEWAY…`
/// are default routes, `net NAME NETWORK…` others, `from NAME ADDRESS…` sources of routes.
pub fn add(facts: &mut HostFacts, line: &str) {
    let mut words = line.split_whitespace();
    let head = words.next().unwrap();
    if head == "from" {
        let link: LinkName = words.next().unwrap().parse().unwrap();
        let sources = words.map(|word| word.parse::<IpAddr>().unwrap());
        return facts.interfaces.get_mut(&link).unwrap().sources.extend(sources);
    }
    if head == "net" {
        let link = words.next().unwrap().parse().ok();
        let routes = words.map(|net| HostRoute {
            destination: net.parse().unwrap(),
            gateway: None,
            link: link.clone(),
            table: MAIN_TABLE,
        });
        return facts.routes.extend(routes);
    }
    if head == "via" {
        let link: LinkName = words.next().unwrap().parse().unwrap();
        facts.default_interface.get_or_insert_with(|| link.clone());
        for gateway in words {
            let gateway: IpAddr = gateway.parse().unwrap();
            let destination = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().unwrap();
            let (gateway, link) = (Some(gateway), Some(link.clone()));
            facts.routes.push(HostRoute { destination, gateway, link, table: MAIN_TABLE });
        }
        return;
    }
    let (head, master) = head.split_once('<').map_or((head, None), |(head, master)| (head, Some(master)));
    let (name, kind) = head.split_once(':').unwrap_or((head, ""));
    let link = facts.interfaces.entry(name.parse().unwrap()).or_insert_with(|| Interface {
        running: true,
        kind: kind.to_owned(),
        master: master.map(|master| master.parse().unwrap()),
        ..Interface::default()
    });
    for word in words {
        let net: ipnet::IpNet = word.trim_end_matches('!').parse().unwrap();
        link.addresses.push(net);
        if word.ends_with('!') {
            link.secondary.push(net.addr());
        }
    }
}

/// What comes and goes. `UPLINK` is the host's first card.
pub const OTHERS: &[&str] = &[
    "UPLINK 10.0.0.1/32",
    "UPLINK 10.0.0.200/24!",
    "UPLINK 203.0.113.1/24!",
    "UPLINK 10.0.9.1/32",
    "UPLINK fd00::1/128",
    "UPLINK fd00::ffff/128 fe80::1/64",
    "UPLINK 2001:db8::77aa/64!",
    "lo 10.0.0.3/32 fd00::3/128 203.0.113.3/32",
    "vrrp.51:macvlan 10.0.0.4/32",
    "docker0:bridge 172.17.0.1/16",
    "br-1f2e3d4c5b6a:bridge 172.18.0.1/16 fd18::1/64",
    "veth1:veth<br-1f2e3d4c5b6a",
    "incusbr0:bridge 10.9.0.1/24 fd09::1/64",
    "tap0:tun<incusbr0",
    "ve-db:veth 192.168.9.1/28",
    "tailscale0:tun 100.64.0.7/32 fd7a::7/128",
    "aaa:wireguard 10.6.0.2/24 2001:db8:6::2/64",
    "gre1:gre 10.7.0.1/30",
    "kube-ipvs0:dummy 10.43.0.1/32",
    "ppp1:ppp 10.8.0.2/32",
];
