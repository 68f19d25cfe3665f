//! The command line of `kg`: the flags of the Go agent with their defaults, and ours.

use std::{
    ffi::OsString,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, error::ErrorKind,
    parser::ValueSource,
};
use hostnet::{Compatibility, Encapsulation, EncapsulationType, LinkName, MarkBits};
use mesh::{Granularity, allocation::Subnets};
use program::{
    flags::{Cidrs, PodCidrSource, boolean, duration, path, port, refuse},
    log,
};
use reconciler::Mtu;

/// The agent of Kilo, a multi-cloud network overlay: run it on every node.
#[derive(Parser)]
#[command(name = "kg", version, args_override_self = true, disable_version_flag = true)]
pub struct Cli {
    /// Print the version and exit.
    #[arg(long, short = 'v')]
    pub version: bool,
    /// What to do instead of running the agent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The agent's flags.
    #[command(flatten)]
    pub agent: Agent,
}

/// What `kg` does besides running the agent.
#[derive(Subcommand)]
pub enum Command {
    /// Print the version.
    Version,
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the reference page, docs/kg.md.
    #[command(hide = true)]
    Reference,
    /// Run the embedded WireGuard device alone, in the foreground.
    Tunnel {
        /// The interface to make.
        interface: LinkName,
    },
    /// Answer API servers over TLS whether a Peer may be stored.
    Webhook(crate::webhook::Flags),
    /// Put the CNI plugins and the network configuration onto the host; what init containers run.
    InstallCni(crate::install_cni::Flags),
}

/// The agent's flags.
#[derive(Args, Debug)]
pub struct Agent {
    /// Let the mesh have these ranges although this host has routes to them, is connected to them, or finds services there;
    /// and ranges as wide as 0.0.0.0/0, except for what the host keeps.
    #[arg(long, value_name = "CIDR,…")]
    pub allow_host_routes: Vec<Cidrs>,
    /// Where nodes and peers are kept.
    #[arg(long, default_value = "kubernetes", value_enum)]
    pub backend: Backend,
    /// Remove routes, rules, firewall and addresses at the end.
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub clean_up: bool,
    /// Remove the WireGuard interface too at the end.
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub clean_up_interface: bool,
    /// Keep the CNI configuration of this node up to date, and masquerade what its pods send out.
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub cni: bool,
    /// The CNI configuration.
    #[arg(long, default_value = "/etc/cni/net.d/10-kilo.conflist", value_name = "FILE")]
    pub cni_path: PathBuf,
    /// The CNI that connects the pods inside of locations, where Kilo is an add-on to it: flannel, cilium, calico; empty: none.
    #[arg(long, default_value = "", value_name = "CNI", value_parser = |text: &str| text.parse::<Compatibility>())]
    pub compatibility: Compatibility,
    /// Make the WireGuard interface; otherwise one of this name has to exist.
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub create_interface: bool,
    /// Print what would be changed on this host and exit; change nothing.
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub dry_run: bool,
    /// When packets inside of a location are encapsulated: never, crosssubnet, always.
    #[arg(long, default_value = "always", value_parser = |text: &str| text.parse::<Encapsulation>())]
    pub encapsulate: Encapsulation,
    /// In what packets are encapsulated: ipip, or vxlan (UDP port 4790) where the kernel or the network refuses that.
    #[arg(long, default_value = "ipip", value_name = "TYPE", value_parser = |text: &str| text.parse::<EncapsulationType>())]
    pub encapsulation_type: EncapsulationType,
    /// The name of this node [default: the host's name].
    #[arg(long, value_name = "NODE")]
    pub hostname: Option<String>,
    /// The WireGuard interface.
    #[arg(long, default_value = "kilo0", value_name = "NAME")]
    pub interface: LinkName,
    /// Look for this node's private addresses in these ranges only.
    #[arg(long, value_name = "CIDR,…")]
    pub internal_cidr: Vec<Cidrs>,
    /// Accept forwarding from and to pods even where the host's firewall drops it.
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub iptables_forward_rules: bool,
    /// The kubeconfig file; it and the files that it names are read again when they change [default: the pod's service
    /// account].
    #[arg(long, value_name = "FILE", value_parser = path)]
    pub kubeconfig: Option<PathBuf>,
    /// Where /health and /metrics are served: ADDRESS:PORT or :PORT. What is wrong in detail, and /graph, are served to this
    /// host only, on its loopback addresses.
    #[arg(long, default_value = ":1107", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// How long a node may be silent before its place is taken; half of it is the time between own heartbeats. The
    /// same on all nodes. Go agents use 60s.
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub liveness_timeout: Duration,
    /// Route between the pods of one location too.
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub local: bool,
    /// The form of log lines.
    #[arg(long, global = true, default_value = "text", value_enum)]
    pub log_format: log::Format,
    /// Which log lines are written.
    #[arg(long, global = true, default_value = "info", value_enum)]
    pub log_level: log::Level,
    /// The three bits of the firewall mark that Kilo may use, none of which another program on this host uses. The
    /// packets of its own sockets (tunnels, API, DNS) carry the lowest one.
    #[arg(long, default_value_t, value_name = "MASK")]
    pub mark_bits: MarkBits,
    /// The URL of the Kubernetes API; overrides the kubeconfig's.
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// How nodes are grouped: location, full.
    #[arg(long, default_value = "location")]
    pub mesh_granularity: Granularity,
    /// The MTU of the WireGuard interface in bytes; auto: the underlay's less 80.
    #[arg(long, default_value = "auto", value_parser = mtu)]
    pub mtu: Mtu,
    /// Where the pod subnets of nodes come from: the Node's spec.podCIDRs, Cilium's CiliumNodes, Calico's
    /// BlockAffinities, or the annotation kilo.squat.ai/pod-cidrs; auto: as --compatibility says, else the Node. The same
    /// on all nodes.
    #[arg(long, default_value = "auto", value_enum, value_name = "SOURCE")]
    pub pod_cidr_source: PodCidrSource,
    /// The UDP port of WireGuard.
    #[arg(long, default_value_t = mesh::DEFAULT_PORT, value_parser = port)]
    pub port: u16,
    /// Prefer a private address as this node's endpoint.
    #[arg(long, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub prioritise_private_addresses: bool,
    /// Look at the host at least this often.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub resync_period: Duration,
    /// Addresses of services: what pods send there is not masqueraded, and no object gets them [default: what the cluster
    /// says; only for the second].
    #[arg(long, value_name = "CIDR,…")]
    pub service_cidr: Vec<Cidrs>,
    /// Where the private key is kept.
    #[arg(long, default_value = "/var/lib/kilo", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Where WireGuard addresses come from: one subnet, or one of each IP family.
    #[arg(long, default_value = "10.4.0.0/16", value_name = "CIDR[,CIDR]")]
    pub subnet: Subnets,
    /// The node label that names the location.
    #[arg(long, default_value = kubernetes::annotations::REGION_LABEL, value_name = "LABEL")]
    pub topology_label: String,
    /// Which WireGuard is used; auto: the kernel's where there is one, else the embedded device.
    #[arg(long, default_value = "auto", value_enum)]
    pub wireguard: WireguardChoice,
}

