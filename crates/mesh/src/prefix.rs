//! Small questions about prefixes that `ipnet` does not answer the way the mesh needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Private addresses of IPv4 (RFC 1918, RFC 6598), which any network may have.
const PRIVATE_V4: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// Private addresses of IPv6 (RFC 4193).
const PRIVATE_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// Per family, a prefix length. A network that is narrower is full of neighbours; in a wider one only some addresses are in use, and a more
/// special range may be meant.
pub const WIDE: [u8; 2] = [16, 48];

/// The IP version of a prefix or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The family of a prefix.
    pub fn of_prefix(prefix: &IpNet) -> Self {
        Self::of(prefix.addr())
    }
}

/// The prefix that holds exactly this address: /32 or /128.
pub fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// Whether a prefix holds exactly one address.
pub fn is_host(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

/// Whether a range is one of private addresses: RFC 1918, RFC 6598, RFC 4193.
pub fn is_private(net: &IpNet) -> bool {
    match net {
        IpNet::V4(v4) => PRIVATE_V4.iter().any(|private| private.contains(v4)),
        IpNet::V6(v6) => PRIVATE_V6.contains(v6),
    }
}

/// The block of private addresses that a range of IPv4 lies in: one of those of RFC 1918 and RFC 6598.
pub fn private_block(net: &IpNet) -> Option<IpNet> {
    let IpNet::V4(v4) = net else { return None };
    PRIVATE_V4.iter().find(|private| private.contains(v4)).map(|private| IpNet::V4(*private))
}

/// Whether a network is so wide that not all of it is in use in one place.
pub fn is_wide(net: &IpNet) -> bool {
    net.prefix_len() < WIDE[Family::of_prefix(net) as usize]
}

/// Whether an address belongs to no private range: not RFC 1918 for IPv4, not RFC 4193 (fc00::/7) for IPv6.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_private(),
        IpAddr::V6(v6) => !v6.is_unique_local(),
    }
}
