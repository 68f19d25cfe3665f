//! `kgctl connect`: makes this host a Peer of the cluster for as long as the command runs, or, with `--once`, for good.
//!
//! This module knows the command line and the order of things: first all that can be found wrong without a change, then
//! the interface, then the Peer object, then the mesh; and everything back at the end.

mod follow;
mod identity;
mod names;
mod signals;
mod tell;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use dataplane::{Backend, DataPlane, WireguardChoice};
use files::{Audience, read_private};
use follow::Connection;
use hostnet::{
    LinkName, MarkBits,
    render::client::{ClientConfig, OtherPeers},
};
use identity::{Identity, Known};
use ipnet::IpNet;
use kubernetes::{PodCidrSource, registration};
use mesh::{PrivateKey, special::check_host};
use program::{
    Resolver,
    flags::{Cidrs, all, boolean, duration, number, path},
    log,
};
use reconciler::ClientSettings;
use underlay::Underlay;

use crate::{Global, cluster};

/// Said when the host's network cannot be opened or read.
const NEEDS: &str = "cannot use the host's network; kgctl connect needs CAP_NET_ADMIN, so run it as root";

/// The flags of `kgctl connect`.
#[derive(Args)]
#[command(args_override_self = true)]
pub struct Connect {
    /// The name of the Peer; it is created if there is none [default: the host's name].
    #[arg(value_name = "PEER")]
    peer: Option<String>,
    /// Let the tunnels have these ranges although this host has routes to them or is connected to them; and ranges as wide
    /// as 0.0.0.0/0, except for what the host keeps.
    #[arg(long, value_name = "CIDR,…")]
    allow_host_routes: Vec<Cidrs>,
    /// This host's addresses in the mesh, for example one of each IP family [default: those of the Peer, else 10.10.10.10/32].
    #[arg(long, short = 'a', value_delimiter = ',', value_name = "CIDR,…", value_parser = own_address)]
    allowed_ip: Vec<IpNet>,
    /// Further ranges that are reached through the cluster, for example those of services.
    #[arg(long, value_name = "CIDR,…")]
    allowed_ips: Vec<Cidrs>,
    /// Take back the Peer (if this command made it), the interface and the routes at the end.
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    clean_up: bool,
    /// The WireGuard interface; it is created if there is none.
    #[arg(long, short, default_value = "kilo0", value_name = "NAME")]
    interface: LinkName,
    /// How long a node may be silent before its place is taken: as the agents have it.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    liveness_timeout: Duration,
    /// Which log lines are written.
    #[arg(long, default_value = "info", value_enum)]
    log_level: log::Level,
    /// The three bits of the firewall mark that Kilo may use, none of which another program on this host uses. The
    /// packets of its own sockets (tunnels, API, DNS) carry the lowest one.
    #[arg(long, default_value_t, value_name = "MASK")]
    mark_bits: MarkBits,
    /// The MTU of the WireGuard interface in bytes.
    #[arg(long, default_value_t = 1420, value_parser = number("an MTU", 576..=u16::MAX))]
    mtu: u16,
    /// Configure the host and exit, leaving interface, routes and Peer. Needs WireGuard in the kernel.
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    once: bool,
    /// The other Peers that this host reaches directly: all, none, or their names. Whoever may create Peers decides on
    /// the ranges of those; what this host has routes to, and public addresses, they do not get.
    #[arg(long, default_value = "all", value_name = "all|none|PEER,…", value_parser = other_peers)]
    peers: OtherPeers,
    /// Seconds between keepalives, for a Peer that is created; 0 turns them off.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = number("a keepalive", 0..=u16::MAX))]
    persistent_keepalive: u16,
    /// A file with the WireGuard private key [default: a new key for every connection].
    #[arg(long, value_name = "FILE", value_parser = path)]
    private_key: Option<PathBuf>,
    /// Look at the host at least this often.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    resync_period: Duration,
}

