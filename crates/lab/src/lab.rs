//! A lab that is up: built from a description, found again by name, asked and changed, torn down. It composes
//! the other modules and decides the order in which things come and go.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::Duration,
};

use crate::{
    LabError,
    api::{Api, SERVER},
    fabric,
    http::Request,
    interrupt,
    layout::{API_PORT, Layout},
    node::NodeRef,
    objects,
    process::{Place, Running, myself},
    programs,
    reach::wait_until,
    spec::Spec,
    state::{self, Description, State, write},
};

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    pub(crate) spec: Spec,
    pub(crate) layout: Layout,
    pub(crate) state: State,
    lifetime: Lifetime,
}

/// When a lab ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// With this value, or at the latest when a later lab is brought up after this process died.
    Scoped,
    /// When someone takes it down by name.
    Detached,
}

/// How an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is asked to (SIGTERM), and cleans up as it was told.
    Ask,
    /// It is killed (SIGKILL), and cleans up nothing.
    Kill,
}

impl Lab {
    /// Brings a lab up that ends with the returned value. What an earlier one of the same name left is
    /// removed first.
    ///
    /// # Errors
    /// When the description is wrong, a program is missing, or the kernel refuses; nothing of the lab is left
    /// then.
    pub fn up(spec: Spec) -> Result<Self, LabError> {
        Self::bring_up(spec, Lifetime::Scoped, |_| {})
    }

