//! `kgctl`: shows and exports the topology of a cluster, and connects this host to it.

mod cluster;
mod connect;
mod peer_object;
mod showconf;
mod yaml;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use cluster::Cluster;
use kubernetes::client::{ApiAccess, Credentials, Plugins};
use mesh::Observer;
use program::{
    flags::{Cidrs, PodCidrSource, boolean, path, port, refuse},
    print::{out, say},
};

/// It is printed behind the program's name, as Go's kgctl prints it.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"));

/// Manage a Kilo network.
#[derive(Parser)]
#[command(
    name = "kgctl",
    version = VERSION,
    arg_required_else_help = true,
    args_override_self = true,
    disable_version_flag = true
)]
struct Cli {
    /// Print the version and exit.
    #[arg(long, short = 'v', action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command needs to know about the cluster.
#[derive(Args)]
struct Global {
    /// Where nodes and peers are kept.
    #[arg(long, global = true, default_value = "kubernetes", value_enum)]
    backend: Backend,
    /// The kubeconfig file, as for kubectl [default: those of $KUBECONFIG, else ~/.kube/config, else the pod's service
    /// account].
    #[arg(long, global = true, value_name = "FILE", value_parser = path)]
    kubeconfig: Option<PathBuf>,
    /// How nodes are grouped; auto: as most agents do.
    #[arg(long, global = true, default_value = "auto", value_enum)]
    mesh_granularity: Granularity,
    /// Where the pod subnets of nodes come from: the Node's spec.podCIDRs, Cilium's CiliumNodes, Calico's
    /// BlockAffinities, or the annotation kilo.squat.ai/pod-cidrs; auto: from where most agents take
    /// them.
    #[arg(long, global = true, default_value = "auto", value_enum, value_name = "SOURCE")]
    pod_cidr_source: PodCidrSource,
    /// The UDP port over which nodes communicate.
    #[arg(long, global = true, default_value_t = mesh::DEFAULT_PORT, value_parser = port)]
    port: u16,
    /// The ranges of the cluster's services, as the agents have them [default: as the API says].
    #[arg(long, global = true, value_name = "CIDR,…")]
    service_cidr: Vec<Cidrs>,
    /// The node label that names the location.
    #[arg(long, global = true, default_value = kubernetes::annotations::REGION_LABEL, value_name = "LABEL")]
    topology_label: String,
}

impl Global {
    /// By what the user looks at the cluster. The label is one even if it was not named.
    fn observer(&self) -> Observer {
        Observer {
            granularity: match self.mesh_granularity {
                Granularity::Auto => None,
                Granularity::Location => Some(mesh::Granularity::Location),
                Granularity::Full => Some(mesh::Granularity::Full),
            },
            topology_label: Some(self.topology_label.clone()),
            pod_cidr_source: self.pod_cidr_source.named().map(|source| source.to_string()),
        }
    }

    fn api_access(&self) -> ApiAccess {
        let file = self.kubeconfig.clone().filter(|file| !file.as_os_str().is_empty());
        let credentials = file.map_or(Credentials::UserKubeconfig, Credentials::Kubeconfig);
        let user_agent = concat!("kgctl/", env!("CARGO_PKG_VERSION")).to_owned();
        ApiAccess { credentials, master: None, user_agent, plugins: Plugins::Run }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Kubernetes,
}

#[derive(Clone, Copy, ValueEnum)]
enum Granularity {
    Auto,
    Location,
    Full,
}

#[derive(Subcommand)]
enum Command {
    /// Print the topology as a Graphviz graph: kgctl graph | twopi -Tsvg > cluster.svg
    Graph,
    /// Show the WireGuard configuration of a node or a peer.
    Showconf(ShowConf),
    /// Connect this host to the cluster as a Peer, and stay connected until ctrl-C.
    Connect(connect::Connect),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the reference page, docs/kgctl.md.
    #[command(hide = true)]
    Reference,
}

#[derive(Args)]
#[command(args_override_self = true)]
struct ShowConf {
    /// Show it as a peer of some other WireGuard interface.
    #[arg(long, global = true, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    as_peer: bool,
    /// The format; others than wireguard only with --as-peer.
    #[arg(long, short, global = true, default_value = "wireguard", value_enum)]
    output: Output,
    /// Add these ranges to the allowed IPs; only with --as-peer.
    #[arg(long, global = true, value_name = "CIDR,…")]
    allowed_ips: Vec<Cidrs>,
    #[command(subcommand)]
    of: ShowConfOf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Wireguard,
    Json,
    Yaml,
}

#[derive(Subcommand)]
enum ShowConfOf {
    /// Of a node that leads its location.
    Node {
        /// The name of the Node.
        name: String,
    },
    /// Of a Peer.
    Peer {
        /// The name of the Peer.
        name: String,
    },
}

fn main() -> ExitCode {
    match run(Cli::try_parse().unwrap_or_else(|error| refuse(&error))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(cli: Cli) -> Result<()> {
    let Backend::Kubernetes = cli.global.backend;
    match cli.command {
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kgctl", &mut std::io::stdout());
            Ok(())
        }
        Command::Reference => Ok(out(program::reference::markdown(Cli::command()))?),
        Command::Connect(flags) => connect::run(&cli.global, &flags).await,
        Command::Graph => Ok(out(Cluster::read(&cli.global).await?.topology.to_dot())?),
        Command::Showconf(request) => {
            let cluster = Cluster::read(&cli.global).await?;
            match &request.of {
                ShowConfOf::Node { name } => showconf::node(&cluster, name, &request, cli.global.port).await,
                ShowConfOf::Peer { name } => showconf::peer(&cluster, name, &request).await,
            }
        }
    }
}

#[cfg(test)]
mod tests;
