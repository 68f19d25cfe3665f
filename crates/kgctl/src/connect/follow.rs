//! The connection itself: registers the host, follows the cluster, and takes everything back. What is to be done is
//! decided by the reconciler's client.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use dataplane::DataPlane;
use futures::{StreamExt, stream::FuturesUnordered};
use hostnet::{
    Change, Observation,
    render::client::{alone, own_part},
};
use kube::Client as Api;
use kubernetes::{
    PodCidrSource, registration,
    watch::{Update, WatchConfig, watch},
};
use mesh::{PresharedKey, SecretRef};
use pace::Bucket;
use program::{
    Resolver,
    clock::{now, sleep_until},
};
use reconciler::{Client, ClientAction, ClientSettings, NodeUpdate, PeerUpdate, Watch};

use super::{
    identity::{self, Registration},
    tell::Teller,
};

/// With `--once`: how long the cluster may take to tell everything.
const ONCE_WITHIN: Duration = Duration::from_secs(30);

/// An API that does not answer must not hold up the end for longer.
const FAREWELL_WITHIN: Duration = Duration::from_secs(5);

/// What was looked up, and what came of it.
enum Answer {
    Name(String, Result<Vec<IpAddr>, String>),
    Key(SecretRef, Result<PresharedKey, String>),
}

type Lookups = FuturesUnordered<Pin<Box<dyn Future<Output = Answer>>>>;

/// This host's connection to the cluster.
pub struct Connection {
    pub client: Api,
    pub dataplane: DataPlane,
    pub resolver: Option<Resolver>,
    pub topology_label: String,
    pub pod_cidr_source: PodCidrSource,
    pub settings: ClientSettings,
    /// The name of this host, by which a Peer that was made from it is known.
    pub own_name: String,
    /// How often changes of the host are logged.
    pub change_lines: Bucket,
}

impl Connection {
    /// Makes the interface, registers the host and follows the mesh. Ends with success only with `once`, when the host is
    /// as the mesh wants it. It can be dropped at any point; then it is for [`Connection::clean_up`].
    pub async fn follow(&mut self, registration: Registration, once: bool) -> Result<()> {
        self.make_interface().await?;
        self.register(registration).await?;
        let deadline = once.then(|| Instant::now() + ONCE_WITHIN);
        let mut notices = self.dataplane.watch().await.context("cannot watch the host's network")?;
        let config = WatchConfig {
            topology_label: self.topology_label.clone(),
            own_node: None,
            pod_cidr_source: self.pod_cidr_source,
        };
        let mut updates = watch(&self.client, config);
        let mut lookups = Lookups::new();
        let mut teller = Teller::default();
        let mut machine = Client::new(self.settings.clone());
        loop {
            while let Some(action) = machine.poll_action(now()) {
                self.carry_out(action, &mut machine, &lookups, &mut teller).await;
            }
            if once && teller.settled() {
                return Ok(());
            }
            let timeout = machine.poll_timeout();
            tokio::select! {
                // What waits is taken in first, so that a burst of events leads to one reconcile.
                biased;
                update = updates.next() => take(&mut machine, update),
                Some(answer) = lookups.next() => match answer {
                    Answer::Name(name, answer) => machine.handle_resolved(&name, answer, now()),
                    Answer::Key(reference, answer) => machine.handle_key(&reference, answer, now()),
                },
                notice = notices.next() => {
                    let notice = notice.context("the host's network cannot be watched any more")?;
                    if notice.is_of_host_routes() { machine.handle_host_routes(now()) } else { machine.handle_notice(now()) }
                }
                () = sleep_until(timeout) => {}
                () = sleep_until(deadline) => bail!(
                    "the host is not configured after {} s: {}", ONCE_WITHIN.as_secs(), teller.missing()
                ),
            }
        }
    }

    /// Makes the interface, without peers: so that whatever stands in the way on this host shows before the cluster hears of
    /// it. An interface that is there already keeps its sessions.
    async fn make_interface(&mut self) -> Result<()> {
        let observed = self.dataplane.observe().await.context("cannot read the host's network")?;
        let host = &self.settings.host;
        if observed.host.links.contains_key(&host.interface) {
            tracing::info!(interface = %host.interface, "the interface is there already");
            return Ok(());
        }
        let changes = hostnet::plan(&own_part(&observed.host, &host.interface), &alone(host));
        let failures = self.apply(&changes).await;
        if failures.is_empty() {
            return Ok(());
        }
        let host = &self.settings.host;
        let in_use = failures.iter().any(|failure| failure.contains("in use"));
        let advice = if in_use { "; another port is chosen with --port" } else { "" };
        bail!("cannot make the WireGuard interface {}: {}{advice}", host.interface, failures.join("; "))
    }

