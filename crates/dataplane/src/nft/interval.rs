//! Prefixes as elements of an interval set: a start, and behind the last address an element that ends it. The end of
//! an interval that reaches the last address of all is left out. Intervals of a set may touch but not overlap, so
//! prefixes are aggregated before they come here.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use mesh::prefix::Family;

use crate::{
    netlink::{Attributes, Received, Writer, constants::*},
    rtnl::{address, octets},
};

/// Elements in one message: far below the 64 KiB of an attribute, which two elements of an IPv6 prefix with their
/// 36 bytes each count against.
pub const PER_MESSAGE: usize = 800;

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(1).map(|last| Ipv4Addr::from(last).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_sub(1).map(|last| Ipv6Addr::from(last).into()),
    }
}

/// Writes the two elements of a prefix into a list of elements.
pub fn write(list: &mut Writer<'_>, net: &IpNet) {
    write_element(list, net.network(), 0);
    if let Some(end) = after(net.broadcast()) {
        write_element(list, end, NFT_SET_ELEM_INTERVAL_END);
    }
}

fn write_element(list: &mut Writer<'_>, key: IpAddr, flags: u32) {
    list.nest(NFTA_LIST_ELEM, |element| {
        if flags != 0 {
            element.put_be32(NFTA_SET_ELEM_FLAGS, flags);
        }
        element.nest(NFTA_SET_ELEM_KEY, |data| data.put(NFTA_DATA_VALUE, &octets(key)));
    });
}

/// One end of an interval. Order: by address; where one interval ends and another begins, the end comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    key: IpAddr,
    start: bool,
}

/// The elements in an answer.
pub fn read(message: &Received<'_>) -> Vec<Edge> {
    let list = message.attributes(super::message::HEADER).inside(NFTA_SET_ELEM_LIST_ELEMENTS);
    list.filter_map(|(_, element)| {
        let element = Attributes::new(element);
        let key = address(element.inside(NFTA_SET_ELEM_KEY).get(NFTA_DATA_VALUE)?)?;
        let flags = element.be32(NFTA_SET_ELEM_FLAGS).unwrap_or_default();
        Some(Edge { key, start: flags & NFT_SET_ELEM_INTERVAL_END == 0 })
    })
    .collect()
}

/// The prefixes that the intervals between these edges consist of.
pub fn prefixes(mut edges: Vec<Edge>, family: Family) -> BTreeSet<IpNet> {
    edges.sort_unstable();
    let mut found = BTreeSet::new();
    let mut open = None;
    for edge in edges {
        // A start without an end lasts until the next start.
        if let Some(last) = before(edge.key)
            && let Some(first) = open.take()
        {
            found.extend(subnets(first, last));
        }
        open = edge.start.then_some(edge.key);
    }
    if let Some(first) = open {
        let last = match family {
            Family::V4 => Ipv4Addr::BROADCAST.into(),
            Family::V6 => Ipv6Addr::from(u128::MAX).into(),
        };
        found.extend(subnets(first, last));
    }
    found
}

fn subnets(first: IpAddr, last: IpAddr) -> Vec<IpNet> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
            Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
            Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(nets: &[&str]) -> Vec<Edge> {
        let nets = nets.iter().map(|net| net.parse::<IpNet>().unwrap());
        nets.flat_map(|net| {
            let end = after(net.broadcast()).map(|key| Edge { key, start: false });
            [Some(Edge { key: net.network(), start: true }), end]
        })
        .flatten()
        .collect()
    }

    #[test]
    fn prefixes_read_back_in_any_order() {
        let cases: [(&[&str], Family); 5] = [
            (&[], Family::V4),
            (&["0.0.0.0/0"], Family::V4),
            (&["10.0.0.0/9", "10.128.0.0/16", "10.129.0.1/32", "255.255.255.255/32"], Family::V4),
            (&["::/0"], Family::V6),
            (&["fd00::/64", "fd00:0:0:1::/64", "ffff::/16"], Family::V6),
        ];
        for (nets, family) in cases {
            let mut edges = edges(nets);
            edges.reverse();
            let wanted: BTreeSet<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
            assert_eq!(prefixes(edges, family), wanted);
        }
    }
}
