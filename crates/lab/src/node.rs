//! One node of a lab: its agent, its WireGuard device where the kernel has none, its cable, and what runs in its
//! namespace. It starts and ends the agent and asks it questions; what the agent does with the node is not known here.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    LabError,
    command::{AGENT_PORT, AgentCommand, GO_STATE},
    fabric::set_port,
    http::{Request, Response},
    layout::{Layout, NodeLayout},
    process::{Place, Running},
    programs,
    reach::wait_until,
    spec::Spec,
    state::{State, create_directory, write},
};

/// The WireGuard device of the agent.
pub const INTERFACE: &str = "kilo0";
/// How long a device may take to appear.
const DEVICE_WITHIN: Duration = Duration::from_secs(10);

/// A node of a lab that is up.
#[derive(Debug, Clone, Copy)]
pub struct NodeRef<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) layout: &'a Layout,
    pub(crate) state: &'a State,
    pub(crate) node: &'a NodeLayout,
}

/// A WireGuard peer as the node's device has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireGuardPeer {
    /// Base64.
    pub public_key: String,
    /// `address:port`, if known.
    pub endpoint: Option<String>,
    /// Prefixes, in the device's order.
    pub allowed_ips: Vec<String>,
    /// Seconds since 1970; `None` before the first handshake.
    pub last_handshake: Option<u64>,
}

