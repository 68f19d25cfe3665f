//! Ranges of addresses that mean something special on every host (RFC 6890), and which addresses and ranges are of use in
//! a mesh. Whoever reads an object, and whoever guards a host's routes, asks this one table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A range of addresses that are not those of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    /// The range.
    pub range: IpNet,
    /// What it is for, in a few words.
    pub what: &'static str,
    /// Whether a translator answers for the addresses of the range: they can be sent to, and are no one host's.
    pub translated: bool,
}

/// All of them. 240.0.0.0/4 is not among them: kernels route it, and clouds give it to nodes and pods.
pub const SPECIAL: [Special; 12] = [
    v4([0, 0, 0, 0], 8, "the host itself (RFC 1122)"),
    v4([127, 0, 0, 0], 8, "loopback"),
    v4([169, 254, 0, 0], 16, "link-local"),
    v4([224, 0, 0, 0], 4, "multicast"),
    v4([255, 255, 255, 255], 32, "broadcast"),
    v6([0, 0, 0, 0, 0, 0], [0, 0], 128, "the unspecified address"),
    v6([0, 0, 0, 0, 0, 0], [0, 1], 128, "loopback"),
    v6([0, 0, 0, 0, 0, 0], [0, 0], 96, "IPv4-compatible (RFC 4291)"),
    v6([0xfe80, 0, 0, 0, 0, 0], [0, 0], 10, "link-local"),
    v6([0xff00, 0, 0, 0, 0, 0], [0, 0], 8, "multicast"),
    translated([0x64, 0xff9b, 0, 0, 0, 0], 96, "IPv4 by way of NAT64 (RFC 6052)"),
    translated([0x64, 0xff9b, 1, 0, 0, 0], 48, "IPv4 by way of NAT64 (RFC 8215)"),
];

/// IPv4 addresses as IPv6 ones (RFC 4291, section 2.5.5.2): no packet has them.
pub const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

const fn v4([a, b, c, d]: [u8; 4], length: u8, what: &'static str) -> Special {
    let range = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length));
    Special { range, what, translated: false }
}

const fn v6([a, b, c, d, e, f]: [u16; 6], [g, h]: [u16; 2], length: u8, what: &'static str) -> Special {
    let range = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length));
    Special { range, what, translated: false }
}

const fn translated(prefix: [u16; 6], length: u8, what: &'static str) -> Special {
    Special { translated: true, ..v6(prefix, [0, 0], length, what) }
}

/// Why an address or a range is of no use in a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is special.
    #[error("{net} lies in {range}, {what}, and no other node reaches it")]
    Special {
        /// The address or range; the length is left out of an address.
        net: Shown,
        /// What it lies in.
        range: IpNet,
        /// What that is for.
        what: &'static str,
    },
    /// It is IPv4 in the form of IPv6.
    #[error("{0} is IPv4 in the form of IPv6, which no packet has")]
    Mapped(Shown, Shown),
    /// It is the first address of its network, which is not a host's.
    #[error("{0} is a network, and not the address of a host in it")]
    Network(IpNet),
    /// It is the last address of its network, which is not a host's.
    #[error("{0} is the broadcast address of its network, and not that of a host in it")]
    Broadcast(IpNet),
}

impl Unusable {
    /// It, and what to do: what follows from the value itself, else what is given.
    pub fn with_advice(&self, otherwise: &str) -> String {
        match self {
            Self::Mapped(_, v4) => format!("{self}; write it as IPv4: {v4}"),
            Self::Special { .. } | Self::Network(_) | Self::Broadcast(_) => format!("{self}; {otherwise}"),
        }
    }
}

/// An address or a range, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// An address without a length.
    Address(IpAddr),
    /// A range, or an address with the length of its prefix.
    Net(IpNet),
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

/// Whether a range may be routed to somebody. One that only contains something special may.
///
/// # Errors
/// Why nobody can be reached there.
pub fn check_range(net: &IpNet) -> Result<(), Unusable> {
    check(net, Shown::Net(*net))
}

/// Whether packets can be sent to an address from elsewhere, as to an endpoint.
///
/// # Errors
/// Why not.
pub fn check_address(address: IpAddr) -> Result<(), Unusable> {
    check(&IpNet::from(address), Shown::Address(address))
}

/// Whether an address, which is given with the length of its prefix, can be that of a host. Networks of two addresses and
/// fewer have no others (RFC 3021, RFC 6164). In IPv6 the first address is that of all routers (RFC 4291, section 2.6.1),
/// and nodes are routers; there is no broadcast.
///
/// # Errors
/// Why not.
pub fn check_host(net: &IpNet) -> Result<(), Unusable> {
    check(&IpNet::from(net.addr()), Shown::Net(*net))?;
    if net.max_prefix_len() - net.prefix_len() < 2 {
        return Ok(());
    }
    match net {
        _ if net.addr() == net.network() => Err(Unusable::Network(*net)),
        IpNet::V4(v4) if v4.addr() == v4.broadcast() => Err(Unusable::Broadcast(*net)),
        IpNet::V4(_) | IpNet::V6(_) => Ok(()),
    }
}

