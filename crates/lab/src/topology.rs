//! The mesh as the Node objects describe it, for people: which location has which leader, and how it is
//! reached. It reads what the agents published and computes no topology of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{Lab, LabError};

/// A node as it published itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The location: annotation or region label.
    pub location: String,
    /// The node's name.
    pub node: String,
    /// What it is to its location.
    pub role: Role,
    /// How other locations reach it.
    pub endpoint: String,
    /// Its WireGuard addresses, empty for a node that does not lead.
    pub wireguard_ip: String,
    /// The addresses of its pods.
    pub pod_subnets: Vec<String>,
    /// Its public key.
    pub key: String,
    /// Seconds since anyone's last handshake with it.
    pub handshake: Option<u64>,
}

/// What a node is to its location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It holds the tunnels.
    Leader,
    /// It reaches other locations through the leader.
    Member,
    /// It has been silent for longer than the mesh allows.
    Away,
    /// It has not published anything.
    Silent,
}

/// Reads the topology from the API, and handshakes from the nodes where `wg` is installed.
///
/// # Errors
/// When the API does not answer.
pub fn read(lab: &Lab) -> Result<Vec<Row>, LabError> {
    let now = seconds_now();
    let mut rows: Vec<Row> =
        lab.api().nodes()?.iter().map(|node| row(node, now, lab.spec().mesh.liveness_timeout)).collect();
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for leader in rows.iter().filter(|row| row.role == Role::Leader) {
        // Without `wg`, or without the node, the column stays empty.
        let peers = lab.node(&leader.node).and_then(|node| node.wireguard_peers()).unwrap_or_default();
        for peer in peers {
            let seen = newest.entry(peer.public_key).or_default();
            *seen = (*seen).max(peer.last_handshake.unwrap_or_default());
        }
    }
    for row in &mut rows {
        row.handshake = newest.get(&row.key).filter(|seen| **seen > 0).map(|seen| now.saturating_sub(*seen));
    }
    rows.sort_by(|a, b| (&a.location, &a.node).cmp(&(&b.location, &b.node)));
    Ok(rows)
}

/// The nodes of a location that lead it and are alive; more than one while a takeover is not yet known to
/// all.
pub fn leaders<'a>(rows: &'a [Row], location: &'a str) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| row.location == location && row.role == Role::Leader)
}

/// Whether each location has exactly one leader. Where a location is one segment this comes true within moments: just
/// after a start each node was alone before it knew the others, and said so.
pub fn is_led(rows: &[Row]) -> bool {
    let locations: BTreeSet<&str> = rows.iter().map(|row| row.location.as_str()).collect();
    locations.iter().all(|location| leaders(rows, location).count() == 1)
}

/// The rows as a table.
pub fn render(rows: &[Row]) -> String {
    let mut cells =
        vec![["location", "node", "role", "endpoint", "wireguard ip", "pods", "handshake"].map(String::from)];
    cells.extend(rows.iter().map(|row| {
        [
            dash(&row.location),
            row.node.clone(),
            match row.role {
                Role::Leader => "leader",
                Role::Member => "member",
                Role::Away => "away",
                Role::Silent => "silent",
            }
            .into(),
            dash(&row.endpoint),
            dash(&row.wireguard_ip),
            row.pod_subnets.join(" "),
            row.handshake.map_or_else(|| "-".into(), |age| format!("{age} s ago")),
        ]
    }));
    table(&cells)
}

/// Columns as wide as their widest cell.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>();
        format!("  {}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn row(node: &Value, now: u64, away_after: u64) -> Row {
    let metadata = &node["metadata"];
    let annotation = |key: &str| metadata["annotations"][format!("kilo.squat.ai/{key}")].as_str();
    let text = |key: &str| annotation(key).unwrap_or_default().to_owned();
    let location = annotation("location").or(metadata["labels"]["topology.kubernetes.io/region"].as_str());
    let last_seen = annotation("last-seen").and_then(|seen| seen.parse::<u64>().ok());
    let wireguard_ip = text("wireguard-ip");
    let role = match last_seen {
        None => Role::Silent,
        Some(seen) if seen + away_after < now => Role::Away,
        Some(_) if wireguard_ip.is_empty() => Role::Member,
        Some(_) => Role::Leader,
    };
    let subnets = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
    Row {
        location: location.unwrap_or_default().into(),
        node: metadata["name"].as_str().unwrap_or_default().into(),
        role,
        endpoint: annotation("force-endpoint").map_or_else(|| text("endpoint"), str::to_owned),
        wireguard_ip,
        pod_subnets: subnets.filter_map(|subnet| subnet.as_str().map(str::to_owned)).collect(),
        key: text("key"),
        handshake: None,
    }
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn roles_follow_from_what_a_node_published() {
        let check = |annotations: Value, expect: Role| {
            let node = json!({"metadata": {"name": "a1", "annotations": annotations}});
            assert_eq!(row(&node, 1000, 60).role, expect, "{annotations}");
        };
        check(json!({}), Role::Silent);
        check(
            json!({"kilo.squat.ai/last-seen": "990", "kilo.squat.ai/wireguard-ip": "10.4.0.1/16"}),
            Role::Leader,
        );
        check(json!({"kilo.squat.ai/last-seen": "990", "kilo.squat.ai/wireguard-ip": ""}), Role::Member);
        check(
            json!({"kilo.squat.ai/last-seen": "900", "kilo.squat.ai/wireguard-ip": "10.4.0.1/16"}),
            Role::Away,
        );
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "bb"].map(String::from), ["ccc", "d"].map(String::from)];
        assert_eq!(table(&rows), "  a    bb\n  ccc  d\n");
    }
}
