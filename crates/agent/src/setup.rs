//! From the command line and the host to the configuration of the parts.

use std::path::PathBuf;

use anyhow::{Context, Result};
use dataplane::{DataPlane, WireguardChoice};
use hostnet::{Compatibility, RenderConfig, Responsible};
use mesh::{Observer, PrivateKey, TopologyConfig};
use program::flags::all;
use reconciler::{Config, Removal, Surroundings, discovery::DiscoveryConfig};

use kubernetes::PodCidrSource;

use crate::{cli, key};

/// What the runtime needs to start.
pub struct Setup {
    /// The flags.
    pub flags: cli::Agent,
    /// The reconciler's configuration, without the addresses that the hostname resolves to.
    pub reconciler: Config,
    /// What the end of the process removes.
    pub removal: Removal,
    /// Where the pod subnets of nodes come from.
    pub pod_cidr_source: PodCidrSource,
    /// The CNI configuration to keep; `None`: not our business.
    pub cni_path: Option<PathBuf>,
}

impl Setup {
    /// Reads the key file and the host's name. With `--dry-run` nothing is written: a key that is missing is made up.
    pub fn of(flags: cli::Agent) -> Result<Self> {
        let node = match flags.hostname.as_ref().filter(|name| !name.is_empty()) {
            Some(name) => name.clone(),
            None => program::host_name().context("give --hostname")?,
        };
        let private_key = private_key(&flags)?;
        let responsible = |ours: bool| if ours { Responsible::Kilo } else { Responsible::Other };
        let render = RenderConfig {
            interface: flags.interface.clone(),
            interface_by: responsible(flags.create_interface),
            private_key,
            listen_port: flags.port,
            marks: flags.mark_bits,
            encapsulation: flags.encapsulate,
            encapsulation_type: flags.encapsulation_type,
            compatibility: flags.compatibility,
            local_routes_by: responsible(flags.local),
            pod_nat_by: responsible(flags.cni),
            accept_forwarding: flags.iptables_forward_rules,
            service_cidrs: all(&flags.service_cidr),
            allow_host_routes: all(&flags.allow_host_routes),
        };
        let pod_cidr_source =
            flags.pod_cidr_source.named().unwrap_or_else(|| source_with(flags.compatibility));
        let reconciler = Config {
            node,
            topology: TopologyConfig {
                granularity: flags.mesh_granularity,
                subnets: flags.subnet.clone(),
                services: Vec::new(),
            },
            render,
            mtu: flags.mtu,
            observer: Observer {
                granularity: Some(flags.mesh_granularity),
                topology_label: Some(flags.topology_label.clone()),
                pod_cidr_source: Some(pod_cidr_source.to_string()),
            },
            discovery: DiscoveryConfig {
                hostname_addresses: Vec::new(),
                internal_cidrs: all(&flags.internal_cidr),
                prioritise_private: flags.prioritise_private_addresses,
                port: flags.port,
            },
            surroundings: Surroundings::default(),
            resync_period: flags.resync_period,
            liveness_timeout: flags.liveness_timeout,
        };
        let removal = match (flags.clean_up, flags.clean_up_interface) {
            (false, _) => Removal::Nothing,
            (true, false) => Removal::AllButInterface,
            (true, true) => Removal::Everything,
        };
        // What another CNI's address management gives is not for ours to give again.
        let keeps_cni = flags.cni && !pod_cidr_source.is_of_another_cni();
        let cni_path = keeps_cni.then(|| flags.cni_path.clone());
        Ok(Self { reconciler, removal, pod_cidr_source, cni_path, flags })
    }

    /// Opens the host's network.
    pub async fn open_dataplane(&self) -> Result<DataPlane> {
        let config = dataplane::Config {
            interface: self.flags.interface.clone(),
            wireguard: self.wireguard(),
            serve_uapi: true,
        };
        let opened = DataPlane::open(config).await;
        let dataplane = opened.context("cannot use the host's network; kg needs CAP_NET_ADMIN")?;
        tracing::info!(wireguard = %dataplane.backend(), "the host's network is open");
        Ok(dataplane)
    }

    /// Which WireGuard is used.
    fn wireguard(&self) -> WireguardChoice {
        match (self.flags.create_interface, self.flags.wireguard) {
            (false, _) => WireguardChoice::Existing,
            (true, cli::WireguardChoice::Auto) => WireguardChoice::Auto,
            (true, cli::WireguardChoice::Kernel) => WireguardChoice::Kernel,
            (true, cli::WireguardChoice::Embedded) => WireguardChoice::Embedded,
        }
    }
}

/// Where pod subnets come from when nothing is said but which CNI there is.
fn source_with(compatibility: Compatibility) -> PodCidrSource {
    match compatibility {
        Compatibility::None | Compatibility::Flannel => PodCidrSource::Node,
        Compatibility::Cilium => PodCidrSource::Cilium,
        Compatibility::Calico => PodCidrSource::Calico,
    }
}

fn private_key(flags: &cli::Agent) -> Result<PrivateKey> {
    if flags.dry_run {
        let found = key::load(&flags.state_dir)?;
        return Ok(found.unwrap_or_else(|| PrivateKey::from_random(rand::random())));
    }
    key::load_or_create(&flags.state_dir)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn setup(flags: &str) -> Setup {
        let words = flags.split(' ').filter(|word| !word.is_empty());
        let arguments = ["kg", "--dry-run", "--hostname=a"].into_iter().chain(words);
        Setup::of(cli::Cli::try_parse_from(arguments).unwrap().agent).unwrap()
    }

    #[test]
    fn pod_subnets_come_from_where_it_is_said_else_from_the_cni_that_there_is() {
        for (flags, expected) in [
            ("", "node"),
            ("--compatibility=", "node"),
            ("--compatibility=flannel", "node"),
            ("--compatibility=cilium", "cilium"),
            ("--compatibility=calico", "calico"),
            ("--compatibility=cilium --pod-cidr-source=node", "node"),
            ("--pod-cidr-source=calico", "calico"),
            ("--pod-cidr-source=annotation", "annotation"),
        ] {
            assert_eq!(setup(flags).pod_cidr_source.to_string(), expected, "{flags:?}");
        }
    }

    #[test]
    fn the_cni_file_is_kept_only_with_subnets_that_are_ours_to_give() {
        for (flags, kept) in [
            ("", true),
            ("--cni=false", false),
            ("--compatibility=flannel", true),
            ("--pod-cidr-source=annotation", true),
            ("--compatibility=cilium", false),
            ("--cni=true --pod-cidr-source=calico", false),
        ] {
            assert_eq!(setup(flags).cni_path.is_some(), kept, "{flags:?}");
        }
    }
}
