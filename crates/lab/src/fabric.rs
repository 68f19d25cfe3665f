//! The wires of a lab: namespaces, links, addresses, routes and the routers' packet filters. The scripts are
//! pure functions of the layout; they run in as few processes as possible, because on an emulated machine
//! starting one costs more than what it does. Nothing here knows Kubernetes or the agent.
//!
//! Every veth pair is created with both ends in their namespaces, so the machine's own namespace never sees a
//! device.

use std::{fmt::Write, fs};

use crate::{
    LabError,
    layout::{Cluster, Layout, NodeLayout, PodLayout, SiteLayout},
    netns,
    process::{Batch, run_batches},
    spec::Access,
};

/// What pods and their bridge use: room for a tunnel header over IPv6.
const POD_MTU: u16 = 1420;

/// Builds namespaces, links, addresses, routes and packet filters, and connects them to the WAN of the lab that is
/// joined, if one is.
///
/// # Errors
/// When a program is missing or the kernel refuses something.
pub fn build(layout: &Layout, joined: Option<&Layout>) -> Result<(), LabError> {
    run_batches(&[ip(None, create_namespaces(layout))])?;
    for namespace in layout.namespaces() {
        netns::inside(&namespace, || prepare(&namespace))??;
    }
    if joined.is_some() {
        unplug_leftovers(layout);
    }
    run_batches(&[ip(None, create_links(layout))])?;
    let mut filters: Vec<Batch> =
        layout.sites.iter().map(|site| nft(&site.namespace, router_filter(site))).collect();
    // The first of a kind makes the kernel load modules. While one process does that, another one that needs
    // the same module may be told that there is none; so the first goes alone. Links come from one process
    // anyway.
    run_batches(&filters.split_off(filters.len() - 1))?;
    let mut batches = vec![
        ip(Some(layout.wan()), wan(layout)),
        ip(Some(layout.api()), api(layout) + &routes_to_public_blocks(others(joined), "eth0")),
    ];
    batches.append(&mut filters);
    batches.extend(layout.sites.iter().map(|site| {
        let script = router(layout, site) + &routes_to_public_blocks(others(joined), "wan0");
        ip(Some(site.namespace.clone()), script)
    }));
    if let Some(first) = joined {
        // Those who are there already learn the way to the new sites. An earlier second cluster may have left it to them.
        let routes = |device| {
            routes_to_public_blocks(layout.sites.iter(), device).replace("route add", "route replace")
        };
        batches.push(ip(Some(first.api()), routes("eth0")));
        let routers = first.sites.iter();
        batches.extend(routers.map(|site| ip(Some(site.namespace.clone()), routes("wan0"))));
    }
    batches
        .extend(layout.nodes.iter().map(|node| ip(Some(node.namespace.clone()), self::node(layout, node))));
    batches.extend(layout.pods.iter().map(|pod| ip(Some(pod.namespace.clone()), self::pod(layout, pod))));
    run_batches(&batches)
}

/// Unplugs or plugs a port: the other end of the cable sees its carrier go or come.
///
/// # Errors
/// When the port does not exist.
pub fn set_port(namespace: &str, port: &str, plugged: bool) -> Result<(), LabError> {
    let state = if plugged { "up" } else { "down" };
    run_batches(&[ip(Some(namespace.to_owned()), format!("link set {port} {state}\n"))])
}

/// A run of `nft -f` inside a namespace.
pub fn nft(namespace: &str, script: String) -> Batch {
    Batch { command: ["ip", "netns", "exec", namespace, "nft", "-f", "-"].map(String::from).to_vec(), script }
}

fn ip(namespace: Option<String>, script: String) -> Batch {
    let mut command = vec!["ip".to_owned()];
    if let Some(namespace) = namespace {
        command.extend(["-n".to_owned(), namespace]);
    }
    command.extend(["-batch", "-"].map(String::from));
    Batch { command, script }
}

fn create_namespaces(layout: &Layout) -> String {
    lines(layout.namespaces().iter().map(|namespace| format!("netns add {namespace}")))
}