    /// Brings a lab up and tells about each step when it begins.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn bring_up(spec: Spec, lifetime: Lifetime, mut step: impl FnMut(&str)) -> Result<Self, LabError> {
        spec.validate()?;
        need_root()?;
        joined(&spec)?;
        let server = programs::find("kilo-lab", spec.programs.lab.as_deref())?;
        if spec.mesh.agents {
            programs::find("kg", spec.programs.kg.as_deref())?;
        }
        state::sweep()?;
        let layout = Layout::of(&spec);
        let state = State::of(&spec.name)?;
        let lock = state.lock()?;
        if let Some(owner) = state.read().ok().and_then(|found| found.owner).filter(Running::is_alive) {
            return Err(LabError::Owned { lab: spec.name, owner: owner.pid });
        }
        state.tear_down(&lock)?;
        let mut lab = Self { spec, layout, state, lifetime };
        if let Err(error) = lab.build(&server, &mut step) {
            // The first error is the one to tell; a second one would be its consequence.
            let _ = lab.state.tear_down(&lock);
            lab.lifetime = Lifetime::Detached;
            return Err(error);
        }
        Ok(lab)
    }

    /// Finds a lab that was brought up earlier, also by another process. It stays up when the returned value
    /// ends.
    ///
    /// # Errors
    /// [`LabError::NotUp`] when there is none of that name.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let state = State::of(name)?;
        let spec = state.read()?.spec;
        Ok(Self { layout: Layout::of(&spec), spec, state, lifetime: Lifetime::Detached })
    }

    /// Tears the lab of that name down, whatever is left of it; nothing is left is fine.
    ///
    /// # Errors
    /// When something resists.
    pub fn down(name: &str) -> Result<(), LabError> {
        need_root()?;
        let state = State::of(name)?;
        let lock = state.lock()?;
        state.tear_down(&lock)
    }

    /// What was asked for.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Names and addresses.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the lab's files are.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A node.
    ///
    /// # Errors
    /// [`LabError::UnknownMember`].
    pub fn node(&self, name: &str) -> Result<NodeRef<'_>, LabError> {
        let node = self.layout.node(name).ok_or_else(|| self.unknown(name))?;
        Ok(NodeRef { spec: &self.spec, layout: &self.layout, state: &self.state, node })
    }

    /// Exchanges the agent of a node for a Go agent, or (`None`) for ours, on what the one before leaves there.
    ///
    /// # Errors
    /// When the lab cannot have such an agent, or one does not end or start.
    pub fn exchange(
        &mut self,
        name: &str,
        go_agent: Option<PathBuf>,
        ending: Ending,
    ) -> Result<(), LabError> {
        let mut spec = self.spec.clone();
        let node = spec.node_mut(name).ok_or_else(|| self.unknown(name))?;
        node.go_agent = go_agent.map(|path| programs::find("the Go agent", Some(&path))).transpose()?;
        spec.validate()?;
        match ending {
            Ending::Ask => self.node(name)?.stop_agent()?,
            Ending::Kill => self.node(name)?.kill9()?,
        }
        self.state.create(&Description { spec: spec.clone(), ..self.state.read()? })?;
        self.spec = spec;
        let node = self.node(name)?;
        node.prepare()?;
        node.start_agent(&[])
    }

    /// All nodes, in the order of the description.
    pub fn nodes(&self) -> impl Iterator<Item = NodeRef<'_>> {
        self.layout.nodes.iter().map(|node| NodeRef {
            spec: &self.spec,
            layout: &self.layout,
            state: &self.state,
            node,
        })
    }

    /// The Kubernetes API.
    pub fn api(&self) -> Api<'_> {
        Api::new(&self.layout, &self.state)
    }

    /// Where commands for a node, a pod, `api`, `wan` or a site's `router-<site>` run.
    ///
    /// # Errors
    /// [`LabError::UnknownMember`].
    pub fn place(&self, name: &str) -> Result<Place, LabError> {
        if let Ok(node) = self.node(name) {
            return Ok(node.place());
        }
        let router = name
            .strip_prefix("router-")
            .and_then(|site| self.layout.sites.iter().find(|known| known.name == site));
        let namespace = match (self.layout.pod(name), router, name) {
            (Some(pod), ..) => pod.namespace.clone(),
            (None, Some(site), _) => site.namespace.clone(),
            (None, None, "api") => self.layout.api(),
            (None, None, "wan") => self.layout.wan(),
            _ => return Err(self.unknown(name)),
        };
        let mut environment: BTreeMap<String, String> = self.kubectl_env().into_iter().collect();
        environment.insert("PATH".into(), programs::search_path());
        Ok(Place { environment, ..Place::namespace(namespace) })
    }

    /// Runs a command in a node, a pod, or another [`Self::place`].
    ///
    /// # Errors
    /// When it cannot be started. How it ended is in the output.
    pub fn exec<S: AsRef<str>>(&self, name: &str, arguments: &[S]) -> Result<Output, LabError> {
        self.place(name)?.output(arguments)
    }

    /// What `kubectl` and other clients need in their environment. They must run inside the lab:
    /// `lab.exec("api", …)`.
    pub fn kubectl_env(&self) -> [(String, String); 1] {
        [("KUBECONFIG".into(), self.state.kubeconfig().display().to_string())]
    }

    /// Moves the logs to where they outlast the lab, and says where that is.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep_logs(&self) -> Result<PathBuf, LabError> {
        self.state.keep_logs()
    }

    fn build(&self, server: &Path, step: &mut impl FnMut(&str)) -> Result<(), LabError> {
        let owner = (self.lifetime == Lifetime::Scoped).then(myself);
        self.state.create(&Description { spec: self.spec.clone(), owner })?;
        step("sites, routers and pods");
        fabric::build(&self.layout, joined(&self.spec)?.as_ref())?;
        interrupt::check()?;
        step("Kubernetes API");
        self.start_api(server)?;
        for node in self.nodes() {
            node.prepare()?;
        }
        interrupt::check()?;
        if self.spec.mesh.agents {
            step("agents");
            for node in self.nodes() {
                node.start_agent(&[])?;
            }
        }
        interrupt::check()
    }

    fn start_api(&self, server: &Path) -> Result<(), LabError> {
        let objects = objects::all(&self.spec, &self.layout)?;
        let file = self.state.directory().join("objects.json");
        write(&file, &serde_json::Value::from(objects).to_string())?;
        let address = self.layout.api_address();
        let outside = format!("{}:{API_PORT}", address.v4);
        write(&self.state.kubeconfig(), &apiserver::Server::kubeconfig(&outside))?;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
        let mut command = vec![server.display().to_string(), "apiserver".into()];
        command.extend(["--objects".into(), file.display().to_string(), "--local".into(), local.to_string()]);
        for address in [SocketAddr::from((address.v4, API_PORT)), (address.v6, API_PORT).into()] {
            command.extend(["--listen".into(), address.to_string()]);
        }
        let log = self.state.log(SERVER);
        let running = Place::namespace(self.layout.api()).start(&command, &log)?;
        self.state.record(SERVER, &running)?;
        let within = Duration::from_secs(20);
        wait_until("the Kubernetes API being ready", within, || {
            let seen = match Request::get("/readyz").send(&self.layout.api(), local) {
                Ok(answer) if answer.status == 200 => return Ok(None),
                Ok(answer) => format!("{} {}", answer.status, answer.body),
                Err(error) => error.to_string(),
            };
            if running.is_alive() {
                return Ok(Some(seen));
            }
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            Err(LabError::Command {
                command: command.join(" "),
                place: self.layout.api(),
                reason: said.trim().into(),
            })
        })
    }

    pub(crate) fn unknown(&self, name: &str) -> LabError {
        let nodes = self.layout.nodes.iter().map(|node| node.name.as_str());
        let known: Vec<&str> = nodes.chain(self.pods()).collect();
        LabError::UnknownMember { lab: self.layout.lab.clone(), name: name.into(), known: known.join(" ") }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Detached {
            return;
        }
        if thread::panicking() {
            match self.state.keep_logs() {
                Ok(kept) => eprintln!("the logs of lab {} are kept in {}", self.layout.lab, kept.display()),
                Err(error) => eprintln!("{error}"),
            }
        }
        if let Err(error) = Self::down(&self.layout.lab) {
            eprintln!("{error}");
        }
    }
}

/// The layout of the lab that this one joins. It has to be up, and nobody else's second cluster.
fn joined(spec: &Spec) -> Result<Option<Layout>, LabError> {
    let Some(first) = &spec.joins else { return Ok(None) };
    let joins = |lab: &String| {
        let found = State::of(lab).and_then(|state| state.read());
        found.is_ok_and(|found| found.spec.joins.as_ref() == Some(first))
    };
    if let Some(other) = state::labs().into_iter().find(|lab| *lab != spec.name && joins(lab)) {
        return Err(LabError::Spec(format!("lab {other} has joined lab {first}; two labs can share a WAN")));
    }
    let first = State::of(first)?.read()?.spec;
    first.validate_as_joined()?;
    Ok(Some(Layout::of(&first)))
}

fn need_root() -> Result<(), LabError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(LabError::Io {
        action: "building network namespaces (run it as root)".into(),
        source: std::io::ErrorKind::PermissionDenied.into(),
    })
}
