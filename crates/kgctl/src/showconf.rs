//! `kgctl showconf`: WireGuard configurations for those who do not run an agent.

use anyhow::{Result, anyhow};
use mesh::{
    Peer, SecretRef,
    conf::{Conf, ConfPeer},
};
use program::{
    flags::all,
    print::{out, say},
};

use crate::{Output, ShowConf, cluster::Cluster, peer_object};

/// The configuration of a node: of its interface, or of another interface's peer.
pub async fn node(cluster: &Cluster, name: &str, request: &ShowConf, port: u16) -> Result<()> {
    let perspective = cluster.perspective(name)?;
    if perspective.segment().leader().name != name {
        // Not an error: the Go kgctl ends with 0 here, and scripts loop over all nodes.
        say(format_args!("Node {name:?} is not a leader node"));
        return Ok(());
    }
    if request.as_peer {
        return show_as_peer(name, perspective.as_peer(), None, request);
    }
    let of_endpoint = perspective.segment().endpoint.port;
    if of_endpoint != port {
        say(format_args!(
            "warning: the others send to port {of_endpoint} of node {name:?}, and the configuration has ListenPort {port}; \
             give --port={of_endpoint}"
        ));
    }
    let keys = cluster.preshared_keys(cluster.topology.peers.iter()).await?;
    Ok(out(Conf { listen_port: Some(port), peers: perspective.conf_peers(&keys) })?)
}

/// The configuration of a Peer: its own, or that of another interface's peer.
pub async fn peer(cluster: &Cluster, name: &str, request: &ShowConf) -> Result<()> {
    let missing = || anyhow!("did not find any peer named {name:?} in the cluster");
    let peer = cluster.peers.get(name).ok_or_else(missing)?;
    if request.as_peer {
        // An object keeps the reference, and nothing is read for it.
        let reference = peer.secret().filter(|_| request.output != Output::Wireguard);
        let shown = match reference {
            Some(_) => &Peer { preshared_key: None, ..peer.clone() },
            None => peer,
        };
        let keys = cluster.preshared_keys([shown].into_iter()).await?;
        let conf = ConfPeer::of_peer(shown, &keys).ok_or_else(missing)?;
        return show_as_peer(name, conf, reference, request);
    }
    let keys = cluster.preshared_keys([peer].into_iter()).await?;
    Ok(out(cluster.any_perspective()?.peer_conf(name, &keys).ok_or_else(missing)?)?)
}

fn show_as_peer(
    name: &str,
    peer: ConfPeer,
    preshared_key: Option<&SecretRef>,
    request: &ShowConf,
) -> Result<()> {
    let more: Vec<_> = all(&request.allowed_ips).iter().map(ipnet::IpNet::trunc).collect();
    let peer = peer.with_allowed_ips(&more);
    match request.output {
        Output::Wireguard => out(peer)?,
        Output::Json => out(peer_object::json(name, &peer, preshared_key)?)?,
        Output::Yaml => out(peer_object::yaml(name, &peer, preshared_key)?)?,
    }
    Ok(())
}
