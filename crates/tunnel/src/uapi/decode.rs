//! Reading the texts of the UAPI. They come from outside: every line is checked, and nothing of a wrong one that could be
//! secret is repeated in the error.

use std::net::{SocketAddr, SocketAddrV6};
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use ipnet::IpNet;

use crate::config::{
    AllowedIpsChange, DeviceChange, DeviceState, Drops, PeerChange, PeerSettings, PeerState, WhenMissing,
};
use crate::error::Error;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::sys::interface_index;

/// Reads the lines of a `set=1` request behind its first one.
///
/// # Errors
/// When any line is wrong; nothing of the request should be done then.
pub fn decode_set(text: &str) -> Result<DeviceChange, Error> {
    let mut change = DeviceChange::default();
    let mut replace_peers = false;
    let mut peer: Option<PeerLines> = None;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let line = Line::split(line)?;
        match (line.key, &mut peer) {
            ("public_key", _) => {
                let next = PeerLines::new(PublicKey(line.hex()?));
                change.peers.extend(peer.replace(next).map(PeerLines::finish));
            }
            (_, Some(peer)) => peer.take(&line)?,
            ("private_key", None) => change.private_key = Some(private_key(line.hex()?)),
            ("listen_port", None) => change.listen_port = Some(line.number()?),
            ("fwmark", None) => change.fwmark = Some(line.mark()?),
            ("replace_peers", None) => replace_peers = line.is_true()?,
            _ => return Err(line.error("this key is not known here")),
        }
    }
    change.peers.extend(peer.map(PeerLines::finish));
    if replace_peers {
        change.peers.insert(0, PeerChange::RemoveAll);
    }
    Ok(change)
}

/// Reads the answer to `get=1`, without the line that tells success. Keys that are not known are skipped.
///
/// # Errors
/// When the value of a known key is wrong, or a line has no `=`.
pub fn decode_state(text: &str) -> Result<DeviceState, Error> {
    let mut state = DeviceState {
        private_key: None,
        listen_port: 0,
        fwmark: 0,
        peers: Vec::new(),
        drops: Drops::default(),
    };
    let mut handshake = Duration::ZERO;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let line = Line::split(line)?;
        if line.key == "public_key" {
            state.peers.push(empty_peer(PublicKey(line.hex()?)));
            handshake = Duration::ZERO;
            continue;
        }
        let Some(peer) = state.peers.last_mut() else {
            match line.key {
                "private_key" => state.private_key = private_key(line.hex()?),
                "listen_port" => state.listen_port = line.number()?,
                "fwmark" => state.fwmark = line.mark()?,
                _ => {}
            }
            continue;
        };
        match line.key {
            "preshared_key" => peer.preshared_key = PresharedKey::from(line.hex()?),
            // A zone that this machine does not have is another one's.
            "endpoint" => peer.endpoint = Some(line.endpoint(|_| Some(0))?),
            "last_handshake_time_sec" => {
                handshake = handshake.saturating_add(Duration::from_secs(line.number()?));
            }
            "last_handshake_time_nsec" => {
                let nanos = Duration::from_nanos(u64::from(line.number::<u32>()?));
                handshake = handshake.saturating_add(nanos);
            }
            "tx_bytes" => peer.tx_bytes = line.number()?,
            "rx_bytes" => peer.rx_bytes = line.number()?,
            "persistent_keepalive_interval" => peer.keepalive = line.number()?,
            "allowed_ip" => peer.allowed_ips.push(line.prefix(line.value)?),
            _ => {}
        }
        // A time that the clock of this machine cannot hold is as good as none.
        peer.last_handshake =
            Some(handshake).filter(|time| !time.is_zero()).and_then(|time| UNIX_EPOCH.checked_add(time));
    }
    Ok(state)
}

fn private_key(bytes: [u8; 32]) -> Option<PrivateKey> {
    (bytes != [0; 32]).then(|| PrivateKey::from(bytes))
}

fn empty_peer(key: PublicKey) -> PeerState {
    PeerState {
        key,
        preshared_key: PresharedKey::NONE,
        endpoint: None,
        keepalive: 0,
        allowed_ips: Vec::new(),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
    }
}

/// The lines of one peer in a request.
struct PeerLines {
    settings: PeerSettings,
    remove: bool,
    replace: bool,
    add: Vec<IpNet>,
    take_away: Vec<IpNet>,
}

