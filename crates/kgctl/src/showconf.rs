//! `kgctl showconf`: WireGuard configurations for those who do not run an agent.

use anyhow::{Result, anyhow};
use mesh::conf::{Conf, ConfPeer};
use program::{
    flags::all,
    print::{out, say},
};

use crate::{Output, ShowConf, cluster::Cluster, peer_object};

/// The configuration of a node: of its interface, or of another interface's peer.
pub fn node(cluster: &Cluster, name: &str, request: &ShowConf, port: u16) -> Result<()> {
    let perspective = cluster.perspective(name)?;
    if perspective.segment().leader().name != name {
        // Not an error: the Go kgctl ends with 0 here, and scripts loop over all nodes.
        say(format_args!("Node {name:?} is not a leader node"));
        return Ok(());
    }
    if request.as_peer {
        return show_as_peer(name, perspective.as_peer(), request);
    }
    Ok(out(Conf { listen_port: Some(port), peers: perspective.conf_peers() })?)
}

/// The configuration of a Peer: its own, or that of another interface's peer.
pub fn peer(cluster: &Cluster, name: &str, request: &ShowConf) -> Result<()> {
    let missing = || anyhow!("did not find any peer named {name:?} in the cluster");
    let peer = cluster.peers.get(name).ok_or_else(missing)?;
    if request.as_peer {
        let peer = ConfPeer {
            key: peer.key,
            preshared_key: peer.preshared_key.clone(),
            endpoint: peer.endpoint.clone(),
            persistent_keepalive: peer.persistent_keepalive,
            allowed_ips: peer.allowed_ips.clone(),
        };
        return show_as_peer(name, peer, request);
    }
    Ok(out(cluster.any_perspective()?.peer_conf(name).ok_or_else(missing)?)?)
}

fn show_as_peer(name: &str, peer: ConfPeer, request: &ShowConf) -> Result<()> {
    let more: Vec<_> = all(&request.allowed_ips).iter().map(ipnet::IpNet::trunc).collect();
    let peer = peer.with_allowed_ips(&more);
    match request.output {
        Output::Wireguard => out(peer)?,
        Output::Json => out(peer_object::json(name, &peer)?)?,
        Output::Yaml => out(peer_object::yaml(name, &peer)?)?,
    }
    Ok(())
}
