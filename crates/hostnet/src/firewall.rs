//! What the firewall has to do, as sets of addresses: not as a list of rules.
//!
//! The data plane keeps one nftables table of its own with fixed chains over named sets; a change of the mesh is a
//! change of set elements. An accept in our table cannot undo a drop in another, so `forward` is put where the drop
//! is: into the `filter` tables of iptables-nft, when they exist.
//!
//! Source NAT, decided per connection when a packet leaves (`postrouting`), first match wins:
//! 1. destination in `never_masquerade`: not translated. 2. source in `masquerade_from`, or destination in
//!    `masquerade_to`: translated to the address of the outgoing interface. 3. Anything else: not translated.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

/// What the firewall has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Firewall {
    /// Traffic from these that leaves the mesh is masqueraded: own pods, peers.
    pub masquerade_from: BTreeSet<IpNet>,
    /// Traffic to these is masqueraded whoever sends it: allowed-location IPs of the own location.
    pub masquerade_to: BTreeSet<IpNet>,
    /// Traffic to these is never masqueraded: everything that is part of the mesh, and the services.
    pub never_masquerade: BTreeSet<IpNet>,
    /// Whose encapsulated packets are accepted. `None`: we do not encapsulate, and do not care.
    pub encapsulation: Option<EncapsulationFilter>,
    /// Forwarding from and to these is accepted even where another table would drop it.
    pub forward: BTreeSet<IpNet>,
}

/// Whose encapsulated packets are accepted; those of others are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncapsulationFilter {
    /// Which packets are meant.
    pub outer: Outer,
    /// The sources that are accepted.
    pub from: BTreeSet<IpAddr>,
}

/// What an encapsulated packet is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outer {
    /// An IP packet of protocol 4 (IPv4 inside) or 41 (IPv6 inside).
    Ip,
    /// A UDP packet to [`crate::VXLAN_PORT`].
    Vxlan,
}

impl Firewall {
    /// The same firewall with as few prefixes as possible: what lies inside of another prefix is left out, neighbours
    /// are merged. Two firewalls mean the same when this is equal. The kernel's interval sets hold this form.
    pub fn normalised(&self) -> Self {
        Self {
            masquerade_from: aggregate(&self.masquerade_from),
            masquerade_to: aggregate(&self.masquerade_to),
            never_masquerade: aggregate(&self.never_masquerade),
            encapsulation: self.encapsulation.clone(),
            forward: aggregate(&self.forward),
        }
    }
}

/// The fewest prefixes with the same addresses. Linear where there are no host bits: a set is sorted already.
fn aggregate(nets: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
    let mut sorted: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
    sorted.sort_unstable();
    let mut kept: Vec<IpNet> = Vec::with_capacity(sorted.len());
    for net in sorted {
        if kept.last().is_some_and(|last| last.contains(&net)) {
            continue;
        }
        let mut widest = net;
        // Two halves make a whole, which may be half of a larger one.
        while let Some(whole) = kept.last().and_then(|last| whole(last, &widest)) {
            kept.pop();
            widest = whole;
        }
        kept.push(widest);
    }
    kept.into_iter().collect()
}

/// The prefix that consists of these two, of which the first begins first.
fn whole(first: &IpNet, second: &IpNet) -> Option<IpNet> {
    let whole = first.supernet().filter(|_| first.prefix_len() == second.prefix_len())?;
    (whole.contains(second) && first != second).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_few_prefixes_as_possible() {
        let texts = [
            "10.0.0.0/25 10.0.0.128/25 10.0.1.0/24 10.0.2.0/24 10.0.3.0/24 10.0.4.0/24",
            "0.0.0.0/1 128.0.0.0/1 ::/1 8000::/1",
            "10.0.1.0/24 10.0.2.0/24 10.0.2.7/32 10.0.2.8/24",
            "0.0.0.0/0 10.0.0.0/8 ::/0 fd00::/8 fd00::1/128",
            "fd00::/128 fd00::1/128 fd00::2/128 fd00::4/127",
        ];
        for text in texts {
            let nets: Vec<IpNet> = text.split(' ').map(|net| net.parse().unwrap()).collect();
            let expected: BTreeSet<IpNet> =
                IpNet::aggregate(&nets.iter().map(IpNet::trunc).collect()).into_iter().collect();
            assert_eq!(aggregate(&nets.into_iter().collect()), expected, "{text}");
        }
    }
}
