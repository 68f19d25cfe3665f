//! Which of many prefixes overlap or occur twice, found by sorting: nearly always the answer is "none", and it has
//! to be cheap for tens of thousands.

use ipnet::IpNet;

use crate::prefix::Family;

/// Disjoint prefixes without host bits, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covers(Vec<IpNet>);

impl Covers {
    /// The widest of these prefixes: every one of them lies inside of one that is kept.
    pub fn of(prefixes: impl Iterator<Item = IpNet>) -> Self {
        let mut covers: Vec<IpNet> = Vec::new();
        for prefix in sorted(prefixes) {
            if !covers.last().is_some_and(|cover| cover.contains(&prefix)) {
                covers.push(prefix);
            }
        }
        Self(covers)
    }

    /// The widest of those among these prefixes that hold another one or occur twice. A prefix that overlaps none of
    /// the result overlaps none of the others.
    pub fn contested(prefixes: impl Iterator<Item = IpNet>) -> Self {
        let mut contested: Vec<IpNet> = Vec::new();
        let mut cover: Option<IpNet> = None;
        for prefix in sorted(prefixes) {
            match cover {
                Some(cover) if cover.contains(&prefix) => {
                    if contested.last() != Some(&cover) {
                        contested.push(cover);
                    }
                }
                _ => cover = Some(prefix),
            }
        }
        Self(contested)
    }

    /// The prefixes.
    pub fn prefixes(&self) -> &[IpNet] {
        &self.0
    }

    /// Whether a prefix has an address in common with one of these.
    pub fn overlaps(&self, prefix: &IpNet) -> bool {
        let prefix = prefix.trunc();
        // They are disjoint, so only the neighbours in the order of addresses can overlap the prefix: the one that
        // begins last at or before it, and the first one that begins after it.
        let after = self.0.partition_point(|other| *other <= prefix);
        let overlaps = |other: &IpNet| other.contains(&prefix) || prefix.contains(other);
        after.checked_sub(1).is_some_and(|before| overlaps(&self.0[before]))
            || self.0.get(after).is_some_and(overlaps)
    }
}

/// Prefixes with a value each, sorted. A prefix comes after those that hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nets<T> {
    sorted: Vec<(IpNet, T)>,
    /// The widest of them: every other one lies in one of these. Nearly everything that is asked for overlaps none, and
    /// that is found by looking for two neighbours.
    covers: Covers,
    /// The lengths that occur, per family: what holds a prefix is looked for by these only.
    lengths: [Vec<u8>; 2],
}

impl<T: Ord> Nets<T> {
    /// These prefixes; host bits are dropped. A prefix may occur with several values.
    pub fn of(nets: impl Iterator<Item = (IpNet, T)>) -> Self {
        let mut sorted: Vec<_> = nets.map(|(net, value)| (net.trunc(), value)).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut found = [[false; 129]; 2];
        for (net, _) in &sorted {
            found[Family::of_prefix(net) as usize][usize::from(net.prefix_len())] = true;
        }
        let lengths = found.map(|found| (0..=128).filter(|length| found[usize::from(*length)]).collect());
        let covers = Covers::of(sorted.iter().map(|(net, _)| *net));
        Self { sorted, covers, lengths }
    }

    /// Whether any of them has an address in common with a prefix.
    pub fn overlap(&self, net: IpNet) -> bool {
        self.covers.overlaps(&net)
    }

    /// Those that hold a prefix or are equal to it.
    pub fn around(&self, net: IpNet) -> impl Iterator<Item = &(IpNet, T)> + Clone {
        let lengths = self.lengths[Family::of_prefix(&net) as usize].iter();
        lengths.take_while(move |length| **length <= net.prefix_len()).flat_map(move |length| {
            let wider = IpNet::new(net.addr(), *length).map_or(net, |wider| wider.trunc());
            let first = self.sorted.partition_point(|(other, _)| *other < wider);
            self.sorted[first..].iter().take_while(move |(other, _)| *other == wider)
        })
    }

    /// Those inside of a prefix, without the prefix itself.
    pub fn inside(&self, net: IpNet) -> &[(IpNet, T)] {
        // What is inside comes directly behind the prefix.
        let behind = &self.sorted[self.sorted.partition_point(|(other, _)| *other <= net)..];
        &behind[..behind.partition_point(|(other, _)| net.contains(other))]
    }
}

