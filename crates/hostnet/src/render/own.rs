//! Addresses that are no next hop, because they are those of the host itself or of all hosts of its networks.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

/// Why an address is no next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    /// The host has it.
    Address,
    /// It is the first or the last address of this network of the host. Kernels before 5.14 have both for broadcasts.
    Broadcast(IpNet),
}

/// What there is of them where the host has these addresses.
pub(super) fn of<'a>(addresses: impl Iterator<Item = &'a IpNet>) -> BTreeMap<IpAddr, Own> {
    let mut all = BTreeMap::new();
    for net in addresses {
        // Networks of two addresses have no broadcast (RFC 3021), and IPv6 has none.
        if net.addr().is_ipv4() && net.prefix_len() < 31 {
            for address in [net.network(), net.broadcast()] {
                all.entry(address).or_insert(Own::Broadcast(net.trunc()));
            }
        }
        all.insert(net.addr(), Own::Address);
    }
    all
}
