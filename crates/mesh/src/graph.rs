//! The topology as a Graphviz graph in DOT, byte for byte as the Go `kgctl graph` draws it.

use std::fmt::{self, Write};

use crate::{Node, Segment, Topology};

impl Topology {
    /// The graph. Every location is a cluster, leaders are joined to each other, to the nodes of their location and,
    /// dashed, to all peers.
    pub fn to_dot(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_dot(&mut out);
        out
    }

    fn write_dot(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "digraph kilo {{")?;
        writeln!(out, "\tlabel=\"{}\";", self.config.subnets.primary())?;
        out.write_str("\tlabelloc=t;\n\toutputorder=nodesfirst;\n\toverlap=false;\n")?;
        self.write_edges(out)?;
        for segment in &self.segments {
            let name = escape(&segment.name.to_string());
            begin_cluster(out, &format!("cluster_location_{name}"), &name)?;
            for node in &segment.nodes {
                let lead = node.name == segment.leader().name;
                let rank = if lead { ", rank=1" } else { "" };
                let label = node_label(segment, node, lead);
                writeln!(out, "\t\"{}\" [ label=\"{label}\"{rank}, shape=ellipse ];", node.name)?;
            }
            out.write_str("\n}\n;\n")?;
        }
        begin_cluster(out, "cluster_peers", "peers")?;
        for peer in &self.peers {
            let endpoint = peer.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
            // The line break inside of the label is the reference's.
            writeln!(out, "\t\"{0}\" [ label=\"{0}\\n{endpoint}\n\", shape=ellipse ];", peer.name)?;
        }
        out.write_str("\n}\n;\n\n}\n\n")
    }

    /// First the edges inside of each segment, then those between leaders, then those to the peers.
    fn write_edges(&self, out: &mut String) -> fmt::Result {
        let leaders: Vec<&str> = self.segments.iter().map(|s| s.leader().name.as_str()).collect();
        for (segment, leader) in self.segments.iter().zip(&leaders) {
            for node in segment.nodes.iter().filter(|node| node.name != *leader) {
                writeln!(out, "\t\"{leader}\"->\"{}\"[ dir=both ];", node.name)?;
            }
        }
        for (index, leader) in leaders.iter().enumerate() {
            for other in &leaders[index + 1..] {
                writeln!(out, "\t\"{leader}\"->\"{other}\"[ dir=both ];")?;
            }
        }
        for leader in &leaders {
            for peer in &self.peers {
                writeln!(out, "\t\"{leader}\"->\"{}\"[ dir=both, style=dashed ];", peer.name)?;
            }
        }
        Ok(())
    }
}

/// Names of nodes and peers are DNS names; a location is whatever an annotation says.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn begin_cluster(out: &mut String, name: &str, label: &str) -> fmt::Result {
    writeln!(out, "\tsubgraph \"{name}\" {{\n\tlabel=\"{label}\";\n\tstyle=\"dashed,rounded\";")
}

fn node_label(segment: &Segment, node: &Node, lead: bool) -> String {
    let mut lines = vec![escape(&segment.name.to_string()), node.name.clone()];
    lines.extend(node.pod_subnets.iter().map(|subnet| subnet.trunc().to_string()));
    lines.extend(node.internal_ips.iter().map(|net| net.addr().to_string()));
    if lead {
        lines.extend(segment.wireguard_ips.iter().map(ToString::to_string));
        lines.push(segment.endpoint.to_string());
    }
    lines.join("\\n")
}
