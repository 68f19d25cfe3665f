//! From a configuration's peers to WireGuard's, for agents and clients alike.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use mesh::{Endpoint, Host, PublicKey, conf::ConfPeer};

use crate::WireguardPeer;

/// Addresses of DNS names, as far as known.
pub(super) type Resolved = BTreeMap<String, IpAddr>;

/// The peers of a WireGuard interface. `accepted`: which parts of an allowed IP without host bits this host accepts from
/// its tunnel.
pub(super) fn tunnels<Accepted: Iterator<Item = IpNet>>(
    peers: impl IntoIterator<Item = ConfPeer>,
    resolved: &Resolved,
    accepted: impl Fn(IpNet) -> Accepted,
) -> BTreeMap<PublicKey, WireguardPeer> {
    let tunnel = |peer: ConfPeer| {
        let wireguard = WireguardPeer {
            preshared_key: peer.preshared_key,
            endpoint: peer.endpoint.as_ref().and_then(|endpoint| resolve(endpoint, resolved)),
            persistent_keepalive: peer.persistent_keepalive,
            allowed_ips: peer.allowed_ips.iter().flat_map(|net| accepted(net.trunc())).collect(),
        };
        (peer.key, wireguard)
    };
    peers.into_iter().map(tunnel).collect()
}

/// Where an endpoint is, as far as known.
pub(super) fn resolve(endpoint: &Endpoint, resolved: &Resolved) -> Option<SocketAddr> {
    let address = match &endpoint.host {
        Host::Ip(address) => *address,
        Host::Dns(name) => *resolved.get(name)?,
    };
    Some(SocketAddr::new(address, endpoint.port))
}
