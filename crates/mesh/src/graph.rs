//! The topology as a Graphviz graph in DOT, byte for byte as the Go `kgctl graph` draws it.
//!
//! Leaders are joined to each other, so the graph is quadratic in the number of segments: of 1,000 it has half a million
//! edges. Whoever cannot hold all of it makes it part by part.

use std::fmt::{self, Write};

use crate::{Node, Segment, Topology, text::Plain};

/// What is written for every segment, in this order.
const ROUNDS: [fn(&Topology, usize, &mut String) -> fmt::Result; 4] =
    [write_edges_inside, write_edges_to_leaders, write_edges_to_peers, write_segment];

impl Topology {
    /// The graph. Every location is a cluster, leaders are joined to each other, to the nodes of their location and,
    /// dashed, to all peers.
    pub fn to_dot(&self) -> String {
        (0..self.dot_parts()).map(|part| self.dot_part(part)).collect()
    }

    /// In how many parts the graph is made.
    pub fn dot_parts(&self) -> usize {
        ROUNDS.len() * self.segments.len() + 2
    }

    /// One of the parts of the graph, by its number, which is below [`Topology::dot_parts`]. One after the other they are
    /// the graph. The longest has a line for every segment, peer, or node of a segment.
    pub fn dot_part(&self, part: usize) -> String {
        let mut out = String::new();
        let in_rounds = part.checked_sub(1).filter(|at| *at < ROUNDS.len() * self.segments.len());
        // Writing to a String cannot fail.
        let _ = match in_rounds {
            Some(at) => ROUNDS[at / self.segments.len()](self, at % self.segments.len(), &mut out),
            None if part == 0 => self.write_beginning(&mut out),
            None => self.write_peers(&mut out),
        };
        out
    }

    fn write_beginning(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "digraph kilo {{\n\tlabel=\"{}\";", self.config.subnets.primary())?;
        out.write_str("\tlabelloc=t;\n\toutputorder=nodesfirst;\n\toverlap=false;\n")
    }

    /// The peers, and the end of the graph.
    fn write_peers(&self, out: &mut String) -> fmt::Result {
        begin_cluster(out, "cluster_peers", "peers")?;
        for peer in &self.peers {
            let endpoint = peer.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
            let name = escape(&peer.name);
            // The line break inside of the label is the reference's.
            writeln!(out, "\t\"{name}\" [ label=\"{name}\\n{endpoint}\n\", shape=ellipse ];")?;
        }
        out.write_str("\n}\n;\n\n}\n\n")
    }
}

fn leader(segment: &Segment) -> String {
    escape(&segment.leader().name)
}

fn write_edges_inside(topology: &Topology, index: usize, out: &mut String) -> fmt::Result {
    let segment = &topology.segments[index];
    let leader = leader(segment);
    for node in segment.nodes.iter().filter(|node| node.name != segment.leader().name) {
        writeln!(out, "\t\"{leader}\"->\"{}\"[ dir=both ];", escape(&node.name))?;
    }
    Ok(())
}

fn write_edges_to_leaders(topology: &Topology, index: usize, out: &mut String) -> fmt::Result {
    let name = leader(&topology.segments[index]);
    for other in &topology.segments[index + 1..] {
        writeln!(out, "\t\"{name}\"->\"{}\"[ dir=both ];", leader(other))?;
    }
    Ok(())
}

fn write_edges_to_peers(topology: &Topology, index: usize, out: &mut String) -> fmt::Result {
    let leader = leader(&topology.segments[index]);
    for peer in &topology.peers {
        writeln!(out, "\t\"{leader}\"->\"{}\"[ dir=both, style=dashed ];", escape(&peer.name))?;
    }
    Ok(())
}

fn write_segment(topology: &Topology, index: usize, out: &mut String) -> fmt::Result {
    let segment = &topology.segments[index];
    let name = escape(&segment.name.to_string());
    begin_cluster(out, &format!("cluster_location_{name}"), &name)?;
    for node in &segment.nodes {
        let lead = node.name == segment.leader().name;
        let rank = if lead { ", rank=1" } else { "" };
        let label = node_label(segment, node, lead);
        writeln!(out, "\t\"{}\" [ label=\"{label}\"{rank}, shape=ellipse ];", escape(&node.name))?;
    }
    out.write_str("\n}\n;\n")
}

/// Names of nodes and peers are DNS names; a location is whatever an annotation says.
fn escape(text: &str) -> String {
    Plain(text).to_string().replace('\\', "\\\\").replace('"', "\\\"")
}

fn begin_cluster(out: &mut String, name: &str, label: &str) -> fmt::Result {
    writeln!(out, "\tsubgraph \"{name}\" {{\n\tlabel=\"{label}\";\n\tstyle=\"dashed,rounded\";")
}

fn node_label(segment: &Segment, node: &Node, lead: bool) -> String {
    let mut lines = vec![escape(&segment.name.to_string()), escape(&node.name)];
    lines.extend(node.pod_subnets.iter().map(|subnet| subnet.trunc().to_string()));
    lines.extend(node.internal_ips.iter().map(|net| net.addr().to_string()));
    if lead {
        lines.extend(segment.wireguard_ips.iter().map(ToString::to_string));
        lines.push(segment.endpoint.to_string());
    }
    lines.join("\\n")
}