/// Where nodes and peers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// In a Kubernetes cluster.
    Kubernetes,
}

/// Which WireGuard is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WireguardChoice {
    /// The kernel's where there is one, else the embedded device.
    Auto,
    /// The kernel's.
    Kernel,
    /// The embedded device.
    Embedded,
}

impl Cli {
    /// Reads the command line. Where it is wrong, or asks for help, the process ends.
    pub fn read() -> Self {
        Self::read_from(std::env::args_os()).unwrap_or_else(|error| refuse(&error))
    }

    fn read_from(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(words)?;
        if let Some((given, flag)) = matches.subcommand_name().zip(flag_of_agent(&command, &matches)) {
            let text = format!("the flag --{flag} is for running the agent, and not for kg {given}");
            return Err(command.error(ErrorKind::ArgumentConflict, text));
        }
        Self::from_arg_matches(&matches)
    }
}

/// A flag that was given and that no sub-command takes.
fn flag_of_agent(command: &clap::Command, matches: &ArgMatches) -> Option<String> {
    let own = command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "version");
    let mut given = own.filter(|arg| {
        matches!(matches.try_contains_id(arg.get_id().as_str()), Ok(true))
            && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    });
    Some(given.next()?.get_long()?.to_owned())
}

/// `:1107` listens on all addresses of both families; of a name like `localhost`, its first IPv4 address counts, as in Go.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    if let Ok(address) = full.parse() {
        return Ok(address);
    }
    let named: Vec<SocketAddr> = full.to_socket_addrs().into_iter().flatten().collect();
    let v4 = named.iter().find(|address| address.is_ipv4());
    v4.or(named.first()).copied().ok_or_else(|| {
        "an address is written ADDRESS:PORT or :PORT, and a name such as localhost has to be known".to_owned()
    })
}

fn mtu(text: &str) -> Result<Mtu, String> {
    if text == "auto" {
        return Ok(Mtu::Auto);
    }
    let number = text.parse().ok().filter(|mtu| (576..=65_535).contains(mtu));
    number
        .map(Mtu::Fixed)
        .ok_or_else(|| "an MTU is \"auto\" or a number of bytes from 576 to 65535".to_owned())
}

#[cfg(test)]
mod tests;