/// Counts how many of some prefixes overlap others, for millions of those: next to none is looked at twice.
#[derive(Debug)]
pub(crate) struct Counter {
    /// Of each family, sorted; no prefix occurs twice.
    sorted: [Vec<Counted>; 2],
    /// Where the last prefix that was counted for would be. Who asks for sorted prefixes finds the next one there.
    last: [usize; 2],
}

/// A prefix. IPv4 addresses are the first 32 bits of the 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Counted {
    first: u128,
    length: u8,
    /// A bit for the length of each prefix that holds this one, and for its own unless it is 128.
    around: u128,
}

impl Counted {
    fn of(prefix: &IpNet) -> Self {
        let length = prefix.prefix_len();
        let first = match prefix {
            IpNet::V4(v4) => u128::from(u32::from(v4.network())) << 96,
            IpNet::V6(v6) => u128::from(v6.network()),
        };
        Self { first, length, around: 0 }
    }

    fn last(&self) -> u128 {
        self.first | u128::MAX.checked_shr(self.length.into()).unwrap_or(0)
    }

    fn is_before(&self, other: &Self) -> bool {
        (self.first, self.length) < (other.first, other.length)
    }

    /// The lengths of those around this one, or around both this one and one that comes after it.
    fn around(&self, after: &Self) -> u128 {
        let common =
            (self.first ^ after.first).leading_zeros().min(u32::from(after.length).saturating_sub(1));
        // At most 127, for the other prefix is longer than what is around it.
        let shorter = u128::MAX >> (127 - common.min(127));
        if after.length == 0 { 0 } else { self.around & shorter }
    }
}

impl Counter {
    /// Counts among these prefixes; host bits are dropped.
    pub fn of(prefixes: impl Iterator<Item = IpNet>) -> Self {
        let mut sorted = [Vec::new(), Vec::new()];
        for prefix in prefixes {
            sorted[Family::of_prefix(&prefix) as usize].push(Counted::of(&prefix));
        }
        for sorted in &mut sorted {
            sorted.sort_unstable();
            sorted.dedup();
            for index in 0..sorted.len() {
                let before = index.checked_sub(1).map(|before| sorted[before]);
                let this = &mut sorted[index];
                let around = before.map_or(0, |before| before.around(this));
                this.around = around | 1u128.checked_shl(this.length.into()).unwrap_or(0);
            }
        }
        Self { sorted, last: [0; 2] }
    }

    /// How many overlap a prefix: are equal to it, hold it, or lie in it.
    pub fn overlapping(&mut self, prefix: &IpNet) -> usize {
        let family = Family::of_prefix(prefix) as usize;
        let (sorted, asked) = (&self.sorted[family], Counted::of(prefix));
        let from = gallop(sorted, self.last[family], |other| other.is_before(&asked));
        self.last[family] = from;
        let around = from.checked_sub(1).map_or(0, |before| sorted[before].around(&asked)).count_ones();
        let last = asked.last();
        let inside = gallop(&sorted[from..], 0, |other| other.first <= last);
        around as usize + inside
    }
}

/// Like `partition_point`, and fast where the result is near a guess.
fn gallop<T>(sorted: &[T], guess: usize, is_before: impl Fn(&T) -> bool) -> usize {
    let (mut low, mut high) = (guess, guess);
    let mut step = 1;
    while low > 0 && !is_before(&sorted[low - 1]) {
        high = low - 1;
        low = low.saturating_sub(step);
        step *= 2;
    }
    step = 1;
    while high < sorted.len() && is_before(&sorted[high]) {
        low = high + 1;
        high = (high + step).min(sorted.len());
        step *= 2;
    }
    low + sorted[low..high].partition_point(is_before)
}

/// The values that occur more than once, sorted.
pub(crate) fn repeated<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = values.collect();
    all.sort_unstable();
    let mut repeated: Vec<T> = all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    repeated.dedup();
    repeated
}