/// Settings that must be there before the first device is: it takes them from `default`. New namespaces
/// always forward nothing, and duplicate address detection would delay every address by a second.
fn prepare(namespace: &str) -> Result<(), LabError> {
    let settings = [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        // Loose, as common distributions have it.
        ("ipv4/conf/default/rp_filter", "2"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/forwarding", "1"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
    ];
    for (key, value) in settings {
        // The thread is inside the namespace, and `/proc/sys/net` shows the namespace of the thread that
        // opens it.
        fs::write(format!("/proc/sys/net/{key}"), value)
            .map_err(LabError::io(format!("setting net/{key} to {value} in {namespace}")))?;
    }
    Ok(())
}

fn create_links(layout: &Layout) -> String {
    let veth = |inside: &str, device: &str, outside: &str, port: &str, mtu: u16| {
        format!(
            "link add name {device} netns {inside} mtu {mtu} type veth peer name {port} netns {outside} mtu {mtu}"
        )
    };
    let wan = layout.wan();
    let mut all = match layout.cluster {
        Cluster::First => vec![bridge(&wan, "wan", 1500)],
        Cluster::Second => Vec::new(),
    };
    all.push(veth(&layout.api(), "eth0", &wan, layout.api_port(), 1500));
    for site in &layout.sites {
        all.push(bridge(&site.namespace, "lan", 1500));
        all.push(veth(&site.namespace, "wan0", &wan, &wan_port(site), 1500));
    }
    for node in &layout.nodes {
        let router = &layout.sites[node.site].namespace;
        all.push(bridge(&node.namespace, "kube-bridge", POD_MTU));
        all.push(veth(&node.namespace, "eth0", router, &node.router_port, 1500));
    }
    for pod in &layout.pods {
        let node = &layout.nodes[pod.node].namespace;
        all.push(veth(&pod.namespace, "eth0", node, &pod.bridge_port, POD_MTU));
    }
    lines(all)
}

/// The sites of the lab that is joined.
fn others(joined: Option<&Layout>) -> impl Iterator<Item = &SiteLayout> {
    joined.into_iter().flat_map(|first| &first.sites)
}

fn wan(layout: &Layout) -> String {
    let mut script = match layout.cluster {
        Cluster::First => bridge_up("wan"),
        Cluster::Second => String::new(),
    };
    for port in wan_ports(layout) {
        script += &bridge_port("wan", &port);
    }
    script
}

/// The kernel takes a cable away some time after the namespace at its one end has gone, and its other end keeps its name
/// until then.
fn unplug_leftovers(layout: &Layout) {
    let script = wan_ports(layout).map(|port| format!("link del {port}\n")).collect();
    let command = ["ip", "-n", &layout.wan(), "-force", "-batch", "-"].map(String::from).to_vec();
    // It complains of each that is not there, as mostly none is.
    let _ = run_batches(&[Batch { command, script }]);
}

fn wan_ports(layout: &Layout) -> impl Iterator<Item = String> {
    layout.sites.iter().map(wan_port).chain([layout.api_port().to_owned()])
}

fn wan_port(site: &SiteLayout) -> String {
    format!("site{}", site.number)
}

fn api(layout: &Layout) -> String {
    let address = layout.api_address();
    lines([
        "link set lo up".into(),
        "link set eth0 up".into(),
        format!("address add {}/24 dev eth0", address.v4),
        format!("address add {}/64 dev eth0 nodad", address.v6),
    ]) + &routes_to_public_blocks(layout.sites.iter(), "eth0")
}

fn router(layout: &Layout, site: &SiteLayout) -> String {
    let (wan, lan) = (site.wan(), site.gateway());
    let mut script = bridge_up("lan");
    for node in layout.nodes.iter().filter(|node| layout.sites[node.site].number == site.number) {
        script += &bridge_port("lan", &node.router_port);
    }
    script += &lines([
        "link set wan0 up".into(),
        format!("address add {}/24 dev wan0", wan.v4),
        format!("address add {}/64 dev wan0 nodad", wan.v6),
        format!("address add {}/24 dev lan", lan.v4),
        format!("address add {}/64 dev lan nodad", lan.v6),
    ]);
    if site.access == Access::Public {
        script += &lines([
            format!("route add {} dev lan", site.public_v4()),
            format!("route add {} dev lan", site.public_v6()),
        ]);
    }
    let others = layout.sites.iter().filter(|other| other.number != site.number);
    script + &routes_to_public_blocks(others, "wan0")
}

/// A public site's router masquerades what leaves with a private address, as clouds do. That of a NATed site
/// masquerades everything and forwards nothing inward that was not asked for.
///
/// No router lets anything out of a LAN but from the addresses that were given to it, as clouds do: what a node sends with the
/// address of a pod arrives nowhere.
///
/// Protocols are numbers (ICMP and ICMPv6), because names are looked up in a file that small systems do not
/// have.
fn router_filter(site: &SiteLayout) -> String {
    let mut script = String::from("table inet router {\n");
    if site.access == Access::Nat {
        script += "chain forward { type filter hook forward priority 0; policy accept;\n\
                   ct state established,related accept\n\
                   iifname wan0 counter drop\n}\n\
                   chain input { type filter hook input priority 0; policy accept;\n\
                   ct state established,related accept\n\
                   meta l4proto { 1, 58 } accept\n\
                   iifname wan0 counter drop\n}\n";
    }
    script += &source_filter(site);
    script += "chain postrouting { type nat hook postrouting priority 100;\n";
    match site.access {
        Access::Public => {
            let _ = write!(
                script,
                "oifname wan0 ip saddr {} masquerade\noifname wan0 ip6 saddr {} masquerade\n",
                site.lan_v4(),
                site.lan_v6()
            );
        }
        Access::Nat => script += "oifname wan0 masquerade\n",
    }
    script + "}\n}\n"
}

fn source_filter(site: &SiteLayout) -> String {
    let (mut v4, mut v6) = (site.lan_v4().to_string(), site.lan_v6().to_string());
    if site.access == Access::Public {
        v4 += &format!(", {}", site.public_v4());
        v6 += &format!(", {}", site.public_v6());
    }
    format!(
        "chain sources {{ type filter hook forward priority -10;\n\
         oifname wan0 ip saddr != {{ {v4} }} counter drop\n\
         oifname wan0 ip6 saddr != {{ {v6} }} counter drop\n}}\n"
    )
}

fn node(layout: &Layout, node: &NodeLayout) -> String {
    let gateway = layout.sites[node.site].gateway();
    let pods = node.bridge();
    let mut script = lines([
        "link set eth0 up".into(),
        format!("address add {}/24 dev eth0", node.lan.v4),
        format!("address add {}/64 dev eth0 nodad", node.lan.v6),
    ]);
    // What leaves the site uses the public address, if there is one.
    let mut source = (String::new(), String::new());
    if let Some(public) = node.public {
        script += &lines([
            format!("address add {}/32 dev eth0", public.v4),
            format!("address add {}/128 dev eth0 nodad", public.v6),
        ]);
        source = (format!("src {}", public.v4), format!("src {}", public.v6));
    }
    script += &lines([
        format!("route add default via {} dev eth0 {}", gateway.v4, source.0),
        format!("route add default via {} dev eth0 {}", gateway.v6, source.1),
    ]);
    script += &bridge_up("kube-bridge");
    script += &lines([
        format!("address add {}/24 dev kube-bridge", pods.v4),
        format!("address add {}/64 dev kube-bridge nodad", pods.v6),
    ]);
    for pod in layout.pods.iter().filter(|pod| layout.nodes[pod.node].number == node.number) {
        script += &bridge_port("kube-bridge", &pod.bridge_port);
    }
    script
}

fn pod(layout: &Layout, pod: &PodLayout) -> String {
    let gateway = layout.nodes[pod.node].bridge();
    lines([
        "link set lo up".into(),
        "link set eth0 up".into(),
        format!("address add {}/24 dev eth0", pod.address.v4),
        format!("address add {}/64 dev eth0 nodad", pod.address.v6),
        format!("route add default via {} dev eth0", gateway.v4),
        format!("route add default via {} dev eth0", gateway.v6),
    ])
}

fn routes_to_public_blocks<'a>(sites: impl Iterator<Item = &'a SiteLayout>, device: &str) -> String {
    lines(sites.filter(|site| site.access == Access::Public).flat_map(|site| {
        let wan = site.wan();
        [
            format!("route add {} via {} dev {device}", site.public_v4(), wan.v4),
            format!("route add {} via {} dev {device}", site.public_v6(), wan.v6),
        ]
    }))
}

