//! The command lines of agents: of ours, and of a Go Kilo, which knows fewer flags. Pure; who starts them is not known
//! here.

use std::path::{Path, PathBuf};

use crate::{
    INTERFACE,
    layout::{Layout, NodeLayout},
    spec::Spec,
};

/// The port of an agent's health page.
pub(crate) const AGENT_PORT: u16 = 1107;

/// Where a Go agent keeps its key; it has no flag for it.
pub(crate) const GO_STATE: &str = "/var/lib/kilo";

/// What a node's agent is started with.
pub(crate) struct AgentCommand<'a> {
    /// The lab's description.
    pub spec: &'a Spec,
    /// Its addresses.
    pub layout: &'a Layout,
    /// The node.
    pub node: &'a NodeLayout,
    /// How the API is reached.
    pub kubeconfig: PathBuf,
    /// Whether something else has made the WireGuard interface.
    pub device_exists: bool,
}

impl AgentCommand<'_> {
    /// Our agent, with its key in that directory.
    pub fn ours(&self, program: &Path, state: &Path) -> Vec<String> {
        let mesh = &self.spec.mesh;
        let mut command = self.common(program);
        command.push(format!("--liveness-timeout={}s", mesh.liveness_timeout));
        command.push(format!("--state-dir={}", state.display()));
        self.with_further(command)
    }

    /// A Go agent, or anything else that is used as one: flags that Go Kilo 0.7 knows, and no others.
    pub fn go(&self, program: &Path) -> Vec<String> {
        let site = &self.layout.sites[self.node.site];
        let mut command = self.common(program);
        // It takes any address of any interface for its own; ours is to find the right one by itself.
        command.push(format!("--internal-cidr={},{}", site.lan_v4(), site.lan_v6()));
        self.with_further(command)
    }

    fn common(&self, program: &Path) -> Vec<String> {
        let mesh = &self.spec.mesh;
        let (services_v4, services_v6) = self.layout.services();
        vec![
            program.display().to_string(),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--hostname={}", self.node.name),
            format!("--interface={INTERFACE}"),
            format!("--encapsulate={}", mesh.encapsulate),
            format!("--mesh-granularity={}", mesh.granularity),
            format!("--subnet={}", mesh.subnet),
            format!("--service-cidr={services_v4},{services_v6}"),
            format!("--listen=:{AGENT_PORT}"),
            format!("--log-level={}", mesh.log_level),
            "--cni=false".into(),
            "--local=true".into(),
        ]
    }

    fn with_further(&self, mut command: Vec<String>) -> Vec<String> {
        if self.device_exists {
            command.push("--create-interface=false".into());
        }
        command.extend(self.spec.mesh.agent_args.iter().cloned());
        command.extend(
            self.spec.node(&self.node.name).into_iter().flat_map(|node| node.agent_args.iter().cloned()),
        );
        command
    }
}
