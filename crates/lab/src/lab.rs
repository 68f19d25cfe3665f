//! A lab that is up: built from a description, found again by name, asked and changed, torn down. It composes the other modules
//! and decides the order in which things come and go.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::{Duration, Instant},
};

use crate::{
    LabError,
    api::Api,
    fabric,
    http::Request,
    interrupt,
    layout::{API_PORT, API_V4, API_V6, Family, Layout},
    matrix::Matrix,
    node::NodeRef,
    objects,
    probe::{Endpoint, Stream, probe_pairs},
    process::{Place, myself},
    programs,
    spec::Spec,
    state::{self, Description, State, write},
};

/// How long one round of a matrix waits for the last answer.
const MATRIX_WITHIN: Duration = Duration::from_secs(1);
/// The same while waiting for a matrix to become complete: short, to see the moment.
const ROUND_WITHIN: Duration = Duration::from_millis(300);

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    spec: Spec,
    layout: Layout,
    state: State,
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

impl Lab {
    /// Brings a lab up that ends with the returned value. What an earlier one of the same name left is removed first.
    ///
    /// # Errors
    /// When the description is wrong, a program is missing, or the kernel refuses; nothing of the lab is left then.
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
        let server = programs::find("kilo-lab", spec.programs.lab.as_deref())?;
        if spec.mesh.agents {
            programs::find("kg", spec.programs.kg.as_deref())?;
        }
        state::sweep()?;
        let layout = Layout::of(&spec);
        let state = State::of(&spec.name)?;
        let lock = state.lock()?;
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

    /// Finds a lab that was brought up earlier, also by another process. It stays up when the returned value ends.
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
        Api::new(&self.layout)
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

    /// What `kubectl` and other clients need in their environment. They must run inside the lab: `lab.exec("api", …)`.
    pub fn kubectl_env(&self) -> [(String, String); 1] {
        [("KUBECONFIG".into(), self.state.kubeconfig().display().to_string())]
    }

    /// Where a probe to a pod, or to a node's LAN address, begins and ends.
    ///
    /// # Errors
    /// [`LabError::UnknownMember`].
    pub fn endpoint(&self, name: &str, family: Family) -> Result<Endpoint, LabError> {
        let pod = self.layout.pod(name).map(|pod| (&pod.namespace, pod.address));
        let node = || self.layout.node(name).map(|node| (&node.namespace, node.lan));
        let (namespace, address) = pod.or_else(node).ok_or_else(|| self.unknown(name))?;
        Ok(Endpoint { name: name.into(), namespace: namespace.clone(), address: address.of(family) })
    }

    /// Sends packets from one pod or node to another until the stream is stopped, and counts losses.
    ///
    /// # Errors
    /// When an endpoint is unknown or its namespace refuses a socket.
    pub fn stream(
        &self,
        from: &str,
        to: &str,
        family: Family,
        interval: Duration,
    ) -> Result<Stream, LabError> {
        Stream::start(&self.endpoint(from, family)?, &self.endpoint(to, family)?, interval)
    }

    /// The names of all pods.
    pub fn pods(&self) -> Vec<&str> {
        self.layout.pods.iter().map(|pod| pod.name.as_str()).collect()
    }

    /// Which pods reach which.
    ///
    /// # Errors
    /// When a namespace refuses a socket.
    pub fn matrix(&self, family: Family) -> Result<Matrix, LabError> {
        self.matrix_of(&self.pods(), family, MATRIX_WITHIN)
    }

    /// Which of these pods and nodes reach which, each given that time to answer.
    ///
    /// # Errors
    /// When an endpoint is unknown or its namespace refuses a socket.
    pub fn matrix_of(&self, names: &[&str], family: Family, within: Duration) -> Result<Matrix, LabError> {
        let endpoints =
            names.iter().map(|name| self.endpoint(name, family)).collect::<Result<Vec<_>, _>>()?;
        let cells = probe_pairs(&endpoints, within)?;
        Ok(Matrix { family, names: names.iter().map(ToString::to_string).collect(), cells })
    }

    /// Waits until all pods reach each other in both families, and says how long that took.
    ///
    /// # Errors
    /// [`LabError::Deadline`] with the pairs that do not, and what the agents say about their health.
    pub fn wait_converged(&self, within: Duration) -> Result<Duration, LabError> {
        self.wait_reachable(&self.pods(), within, |_| {})
    }

    /// Waits until these pods and nodes reach each other in both families, and shows each round's matrices.
    ///
    /// # Errors
    /// As [`Self::wait_converged`].
    pub fn wait_reachable(
        &self,
        names: &[&str],
        within: Duration,
        mut progress: impl FnMut(&[Matrix; 2]),
    ) -> Result<Duration, LabError> {
        let begin = Instant::now();
        loop {
            let matrices = [
                self.matrix_of(names, Family::V4, ROUND_WITHIN)?,
                self.matrix_of(names, Family::V6, ROUND_WITHIN)?,
            ];
            progress(&matrices);
            let failures: Vec<String> = matrices
                .iter()
                .flat_map(|matrix| {
                    matrix.failures().into_iter().map(|pair| format!("{} {pair}", matrix.family))
                })
                .collect();
            if failures.is_empty() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > within {
                let seen = format!("{}; agents: {}", failures.join(", "), self.health().join("; "));
                return Err(LabError::Deadline { what: "full reachability".into(), within, seen });
            }
            interrupt::check()?;
        }
    }

    /// What every agent says about its health, as `node: status body`.
    pub fn health(&self) -> Vec<String> {
        let ask = |node: NodeRef<'_>| match (node.agent(), node.http_get("/health")) {
            (None, _) => format!("{}: not running", node.node.name),
            (_, Ok(answer)) => {
                format!("{}: {} {}", node.node.name, answer.status, answer.body.trim().replace('\n', ", "))
            }
            (_, Err(error)) => format!("{}: {error}", node.node.name),
        };
        self.nodes().map(ask).collect()
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
        fabric::build(&self.layout)?;
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
        write(&self.state.kubeconfig(), &apiserver::Server::kubeconfig(&format!("{API_V4}:{API_PORT}")))?;
        let mut command = vec![
            server.display().to_string(),
            "apiserver".into(),
            "--objects".into(),
            file.display().to_string(),
        ];
        for address in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT)),
            (API_V4, API_PORT).into(),
            (API_V6, API_PORT).into(),
        ] {
            command.extend(["--listen".into(), address.to_string()]);
        }
        let log = self.state.log("apiserver");
        let running = Place::namespace(self.layout.api()).start(&command, &log)?;
        self.state.record("apiserver", &running)?;
        let within = Duration::from_secs(20);
        wait_until("the Kubernetes API being ready", within, || {
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
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

    fn unknown(&self, name: &str) -> LabError {
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

/// Waits until `look` sees nothing left to wait for; what it sees else is told when the time is over.
///
/// # Errors
/// [`LabError::Deadline`], an error of `look`, or an interruption.
pub fn wait_until(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<Option<String>, LabError>,
) -> Result<(), LabError> {
    let begin = Instant::now();
    while let Some(seen) = look()? {
        if begin.elapsed() > within {
            return Err(LabError::Deadline { what: what.into(), within, seen });
        }
        interrupt::check()?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
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
