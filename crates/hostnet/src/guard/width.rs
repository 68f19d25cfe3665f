//! How much of the world a range, or many of them together, may take.
//!
//! A range as wide as the Internet is one range, or two halves, or two hundred pieces. So not only the width of each
//! counts, but also what all of them take of a wide network that the host reaches otherwise.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use mesh::prefix::{Family, WIDE, is_private};

/// The widest range of public addresses that one organisation has: an /12 of IPv4, an /29 of IPv6.
const PUBLIC: [u8; 2] = [12, 29];

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

/// Whether a private network may be that of several locations.
pub(super) fn is_shared(net: &IpNet) -> bool {
    net.prefix_len() <= WIDE[Family::of_prefix(net) as usize]
}

/// Whether a range that lies in a network of the host may be meant.
pub(super) fn is_special(net: &IpNet, host: &IpNet) -> bool {
    is_shared(host) && net.prefix_len() >= host.prefix_len() + LONGER[Family::of_prefix(net) as usize]
}

/// Which of these ranges, each with the number of its object, take too much together: of public addresses, or of one of these
/// networks of the host. Objects that take little come first, and of each the narrow ranges, which say more exactly
/// what is meant.
pub(super) fn too_much(ranges: &[(IpNet, usize)], networks: impl Iterator<Item = IpNet>) -> BTreeSet<IpNet> {
    let mut over = BTreeSet::new();
    for family in Family::ALL {
        let public = ranges.iter().filter(|(net, _)| Family::of_prefix(net) == family && !is_private(net));
        over.extend(beyond(public, PUBLIC_SHARE[family as usize]));
    }
    let wide: BTreeSet<IpNet> = networks.filter(|net| is_shared(net) && net.prefix_len() > 0).collect();
    for network in wide {
        let inside = ranges.iter().filter(|(net, _)| network.contains(net) && *net != network);
        over.extend(beyond(inside, network.prefix_len() + SHARE));
    }
    over
}

/// Those with which the sum is more than a prefix of this length has.
fn beyond<'a>(ranges: impl Iterator<Item = &'a (IpNet, usize)>, length: u8) -> Vec<IpNet> {
    // Exact: all sizes are powers of two, and sums of 2^53 of one size do not occur.
    let size = |net: &IpNet, length: u8| 2f64.powi(i32::from(net.max_prefix_len()) - i32::from(length));
    let mut sorted: Vec<&(IpNet, usize)> = ranges.collect();
    let mut of_object: BTreeMap<usize, f64> = BTreeMap::new();
    for (net, object) in &sorted {
        *of_object.entry(*object).or_default() += size(net, net.prefix_len());
    }
    sorted.sort_by(|(a, of_a), (b, of_b)| {
        let objects = of_object[of_a].total_cmp(&of_object[of_b]).then(of_a.cmp(of_b));
        objects.then(b.prefix_len().cmp(&a.prefix_len())).then(a.cmp(b))
    });
    let mut taken = 0f64;
    let too_much = sorted.into_iter().filter(|(net, _)| {
        taken += size(net, net.prefix_len());
        taken > size(net, length)
    });
    too_much.map(|(net, _)| *net).collect()
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
        let of = |nets: Vec<IpNet>| nets.into_iter().map(|net| (net, 0)).collect::<Vec<_>>();
        let public = nets("8.16.0.0/12 9.16.0.0/12 11.16.0.0/12 12.16.0.0/12 13.16.0.0/12 14.1.0.0/16");
        assert_eq!(text(too_much(&of(public.clone()), std::iter::empty())), "12.16.0.0/12 13.16.0.0/12");
        // Who takes little does not suffer from who takes much.
        let two: Vec<_> = public.iter().map(|net| (*net, usize::from(*net != public[4]))).collect();
        assert_eq!(text(too_much(&two, std::iter::empty())), "11.16.0.0/12 12.16.0.0/12");
        // A static 10.0.0.0/8, of which 17 pieces are taken.
        let pieces: Vec<IpNet> = (0..17u8).map(|i| format!("10.{i}.0.0/16").parse().unwrap()).collect();
        assert_eq!(text(too_much(&of(pieces.clone()), nets("10.0.0.0/8").into_iter())), "10.16.0.0/16");
        assert_eq!(text(too_much(&of(pieces), std::iter::empty())), "");
        assert_eq!(
            text(too_much(&of(nets("10.5.0.0/24 10.6.0.1/32")), nets("10.0.0.0/8 0.0.0.0/0").into_iter())),
            ""
        );
    }
}
