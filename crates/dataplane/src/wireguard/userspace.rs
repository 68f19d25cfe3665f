//! WireGuard in user space: a device in this process, or one of another process over its UAPI socket. Both take the
//! same changes and give the same state.

use hostnet::{Handshake, LinkName, Wireguard, WireguardPeer, plan::DeviceSettings};
use mesh::{PresharedKey, PrivateKey, PublicKey};
use tunnel::{AllowedIpsChange, DeviceChange, DeviceState, PeerChange, PeerSettings, PeerState, WhenMissing};

use super::{AllowedIps, Backend, Device, PeerEdit, WireguardBackend, age};
use crate::{error::Error, netlink::Socket};

/// Userspace devices are TUN interfaces.
const KINDS: &[&str] = &["tun"];

/// A device in this process. Its interface disappears with the process.
pub struct Embedded {
    interface: LinkName,
    serve_uapi: bool,
    device: Option<tunnel::Device>,
}

impl Embedded {
    /// A device of that name, not made yet. `serve_uapi`: `wg(8)` can read it.
    pub fn new(interface: &LinkName, serve_uapi: bool) -> Self {
        Self { interface: interface.clone(), serve_uapi, device: None }
    }

    fn device(&self) -> Result<&tunnel::Device, Error> {
        self.device.as_ref().ok_or_else(|| Error::NoLink(self.interface.clone()))
    }

    fn failed(&self, attempt: impl Into<String>) -> impl FnOnce(tunnel::Error) -> Error {
        let attempt = attempt.into();
        move |error| Error::Device { attempt, reason: error.to_string() }
    }
}

impl WireguardBackend for Embedded {
    fn backend(&self) -> Backend {
        Backend::Embedded
    }

    fn link_kinds(&self) -> &'static [&'static str] {
        KINDS
    }

    fn create(&mut self, _: &mut Socket, mtu: Option<u32>) -> Result<(), Error> {
        self.device = None;
        let mut config = tunnel::Config::named(self.interface.as_str());
        config.mtu = mtu.unwrap_or(config.mtu);
        config.uapi = self.serve_uapi;
        config.greeting = tunnel::Greeting::AtOnce;
        let attempt = format!("make the embedded WireGuard device {}", self.interface);
        self.device = Some(tunnel::Device::create(config).map_err(self.failed(attempt))?);
        Ok(())
    }

    fn close(&mut self) {
        self.device = None;
    }

    fn observe(&mut self) -> Result<Option<Device>, Error> {
        if self.device.as_ref().is_some_and(|device| device.check().is_err()) {
            tracing::warn!(interface = %self.interface, "somebody removed the interface of the embedded device");
            self.device = None;
        }
        Ok(self.device.as_ref().map(|device| decode(&device.state())))
    }

    fn set_device(&mut self, settings: &DeviceSettings) -> Result<(), Error> {
        let device = self.device()?;
        let changes = difference(&device.state(), settings);
        // Before the key, without which nothing is sent.
        if let Some(mark) = changes.fwmark {
            let attempt = format!("set the mark {mark:#x} of {}", self.interface);
            device.set_fwmark(mark).map_err(self.failed(attempt))?;
        }
        if let Some(key) = changes.private_key {
            let attempt = format!("set the key of {}", self.interface);
            device.set_private_key(key).map_err(self.failed(attempt))?;
        }
        if let Some(port) = changes.listen_port {
            let attempt = format!("let {} listen on UDP port {port}", self.interface);
            device.set_listen_port(port).map_err(self.failed(attempt))?;
        }
        Ok(())
    }

    fn set_peers(&mut self, edits: &[PeerEdit<'_>]) -> Vec<Result<(), Error>> {
        let changes: Vec<PeerChange> = edits.iter().map(encode).collect();
        let result = self.device().and_then(|device| {
            let attempt = format!("change {} WireGuard peers of {}", edits.len(), self.interface);
            device.apply(&changes).map_err(self.failed(attempt))
        });
        for_all(result, edits.len())
    }
}

/// A device of another process.
pub struct External {
    interface: LinkName,
    client: tunnel::uapi::Client,
    allowed_ips: AllowedIps,
    refused_mark: Option<RefusedMark>,
}

/// A mark that a device was asked for and did not take: some know none.
struct RefusedMark {
    asked: u32,
    kept: u32,
}

impl External {
    /// The device of that name, by the usual path of its socket.
    pub fn new(interface: &LinkName) -> Self {
        let client = tunnel::uapi::Client::new(interface.as_str());
        Self { interface: interface.clone(), client, allowed_ips: AllowedIps::default(), refused_mark: None }
    }

    fn get(&self) -> Result<DeviceState, Error> {
        let attempt = format!("read the WireGuard device {}", self.interface);
        self.client.get().map_err(|error| Error::Device { attempt, reason: error.to_string() })
    }

    /// Sets the mark of a device that may know none. Only one that cannot be reached is an error: without a mark the
    /// tunnels work wherever no route to an endpoint leads into them.
    fn set_mark(&mut self, mark: u32) -> Result<(), Error> {
        let change = DeviceChange { fwmark: Some(mark), ..DeviceChange::default() };
        let reason = self.client.set(&change).err().map(|error| error.to_string());
        let kept = self.get()?.fwmark;
        self.refused_mark = (kept != mark).then_some(RefusedMark { asked: mark, kept });
        if kept != mark {
            tracing::warn!(
                interface = %self.interface,
                mark = format_args!("{mark:#x}"),
                reason = reason.as_deref().unwrap_or("it does not say why"),
                "the WireGuard device does not mark its packets, so that a route into it must not hold the address of an \
                 endpoint"
            );
        }
        Ok(())
    }

