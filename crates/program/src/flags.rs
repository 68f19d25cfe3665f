//! Values of flags: those that both programs have, those in the form that Go's programs take (the package `pflag`), and
//! errors that say what is allowed.

use std::{ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use clap::ValueEnum;
use ipnet::IpNet;

/// Nanoseconds of the units that Go's `time.ParseDuration` knows. A unit comes after those that it begins with.
const UNITS: [(&str, u128); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1000),
    ("\u{b5}s", 1000),
    ("\u{3bc}s", 1000),
    ("ns", 1),
];

/// One occurrence of a flag that is a list of CIDRs and may be given several times (`StringSlice` of Go's pflag). An
/// empty one adds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cidrs(pub Vec<IpNet>);

impl FromStr for Cidrs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cidr = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?} is no CIDR such as 10.43.0.0/16; several have commas between"))
        };
        let texts = text.split(',').filter(|_| !text.is_empty());
        texts.map(cidr).collect::<Result<_, _>>().map(Self)
    }
}

/// What all occurrences list.
pub fn all(occurrences: &[Cidrs]) -> Vec<IpNet> {
    occurrences.iter().flat_map(|list| &list.0).copied().collect()
}

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

/// Reads what Go's `time.ParseDuration` reads: `90s`, `1m30s`, `1.5h`, `500ms`. Zero is refused.
pub fn duration(text: &str) -> Result<Duration, String> {
    let error = || "a duration is written like 30s, 1m30s or 500ms, and is not zero".to_owned();
    let mut nanoseconds = 0_u128;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let (number, after) = rest.split_at(number);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit = UNITS.iter().find(|(name, _)| *name == &after[..end]).ok_or_else(error)?.1;
        let part = multiple(number, unit).ok_or_else(error)?;
        nanoseconds = nanoseconds.checked_add(part).ok_or_else(error)?;
        rest = &after[end..];
    }
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => Err(error()),
        Ok(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
    }
}

/// A decimal number of units; what is smaller than 1 is cut off.
fn multiple(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let mut total = if whole.is_empty() { 0 } else { whole.parse::<u128>().ok()?.checked_mul(unit)? };
    let mut of_digit = unit;
    for digit in fraction.chars() {
        of_digit /= 10;
        total = total.checked_add(u128::from(digit.to_digit(10)?) * of_digit)?;
    }
    Some(total)
}

/// Reads what Go's `strconv.ParseBool` reads, and `yes`, `no`, `on`, `off`.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// Reads a whole number in a range; `what` it is says the error.
pub fn number(
    what: &'static str,
    range: RangeInclusive<u16>,
) -> impl Fn(&str) -> Result<u16, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("{what} is a number from {} to {}", range.start(), range.end()))
    }
}

/// Reads a port that one can listen on.
pub fn port(text: &str) -> Result<u16, String> {
    number("a port", 1..=u16::MAX)(text)
}

/// Prints what is wrong with a command line and ends the process as Go's programs do, with 1; or what was asked for, with 0.
pub fn refuse(error: &clap::Error) -> ! {
    // Nobody is left to be told when that fails.
    let _ = error.print();
    std::process::exit(i32::from(error.use_stderr()))
}

/// Takes any path. Nothing is a path, too: Go's programs take an empty value for none.
pub fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
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
        for (text, microseconds) in [
            ("1h1m500ms", 3_660_500_000),
            ("1.5h", 5_400_000_000),
            (".5s", 500_000),
            ("2.s", 2_000_000),
            ("1.25m", 75_000_000),
            ("7us", 7),
            ("7\u{b5}s", 7),
            ("9000ns", 9),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_micros(microseconds)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            ".s",
            "1.2.3s",
            "-1s",
            "0s",
            "0.0s",
            "1d",
            "1e3s",
            "1 s",
            "99999999999999999999s",
            "18446744073709551615h",
            "999999999999999999999999999999999999999999ns",
        ] {
            assert!(duration(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn booleans_are_gos() {
        for text in ["1", "t", "T", "true", "True", "TRUE"] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "False", "FALSE"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        assert!(boolean("").is_err() && boolean("maybe").is_err());
    }
}
