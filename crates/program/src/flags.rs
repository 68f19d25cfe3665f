//! Values of flags: those that both programs have, and those in the form that Go's programs take.

use std::{str::FromStr, time::Duration};

use ipnet::IpNet;

/// One occurrence of a flag that is a list of CIDRs and may be given several times (`StringSlice` of Go's pflag). An
/// empty one adds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cidrs(pub Vec<IpNet>);

impl FromStr for Cidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cidr = |text: &str| text.parse().map_err(|_| format!("{text:?} is no CIDR such as 10.43.0.0/16"));
        let texts = text.split(',').filter(|_| !text.is_empty());
        texts.map(cidr).collect::<Result<_, _>>().map(Self)
    }
}

/// What all occurrences list.
pub fn all(occurrences: &[Cidrs]) -> Vec<IpNet> {
    occurrences.iter().flat_map(|list| &list.0).copied().collect()
}

use clap::ValueEnum;

/// Where the pod subnets of nodes come from, as it is said on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodCidrSource {
    /// As the flag says.
    Auto,
    /// spec.podCIDRs of the Node.
    Node,
    /// spec.ipam of the CiliumNode.
    Cilium,
    /// Calico's BlockAffinities of the node.
    Calico,
    /// The annotation kilo.squat.ai/pod-cidrs of the Node.
    Annotation,
}

impl PodCidrSource {
    /// The source that was named; `None`: none was.
    pub fn named(self) -> Option<kubernetes::PodCidrSource> {
        match self {
            Self::Auto => None,
            Self::Node => Some(kubernetes::PodCidrSource::Node),
            Self::Cilium => Some(kubernetes::PodCidrSource::Cilium),
            Self::Calico => Some(kubernetes::PodCidrSource::Calico),
            Self::Annotation => Some(kubernetes::PodCidrSource::Annotation),
        }
    }
}

/// Reads what Go's `time.ParseDuration` reads of whole units: `90s`, `1m30s`, `500ms`. Zero is refused.
pub fn duration(text: &str) -> Result<Duration, String> {
    let error = || "a duration is written like 30s, 1m30s or 500ms, and is not zero".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let number: u64 = rest[..digits].parse().map_err(|_| error())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let milliseconds = match &rest[..end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(error()),
        };
        let part = Duration::from_millis(number.checked_mul(milliseconds).ok_or_else(error)?);
        total = total.checked_add(part).ok_or_else(error)?;
        rest = &rest[end..];
    }
    if total.is_zero() { Err(error()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_gos() {
        let list = |text: &str| text.parse::<Cidrs>().map(|list| list.0.len());
        assert_eq!((list(""), list("10.0.0.0/8"), list("10.0.0.0/8,fd00::/8")), (Ok(0), Ok(1), Ok(2)));
        for text in [",", "10.0.0.0/8,", "10.0.0.0/8, 10.1.0.0/16", "10.0.0.1"] {
            assert!(list(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h1m500ms"), Ok(Duration::from_millis(3_660_500)));
        for text in ["", "30", "s", "-1s", "0s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text:?} was accepted");
        }
    }
}
