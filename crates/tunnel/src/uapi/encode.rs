//! Writing the texts of the UAPI.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use zeroize::Zeroizing;

use crate::config::{AllowedIpsChange, DeviceChange, DeviceState, PeerChange, PeerSettings, WhenMissing};

/// The answer to `get=1`, without the line that tells success.
pub fn encode_state(state: &DeviceState) -> Zeroizing<String> {
    let mut text = Text::default();
    if let Some(key) = &state.private_key {
        text.hex("private_key", key.as_bytes());
    }
    text.line("listen_port", state.listen_port);
    if state.fwmark != 0 {
        text.line("fwmark", state.fwmark);
    }
    for peer in &state.peers {
        text.hex("public_key", peer.key.as_bytes());
        text.hex("preshared_key", peer.preshared_key.as_bytes());
        text.line("protocol_version", 1);
        if let Some(endpoint) = peer.endpoint {
            text.line("endpoint", endpoint);
        }
        let handshake = peer.last_handshake.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let handshake = handshake.unwrap_or_default();
        text.line("last_handshake_time_sec", handshake.as_secs());
        text.line("last_handshake_time_nsec", handshake.subsec_nanos());
        text.line("tx_bytes", peer.tx_bytes);
        text.line("rx_bytes", peer.rx_bytes);
        text.line("persistent_keepalive_interval", peer.keepalive);
        for prefix in &peer.allowed_ips {
            text.line("allowed_ip", prefix);
        }
    }
    text.0
}

/// A `set=1` request. Removing all peers is possible only before other changes of peers.
pub fn encode_set(change: &DeviceChange) -> Zeroizing<String> {
    let mut text = Text::default();
    text.line("set", 1);
    if let Some(key) = &change.private_key {
        text.hex("private_key", key.as_ref().map_or(&[0; 32], |key| key.as_bytes()));
    }
    if let Some(port) = change.listen_port {
        text.line("listen_port", port);
    }
    if let Some(mark) = change.fwmark {
        text.line("fwmark", mark);
    }
    // What is set before all peers are removed is without effect.
    let start = change.peers.iter().rposition(|peer| matches!(peer, PeerChange::RemoveAll));
    if start.is_some() {
        text.line("replace_peers", true);
    }
    for peer in &change.peers[start.map_or(0, |at| at + 1)..] {
        match peer {
            PeerChange::Set(settings) => text.settings(settings),
            PeerChange::Remove(key) => {
                text.hex("public_key", key.as_bytes());
                text.line("remove", true);
            }
            PeerChange::RemoveAll => {}
        }
    }
    text.0.push('\n');
    text.0
}

/// A text in the making; wiped when dropped, as it may hold keys.
#[derive(Default)]
struct Text(Zeroizing<String>);

impl Text {
    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{key}={value}");
    }

    fn hex(&mut self, key: &str, bytes: &[u8; 32]) {
        let _ = write!(self.0, "{key}=");
        for byte in bytes {
            let _ = write!(self.0, "{byte:02x}");
        }
        self.0.push('\n');
    }

    fn settings(&mut self, settings: &PeerSettings) {
        self.hex("public_key", settings.key.as_bytes());
        if settings.when_missing == WhenMissing::Skip {
            self.line("update_only", true);
        }
        if let Some(key) = &settings.preshared_key {
            self.hex("preshared_key", key.as_bytes());
        }
        if let Some(endpoint) = settings.endpoint {
            self.line("endpoint", endpoint);
        }
        if let Some(seconds) = settings.keepalive {
            self.line("persistent_keepalive_interval", seconds);
        }
        match &settings.allowed_ips {
            AllowedIpsChange::Keep => {}
            AllowedIpsChange::Replace(all) => {
                self.line("replace_allowed_ips", true);
                all.iter().for_each(|prefix| self.line("allowed_ip", prefix));
            }
            AllowedIpsChange::Edit { add, remove } => {
                remove.iter().for_each(|prefix| self.line("allowed_ip", format_args!("-{prefix}")));
                add.iter().for_each(|prefix| self.line("allowed_ip", prefix));
            }
        }
    }
}
