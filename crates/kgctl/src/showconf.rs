//! `kgctl showconf`: WireGuard configurations for those who do not run an agent.

use anyhow::{Result, anyhow};
use mesh::conf::{Conf, ConfPeer};
use program::flags::all;

use crate::{Output, ShowConf, cluster::Cluster, peer_object, print};

/// The configuration of a node: of its interface, or of another interface's peer.
pub fn node(cluster: &Cluster, name: &str, request: &ShowConf, port: u16) -> Result<()> {
    let perspective = cluster.perspective(name)?;
    if perspective.segment().leader().name != name {
        // Not an error: the Go kgctl ends with 0 here, and scripts loop over all nodes.
        eprintln!("Node {name:?} is not a leader node");
        return Ok(());
    }
    if request.as_peer {
        return show_as_peer(name, perspective.as_peer(), request);
    }
    print(&Conf { listen_port: Some(port), peers: perspective.conf_peers() }.to_string())
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
    print(&cluster.any_perspective()?.peer_conf(name).ok_or_else(missing)?.to_string())
}

fn show_as_peer(name: &str, peer: ConfPeer, request: &ShowConf) -> Result<()> {
    let more: Vec<_> = all(&request.allowed_ips).iter().map(ipnet::IpNet::trunc).collect();
    let peer = peer.with_allowed_ips(&more);
    match request.output {
        Output::Wireguard => print(&peer.to_string()),
        Output::Json => print(&peer_object::json(name, &peer)?),
        Output::Yaml => print(&peer_object::yaml(name, &peer)?),
    }
}