    fn set(&self, attempt: &str, change: &DeviceChange) -> Result<(), Error> {
        self.client.set(change).map_err(|error| Error::Device {
            attempt: format!("{attempt} of {}", self.interface),
            reason: error.to_string(),
        })
    }
}

impl WireguardBackend for External {
    fn backend(&self) -> Backend {
        Backend::Uapi
    }

    fn link_kinds(&self) -> &'static [&'static str] {
        KINDS
    }

    fn create(&mut self, _: &mut Socket, _: Option<u32>) -> Result<(), Error> {
        Err(Error::NoLink(self.interface.clone()))
    }

    fn observe(&mut self) -> Result<Option<Device>, Error> {
        let mut device = decode(&self.get()?);
        // Otherwise it would be asked for again and again.
        if let Some(refused) = &self.refused_mark
            && refused.kept == device.wireguard.mark
        {
            device.wireguard.mark = refused.asked;
        }
        self.allowed_ips = AllowedIps::of(&device.wireguard);
        Ok(Some(device))
    }

    fn set_device(&mut self, settings: &DeviceSettings) -> Result<(), Error> {
        let mut change = difference(&self.get()?, settings);
        // By itself, because a request fails as a whole; and first, because without a key nothing is sent.
        if let Some(mark) = change.fwmark.take() {
            self.set_mark(mark)?;
        }
        self.set("set the key and the port", &change)
    }

    fn set_peers(&mut self, edits: &[PeerEdit<'_>]) -> Vec<Result<(), Error>> {
        let mut peers: Vec<PeerChange> = Vec::new();
        for edit in edits {
            let mut change = encode(edit);
            // Not every implementation can remove a single allowed IP.
            if let (PeerChange::Set(settings), PeerEdit::Set(key, wanted)) = (&mut change, edit)
                && let Some(all) = self.allowed_ips.replacement(key, wanted)
            {
                settings.allowed_ips = AllowedIpsChange::Replace(all);
            }
            self.allowed_ips.follow(edit);
            peers.push(change);
        }
        let change = DeviceChange { peers, ..DeviceChange::default() };
        for_all(self.set(&format!("change {} WireGuard peers", edits.len()), &change), edits.len())
    }
}

/// All changes succeed or fail together.
fn for_all(result: Result<(), Error>, count: usize) -> Vec<Result<(), Error>> {
    match result {
        Ok(()) => (0..count).map(|_| Ok(())).collect(),
        Err(error) => {
            let reason = error.to_string();
            let failed = |_| {
                Err(Error::Device { attempt: "change WireGuard peers".to_owned(), reason: reason.clone() })
            };
            (0..count).map(failed).collect()
        }
    }
}

/// What has to be set. Of what is as it should be nothing is said: to some devices it would be news, and end sessions.
fn difference(state: &DeviceState, settings: &DeviceSettings) -> DeviceChange {
    let key = tunnel::PrivateKey::from(*settings.private_key.expose());
    DeviceChange {
        private_key: (state.private_key.as_ref() != Some(&key)).then_some(Some(key)),
        listen_port: (state.listen_port != settings.listen_port).then_some(settings.listen_port),
        fwmark: (state.fwmark != settings.mark).then_some(settings.mark),
        peers: Vec::new(),
    }
}

fn encode(edit: &PeerEdit<'_>) -> PeerChange {
    let (key, change) = match edit {
        PeerEdit::Remove(key) => return PeerChange::Remove(tunnel::PublicKey(*key.as_bytes())),
        PeerEdit::Set(key, change) => (key, change),
    };
    let preshared_key = change.preshared_key.as_ref().map(|key| {
        key.as_ref().map_or(tunnel::PresharedKey::NONE, |key| tunnel::PresharedKey::from(*key.expose()))
    });
    let edited = !change.add_allowed_ips.is_empty() || !change.remove_allowed_ips.is_empty();
    PeerChange::Set(PeerSettings {
        when_missing: if change.new { WhenMissing::Add } else { WhenMissing::Skip },
        preshared_key,
        endpoint: change.endpoint,
        keepalive: change.persistent_keepalive,
        allowed_ips: if edited {
            let (add, remove) = (change.add_allowed_ips.clone(), change.remove_allowed_ips.clone());
            AllowedIpsChange::Edit { add, remove }
        } else {
            AllowedIpsChange::Keep
        },
        ..PeerSettings::new(tunnel::PublicKey(*key.as_bytes()))
    })
}

fn decode(state: &DeviceState) -> Device {
    let peers =
        state.peers.iter().filter_map(|peer| Some((PublicKey::from_bytes(*peer.key.as_bytes()).ok()?, peer)));
    Device {
        wireguard: Wireguard {
            private_key: state.private_key.as_ref().map(|key| PrivateKey::from_bytes(*key.as_bytes())),
            listen_port: state.listen_port,
            mark: state.fwmark,
            peers: peers.clone().map(|(key, peer)| (key, decode_peer(peer))).collect(),
        },
        handshakes: peers.filter_map(|(key, peer)| Some((key, decode_handshake(peer)?))).collect(),
    }
}

fn decode_peer(peer: &PeerState) -> WireguardPeer {
    WireguardPeer {
        preshared_key: PresharedKey::from_bytes(*peer.preshared_key.as_bytes()),
        endpoint: peer.endpoint,
        persistent_keepalive: peer.keepalive,
        allowed_ips: peer.allowed_ips.iter().copied().collect(),
    }
}

fn decode_handshake(peer: &PeerState) -> Option<Handshake> {
    let handshake = |then| Handshake {
        age: age(then),
        endpoint: peer.endpoint,
        received: peer.rx_bytes,
        sent: peer.tx_bytes,
    };
    peer.last_handshake.map(handshake)
}