/// In this order a prefix comes after those that hold it, and nothing else is between.
fn sorted(prefixes: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut sorted: Vec<IpNet> = prefixes.map(|prefix| prefix.trunc()).collect();
    sorted.sort_unstable();
    sorted
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{IpAddr, Ipv4Addr, Ipv6Addr},
    };

    use proptest::prelude::*;

    use super::*;

    fn nets(text: &str) -> impl Iterator<Item = IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap())
    }

    fn text(nets: &[IpNet]) -> String {
        nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn contested_are_the_widest_that_hold_another() {
        let all = "10.0.3.0/24 10.0.0.0/16 fd00::/8 10.0.2.0/24 10.1.0.0/24 10.2.0.0/24 10.2.0.7/24 ::/0 10.3.0.0/16";
        let contested = Covers::contested(nets(all));
        assert_eq!(text(&contested.0), "10.0.0.0/16 10.2.0.0/24 ::/0");
        assert_eq!(text(&Covers::of(nets(all)).0), "10.0.0.0/16 10.1.0.0/24 10.2.0.0/24 10.3.0.0/16 ::/0");
        for (net, expected) in [
            ("10.0.0.0/8", true),
            ("10.0.255.1/32", true),
            ("10.1.0.0/16", false),
            ("10.2.0.0/24", true),
            ("10.3.0.0/24", false),
            ("0.0.0.0/0", true),
            ("2001:db8::/32", true),
        ] {
            assert_eq!(contested.overlaps(&net.parse().unwrap()), expected, "{net}");
        }
    }

    #[test]
    fn around_and_inside() {
        let all = "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 10.1.2.3/32 10.2.0.0/16 fd00::/8 fd00:1::/64 ::/0";
        let all = Nets::of(nets(all).map(|net| (net, ())));
        fn of<'a>(found: impl Iterator<Item = &'a (IpNet, ())>) -> Vec<IpNet> {
            found.map(|(net, ())| *net).collect()
        }
        let check = |net: &str, around: &str, inside: &str| {
            let net: IpNet = net.parse().unwrap();
            assert_eq!(text(&of(all.around(net))), around, "around {net}");
            assert_eq!(text(&of(all.inside(net).iter())), inside, "inside of {net}");
            assert_eq!(all.overlap(net), !around.is_empty() || !inside.is_empty(), "{net}");
        };
        check("10.1.2.0/24", "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24", "10.1.2.3/32");
        check("10.1.2.3/32", "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 10.1.2.3/32", "");
        check("10.0.0.0/7", "", "10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 10.1.2.3/32 10.2.0.0/16");
        check("fd00:1::5/128", "::/0 fd00::/8 fd00:1::/64", "");
        check("192.168.0.0/16", "", "");
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few addresses, so that many overlap; some of them at the ends.
        let address = prop_oneof![
            (0u32..16).prop_map(|low| IpAddr::from(Ipv4Addr::from(low))),
            (0u32..16).prop_map(|low| IpAddr::from(Ipv4Addr::from(u32::MAX - low))),
            (0u128..16).prop_map(|low| IpAddr::from(Ipv6Addr::from(low))),
            (0u128..16).prop_map(|low| IpAddr::from(Ipv6Addr::from(u128::MAX - low))),
        ];
        (address, 0u8..=128, any::<bool>()).prop_map(|(address, length, long)| {
            let most = IpNet::from(address).max_prefix_len();
            let length = if long { most - length % 5 } else { length.min(most) };
            IpNet::new(address, length).unwrap()
        })
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_overlaps(
            all in proptest::collection::vec(any_net(), 0..40),
            asked in proptest::collection::vec(any_net(), 1..40),
        ) {
            let mut counter = Counter::of(all.iter().copied());
            let distinct: BTreeSet<IpNet> = all.iter().map(IpNet::trunc).collect();
            for net in &asked {
                let overlaps = |other: &&IpNet| other.contains(net) || net.trunc().contains(*other);
                let expected = distinct.iter().filter(overlaps).count();
                prop_assert_eq!(counter.overlapping(net), expected, "{} in {:?}", net, distinct);
            }
        }
    }

    #[test]
    fn repeated_are_told_once() {
        assert_eq!(repeated([3, 1, 3, 2, 3, 1].into_iter()), [1, 3]);
    }
}
