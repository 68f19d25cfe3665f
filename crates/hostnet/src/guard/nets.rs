//! What is left of a prefix without others.

use ipnet::IpNet;
use mesh::overlap::Covers;

/// What is left of a prefix without these inside of it, as few prefixes as possible, sorted; `None` when these are more
/// than `most` even where those that lie in others are not counted.
pub fn without(net: IpNet, holes: impl Iterator<Item = IpNet>, most: usize) -> Option<Vec<IpNet>> {
    let holes = Covers::of(holes);
    if holes.prefixes().len() > most {
        return None;
    }
    let mut left = Vec::new();
    subtract(net, holes.prefixes(), &mut left);
    Some(left)
}

/// `holes` are disjoint, sorted, and all inside of `net`.
fn subtract(net: IpNet, holes: &[IpNet], left: &mut Vec<IpNet>) {
    match holes {
        [] => left.push(net),
        [hole] if *hole == net => {}
        _ => {
            // A hole is inside of one half, because it is smaller than the whole.
            let Ok(halves) = net.subnets(net.prefix_len() + 1) else { return };
            for half in halves {
                let first = holes.partition_point(|hole| *hole < half);
                let end = first + holes[first..].partition_point(|hole| half.contains(hole));
                subtract(half, &holes[first..end], left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    fn text<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> String {
        nets.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_left_of_a_prefix() {
        let check = |net: &str, holes: &str, expected: &str| {
            let left = without(net.parse().unwrap(), nets(holes).into_iter(), 4).unwrap();
            assert_eq!(text(&left), expected, "{net} without {holes}");
        };
        check("10.0.0.0/8", "", "10.0.0.0/8");
        check("10.0.0.0/8", "10.0.0.0/8", "");
        check("10.0.0.0/24", "10.0.0.64/26 10.0.0.65/32", "10.0.0.0/26 10.0.0.128/25");
        check("10.0.0.0/30", "10.0.0.3/32 10.0.0.0/32", "10.0.0.1/32 10.0.0.2/32");
        check("fd00::/126", "fd00::/127", "fd00::2/127");
        check(
            "0.0.0.0/0",
            "127.0.0.0/8",
            "0.0.0.0/2 64.0.0.0/3 96.0.0.0/4 112.0.0.0/5 120.0.0.0/6 124.0.0.0/7 126.0.0.0/8 128.0.0.0/1",
        );
        let many = nets("10.0.0.0/32 10.0.0.2/32 10.0.0.4/32 10.0.0.6/32 10.0.0.8/32");
        assert_eq!(without("10.0.0.0/8".parse().unwrap(), many.into_iter(), 4), None);
    }

    proptest! {
        /// Every address is in what is left, exactly once, or in a hole.
        #[test]
        fn nothing_is_lost_and_nothing_twice(holes in proptest::collection::vec((0u32..64, 26u8..=32), 0..6)) {
            let net: IpNet = "10.0.0.0/26".parse().unwrap();
            let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
            let holes: Vec<IpNet> = holes
                .into_iter()
                .map(|(offset, length)| IpNet::new(Ipv4Addr::from(base + offset).into(), length).unwrap().trunc())
                .collect();
            let left = without(net, holes.iter().copied(), 64).unwrap();
            for address in (0..64).map(|offset| Ipv4Addr::from(base + offset).into()) {
                let address: std::net::IpAddr = address;
                let times = left.iter().filter(|net| net.contains(&address)).count();
                let hole = holes.iter().any(|hole| hole.contains(&address));
                prop_assert_eq!(times, usize::from(!hole), "{}", address);
            }
        }
    }
}
