//! What our table looks like: its sets, its chains and their rules, as data. All of it but the elements of the sets is
//! fixed, except for the chain `input`: it is only there when we encapsulate, and depends on in what.
//!
//! Priorities. `postrouting` runs just before the chain of iptables and kube-proxy (`srcnat`, 100): chains of equal
//! priority run in the order in which they were made, which nobody controls. A connection is translated by the first
//! chain that says so; what ours only accepts goes on to theirs, so kube-proxy still masquerades service traffic that
//! it marked, even when it goes to a pod of the mesh. `input` runs before the `filter` chains (0): what comes from a
//! stranger is dropped whatever they accept.

use std::collections::{BTreeMap, BTreeSet};

use hostnet::{EncapsulationFilter, Firewall, Outer, VXLAN_PORT};
use ipnet::IpNet;
use mesh::prefix::Family;

use super::expression::{Direction, Expression};
use crate::netlink::constants::{NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_POST_ROUTING};

/// A base chain whose policy is to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
}

/// A rule: where it is, the comment by which it is recognised, and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub chain: &'static str,
    pub comment: String,
    pub expressions: Vec<Expression>,
}

/// What the elements of a set are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Never,
    From,
    To,
    Forward,
    Encapsulation,
}

/// A set of prefixes of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    pub name: &'static str,
    pub family: Family,
    purpose: Purpose,
}

const fn set(name: &'static str, family: Family, purpose: Purpose) -> Set {
    Set { name, family, purpose }
}

/// All sets.
pub const SETS: [Set; 10] = [
    set("never_masquerade4", Family::V4, Purpose::Never),
    set("never_masquerade6", Family::V6, Purpose::Never),
    set("masquerade_from4", Family::V4, Purpose::From),
    set("masquerade_from6", Family::V6, Purpose::From),
    set("masquerade_to4", Family::V4, Purpose::To),
    set("masquerade_to6", Family::V6, Purpose::To),
    set("forward4", Family::V4, Purpose::Forward),
    set("forward6", Family::V6, Purpose::Forward),
    set("encapsulation4", Family::V4, Purpose::Encapsulation),
    set("encapsulation6", Family::V6, Purpose::Encapsulation),
];

fn set_of(purpose: Purpose, family: Family) -> &'static str {
    let found = SETS.iter().find(|set| set.purpose == purpose && set.family == family);
    found.expect("invariant: every purpose has a set of every family").name
}

/// The elements of every set, by its name.
pub type Elements = BTreeMap<&'static str, BTreeSet<IpNet>>;

/// The elements that a firewall consists of. The firewall is normalised.
pub fn elements(firewall: &Firewall) -> Elements {
    let encapsulation: BTreeSet<IpNet> =
        firewall.encapsulation.iter().flat_map(|filter| &filter.from).copied().map(IpNet::from).collect();
    SETS.iter()
        .map(|set| {
            let all = match set.purpose {
                Purpose::Never => &firewall.never_masquerade,
                Purpose::From => &firewall.masquerade_from,
                Purpose::To => &firewall.masquerade_to,
                Purpose::Forward => &firewall.forward,
                Purpose::Encapsulation => &encapsulation,
            };
            (set.name, all.iter().filter(|net| Family::of_prefix(net) == set.family).copied().collect())
        })
        .collect()
}

/// The firewall that these elements are. `outer`: what the chain `input` filters, if it is there.
pub fn firewall(elements: &Elements, outer: Option<Outer>) -> Firewall {
    let mut firewall = Firewall::default();
    let mut encapsulation = BTreeSet::new();
    for set in &SETS {
        let found = elements.get(set.name).into_iter().flatten();
        match set.purpose {
            Purpose::Never => firewall.never_masquerade.extend(found),
            Purpose::From => firewall.masquerade_from.extend(found),
            Purpose::To => firewall.masquerade_to.extend(found),
            Purpose::Forward => firewall.forward.extend(found),
            Purpose::Encapsulation => encapsulation.extend(found.map(IpNet::network)),
        }
    }
    firewall.encapsulation = outer.map(|outer| EncapsulationFilter { outer, from: encapsulation });
    firewall
}

/// The chains. `outer`: which encapsulated packets of strangers we drop.
pub fn chains(outer: Option<Outer>) -> Vec<Chain> {
    let mut chains = vec![
        Chain { name: "postrouting", kind: "nat", hook: NF_INET_POST_ROUTING, priority: 99 },
        Chain { name: "forward", kind: "filter", hook: NF_INET_FORWARD, priority: -1 },
    ];
    if outer.is_some() {
        chains.push(Chain { name: "input", kind: "filter", hook: NF_INET_LOCAL_IN, priority: -1 });
    }
    chains
}

/// The rules, in their order. The number in a comment is raised when the rule's meaning changes, so that the table
/// of an older version is made anew.
pub fn rules(outer: Option<Outer>) -> Vec<Rule> {
    use Direction::{From, To};
    use Expression::{Accept, Counter, Drop, InSet, Masquerade};
    let mut rules = Vec::new();
    let mut rule = |chain, what: String, expressions| {
        rules.push(Rule { chain, comment: format!("kilo 1: {what}"), expressions });
    };
    for family in Family::ALL {
        let mut nat = |what: &str, direction, purpose, end| {
            let set = InSet(family, direction, set_of(purpose, family));
            rule(
                "postrouting",
                format!("{what} {}", version(family)),
                vec![Expression::Family(family), set, Counter, end],
            );
        };
        nat("never masquerade", To, Purpose::Never, Accept);
        nat("masquerade from", From, Purpose::From, Masquerade);
        nat("masquerade to", To, Purpose::To, Masquerade);
    }
    for (family, direction, way) in [
        (Family::V4, From, "from"),
        (Family::V4, To, "to"),
        (Family::V6, From, "from"),
        (Family::V6, To, "to"),
    ] {
        let set = InSet(family, direction, set_of(Purpose::Forward, family));
        let expressions = vec![Expression::Family(family), set, Counter, Accept];
        rule("forward", format!("forward {way} {}", version(family)), expressions);
    }
    for (what, packets) in outer.map_or_else(Vec::new, encapsulated) {
        for family in Family::ALL {
            let set = InSet(family, From, set_of(Purpose::Encapsulation, family));
            let expressions = [&packets[..], &[Expression::Family(family), set, Counter, Accept]].concat();
            rule("input", format!("{what} over {}", version(family)), expressions);
        }
        rule("input", format!("drop {what}"), [&packets[..], &[Counter, Drop]].concat());
    }
    rules
}

/// Which packets are encapsulated ones: their names, and how they are recognised.
fn encapsulated(outer: Outer) -> Vec<(String, Vec<Expression>)> {
    use Expression::{Port, Protocol};
    match outer {
        // 4: IPv4, 41: IPv6, each in another IP packet (IANA protocol numbers).
        Outer::Ip => [4, 41].map(|number| (format!("protocol {number}"), vec![Protocol(number)])).into(),
        // 17: UDP.
        Outer::Vxlan => vec![(format!("UDP port {VXLAN_PORT}"), vec![Protocol(17), Port(VXLAN_PORT)])],
    }
}

fn version(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
