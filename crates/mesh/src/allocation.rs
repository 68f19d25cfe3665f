//! The WireGuard subnets and which address of them each segment gets.
//!
//! Addresses follow from the order of the segments alone, so nobody has to hand them out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

use crate::{
    Node,
    prefix::Family,
    special::{Unusable, check_range},
};

/// Why a text is not a set of WireGuard subnets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetsError {
    /// One part is not a CIDR.
    #[error("{0:?} is not a CIDR such as 10.4.0.0/16 or fd00:4::/112")]
    NotCidr(String),
    /// Nobody can have addresses there.
    #[error("{0}; write a private range such as 10.4.0.0/16 or fd00:4::/112")]
    Unusable(Unusable),
    /// Two subnets of one family.
    #[error("there is at most one WireGuard subnet per IP family, {0} is the second")]
    Twice(IpNet),
    /// No subnet at all.
    #[error("at least one WireGuard subnet is needed")]
    Empty,
    /// IPv4 is needed while Go agents take part, and the order of families decides what they see.
    #[error("the first WireGuard subnet has to be the IPv4 one")]
    Order,
}

/// The subnets from which segments get their WireGuard addresses: at most one per family, at least one in all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnets(Vec<IpNet>);

impl Subnets {
    /// Takes one subnet; host bits are dropped.
    pub fn one(subnet: IpNet) -> Self {
        Self(vec![subnet.trunc()])
    }

    /// Takes one subnet per family.
    ///
    /// # Errors
    /// When there is none, two of one family, IPv6 before IPv4, or one in which nobody can have addresses.
    pub fn new(subnets: Vec<IpNet>) -> Result<Self, SubnetsError> {
        subnets.iter().try_for_each(check_range).map_err(SubnetsError::Unusable)?;
        match subnets.as_slice() {
            [] => Err(SubnetsError::Empty),
            [_] => Ok(Self(subnets.iter().map(IpNet::trunc).collect())),
            [IpNet::V4(_), IpNet::V6(_)] => Ok(Self(subnets.iter().map(IpNet::trunc).collect())),
            [IpNet::V6(_), IpNet::V4(_)] => Err(SubnetsError::Order),
            [_, second, ..] => Err(SubnetsError::Twice(*second)),
        }
    }

    /// The subnets, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    /// The first subnet: the only one that Go agents know.
    pub fn primary(&self) -> IpNet {
        self.0[0]
    }

    /// The addresses of the segment at `index` (from 0), one per subnet. `None` when a subnet has no more: the
    /// first address of a subnet is never given, and of an IPv4 subnet shorter than /31 the last one neither.
    pub fn addresses(&self, index: usize) -> Option<Vec<IpAddr>> {
        self.0.iter().map(|subnet| nth(subnet, index as u128 + 1)).collect()
    }

    /// The prefix length of the subnet of one family.
    pub fn prefix_len(&self, family: Family) -> Option<u8> {
        self.0.iter().find(|subnet| Family::of_prefix(subnet) == family).map(IpNet::prefix_len)
    }
}

impl Default for Subnets {
    /// 10.4.0.0/16, as in the Go implementation.
    fn default() -> Self {
        Self::one(IpNet::new_assert(Ipv4Addr::new(10, 4, 0, 0).into(), 16))
    }
}

impl FromStr for Subnets {
    type Err = SubnetsError;

    /// Reads a comma-separated list such as `10.4.0.0/16,fd00:4::/112`.
    fn from_str(text: &str) -> Result<Self, SubnetsError> {
        let parse = |part: &str| part.trim().parse().map_err(|_| SubnetsError::NotCidr(part.to_owned()));
        Self::new(text.split(',').map(parse).collect::<Result<_, _>>()?)
    }
}

/// What most nodes say; of several that are said as often, the one of the last node by name. One node alone does not decide
/// what the others are taken for. `None` when none says anything.
pub fn said_by_most<T: Ord>(said: impl Iterator<Item = T>) -> Option<T> {
    // Sorted, because every one of thousands of nodes may say something else.
    let mut counted: BTreeMap<T, (usize, usize)> = BTreeMap::new();
    for (index, value) in said.enumerate() {
        counted.entry(value).or_insert((0, index)).0 += 1;
    }
    counted.into_iter().max_by_key(|(_, rank)| *rank).map(|(value, _)| value)
}

impl Subnets {
    /// The subnets that a node tells, when it leads.
    pub fn said_by(node: &Node) -> Option<Self> {
        Self::new(node.wireguard_ips.clone()).ok()
    }
}

fn nth(subnet: &IpNet, index: u128) -> Option<IpAddr> {
    let host_bits = u32::from(subnet.max_prefix_len() - subnet.prefix_len());
    let size = if host_bits == 128 { u128::MAX } else { 1 << host_bits };
    let reserved_at_end = u128::from(matches!(subnet, IpNet::V4(_)) && host_bits > 1);
    if index >= size - reserved_at_end {
        return None;
    }
    Some(match subnet.network() {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() + u32::try_from(index).ok()?).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() + index).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_one_in_every_family() {
        let subnets: Subnets = "10.4.0.0/16,fd00:4::/112".parse().unwrap();
        let text = |index| subnets.addresses(index).map(|ips| format!("{ips:?}"));
        assert_eq!(text(0).unwrap(), "[10.4.0.1, fd00:4::1]");
        assert_eq!(text(255).unwrap(), "[10.4.1.0, fd00:4::100]");
        assert_eq!(text(65_533).unwrap(), "[10.4.255.254, fd00:4::fffe]");
        assert_eq!(text(65_534), None);
    }

    #[test]
    fn refuses_what_cannot_be_handed_out() {
        for text in [
            "",
            "x",
            "10.4.0.0/16,10.5.0.0/16",
            "fd00:4::/112,10.4.0.0/16",
            "10.4.0.0/16,fd00::/64,fd01::/64",
            "224.0.0.0/16",
            "10.4.0.0/16,fe80::/112",
        ] {
            assert!(text.parse::<Subnets>().is_err(), "{text:?} was accepted");
        }
    }
}