impl PeerLines {
    fn new(key: PublicKey) -> Self {
        let settings = PeerSettings::new(key);
        Self { settings, remove: false, replace: false, add: Vec::new(), take_away: Vec::new() }
    }

    fn take(&mut self, line: &Line<'_>) -> Result<(), Error> {
        match line.key {
            "remove" => self.remove = line.is_true()?,
            "update_only" => {
                line.is_true()?;
                self.settings.when_missing = WhenMissing::Skip;
            }
            "preshared_key" => self.settings.preshared_key = Some(PresharedKey::from(line.hex()?)),
            "endpoint" => self.settings.endpoint = Some(line.endpoint(|_| None)?),
            "persistent_keepalive_interval" => self.settings.keepalive = Some(line.number()?),
            "replace_allowed_ips" => {
                self.replace = line.is_true()?;
                self.add.clear();
                self.take_away.clear();
            }
            "allowed_ip" => match line.value.strip_prefix('-') {
                Some(prefix) => {
                    let prefix = line.prefix(prefix)?;
                    self.add.retain(|added| *added != prefix);
                    self.take_away.push(prefix);
                }
                None => self.add.push(line.prefix(line.value)?),
            },
            "protocol_version" if line.value == "1" => {}
            "protocol_version" => return Err(line.error("only version 1 is spoken here")),
            _ => return Err(line.error("this key is not known here")),
        }
        Ok(())
    }

    fn finish(self) -> PeerChange {
        let mut settings = self.settings;
        if self.remove {
            return PeerChange::Remove(settings.key);
        }
        settings.allowed_ips = if self.replace {
            AllowedIpsChange::Replace(self.add)
        } else if self.add.is_empty() && self.take_away.is_empty() {
            AllowedIpsChange::Keep
        } else {
            AllowedIpsChange::Edit { add: self.add, remove: self.take_away }
        };
        PeerChange::Set(settings)
    }
}

/// `key=value`.
struct Line<'a> {
    key: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    fn split(line: &'a str) -> Result<Self, Error> {
        match line.split_once('=') {
            Some((key, value)) => Ok(Self { key, value }),
            None => Err(Self { key: "", value: "" }.error("a line must be key=value")),
        }
    }

    fn error(&self, problem: &'static str) -> Error {
        // The key alone, and not too much of it: the value may be a secret.
        Error::Protocol { line: self.key.chars().take(40).collect(), problem }
    }

    fn number<T: FromStr>(&self) -> Result<T, Error> {
        self.value.parse().map_err(|_| self.error("the value cannot be read or is out of range"))
    }

    /// An address whose zone may be the name of an interface, as `wg` writes it; `otherwise` is what a name stands for
    /// that no interface has.
    fn endpoint(&self, otherwise: fn(&str) -> Option<u32>) -> Result<SocketAddr, Error> {
        let Some((address, rest)) = self.value.split_once('%') else { return self.number() };
        let Some((zone, port)) = rest.split_once("]:") else { return self.number() };
        if zone.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.number();
        }
        let mut endpoint: SocketAddrV6 = format!("{address}]:{port}")
            .parse()
            .map_err(|_| self.error("the value cannot be read or is out of range"))?;
        let index = interface_index(zone).or_else(|| otherwise(zone));
        endpoint.set_scope_id(index.ok_or_else(|| self.error("there is no interface of that name"))?);
        Ok(endpoint.into())
    }

    /// A mark may be written in hexadecimal.
    fn mark(&self) -> Result<u32, Error> {
        match self.value.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).map_err(|_| self.error("the value is no mark")),
            None => self.number(),
        }
    }

    fn is_true(&self) -> Result<bool, Error> {
        if self.value == "true" { Ok(true) } else { Err(self.error("the only value is true")) }
    }

    fn prefix(&self, text: &str) -> Result<IpNet, Error> {
        let prefix: IpNet = text.parse().map_err(|_| self.error("the value is no IP prefix"))?;
        Ok(prefix.trunc())
    }

    fn hex(&self) -> Result<[u8; 32], Error> {
        let fail = || self.error("the value is not 64 hexadecimal digits");
        let digits = self.value.as_bytes();
        if digits.len() != 64 {
            return Err(fail());
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or_else(fail);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Ok(out)
    }
}