impl NodeRef<'_> {
    /// Its addresses and names.
    pub fn layout(&self) -> &NodeLayout {
        self.node
    }

    /// Runs a command on the node, with its own view of `/etc/hosts`, `/etc/resolv.conf` and
    /// `/var/run/wireguard`.
    ///
    /// # Errors
    /// When it cannot be started. How it ended is in the output.
    pub fn exec<S: AsRef<str>>(&self, arguments: &[S]) -> Result<Output, LabError> {
        self.place().output(arguments)
    }

    /// What a command prints on the node.
    ///
    /// # Errors
    /// When it cannot be started or does not end with success.
    pub fn read<S: AsRef<str>>(&self, arguments: &[S]) -> Result<String, LabError> {
        let output = self.exec(arguments)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(LabError::Command {
            command: arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
            place: self.node.name.clone(),
            reason: format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
        })
    }

    /// Starts the agent, with further arguments after the lab's own. Does nothing when it runs. A Go agent makes its
    /// interface only where the kernel has WireGuard; elsewhere it gets a device first.
    ///
    /// # Errors
    /// When the binary is missing or cannot be started. That it fails later shows in its log.
    pub fn start_agent(&self, further: &[&str]) -> Result<(), LabError> {
        if self.agent().is_some() {
            return Ok(());
        }
        if self.go_agent().is_some() && !self.has_kernel_wireguard()? {
            self.start_device()?;
        }
        let mut arguments = self.agent_command()?;
        arguments.extend(further.iter().map(ToString::to_string));
        let running = self.place().start(&arguments, &self.log())?;
        self.state.record(&self.record(), &running)
    }

    /// Asks the agent to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it still runs after 15 s.
    pub fn stop_agent(&self) -> Result<(), LabError> {
        self.end_agent(Signal::TERM)
    }

    /// Kills the agent (SIGKILL): it can clean up nothing.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it still runs after 15 s.
    pub fn kill9(&self) -> Result<(), LabError> {
        self.end_agent(Signal::KILL)
    }

    /// The agent's process, while it runs.
    pub fn agent(&self) -> Option<Running> {
        self.state.recorded(&self.record()).filter(Running::is_alive)
    }

    /// What the agent has written so far.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Where the agent's log is.
    pub fn log(&self) -> PathBuf {
        self.state.log(&self.record())
    }

    /// Where the agent keeps its key.
    pub fn agent_directory(&self) -> PathBuf {
        self.state.node(&self.node.name).join("kilo")
    }

    /// The command line of the agent.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn agent_command(&self) -> Result<Vec<String>, LabError> {
        let command = AgentCommand {
            spec: self.spec,
            layout: self.layout,
            node: self.node,
            kubeconfig: self.state.kubeconfig(),
            device_exists: self.device().is_some(),
        };
        match self.go_agent() {
            Some(program) => Ok(command.go(&programs::find("the Go agent", Some(program))?)),
            None => {
                let kg = programs::find("kg", self.spec.programs.kg.as_deref())?;
                Ok(command.ours(&kg, &self.agent_directory()))
            }
        }
    }

    /// The program that runs here in the place of our agent.
    pub fn go_agent(&self) -> Option<&Path> {
        self.spec.node(&self.node.name)?.go_agent.as_deref()
    }

    /// Starts a WireGuard device that outlives agents, which then use it with `--create-interface=false`. Does nothing
    /// when it runs.
    ///
    /// # Errors
    /// When it cannot be started, or does not appear in time.
    pub fn start_device(&self) -> Result<(), LabError> {
        if self.device().is_some() {
            return Ok(());
        }
        let kg = programs::find("kg", self.spec.programs.kg.as_deref())?.display().to_string();
        let log = self.state.log(&self.device_record());
        let running = self.place().start(&[kg.as_str(), "tunnel", INTERFACE], &log)?;
        self.state.record(&self.device_record(), &running)?;
        wait_until("the WireGuard device", DEVICE_WITHIN, || {
            let link = self.exec(&["ip", "link", "show", INTERFACE])?;
            let socket = self.wireguard_directory().join(format!("{INTERFACE}.sock"));
            let ready = link.status.success() && socket.exists();
            Ok((!ready).then(|| fs::read_to_string(&log).unwrap_or_default()))
        })
    }

    /// Ends the device of [`Self::start_device`], and its interface with it.
    ///
    /// # Errors
    /// [`LabError::Deadline`] when it still runs after 15 s.
    pub fn stop_device(&self) -> Result<(), LabError> {
        self.end(self.device(), &self.device_record(), Signal::TERM)
    }

    /// The process of the device that outlives agents, while it runs.
    pub fn device(&self) -> Option<Running> {
        self.state.recorded(&self.device_record()).filter(Running::is_alive)
    }

    /// Whether the kernel can make WireGuard interfaces.
    ///
    /// # Errors
    /// When `ip` cannot be started.
    pub fn has_kernel_wireguard(&self) -> Result<bool, LabError> {
        const PROBE: &str = "lab-probe";
        let made = self.exec(&["ip", "link", "add", PROBE, "type", "wireguard"])?.status.success();
        if made {
            self.read(&["ip", "link", "delete", PROBE])?;
        }
        Ok(made)
    }

    /// Asks the agent's HTTP server.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn http_get(&self, path: &str) -> Result<Response, LabError> {
        Request::get(path).send(&self.node.namespace, SocketAddr::from((Ipv4Addr::LOCALHOST, AGENT_PORT)))
    }

    /// Takes the node's cable out of the router: its carrier goes, its agent and pods stay.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut_link(&self) -> Result<(), LabError> {
        set_port(self.router(), &self.node.router_port, false)
    }

    /// Plugs the node's cable in again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restore_link(&self) -> Result<(), LabError> {
        set_port(self.router(), &self.node.router_port, true)
    }

    /// The WireGuard device's peers, sorted by key, as `wg show` reads them from the kernel or the agent's
    /// socket.
    ///
    /// # Errors
    /// When there is no device or no `wg`.
    pub fn wireguard_peers(&self) -> Result<Vec<WireGuardPeer>, LabError> {
        let mut peers: Vec<_> =
            self.read(&["wg", "show", INTERFACE, "dump"])?.lines().skip(1).filter_map(parse_peer).collect();
        peers.sort_by(|a, b| a.public_key.cmp(&b.public_key));
        Ok(peers)
    }

    /// Where the node's processes run.
    pub fn place(&self) -> Place {
        let own = self.state.node(&self.node.name);
        let mut mounts = BTreeMap::from([
            (PathBuf::from("/etc/hosts"), own.join("hosts")),
            (PathBuf::from("/etc/resolv.conf"), own.join("resolv.conf")),
            (PathBuf::from("/var/run/wireguard"), self.wireguard_directory()),
        ]);
        if self.go_agent().is_some() {
            mounts.insert(GO_STATE.into(), self.agent_directory());
        }
        let kubeconfig = self.state.kubeconfig().display().to_string();
        Place {
            namespace: self.node.namespace.clone(),
            mounts,
            environment: BTreeMap::from([
                ("KUBECONFIG".into(), kubeconfig),
                ("NODE_NAME".into(), self.node.name.clone()),
                ("PATH".into(), programs::search_path()),
            ]),
        }
    }

    /// Writes what the node's processes see as their own files.
    pub(crate) fn prepare(&self) -> Result<(), LabError> {
        let own = self.state.node(&self.node.name);
        create_directory(&self.wireguard_directory())?;
        create_directory(&self.agent_directory())?;
        let of_go = self.go_agent().map(|_| GO_STATE);
        for mounted_over in ["/run/wireguard", "/var/run/wireguard"].into_iter().chain(of_go) {
            create_directory(Path::new(mounted_over))?;
        }
        for mounted_over in ["/etc/hosts", "/etc/resolv.conf"] {
            if !Path::new(mounted_over).exists() {
                write(Path::new(mounted_over), "")?;
            }
        }
        let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
        // As Debian does, so that a host's own name says nothing of its addresses.
        hosts += &format!("127.0.1.1 {}\n", self.node.name);
        for node in self.layout.nodes.iter().filter(|node| node.name != self.node.name) {
            hosts += &format!("{} {}\n{} {}\n", node.lan.v4, node.name, node.lan.v6, node.name);
        }
        write(&own.join("hosts"), &hosts)?;
        // Nothing answers there: names that are not in the hosts file do not resolve inside a lab.
        write(&own.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    }

    fn end_agent(&self, signal: Signal) -> Result<(), LabError> {
        self.end(self.agent(), &self.record(), signal)
    }

    fn end(&self, process: Option<Running>, record: &str, signal: Signal) -> Result<(), LabError> {
        let Some(process) = process else { return Ok(()) };
        let within = Duration::from_secs(15);
        process.signal(signal);
        if process.wait(within) {
            return Ok(());
        }
        let log = self.state.log(record);
        Err(LabError::Deadline {
            what: format!("the end of {record}"),
            within,
            seen: format!("process {} still runs; its log is {}", process.pid, log.display()),
        })
    }

    fn wireguard_directory(&self) -> PathBuf {
        self.state.node(&self.node.name).join("wireguard")
    }

    fn record(&self) -> String {
        format!("agent-{}", self.node.name)
    }

    fn device_record(&self) -> String {
        format!("device-{}", self.node.name)
    }

    fn router(&self) -> &str {
        &self.layout.sites[self.node.site].namespace
    }
}

