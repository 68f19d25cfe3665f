//! Together with wireguard-go, both ways. Needs root, /dev/net/tun, wireguard-tools, and wireguard-go: `WIREGUARD_GO` names
//! it, or it is on the PATH; `scripts/install-wireguard-go` gets it.

mod common;
#[path = "common/foreign.rs"]
mod foreign;

use foreign::{Begins, Foreign, work_together};

const V4: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];

#[test]
fn we_begin_over_ipv4() {
    work_together(Foreign::wireguard_go, Begins::Ours, V4);
}

#[test]
fn they_begin_over_ipv4() {
    work_together(Foreign::wireguard_go, Begins::Theirs, V4);
}

#[test]
fn we_begin_over_ipv6() {
    work_together(Foreign::wireguard_go, Begins::Ours, V6);
}

#[test]
fn they_begin_over_ipv6() {
    work_together(Foreign::wireguard_go, Begins::Theirs, V6);
}
