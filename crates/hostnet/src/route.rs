//! Routes and policy rules.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::LinkName;

/// A unicast route of ours. Order: by table, then destination, which together make it unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The routing table.
    pub table: u32,
    /// Where packets go to; without host bits.
    pub destination: IpNet,
    /// Who they are handed to.
    pub next_hop: NextHop,
    /// The interface that packets leave through.
    pub link: LinkName,
    /// The source address that the host prefers for its own packets.
    pub source: Option<IpAddr>,
}

impl Route {
    /// What makes a route unique: a second one with the same key replaces the first.
    pub fn key(&self) -> (u32, IpNet) {
        (self.table, self.destination)
    }
}

/// Who packets are handed to on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// Their destination, which is on the link.
    Destination,
    /// A gateway, taken to be on the link even when no prefix of the link holds it (`RTNH_F_ONLINK`).
    Gateway(IpAddr),
    /// The host with this address, in another packet to it: the link encapsulates and cannot know where to
    /// ([`crate::LinkKind::Vxlan`]).
    Outer(IpAddr),
}

impl NextHop {
    /// The gateway, if there is one.
    pub fn gateway(self) -> Option<IpAddr> {
        if let Self::Gateway(address) = self { Some(address) } else { None }
    }

    /// The destination of the outer packet, if there is one.
    pub fn outer(self) -> Option<IpAddr> {
        if let Self::Outer(address) = self { Some(address) } else { None }
    }
}

/// A policy rule of ours: which table is looked up for which packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Order among all rules of the host; lower is earlier, 32766 is the main table.
    pub priority: u32,
    /// Packets with a source in here; without host bits.
    pub from: Option<IpNet>,
    /// Packets to a destination in here; without host bits.
    pub to: Option<IpNet>,
    /// Packets that came in through this interface.
    pub iif: Option<LinkName>,
    /// Packets without this firewall mark.
    pub unless: Option<MarkMatch>,
    /// The table that is looked up.
    pub table: u32,
    /// The IP family the rule is for.
    pub family: mesh::prefix::Family,
}

/// Which firewall marks are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkMatch {
    /// The mark.
    pub mark: u32,
    /// The bits of a mark that count.
    pub mask: u32,
}

impl Rule {
    /// A rule for all packets of a family.
    pub fn all(priority: u32, table: u32, family: mesh::prefix::Family) -> Self {
        Self { priority, from: None, to: None, iif: None, unless: None, table, family }
    }
}