/// Connects, and stays connected until a signal comes.
pub async fn run(global: &Global, flags: &Connect) -> Result<()> {
    let mut signals = signals::Signals::listen().context("cannot listen to signals")?;
    log::start("kgctl", flags.log_level, log::Format::Text);
    let host = program::host_name()?;
    let name = flags.peer.clone().unwrap_or_else(|| host.clone());
    check_name(&name)?;
    let given_key = flags.private_key.as_deref().map(read_key).transpose()?;

    // The API must not end up behind the mesh that is made from what it says.
    let underlay = Underlay::new(Some(flags.mark_bits.underlay()));
    let client = kubernetes::client::connect_over(&global.api_access(), &underlay).await?;
    let (peer, pod_cidr_source, services) = tokio::select! {
        read = read_cluster(&client, &name, global) => read?,
        signal = signals.next() => bail!("ended by {signal} before anything was changed"),
    };
    let mut dataplane = open(flags).await?;
    let observed = dataplane.observe().await.context(NEEDS)?.host;
    let was_there = observed.links.contains_key(&flags.interface);
    let known = Known {
        name: &name,
        host: &host,
        addresses: &flags.allowed_ip,
        persistent_keepalive: flags.persistent_keepalive,
        given_key,
        interface_key: observed.wireguard.and_then(|wireguard| wireguard.private_key),
        peer,
    };
    let Identity { key, addresses, registration } =
        identity::decide(known, PrivateKey::from_random(rand::random()))?;
    let resolver = Resolver::of_host(underlay)
        .inspect_err(|error| tracing::warn!("endpoints that are DNS names cannot be resolved: {error:#}"))
        .ok();
    let config = ClientConfig {
        peer: name,
        interface: flags.interface.clone(),
        mtu: flags.mtu.into(),
        private_key: key,
        preshared_keys: Default::default(),
        other_peers: flags.peers.clone(),
        listen_port: global.port,
        marks: flags.mark_bits,
        addresses,
        further_ranges: all(&flags.allowed_ips),
        allow_host_routes: all(&flags.allow_host_routes),
        lifelines: names::of_api(global.kubeconfig.as_deref(), resolver.as_ref()).await,
        resolved: Default::default(),
    };
    let mut connection = Connection {
        client,
        dataplane,
        resolver,
        topology_label: global.topology_label.clone(),
        pod_cidr_source,
        settings: settings(global, flags, services, config),
        own_name: host,
        change_lines: program::problem_lines::CHANGE_LINES,
    };
    let outcome = tokio::select! {
        outcome = connection.follow(registration, flags.once) => outcome,
        signal = signals.next() => {
            tracing::info!(signal, "ending");
            if flags.once { Err(anyhow!("ended by {signal} before the host was configured")) } else { Ok(()) }
        }
    };
    // What an earlier run with --once left is better than nothing.
    let stays = flags.once && (outcome.is_ok() || was_there);
    if stays || !flags.clean_up {
        return outcome;
    }
    let cleaned = connection.clean_up().await;
    outcome.and(cleaned)
}

/// The Peer, if there is one, where pod subnets come from, and where services are.
async fn read_cluster(
    client: &kube::Client,
    name: &str,
    global: &Global,
) -> Result<(Option<kubernetes::peer::Peer>, PodCidrSource, Vec<IpNet>)> {
    let peer = registration::get_peer(client, name).await?;
    let source = match global.pod_cidr_source.named() {
        Some(source) => source,
        None => kubernetes::published_source(client).await?,
    };
    Ok((peer, source, cluster::services(client, global).await?))
}

fn settings(global: &Global, flags: &Connect, services: Vec<IpNet>, host: ClientConfig) -> ClientSettings {
    ClientSettings {
        granularity: global.observer().granularity,
        observer: global.observer(),
        services,
        host,
        resync_period: flags.resync_period,
        liveness_timeout: flags.liveness_timeout,
    }
}