    async fn register(&self, registration: Registration) -> Result<()> {
        let key = self.settings.host.private_key.public_key();
        let peer = &self.settings.host.peer;
        match registration {
            Registration::Present => tracing::info!(peer, %key, "using the Peer that is there"),
            Registration::Create(object) => {
                registration::create_peer(&self.client, &object).await?;
                tracing::info!(peer, %key, "created the Peer");
            }
            Registration::Replace(object) => {
                registration::replace_peer(&self.client, &object).await?;
                tracing::info!(peer, %key, "took over the Peer that an earlier connection left");
            }
        }
        Ok(())
    }

    async fn carry_out(
        &mut self,
        action: ClientAction,
        machine: &mut Client,
        lookups: &Lookups,
        teller: &mut Teller,
    ) {
        match action {
            ClientAction::Observe => {
                let observed: Result<Observation, _> = self.dataplane.observe().await;
                machine.handle_observation(observed.map_err(|error| error.to_string()), now());
            }
            ClientAction::Apply(changes) => {
                let failures = self.apply(&changes).await;
                machine.handle_applied(failures, now());
            }
            ClientAction::Resolve(name) => {
                let resolver = self.resolver.clone();
                lookups.push(Box::pin(async move {
                    let answer = match resolver {
                        Some(resolver) => resolver.resolve(&name).await,
                        None => Err("this host has no usable /etc/resolv.conf".to_owned()),
                    };
                    Answer::Name(name, answer)
                }));
            }
            ClientAction::ReadKey(reference) => {
                let client = self.client.clone();
                lookups.push(Box::pin(async move {
                    let answer = kubernetes::preshared_keys::get_preshared_key(&client, &reference).await;
                    Answer::Key(reference, answer.map_err(|error| error.to_string()))
                }));
            }
            ClientAction::Publish(view) => teller.tell(view),
        }
    }

    /// Carries out changes; gives what failed. When the interface cannot be made, the rest would change somebody else's of
    /// that name, so it is not tried.
    async fn apply(&mut self, changes: &[Change]) -> Vec<String> {
        for change in changes {
            tracing::debug!("{change}");
        }
        let made = changes.iter().take_while(|change| matches!(change, Change::CreateLink(..))).count();
        let (make, rest) = changes.split_at(made);
        let mut failures = self.dataplane.apply(make).await;
        if failures.is_empty() {
            failures = self.dataplane.apply(rest).await;
        }
        let (changes, failed) = (changes.len(), failures.len());
        if self.change_lines.take(Instant::now()) {
            tracing::info!(changes, failed, "changed the host's network");
        } else {
            tracing::debug!(changes, failed, "changed the host's network");
        }
        failures.iter().map(ToString::to_string).collect()
    }

    /// Takes the Peer back, if it was made from this host, and removes the interface with all that goes through it. All of
    /// it is tried.
    pub async fn clean_up(mut self) -> Result<()> {
        let registered = match tokio::time::timeout(FAREWELL_WITHIN, self.unregister()).await {
            Ok(result) => result,
            Err(_) => Err(anyhow!("the API gives no answer")),
        };
        let peer = &self.settings.host.peer;
        let registered = registered.with_context(|| {
            format!("the Peer {peer:?} is still there; remove it with: kubectl delete peer {peer}")
        });
        let observed =
            self.dataplane.observe().await.context("cannot read the host's network to clean up")?;
        let changes = Client::removal(&observed.host, &self.settings.host);
        let failures = self.apply(&changes).await;
        if !failures.is_empty() {
            tracing::error!("{}", failures.join("; "));
            bail!("{} changes failed at the end", failures.len());
        }
        registered
    }

    async fn unregister(&self) -> Result<()> {
        let name = &self.settings.host.peer;
        let Some(peer) = registration::get_peer(&self.client, name).await? else { return Ok(()) };
        // Another connection may have taken it over meanwhile.
        let own = peer.spec.public_key.trim() == self.settings.host.private_key.public_key().to_string();
        if own && identity::is_from(&peer, &self.own_name) {
            registration::delete_peer(&self.client, &peer).await?;
            tracing::info!(peer = name, "deleted the Peer");
        }
        Ok(())
    }
}

fn take(machine: &mut Client, update: Update) {
    let now = now();
    match update {
        Update::Node(name, watched) => {
            let update = watched.map(|watched| NodeUpdate {
                node: watched.node,
                problems: watched.problems,
                forced: None,
            });
            machine.handle_node(&name, update, now);
        }
        Update::Heartbeat(name, last_seen) => machine.handle_heartbeat(&name, last_seen, now),
        Update::Peer(name, watched) => {
            let update = watched.map(|watched| PeerUpdate { peer: watched.peer, problems: watched.problems });
            machine.handle_peer(&name, update, now);
        }
        Update::SubnetObject(name, problems) => machine.handle_subnet_object(&name, problems, now),
        Update::Synced => machine.handle_watch(Watch::Synced, now),
        Update::Broken(problem) => machine.handle_watch(Watch::Broken(problem.message), now),
        Update::Access(problems) => machine.handle_access(problems),
    }
}
