//! What other container networks make on their nodes: devices, addresses, neighbours and routes, as their agents set them.
//! Each takes all nodes for neighbours, whatever their location.

use std::fmt::Write;

use kilo_lab::{Lab, NodeRef, layout::NodeLayout};
use serde_json::{Value, json};

/// An address that the network has on the node, in the node's pod subnets: `10.42.N.LAST`, `fd42:N::LAST`.
fn inside(node: &NodeLayout, last: u8) -> (String, String) {
    let v6 = node.pods_v6().network().segments()[1];
    (format!("10.42.{}.{last}", node.number), format!("fd42:{v6:x}::{last:x}"))
}

/// A VXLAN of the usual kind: a device per node, and for every other node its address there, its MAC address and where that
/// is.
struct Overlay {
    device: &'static str,
    id: u32,
    port: u16,
    /// The last byte of the nodes' addresses on it.
    last: u8,
}

impl Overlay {
    fn mac(&self, node: &NodeLayout) -> String {
        format!("02:00:00:00:{:02x}:{:02x}", self.last, node.number)
    }

    fn build(&self, node: NodeRef<'_>, others: &[NodeLayout]) -> String {
        let Self { device, id, port, last } = self;
        let own = node.layout();
        let mut script = format!(
            "ip link add {device} address {} mtu 1450 type vxlan id {id} dev eth0 local {} dstport {port} nolearning\n\
             ip link set {device} up\n",
            self.mac(own),
            own.lan.v4,
        );
        for other in others {
            let (mac, address) = (self.mac(other), inside(other, *last).0);
            let _ = writeln!(script, "ip neigh replace {address} lladdr {mac} dev {device} nud permanent");
            let _ =
                writeln!(script, "bridge fdb replace {mac} dev {device} dst {} self permanent", other.lan.v4);
        }
        script
    }

    /// The node's own address, on this device.
    fn address(&self, node: &NodeLayout) -> String {
        format!("ip address add {}/32 dev {}\n", inside(node, self.last).0, self.device)
    }
}

fn on_every_node(lab: &Lab, script: impl Fn(NodeRef<'_>, &[NodeLayout]) -> String) {
    for node in lab.nodes() {
        let own = &node.layout().name;
        let others: Vec<_> = lab.layout().nodes.iter().filter(|other| other.name != *own).cloned().collect();
        let script = script(node, &others);
        let output = node.exec(&["sh", "-ec", &script]).expect("there is a shell");
        assert!(output.status.success(), "{own}: {}\n{script}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The ways to IPv6 pods, for networks whose own are IPv4's: as their hosts' neighbours have them in the lab.
fn bare_ipv6(node: NodeRef<'_>, others: &[NodeLayout]) -> String {
    let site = node.layout().site;
    let near = others.iter().filter(|other| other.site == site);
    near.map(|other| format!("ip -6 route add {} via {}\n", other.pods_v6(), other.lan.v6)).collect()
}

/// Flannel with its VXLAN backend, in both families: the device's address is the first one of the node's pods.
pub fn flannel(lab: &Lab) {
    let overlay = Overlay { device: "flannel.1", id: 1, port: 8472, last: 0 };
    on_every_node(lab, |node, others| {
        let own = node.layout();
        let mut script = overlay.build(node, others) + &overlay.address(own);
        let mac = |node: &NodeLayout| format!("02:00:00:06:00:{:02x}", node.number);
        let _ = write!(
            script,
            "ip link add flannel-v6.1 address {} mtu 1430 type vxlan id 2 dev eth0 local {} dstport 8473 nolearning\n\
             ip address add {}/128 dev flannel-v6.1 nodad\nip link set flannel-v6.1 up\n",
            mac(own),
            own.lan.v6,
            inside(own, 0).1,
        );
        for other in others {
            let (v4, v6) = inside(other, 0);
            let _ = writeln!(script, "ip route add {} via {v4} dev flannel.1 onlink", other.pods_v4());
            let mac = mac(other);
            let _ = writeln!(script, "ip neigh replace {v6} lladdr {mac} dev flannel-v6.1 nud permanent");
            let _ = writeln!(
                script,
                "bridge fdb replace {mac} dev flannel-v6.1 dst {} self permanent",
                other.lan.v6
            );
            let _ = writeln!(script, "ip -6 route add {} via {v6} dev flannel-v6.1 onlink", other.pods_v6());
        }
        script
    });
}

/// A definition of another CNI's objects, as loose as it may be.
fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group, "scope": "Cluster",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List") },
            "versions": [{
                "name": version, "served": true, "storage": true, "schema": { "openAPIV3Schema": schema },
            }],
        },
    })
}

fn apply(lab: &Lab, object: &Value) {
    lab.api().apply(object).unwrap_or_else(|error| panic!("{error}: {object}"));
}

