//! The agent's loop: hands events to the reconciler, carries out its actions, hands back what came of them.

mod ending;
mod telling;

use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use dataplane::DataPlane;
use futures::{StreamExt, stream::FuturesUnordered};
use hostnet::Change;
use kube::Client;
use kubernetes::{
    client::ApiAccess,
    permission::Permission,
    watch::{Update, Updates, WatchConfig, watch},
};
use mesh::{PresharedKey, SecretRef};
use pace::Bucket;
use program::{
    Resolver,
    clock::{now, sleep_until},
    problem_lines::CHANGE_LINES,
};
use reconciler::{Action, NodeUpdate, PatchFailure, PeerUpdate, Reconciler, Watch};
use tokio::signal::unix::{SignalKind, signal};
use underlay::Underlay;

use crate::{
    cli, cni, http,
    metrics::Seen,
    names, report, setup,
    surroundings::{Followed, Sources},
};

/// How long the API server may take to answer the question whether it is there.
const API_ANSWER: Duration = Duration::from_secs(3);

/// How long a node of the own location may take to answer.
const NEIGHBOUR_ANSWER: Duration = Duration::from_secs(2);

/// What a task in the background came to.
enum Done {
    Patched(kubernetes::patch::Told, Permission),
    Resolved(String, Result<Vec<IpAddr>, String>),
    Read(SecretRef, Result<PresharedKey, String>),
    Named(Vec<IpAddr>),
    Asked(bool),
    Neighbour(IpAddr, bool),
    Reported,
}

type Task = Pin<Box<dyn Future<Output = Done>>>;

/// A running agent.
pub struct Runtime {
    setup: setup::Setup,
    reconciler: Reconciler,
    dataplane: DataPlane,
    notices: dataplane::Watch,
    client: Client,
    updates: Updates,
    resolver: Option<Resolver>,
    access: ApiAccess,
    underlay: Underlay,
    /// What this host depends on.
    surroundings: Followed,
    shown: Arc<http::Shown>,
    reporter: report::Reporter,
    tasks: FuturesUnordered<Task>,
    /// Kilo's annotations of the own Node as the API last told them.
    annotations: BTreeMap<String, String>,
    /// Which of them the API lets the agent write.
    permission: Permission,
    /// What the CNI configuration was last told.
    cni_subnets: Vec<ipnet::IpNet>,
    /// How often changes of the host are logged.
    change_lines: Bucket,
}

