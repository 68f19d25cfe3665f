//! The topology as a picture: locations on a circle, tunnels between their leaders, peers outside.
//!
//! An agent starts no processes, so it does not ask Graphviz; `kgctl graph` gives the text for those who want to.

use std::{
    f64::consts::TAU,
    fmt::{self, Write},
};

use mesh::{Segment, Topology, text::Plain};

const LINE: f64 = 15.0;
const WIDTH: f64 = 190.0;
const GAP: f64 = 40.0;

/// A picture of more segments or peers than this shows nothing.
const MOST_SEGMENTS: usize = 200;
const MOST_PEERS: usize = 1000;
/// Lines between boxes: every pair of leaders, and every leader with every peer.
const MOST_LINES: usize = 40_000;
/// How many nodes or allowed IPs a box names.
const NAMED: usize = 20;

/// A box with lines of text.
struct Box {
    x: f64,
    y: f64,
    lines: Vec<String>,
    class: &'static str,
}

impl Box {
    fn height(&self) -> f64 {
        LINE * (self.lines.len() as f64 + 0.8)
    }
}

/// What there is too much of for a picture; `None`: it can be drawn.
pub fn too_large(topology: &Topology) -> Option<String> {
    let (segments, peers) = (topology.segments.len(), topology.peers.len());
    let lines = segments.saturating_mul(segments / 2 + peers);
    let large = segments > MOST_SEGMENTS || peers > MOST_PEERS || lines > MOST_LINES;
    large.then(|| format!("{segments} segments and {peers} peers"))
}

/// Draws the topology.
pub fn draw(topology: &Topology) -> String {
    let segments: Vec<Vec<String>> = topology.segments.iter().map(segment_lines).collect();
    let peers: Vec<Vec<String>> = topology
        .peers
        .iter()
        .map(|peer| {
            let mut lines = vec![peer.name.clone()];
            push_named(&mut lines, peer.allowed_ips.iter());
            lines
        })
        .collect();
    let tallest = segments.iter().chain(&peers).map(Vec::len).max().unwrap_or(1) as f64 * LINE + GAP;
    let around = |count: usize| (count as f64 * (WIDTH + GAP).max(tallest) / TAU).max(WIDTH);
    let inner = if segments.len() > 1 { around(segments.len()) } else { 0.0 };
    let outer = around(peers.len()).max(inner + WIDTH + GAP);
    let radius = if peers.is_empty() { inner } else { outer };
    let size = 2.0 * (radius + WIDTH / 2.0 + GAP).max(tallest);
    let place = |class: &'static str, ring: f64, boxes: Vec<Vec<String>>| -> Vec<Box> {
        let count = boxes.len() as f64;
        let at = |(index, lines): (usize, Vec<String>)| {
            let angle = TAU * index as f64 / count - TAU / 4.0;
            Box { x: size / 2.0 + ring * angle.cos(), y: size / 2.0 + ring * angle.sin(), lines, class }
        };
        boxes.into_iter().enumerate().map(at).collect()
    };
    let segments = place("segment", inner, segments);
    let peers = place("peer", outer, peers);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_svg(&mut out, size, &segments, &peers);
    out
}

fn segment_lines(segment: &Segment) -> Vec<String> {
    let mut lines = vec![segment.name.to_string()];
    lines.extend(segment.wireguard_ips.iter().map(ToString::to_string));
    lines.push(segment.endpoint.to_string());
    let leader = &segment.leader().name;
    let marked = |mark: &str, name: &str| format!("{mark} {name}");
    lines.push(marked("★", leader));
    let others = segment.nodes.iter().filter(|node| node.name != *leader);
    push_named(&mut lines, others.map(|node| marked("·", &node.name)));
    lines
}

/// Adds the first ones, and how many more there are.
fn push_named(lines: &mut Vec<String>, mut all: impl Iterator<Item = impl fmt::Display>) {
    lines.extend(all.by_ref().take(NAMED).map(|item| item.to_string()));
    if let more @ 1.. = all.count() {
        lines.push(format!("and {more} more"));
    }
}

fn write_svg(out: &mut String, size: f64, segments: &[Box], peers: &[Box]) -> fmt::Result {
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size:.0} {size:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\" text-anchor=\"middle\">\n<style>line{{stroke:#888}} .dashed{{stroke-dasharray:4}} \
         rect{{fill:#fff;stroke:#333;rx:6}} .peer{{stroke-dasharray:4}} .head{{font-weight:bold}}</style>"
    )?;
    let line = |out: &mut String, a: &Box, b: &Box, class: &str| {
        writeln!(
            out,
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            a.x, a.y, b.x, b.y
        )
    };
    for (index, a) in segments.iter().enumerate() {
        for b in &segments[index + 1..] {
            line(out, a, b, "tunnel")?;
        }
        for peer in peers {
            line(out, a, peer, "dashed")?;
        }
    }
    for item in segments.iter().chain(peers) {
        let (left, top) = (item.x - WIDTH / 2.0, item.y - item.height() / 2.0);
        writeln!(
            out,
            "<rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{WIDTH}\" height=\"{:.1}\"/>",
            item.class,
            item.height()
        )?;
        for (index, text) in item.lines.iter().enumerate() {
            let class = if index == 0 { " class=\"head\"" } else { "" };
            let y = top + LINE * (index as f64 + 1.0);
            writeln!(out, "<text{class} x=\"{:.1}\" y=\"{y:.1}\">{}</text>", item.x, escape(text))?;
        }
    }
    out.write_str("</svg>\n")
}

/// Without what XML takes for markup, or does not allow at all.
fn escape(text: &str) -> String {
    Plain(text).to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
