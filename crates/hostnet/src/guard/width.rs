//! How much of the world a range, or many of them together, may take.
//!
//! A range as wide as the Internet is one range, or two halves, or two hundred pieces. So not only the width of each
//! counts, but also what all of them take of a wide network that the host reaches otherwise.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mesh::prefix::Family;

/// Private addresses of IPv4 (RFC 1918, RFC 6598), which any network may have.
const PRIVATE_V4: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
];

/// Private addresses of IPv6 (RFC 4193).
const PRIVATE_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// The widest range of public addresses that one organisation has: an /12 of IPv4, an /29 of IPv6.
const PUBLIC: [u8; 2] = [12, 29];

/// A network of the host that is narrower than this is full of its neighbours; in a wider one only some addresses are
/// in use, and a more special range may be meant.
const WIDE: [u8; 2] = [16, 48];

/// By how many bits a range has to be longer than the wide network it lies in.
const LONGER: [u8; 2] = [8, 16];

/// Of a wide network all ranges together take at most one part in 2 to the power of this.
const SHARE: u8 = 4;

/// Of all public addresses all ranges together take at most as many as this length has.
const PUBLIC_SHARE: [u8; 2] = [10, 26];

/// Whether a range is wider than any one network.
pub(super) fn is_too_wide(net: &IpNet) -> bool {
    // Asked for every destination of the mesh, and nearly all are long.
    net.prefix_len() < PUBLIC[Family::of_prefix(net) as usize] && !is_private(net)
}

fn is_private(net: &IpNet) -> bool {
    match net {
        IpNet::V4(v4) => PRIVATE_V4.iter().any(|private| private.contains(v4)),
        IpNet::V6(v6) => PRIVATE_V6.contains(v6),
    }
}

/// Whether a network of the host is so wide that not all of it is in use there.
pub(super) fn is_wide(net: &IpNet) -> bool {
    net.prefix_len() < WIDE[Family::of_prefix(net) as usize]
}

/// Whether a private network may be that of several locations.
pub(super) fn is_shared(net: &IpNet) -> bool {
    net.prefix_len() <= WIDE[Family::of_prefix(net) as usize]
}

/// Whether a range that lies in a network of the host may be meant.
pub(super) fn is_special(net: &IpNet, host: &IpNet) -> bool {
    is_wide(host) && net.prefix_len() >= host.prefix_len() + LONGER[Family::of_prefix(net) as usize]
}

/// Which of these ranges take too much, together with those that are narrower: of public addresses, or of one of these
/// networks of the host. The narrow ones come first, because they say more exactly what is meant.
pub(super) fn too_much(ranges: &[IpNet], networks: impl Iterator<Item = IpNet>) -> BTreeSet<IpNet> {
    let mut sorted: Vec<IpNet> = ranges.to_vec();
    sorted.sort_unstable_by_key(|net| (std::cmp::Reverse(net.prefix_len()), *net));
    sorted.dedup();
    let mut over = BTreeSet::new();
    for family in Family::ALL {
        let public = sorted.iter().filter(|net| Family::of_prefix(net) == family && !is_private(net));
        over.extend(beyond(public, PUBLIC_SHARE[family as usize]));
    }
    let wide: BTreeSet<IpNet> = networks.filter(|net| is_wide(net) && net.prefix_len() > 0).collect();
    for network in wide {
        let inside = sorted.iter().filter(|net| network.contains(*net) && **net != network);
        over.extend(beyond(inside, network.prefix_len() + SHARE));
    }
    over
}

/// Those with which the sum is more than a prefix of this length has.
fn beyond<'a>(sorted: impl Iterator<Item = &'a IpNet>, length: u8) -> impl Iterator<Item = IpNet> {
    let size = |length: u8, most: u8| 2f64.powi(i32::from(most) - i32::from(length));
    let mut taken = 0f64;
    sorted.copied().filter(move |net| {
        taken += size(net.prefix_len(), net.max_prefix_len());
        taken > size(length, net.max_prefix_len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn one_range() {
        for (net, expected) in [
            ("0.0.0.0/0", true),
            ("8.0.0.0/8", true),
            ("8.16.0.0/12", false),
            ("10.0.0.0/8", false),
            ("8.0.0.0/6", true),
            ("fc00::/7", false),
            ("fd00::/8", false),
            ("2000::/3", true),
            ("2a00:1450::/32", false),
        ] {
            assert_eq!(is_too_wide(&net.parse().unwrap()), expected, "{net}");
        }
    }

    #[test]
    fn many_ranges_together() {
        let text = |nets: BTreeSet<IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let public = nets("8.16.0.0/12 9.16.0.0/12 11.16.0.0/12 12.16.0.0/12 13.16.0.0/12 14.1.0.0/16");
        assert_eq!(text(too_much(&public, std::iter::empty())), "12.16.0.0/12 13.16.0.0/12");
        // A static 10.0.0.0/8, of which 17 pieces are taken.
        let pieces: Vec<IpNet> = (0..17u8).map(|i| format!("10.{i}.0.0/16").parse().unwrap()).collect();
        assert_eq!(text(too_much(&pieces, nets("10.0.0.0/8").into_iter())), "10.16.0.0/16");
        assert_eq!(text(too_much(&pieces, std::iter::empty())), "");
        assert_eq!(
            text(too_much(&nets("10.5.0.0/24 10.6.0.1/32"), nets("10.0.0.0/8 0.0.0.0/0").into_iter())),
            ""
        );
    }
}
