//! Together with the kernel's WireGuard, both ways, and over a network that netem makes bad. Built with the feature
//! `stock-kernel` only, for a machine whose kernel has the modules `wireguard` and `sch_netem`.

mod common;
#[path = "common/foreign.rs"]
mod foreign;

use common::{eventually, transfer, tunnel_over};
use foreign::{Begins, Foreign, work_together};

const V4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];

#[test]
fn we_begin_over_ipv4() {
    work_together(Foreign::kernel, Begins::Ours, V4);
}

#[test]
fn they_begin_over_ipv4() {
    work_together(Foreign::kernel, Begins::Theirs, V4);
}

#[test]
fn we_begin_over_ipv6() {
    work_together(Foreign::kernel, Begins::Ours, V6);
}

#[test]
fn they_begin_over_ipv6() {
    work_together(Foreign::kernel, Begins::Theirs, V6);
}

#[test]
fn loss_reordering_and_duplication_cost_speed_only() {
    let (a, b) = tunnel_over("192.0.2.2", false);
    for end in [&a, &b] {
        end.namespace.run(
            "tc qdisc add dev ve0 root netem delay 5ms 2ms loss 1% duplicate 2% reorder 10% 50% limit 10000",
        );
    }
    for address in ["10.9.0.2", "fd09::2"] {
        eventually("an answer", || a.namespace.ping(address));
        transfer(&a.namespace, &b.namespace, address, 2 << 20);
    }
    let drops = b.device.state().drops;
    assert!(drops.replayed > 0, "duplicates are dropped: {drops:?}");
    assert_eq!((drops.forged, drops.bad_packet, drops.malformed), (0, 0, 0));
}