/// Cilium in tunnel mode. Its programs in the kernel find the node of a pod by themselves; here routes do. It turns the
/// reverse-path filter off on its devices.
pub fn cilium(lab: &Lab) {
    apply(lab, &definition("cilium.io", "v2", "CiliumNode", "ciliumnodes"));
    for node in &lab.layout().nodes {
        apply(
            lab,
            &json!({
                "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": { "name": node.name },
                "spec": { "ipam": { "podCIDRs": [node.pods_v4().to_string(), node.pods_v6().to_string()] } },
            }),
        );
    }
    let overlay = Overlay { device: "cilium_vxlan", id: 2, port: 8472, last: 200 };
    on_every_node(lab, |node, others| {
        let mut script = overlay.build(node, others);
        let own = inside(node.layout(), 200).0;
        let _ = write!(
            script,
            "ip link add cilium_host type veth peer name cilium_net\n\
             ip address add {own}/32 dev cilium_host\nip link set cilium_net up\nip link set cilium_host up\n\
             echo 0 > /proc/sys/net/ipv4/conf/cilium_vxlan/rp_filter\n",
        );
        for other in others {
            let via = inside(other, 200).0;
            let _ = writeln!(
                script,
                "ip route add {} via {via} dev cilium_vxlan onlink src {own} mtu 1450",
                other.pods_v4()
            );
        }
        script + &bare_ipv6(node, others)
    });
}

/// Calico's blocks on a node: two, with a pod in the first.
fn blocks(node: &NodeLayout) -> [String; 2] {
    [0, 64].map(|first| format!("10.42.{}.{first}/26", node.number))
}

/// The objects by which Calico knows whose a block is.
fn calico_blocks(lab: &Lab) {
    apply(lab, &definition("crd.projectcalico.org", "v1", "BlockAffinity", "blockaffinities"));
    for node in &lab.layout().nodes {
        let v6 = format!("fd42:{:x}::/122", node.pods_v6().network().segments()[1]);
        for block in blocks(node).iter().chain([&v6]) {
            calico_block(lab, &node.name, block);
        }
    }
}

/// One of them.
pub fn calico_block(lab: &Lab, node: &str, cidr: &str) {
    let name = format!("{node}-{}", cidr.replace(['.', ':', '/'], "-"));
    apply(
        lab,
        &json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity", "metadata": { "name": name },
            "spec": { "cidr": cidr, "node": node, "state": "confirmed", "deleted": "false", "type": "host" },
        }),
    );
}

/// What Calico makes of its blocks: a hole where no pod is, and a route to each pod. (The lab's pods are on a bridge.)
fn calico_pods(lab: &Lab, node: NodeRef<'_>) -> String {
    let own = node.layout();
    let mut script = String::new();
    for block in blocks(own) {
        let _ = writeln!(script, "ip route add blackhole {block} proto 80");
    }
    for pod in lab.layout().pods.iter().filter(|pod| lab.layout().nodes[pod.node].name == own.name) {
        let _ = writeln!(script, "ip route add {} dev kube-bridge scope link proto 80", pod.address.v4);
    }
    let _ = writeln!(script, "ip route add {} dev kube-bridge scope link", own.bridge().v4);
    script
}

/// Calico with VXLAN.
pub fn calico_vxlan(lab: &Lab) {
    calico_blocks(lab);
    let overlay = Overlay { device: "vxlan.calico", id: 4096, port: 4789, last: 60 };
    on_every_node(lab, |node, others| {
        let mut script =
            overlay.build(node, others) + &overlay.address(node.layout()) + &calico_pods(lab, node);
        for other in others {
            let via = inside(other, 60).0;
            for block in blocks(other) {
                let _ = writeln!(script, "ip route add {block} via {via} dev vxlan.calico onlink proto 80");
            }
        }
        script + &bare_ipv6(node, others)
    });
}

/// Calico with routes of its BGP daemon: in IP where the kernel can, which it shares with Kilo, else bare.
pub fn calico_ipip(lab: &Lab, ipip: bool) {
    calico_blocks(lab);
    on_every_node(lab, |node, others| {
        let own = node.layout();
        let mut script = calico_pods(lab, node);
        if ipip {
            let address = inside(own, 60).0;
            script += &format!(
                "ip link add kilo-none type ipip 2>/dev/null || true\nip link set tunl0 mtu 1480 up\n\
                 ip address add {address}/32 dev tunl0\n"
            );
        }
        for other in others {
            let near = other.site == own.site;
            for block in blocks(other) {
                // What is not a neighbour is reached by the router, as far as that knows it.
                let _ = match (ipip, near) {
                    (true, _) => writeln!(
                        script,
                        "ip route add {block} via {} dev tunl0 onlink proto 12",
                        other.lan.v4
                    ),
                    (false, true) => {
                        writeln!(script, "ip route add {block} via {} dev eth0 proto 12", other.lan.v4)
                    }
                    (false, false) => writeln!(
                        script,
                        "ip route add {block} via {} dev eth0 proto 12",
                        lab.layout().sites[own.site].gateway().v4
                    ),
                };
            }
        }
        script + &bare_ipv6(node, others)
    });
}
