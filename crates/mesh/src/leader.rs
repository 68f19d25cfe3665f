//! Who leads a segment. Every agent comes to the same answer from the same nodes, without talking to the others.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{Host, Node, prefix::is_public};

/// The gateways of a segment, as indices into its nodes, best first. Today there is exactly one: the leader that
/// the Go implementation would choose as well, so that both can be in one mesh.
///
/// `nodes` is sorted by name and not empty. The leader is the first annotated node with a public endpoint, else the
/// first annotated node, else the first with a public endpoint, else the first. An endpoint that is a DNS name has
/// the address in `resolved`; without one there it counts as not public.
pub fn gateways(nodes: &[Arc<Node>], resolved: &BTreeMap<String, IpAddr>) -> Vec<usize> {
    let address = |node: &Node| match &node.endpoint.as_ref()?.host {
        Host::Ip(address) => Some(*address),
        Host::Dns(name) => resolved.get(name).copied(),
    };
    let public = |node: &Node| address(node).is_some_and(is_public);
    let first = |wanted: &dyn Fn(&Node) -> bool| nodes.iter().position(|node| wanted(node));
    let leader = first(&|node| node.leader && public(node))
        .or_else(|| first(&|node| node.leader))
        .or_else(|| first(&|node| public(node)))
        .unwrap_or(0);
    vec![leader]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `*` marks an annotated node, `p` one with a public endpoint, `d` one with a DNS endpoint, `r` one whose name
    /// resolves to a public address, `i` one whose name resolves to a private one.
    fn check(nodes: &[&str], leader: usize) {
        let nodes: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(index, marks)| {
                let endpoint = match marks {
                    marks if marks.contains('p') => "203.0.113.1:51820",
                    marks if marks.contains('d') => "example.com:51820",
                    marks if marks.contains('r') => "public.example.com:51820",
                    marks if marks.contains('i') => "internal.example.com:51820",
                    _ => "10.0.0.1:51820",
                };
                let mut node = Node::named(format!("n{index}"));
                node.leader = marks.contains('*');
                node.endpoint = endpoint.parse().ok();
                Arc::new(node)
            })
            .collect();
        let name = |name: &str, address: &str| (name.to_owned(), address.parse().unwrap());
        let resolved = [name("public.example.com", "203.0.113.7"), name("internal.example.com", "fd00::1")];
        assert_eq!(gateways(&nodes, &BTreeMap::from(resolved)), [leader]);
    }

    #[test]
    fn order_of_preference() {
        check(&["", ""], 0);
        check(&["", "p"], 1);
        check(&["d", "p"], 1);
        check(&["d", "r", "p"], 1);
        check(&["i", "p", "r"], 1);
        check(&["p", "*i", "*r"], 2);
        check(&["p", "*"], 1);
        check(&["*", "*p"], 1);
        check(&["p", "*d", "*"], 1);
        check(&["p", "*", "*p"], 2);
    }
}