/// A bridge that forwards at once and does not filter multicast, which neighbour discovery needs.
fn bridge(namespace: &str, name: &str, mtu: u16) -> String {
    format!("link add name {name} netns {namespace} mtu {mtu} type bridge forward_delay 0 mcast_snooping 0")
}

fn bridge_up(name: &str) -> String {
    lines(["link set lo up".into(), format!("link set {name} up")])
}

fn bridge_port(bridge: &str, port: &str) -> String {
    format!("link set {port} master {bridge} up\n")
}

fn lines(commands: impl IntoIterator<Item = String>) -> String {
    commands.into_iter().map(|command| command + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn only_public_sites_are_routed_to() {
        let layout = Layout::of(&Spec::demo());
        let script = api(&layout);
        assert!(script.contains("route add 198.51.100.0/28 via 203.0.113.1 dev eth0\n"), "{script}");
        assert!(script.contains("route add 2001:db8:2::/64 via 2001:db8::2 dev eth0\n"), "{script}");
        assert!(!script.contains("198.51.100.32"), "site c is behind NAT: {script}");
    }

    #[test]
    fn interface_names_fit_the_kernels_limit() {
        let mut spec = Spec::demo();
        spec.sites[0].nodes[0].name = "a-rather-long-node-name".into();
        spec.sites[0].nodes[0].pods = 200;
        let script = create_links(&Layout::of(&spec));
        for words in script.lines().map(|line| line.split(' ').collect::<Vec<_>>()) {
            for device in words.windows(2).filter(|pair| pair[0] == "name").map(|pair| pair[1]) {
                assert!(device.len() <= 15, "{device}");
            }
        }
    }
}