impl Runtime {
    /// Opens everything that the agent needs. Nothing on the host is changed yet.
    pub async fn start(mut setup: setup::Setup) -> Result<Self> {
        let underlay = Underlay::new(Some(setup.flags.mark_bits.underlay()));
        let resolver = Resolver::of_host(underlay.clone())
            .inspect_err(|error| tracing::warn!("endpoints that are DNS names cannot be resolved: {error:#}"))
            .ok();
        let tasks: FuturesUnordered<Task> = FuturesUnordered::new();
        match names::own_addresses(&resolver, &setup.reconciler.node).await {
            Ok(addresses) => setup.reconciler.discovery.hostname_addresses = addresses,
            Err(later) => tasks.push(Box::pin(async move { Done::Named(later.await) })),
        }
        let flags = &setup.flags;
        let cli::Backend::Kubernetes = flags.backend;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), node = setup.reconciler.node, "starting");
        let access = ApiAccess::from_flags(
            flags.kubeconfig.clone(),
            flags.master.clone(),
            concat!("kg/", env!("CARGO_PKG_VERSION")),
        );
        let client = kubernetes::client::connect_over(&access, &underlay).await?;
        let sources = Sources {
            access: access.clone(),
            client: client.clone(),
            underlay: underlay.clone(),
            resolver: resolver.clone(),
            service_cidrs: setup.reconciler.render.service_cidrs.clone(),
        };
        let mut surroundings = Followed::of(sources);
        // Before anything is routed it is known what is not to be.
        setup.reconciler.surroundings = surroundings.first().await;
        let flags = &setup.flags;
        let shown = Arc::new(http::Shown::new());
        if !flags.dry_run {
            http::start(flags.listen, shown.clone()).await?;
        }
        let dataplane = setup.open_dataplane().await?;
        let notices = dataplane.watch().await.context("cannot watch the host's network")?;
        let updates = watch(
            &client,
            WatchConfig {
                topology_label: flags.topology_label.clone(),
                own_node: Some(setup.reconciler.node.clone()),
                pod_cidr_source: setup.pod_cidr_source,
            },
        );
        let key = setup.reconciler.render.private_key.public_key();
        Ok(Self {
            reconciler: Reconciler::new(setup.reconciler.clone()),
            setup,
            dataplane,
            notices,
            client,
            underlay,
            updates,
            resolver,
            access,
            surroundings,
            shown,
            reporter: report::Reporter::default(),
            tasks,
            annotations: BTreeMap::new(),
            permission: Permission::new(key.as_bytes()),
            cni_subnets: Vec::new(),
            change_lines: CHANGE_LINES,
        })
    }

    /// Runs until a signal ends it.
    pub async fn run(mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            self.shown.busy();
            while let Some(action) = self.reconciler.poll_action(now()) {
                if self.setup.flags.dry_run {
                    if let Some(result) = self.rehearse(action).await {
                        return result;
                    }
                } else {
                    self.carry_out(action).await;
                }
            }
            self.write_event();
            let event = self.reporter.events.timeout(Instant::now());
            let timeout = self.reconciler.poll_timeout().into_iter().chain(event).min();
            self.shown.waits();
            tokio::select! {
                // What waits is taken in first, so that a burst of events leads to one reconcile.
                biased;
                _ = terminate.recv() => return self.end("SIGTERM").await,
                _ = interrupt.recv() => return self.end("SIGINT").await,
                update = self.updates.next() => self.take(update),
                Some(done) = self.tasks.next() => self.take_done(done),
                notice = self.notices.next() => {
                    tracing::trace!(?notice, "the host's network changed");
                    let notice = notice.context("the host's network cannot be watched any more")?;
                    if notice.is_of_host_routes() {
                        self.reconciler.handle_host_routes(now());
                    } else {
                        self.reconciler.handle_notice(now());
                    }
                }
                found = self.surroundings.changed() => self.reconciler.handle_surroundings(found, now()),
                () = sleep_until(timeout) => {}
            }
        }
    }

    fn take(&mut self, update: Update) {
        let now = now();
        match update {
            Update::Node(name, Some(watched)) => {
                let forced = watched.own.map(|own| {
                    self.annotations = own.annotations;
                    if let Some(addresses) = &own.addresses {
                        self.reconciler.handle_node_addresses(addresses, now);
                    }
                    own.forced
                });
                let update = NodeUpdate { node: watched.node, problems: watched.problems, forced };
                self.set_cni(&update);
                self.reconciler.handle_node(&name, Some(update), now);
            }
            Update::Node(name, None) => self.reconciler.handle_node(&name, None, now),
            Update::Heartbeat(name, last_seen) => self.reconciler.handle_heartbeat(&name, last_seen, now),
            Update::Peer(name, peer) => {
                let update = peer.map(|peer| PeerUpdate { peer: peer.peer, problems: peer.problems });
                self.reconciler.handle_peer(&name, update, now);
            }
            Update::SubnetObject(name, problems) => {
                self.reconciler.handle_subnet_object(&name, problems, now);
            }
            Update::Synced => self.reconciler.handle_watch(Watch::Synced, now),
            Update::Broken(problem) => {
                self.shown.metrics.error("watch");
                self.reconciler.handle_watch(Watch::Broken(problem.message), now);
            }
            Update::Access(problems) => self.reconciler.handle_access(problems),
        }
    }

    fn take_done(&mut self, done: Done) {
        match done {
            Done::Patched(result, permission) => {
                self.permission = permission;
                self.reconciler.handle_refusal(self.permission.problem(&self.setup.reconciler.node));
                let result = result.map(|written| {
                    self.annotations = written.annotations;
                    if let Some(addresses) = &written.addresses {
                        self.reconciler.handle_node_addresses(addresses, now());
                    }
                });
                let result = result.map_err(|error| PatchFailure {
                    why: error.to_string(),
                    retry_after: error.retry_after(),
                });
                if result.is_err() {
                    self.shown.metrics.error("patch");
                }
                self.reconciler.handle_patched(result, now());
            }
            Done::Resolved(name, answer) => {
                if answer.is_err() {
                    self.shown.metrics.error("resolve");
                }
                self.reconciler.handle_resolved(&name, answer, now());
            }
            Done::Read(reference, answer) => {
                if answer.is_err() {
                    self.shown.metrics.error("secret");
                }
                self.reconciler.handle_key(&reference, answer, now());
            }
            Done::Named(addresses) => self.reconciler.handle_hostname(addresses, now()),
            Done::Asked(answers) => self.reconciler.handle_api_answer(answers, now()),
            Done::Neighbour(address, answers) => {
                self.reconciler.handle_neighbour_answer(address, answers, now());
            }
            Done::Reported => self.reporter.events.done(),
        }
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::Observe => self.observe().await,
            Action::Apply(changes) => self.apply(&changes).await,
            Action::Patch(status) => self.patch(status),
            Action::Resolve(name) => self.resolve(name),
            Action::ReadKey(reference) => self.read_key(reference),
            Action::AskApi => self.ask_api(),
            Action::AskNeighbour(address) => self.ask_neighbour(address),
            Action::Publish(view) => self.publish(*view),
        }
    }

    async fn observe(&mut self) {
        let observed = self.dataplane.observe().await.map_err(|error| {
            self.shown.metrics.error("observe");
            error.to_string()
        });
        let now = now();
        let seen = observed.as_ref().ok().map(|observation| Seen::of(observation, now.unix));
        self.reconciler.handle_observation(observed, now);
        // The mesh is only now what this look was compared with.
        if let Some(seen) = seen {
            self.shown.metrics.see(Seen { topology: self.reconciler.topology().cloned(), ..seen });
        }
    }

    async fn apply(&mut self, changes: &[Change]) {
        let start = Instant::now();
        for change in changes {
            tracing::debug!("{change}");
        }
        let failures = self.dataplane.apply(changes).await;
        let milliseconds = start.elapsed().as_millis() as u64;
        self.say_changed(changes.len(), failures.len(), milliseconds);
        let failures = failures.into_iter().map(|failure| {
            self.shown.metrics.error("apply");
            failure.to_string()
        });
        self.reconciler.handle_applied(failures.collect(), now());
    }

    fn ask_api(&mut self) {
        let access = self.access.clone();
        self.tasks.push(Box::pin(async move {
            // As other programs of this host ask it: their packets carry no mark.
            let answer = kubernetes::client::answers(&access, &Underlay::plain(), API_ANSWER).await;
            Done::Asked(answer.inspect_err(|error| tracing::debug!(%error, "the API was asked")).is_ok())
        }));
    }

    /// Without the mesh, as encapsulated packets go. A node on which nothing listens refuses, and that is an answer, too.
    fn ask_neighbour(&mut self, address: IpAddr) {
        let (underlay, port) = (self.underlay.clone(), self.setup.flags.listen.port());
        self.tasks.push(Box::pin(async move {
            let answers = underlay.is_answered(SocketAddr::new(address, port), NEIGHBOUR_ANSWER).await;
            Done::Neighbour(address, answers)
        }));
    }

    fn resolve(&mut self, name: String) {
        let resolver = self.resolver.clone();
        self.tasks.push(Box::pin(async move {
            let answer = match resolver {
                Some(resolver) => resolver.resolve(&name).await,
                None => Err("this host has no usable /etc/resolv.conf".to_owned()),
            };
            Done::Resolved(name, answer)
        }));
    }

    fn read_key(&mut self, reference: SecretRef) {
        let client = self.client.clone();
        self.tasks.push(Box::pin(async move {
            let answer = kubernetes::preshared_keys::get_preshared_key(&client, &reference).await;
            Done::Read(reference, answer.map_err(|error| error.to_string()))
        }));
    }

    /// Tells the CNI configuration the own pod subnets when they have changed.
    fn set_cni(&mut self, update: &NodeUpdate) {
        let Some(path) = &self.setup.cni_path else { return };
        let subnets = &update.node.pod_subnets;
        let own = update.node.name == self.setup.reconciler.node;
        if !own || subnets.is_empty() || *subnets == self.cni_subnets || self.setup.flags.dry_run {
            return;
        }
        let outcome = cni::set_subnets(path, subnets);
        match outcome {
            // Somebody who writes the annotation `pod-cidrs` decides how often.
            _ if !self.change_lines.take(Instant::now()) => {}
            Ok(Some(true)) => {
                tracing::info!(path = %path.display(), ?subnets, "set the pod subnets of the CNI")
            }
            Ok(Some(false)) => {}
            Ok(None) => tracing::warn!(
                path = %path.display(),
                "there is no CNI configuration to keep up to date; see --cni-path, or turn it off with --cni=false"
            ),
            Err(error) => tracing::error!("{error:#}"),
        }
        self.cni_subnets.clone_from(subnets);
    }

    /// Prints what would be done, once something would be. `Some` ends the agent.
    async fn rehearse(&mut self, action: Action) -> Option<Result<()>> {
        match action {
            Action::Observe => self.observe().await,
            Action::Resolve(name) => self.resolve(name),
            Action::ReadKey(reference) => self.read_key(reference),
            Action::AskApi => self.reconciler.handle_api_answer(true, now()),
            Action::AskNeighbour(address) => self.reconciler.handle_neighbour_answer(address, true, now()),
            Action::Patch(_) => self.reconciler.handle_patched(Ok(()), now()),
            Action::Apply(changes) => {
                for change in &changes {
                    println!("{}", mesh::text::PlainLines(change));
                }
                return Some(Ok(()));
            }
            Action::Publish(view) => {
                self.reporter.tell(&view, "", Instant::now());
                if view.reconciles > 0 {
                    println!("nothing to change");
                    return Some(Ok(()));
                }
            }
        }
        None
    }
}
