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
    /// Encapsulated packets (protocols 4 and 41) are accepted from these addresses only. `None`: we do not
    /// encapsulate, and do not care.
    pub encapsulation_from: Option<BTreeSet<IpAddr>>,
    /// Forwarding from and to these is accepted even where another table would drop it.
    pub forward: BTreeSet<IpNet>,
}

impl Firewall {
    /// The same firewall with as few prefixes as possible: what lies inside of another prefix is left out, neighbours
    /// are merged. Two firewalls mean the same when this is equal. The kernel's interval sets hold this form.
    pub fn normalised(&self) -> Self {
        let aggregate = |nets: &BTreeSet<IpNet>| {
            let nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
            IpNet::aggregate(&nets).into_iter().collect()
        };
        Self {
            masquerade_from: aggregate(&self.masquerade_from),
            masquerade_to: aggregate(&self.masquerade_to),
            never_masquerade: aggregate(&self.never_masquerade),
            encapsulation_from: self.encapsulation_from.clone(),
            forward: aggregate(&self.forward),
        }
    }
}