/// A line of `wg show <interface> dump` (wg(8)): key, preshared key, endpoint, allowed IPs, handshake, bytes
/// in, bytes out, keepalive. The preshared key is not kept.
fn parse_peer(line: &str) -> Option<WireGuardPeer> {
    let mut fields = line.split('\t');
    let public_key = fields.next()?.to_owned();
    let endpoint = fields.nth(1)?;
    let allowed_ips = fields.next()?;
    let handshake: u64 = fields.next()?.parse().ok()?;
    Some(WireGuardPeer {
        public_key,
        endpoint: (endpoint != "(none)").then(|| endpoint.to_owned()),
        allowed_ips: allowed_ips.split(',').filter(|prefix| *prefix != "(none)").map(str::to_owned).collect(),
        last_handshake: (handshake != 0).then_some(handshake),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_dump_is_a_peer() {
        let peer =
            parse_peer("KEY=\t(none)\t198.51.100.1:51820\t10.42.1.0/24,fd42:1::/64\t1700000000\t1\t2\t10")
                .expect("it is complete");
        assert_eq!(peer.allowed_ips, ["10.42.1.0/24", "fd42:1::/64"]);
        assert_eq!(
            (peer.endpoint.as_deref(), peer.last_handshake),
            (Some("198.51.100.1:51820"), Some(1_700_000_000))
        );
        let silent = parse_peer("KEY=\t(none)\t(none)\t(none)\t0\t0\t0\toff").expect("it is complete");
        assert_eq!((silent.endpoint, silent.allowed_ips.len(), silent.last_handshake), (None, 0, None));
    }
}
