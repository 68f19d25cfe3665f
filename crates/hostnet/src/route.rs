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
    /// The next hop, taken to be on the link even when no prefix of the link holds it (`RTNH_F_ONLINK`).
    pub via: Option<IpAddr>,
    /// The interface that packets leave through.
    pub link: LinkName,
    /// The source address that the host prefers for its own packets.
    pub source: Option<IpAddr>,
    /// The destination of the outer packet, where the link encapsulates and cannot know it ([`crate::LinkKind::Vxlan`]).
    pub outer: Option<IpAddr>,
}

impl Route {
    /// What makes a route unique: a second one with the same key replaces the first.
    pub fn key(&self) -> (u32, IpNet) {
        (self.table, self.destination)
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
    /// The table that is looked up.
    pub table: u32,
    /// The IP family the rule is for.
    pub family: mesh::prefix::Family,
}