/// Opens the host's network. An interface that is left after the end has to be the kernel's.
async fn open(flags: &Connect) -> Result<DataPlane> {
    let config = dataplane::Config {
        interface: flags.interface.clone(),
        wireguard: WireguardChoice::Auto,
        serve_uapi: true,
    };
    let opened = DataPlane::open(config).await;
    let dataplane = opened.context(NEEDS)?;
    tracing::info!(wireguard = %dataplane.backend(), "the host's network is open");
    if flags.once && dataplane.backend() != Backend::Kernel {
        bail!(
            "--once needs WireGuard in the kernel, which this one does not have: the embedded device would vanish with \
             kgctl. Load the module wireguard, or leave --once out and let kgctl run"
        );
    }
    Ok(dataplane)
}

/// The key in a file, and the file's name.
fn read_key(file: &Path) -> Result<(PrivateKey, String)> {
    let name = file.display();
    let read = read_private(file, Audience::User).context("cannot use the private key")?;
    let read = read.ok_or_else(|| anyhow!("cannot read the private key {name}: there is no such file"))?;
    if read.was_open {
        tracing::warn!(path = %name, "others can read the private key; run: chmod 600 {name}");
    }
    let key = read.text.trim().parse();
    let key = key.with_context(|| format!("{name} does not hold a WireGuard private key (see wg genkey)"))?;
    Ok((key, name.to_string()))
}

/// What the API accepts as the name of an object (RFC 1123, a subdomain).
fn check_name(name: &str) -> Result<()> {
    if mesh::endpoint::is_dns_subdomain(name) {
        return Ok(());
    }
    bail!("{name:?} cannot be the name of a Peer: up to 253 lower-case letters, digits, '-' and '.'")
}

/// An address, with or without the length of its prefix on the interface.
fn own_address(text: &str) -> Result<IpNet, String> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<std::net::IpAddr>().map_err(|_| {
            "this host's own address is written like 10.10.10.10/32 or fd10::10/128".to_owned()
        })?),
    };
    match check_host(&net) {
        Ok(()) => Ok(net),
        Err(why) => Err(why.with_advice("name this host's own address in the mesh, such as 10.10.10.10/32")),
    }
}

/// To which other Peers there are tunnels.
fn other_peers(text: &str) -> Result<OtherPeers, String> {
    match text {
        "all" => return Ok(OtherPeers::All),
        "none" => return Ok(OtherPeers::Named(Default::default())),
        _ => {}
    }
    let names = text.split(',').filter(|name| !name.is_empty()).map(|name| match check_name(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(_) => {
            Err(format!("{name:?} is no name of a Peer; write all, none, or names with commas between"))
        }
    });
    names.collect::<Result<_, _>>().map(OtherPeers::Named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_is_no_network() {
        for (text, written) in
            [("10.10.10.10", "10.10.10.10/32"), ("10.1.0.1/24", "10.1.0.1/24"), ("fd10::1", "fd10::1/128")]
        {
            assert_eq!(own_address(text).map(|net| net.to_string()), Ok(written.to_owned()));
        }
        assert!(own_address("10.1.0.0/24").is_err_and(|error| error.contains("network")));
        assert!(own_address("224.0.0.1/32").is_err_and(|error| error.contains("multicast")));
        assert!(own_address("home").is_err());
    }

    #[test]
    fn other_peers_are_all_or_none_or_some() {
        let named = |names: &[&str]| OtherPeers::Named(names.iter().map(ToString::to_string).collect());
        for (text, expected) in [
            ("all", OtherPeers::All),
            ("none", named(&[])),
            ("", named(&[])),
            ("office,printer.home", named(&["office", "printer.home"])),
        ] {
            assert_eq!(other_peers(text), Ok(expected), "{text}");
        }
        assert!(other_peers("office,A_B").is_err_and(|error| error.contains("all, none, or names")));
    }

    #[test]
    fn names_are_those_that_the_api_takes() {
        assert!(check_name("my-laptop.example").is_ok());
        for name in ["", "Laptop", "a/b", "-a", "a..b", "a_b"] {
            assert!(check_name(name).is_err(), "{name:?} was accepted");
        }
    }
}
