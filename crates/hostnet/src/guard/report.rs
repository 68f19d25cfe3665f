//! What the guard did not let through, as one problem for each object and reason, however long the object's list is.

use std::collections::BTreeMap;

use ipnet::IpNet;
use mesh::{Excerpt, Object, Problem};

use super::{Claim, Keep, Way, Why};

/// How many ranges of an object a message names, and how many things each of them holds.
const NAMED: usize = 3;

/// The findings about all objects.
#[derive(Debug, Default)]
pub struct Report(BTreeMap<(Object, Finding), Found>);

/// Findings of one kind about one object.
#[derive(Debug)]
struct Found {
    list: Excerpt,
    /// Whether the operator of this host can give some of it to the mesh.
    allowable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    Address,
    NotRouted,
    InPart,
    Withdrawn,
}

impl Report {
    /// A destination of an object is not routed, or not as a whole. `allowable`: it would be if the operator of this host
    /// gave it to the mesh.
    pub fn add(
        &mut self,
        object: Object,
        (destination, claim): (IpNet, Claim),
        (way, why): (&Way, &Why<'_>),
        allowable: bool,
    ) {
        let finding = match (way, claim) {
            (Way::Part(_), _) => Finding::InPart,
            (_, Claim::Address { .. }) => Finding::Address,
            _ => Finding::NotRouted,
        };
        self.push(object, finding, allowable, || reason(destination, way, why));
    }

    /// A destination of an object is not routed, because the API server was lost with it.
    pub fn add_withdrawn(&mut self, object: Object, destination: IpNet) {
        self.push(object, Finding::Withdrawn, false, || destination.to_string());
    }

    fn push(&mut self, object: Object, finding: Finding, allowable: bool, text: impl FnOnce() -> String) {
        let none = || Found { list: Excerpt::of(NAMED), allowable: false };
        let found = self.0.entry((object, finding)).or_insert_with(none);
        found.allowable |= allowable;
        found.list.push(text);
    }

    /// The problems, one for each object and reason.
    pub fn problems(self) -> impl Iterator<Item = Problem> {
        self.0.into_iter().map(|((object, finding), Found { list, allowable })| {
            // What it cannot change it is not advised for.
            let allow = if allowable {
                "; where the mesh is to have it all the same, start kg, or kgctl connect, here with --allow-host-routes"
            } else {
                ""
            };
            let (reason, message) = match finding {
                Finding::Address => (
                    "AddressNotRouted",
                    format!(
                        "not reached through the mesh from this host: {list}; give the node another address \
                         (kilo.squat.ai/force-internal-ip), or name both locations as one if they are in one network\
                         {allow}"
                    ),
                ),
                Finding::NotRouted => (
                    "RangeNotRouted",
                    format!("not routed through the mesh on this host: {list}; correct the range{allow}"),
                ),
                Finding::InPart => (
                    "RangeRoutedInPart",
                    format!("routed through the mesh on this host, except for what the host keeps: {list}"),
                ),
                Finding::Withdrawn => (
                    "RangeWithdrawn",
                    format!(
                        "not routed on this host, because the API server did not answer while it was: {list}; correct \
                         the range, or name the API server in it with a range of its own"
                    ),
                ),
            };
            Problem::new(object, reason, message)
        })
    }
}

fn reason(destination: IpNet, way: &Way, why: &Why<'_>) -> String {
    match why {
        Why::Is(net, keep) if *net == destination => format!("{destination} is {keep}"),
        Why::Is(net, keep) => format!("{destination} lies in {net}, {keep}"),
        Why::TooWide => format!("{destination} is wider than any one network"),
        Why::TooMuch => {
            format!("{destination} and narrower ranges together take too much of what the host reaches")
        }
        Why::Holds(holes) if holes.is_empty() => format!("{destination} holds nothing but what nodes have"),
        Why::Holds(holes) => {
            let named: Vec<String> = holes.iter().take(NAMED).map(|(net, keep)| named(net, keep)).collect();
            let further = holes.len().saturating_sub(NAMED);
            let more = if further > 0 { format!(", and {further} more") } else { String::new() };
            let much = if *way == Way::Out { " (too many to route around)" } else { "" };
            format!("{destination} holds {}{more}{much}", named.join(", "))
        }
    }
}

fn named(net: &IpNet, keep: &Keep) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        format!("{}, {keep}", net.addr())
    } else {
        format!("{net}, {keep}")
    }
}