fn check(net: &IpNet, shown: Shown) -> Result<(), Unusable> {
    if let IpNet::V6(v6) = net
        && MAPPED.contains(v6)
    {
        return Err(Unusable::Mapped(shown, as_v4(shown)));
    }
    let mut refused = SPECIAL.iter().filter(|special| !special.translated);
    match refused.find(|special| special.range.contains(net)) {
        Some(Special { range, what, .. }) => Err(Unusable::Special { net: shown, range: *range, what }),
        None => Ok(()),
    }
}

/// A mapped address or range as IPv4.
fn as_v4(shown: Shown) -> Shown {
    match shown {
        Shown::Address(address) => Shown::Address(address.to_canonical()),
        Shown::Net(net) => {
            let length = net.prefix_len().saturating_sub(96);
            IpNet::new(net.addr().to_canonical(), length).map_or(shown, Shown::Net)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> String {
        check_host(&text.parse().unwrap()).err().map(|why| why.to_string()).unwrap_or_default()
    }

    fn range(text: &str) -> String {
        check_range(&text.parse().unwrap()).err().map(|why| why.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_special_is_named() {
        for (text, what) in [
            ("0.0.0.0/32", "the host itself"),
            ("0.1.2.3/8", "the host itself"),
            ("127.0.0.1/8", "loopback"),
            ("127.255.255.255/32", "loopback"),
            ("169.254.7.7/16", "link-local"),
            ("224.0.0.1/32", "multicast"),
            ("239.255.255.255/32", "multicast"),
            ("255.255.255.255/32", "broadcast"),
            ("::/128", "the unspecified address"),
            ("::1/128", "loopback"),
            ("::203.0.113.1/128", "IPv4-compatible"),
            ("fe80::1/64", "link-local"),
            ("febf::1/64", "link-local"),
            ("ff02::1/128", "multicast"),
            ("::ffff:10.0.0.5/120", "IPv4 in the form of IPv6"),
            ("10.0.0.0/24", "is a network"),
            ("10.0.0.255/24", "is the broadcast address"),
            ("10.0.0.3/30", "is the broadcast address"),
            ("fd00:1::/64", "is a network"),
        ] {
            assert!(host(text).contains(what), "{text}: {:?}", host(text));
        }
        for text in [
            "127.0.0.0/8",
            "127.1.0.0/16",
            "0.0.0.0/8",
            "ff00::/8",
            "fe80::/64",
            "::/96",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(!range(text).is_empty(), "{text}");
        }
        assert_eq!(
            check_address("127.0.0.53".parse().unwrap()).unwrap_err().to_string(),
            "127.0.0.53 lies in 127.0.0.0/8, loopback, and no other node reaches it"
        );
    }

    #[test]
    fn a_mapped_address_is_better_written_as_ipv4() {
        let why = check_host(&"::ffff:10.0.0.5/120".parse().unwrap()).unwrap_err();
        assert!(why.with_advice("another").ends_with("; write it as IPv4: 10.0.0.5/24"));
        let why = check_address("::1".parse().unwrap()).unwrap_err();
        assert!(why.with_advice("another").ends_with("; another"));
    }

    #[test]
    fn addresses_of_hosts_and_wide_ranges_are_of_use() {
        for text in [
            "10.0.0.5/24",
            "10.0.0.0/31",
            "10.0.0.1/31",
            "10.0.0.0/32",
            "10.0.1.0/16",
            "10.0.0.255/16",
            "192.0.2.1/24",
            "198.18.0.1/15",
            "100.64.0.1/10",
            "1.0.0.1/8",
            "126.255.255.254/8",
            "fd00:1::/127",
            "fd00:1::1/64",
            "fd00:1::ffff:ffff:ffff:ffff/64",
            "2001:db8::1/128",
            "fec0::1/64",
            "64:ff9b::203.0.113.1/128",
        ] {
            assert_eq!(host(text), "", "{text}");
        }
        for text in ["0.0.0.0/0", "128.0.0.0/1", "224.0.0.0/3", "::/0", "::/64", "fe00::/7", "10.0.0.0/24"] {
            assert_eq!(range(text), "", "{text}");
        }
    }

    #[test]
    fn what_lies_in_another_range_comes_first() {
        for (index, special) in SPECIAL.iter().enumerate() {
            assert_eq!(special.range, special.range.trunc());
            assert!(
                !SPECIAL[..index].iter().any(|before| before.range.contains(&special.range)),
                "{special:?}"
            );
        }
    }
}
