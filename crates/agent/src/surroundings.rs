//! Follows in the background what this host depends on: which API servers and name servers there are, on which way each of
//! them answers, and where services are.

use std::{
    collections::BTreeSet,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use futures::future::join_all;
use hostnet::Lifeline;
use ipnet::IpNet;
use kube::Client;
use kubernetes::{api_servers::api_servers, client::ApiAccess, services::service_ranges};
use pace::Jitter;
use program::Resolver;
use reconciler::Surroundings;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use underlay::{Lifelines, State, Underlay, is_own};

/// How long the pause between two looks is, at least and at most: all agents of a cluster may start at the same moment, and
/// are not to ask at the same moments ever after.
const PAUSE: (Duration, Duration) = (Duration::from_secs(45), Duration::from_secs(75));

/// How long the start waits until it is known what answers without the mesh: what does, mostly does within a few
/// milliseconds.
const FIRST: Duration = Duration::from_millis(250);

/// In how many looks one asks the API where its servers and services are, which changes when one of them is replaced, and connects to
/// those that answer without the mesh, which the agent itself does whenever a connection ends.
const SELDOM: usize = 10;

/// Where to look.
pub struct Sources {
    /// The API as the agent knows it.
    pub access: ApiAccess,
    /// A client of it.
    pub client: Client,
    /// What finds out about addresses, also for others.
    pub underlay: Underlay,
    /// What knows the name servers; `None`: the host has none.
    pub resolver: Option<Resolver>,
    /// Where services are, as the operator says.
    pub service_cidrs: Vec<IpNet>,
}

/// What this host depends on, as it is known now. It is followed for as long as this is there.
pub struct Followed {
    found: watch::Receiver<Found>,
    _task: JoinSet<()>,
}

impl Followed {
    /// Begins to look.
    pub fn of(sources: Sources) -> Self {
        let (sender, found) = watch::channel(Found::default());
        let mut task = JoinSet::new();
        let follower = Follower { sources, sender, known: Known::default() };
        task.spawn(follower.follow());
        Self { found, _task: task }
    }

    /// What is known at the start, once everything has been asked, or after a moment.
    pub async fn first(&mut self) -> Surroundings {
        let complete = async { drop(self.found.wait_for(|found| found.complete).await) };
        let _ = tokio::time::timeout(FIRST, complete).await;
        self.found.borrow_and_update().surroundings.clone()
    }

    /// Waits until something else is known, and gives it.
    pub async fn changed(&mut self) -> Surroundings {
        if self.found.changed().await.is_err() {
            // Only a panic ends the task, and what it has found out still holds.
            std::future::pending::<()>().await;
        }
        self.found.borrow_and_update().surroundings.clone()
    }
}

/// What a look found, as the agent reports it.
#[derive(Clone, Default, PartialEq)]
struct Found {
    surroundings: Surroundings,
    /// Whether everything has been asked at least once.
    complete: bool,
}

/// What has been found out.
#[derive(Clone, Default)]
struct Known {
    /// The addresses that the agent's own client may connect to.
    named: BTreeSet<SocketAddr>,
    /// Those of the servers themselves, which may be others.
    servers: BTreeSet<SocketAddr>,
    services: Vec<IpNet>,
    /// Whether the API has been asked for these two.
    asked: bool,
}

struct Follower {
    sources: Sources,
    sender: watch::Sender<Found>,
    known: Known,
}

impl Follower {
    async fn follow(mut self) {
        // Without waiting for anything: the first report says where the API is.
        self.known.named = self.named().await;
        let mut jitter = Jitter::of(&rand::random::<[u8; 8]>());
        for look in (0..SELDOM).cycle() {
            let seldom = look == 0;
            self.known.named = self.named().await;
            self.tell();
            if seldom || self.known.servers.is_empty() {
                let (servers, services) = self.telling(self.ask()).await;
                (self.known.servers, self.known.services) = (servers, services);
                self.known.asked = true;
            }
            self.telling(self.probe(seldom)).await;
            self.telling(sleep(jitter.between(PAUSE.0, PAUSE.1))).await;
        }
    }

    /// Where the credentials say that the API is; what cannot be read is as it was before.
    async fn named(&self) -> BTreeSet<SocketAddr> {
        match kubernetes::client::addresses(&self.sources.access).await {
            Ok(addresses) => addresses.into_iter().collect(),
            Err(error) => {
                tracing::debug!("the addresses of the API are not known: {error}");
                self.known.named.clone()
            }
        }
    }

    /// Where the API says that its servers and the cluster's services are; what it does not say is as it was before.
    async fn ask(&self) -> (BTreeSet<SocketAddr>, Vec<IpNet>) {
        let client = &self.sources.client;
        let (servers, services) = tokio::join!(api_servers(client), service_ranges(client));
        let servers = servers.unwrap_or_else(|error| {
            tracing::debug!("the addresses of the API's servers are not known: {error}");
            self.known.servers.clone()
        });
        let services = services.unwrap_or_else(|error| {
            tracing::debug!("where services are is not known: {error}");
            None
        });
        (servers, services.unwrap_or_else(|| self.known.services.clone()))
    }

    async fn probe(&self, seldom: bool) {
        let underlay = &self.sources.underlay;
        let due = |address: &&SocketAddr| seldom || underlay.state(address.ip()) != State::Underlay;
        let api = self.api().filter(due).map(|address| underlay.probe(*address));
        let name_servers = async {
            if let Some(resolver) = &self.sources.resolver {
                resolver.probe().await;
            }
        };
        tokio::join!(join_all(api), name_servers);
    }

    fn api(&self) -> impl Iterator<Item = &SocketAddr> {
        self.known.named.union(&self.known.servers)
    }

    /// Waits for something, and tells what becomes known meanwhile.
    async fn telling<T>(&self, work: impl Future<Output = T>) -> T {
        let mut changes = self.sources.underlay.subscribe();
        let mut work = pin!(work);
        loop {
            self.tell();
            tokio::select! {
                done = &mut work => return done,
                changed = changes.changed() => changed.unwrap_or_default(),
            }
        }
    }

    fn tell(&self) {
        let name_servers = self.sources.resolver.as_ref().map(Resolver::name_servers).unwrap_or_default();
        let api = self.api().map(SocketAddr::ip).collect::<BTreeSet<IpAddr>>();
        let lifelines = Lifelines::of(&self.sources.underlay, api, name_servers);
        let mut surroundings = surroundings(&lifelines, &self.known.services, &self.sources.service_cidrs);
        // Something on this host, such as k3s' load balancer, asks a server for us, and does not say which.
        if self.known.named.iter().any(|address| is_own(address.ip())) {
            surroundings.api_servers.clear();
        }
        let complete = self.known.asked && lifelines.are_known();
        let found = Found { surroundings, complete };
        self.sender.send_if_modified(|told| {
            let other = *told != found;
            if other {
                tracing::debug!(?lifelines, services = ?self.known.services, "what this host depends on");
            }
            *told = found;
            other
        });
    }
}

fn surroundings(lifelines: &Lifelines, services: &[IpNet], configured: &[IpNet]) -> Surroundings {
    let protected = lifelines.protected();
    let kind = |address: &IpAddr| match lifelines.api.contains_key(address) {
        true => Lifeline::ApiServer,
        false => Lifeline::NameServer,
    };
    // A service stands for servers, and does not say which.
    let of_service = |address: &IpAddr| services.iter().chain(configured).any(|net| net.contains(address));
    Surroundings {
        lifelines: protected.iter().map(|address| (*address, kind(address))).collect(),
        api_servers: lifelines.api.keys().filter(|address| !of_service(address)).copied().collect(),
        services: services.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_the_cluster_publishes_of_its_api_is_followed_without_the_stand_in_on_this_host() {
        let server = apiserver::Server::new();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": "kubernetes", "namespace": "default" }, "addressType": "IPv4",
            "endpoints": [{ "addresses": ["203.0.113.1"] }, { "addresses": ["203.0.113.2"] }],
            "ports": [{ "port": 6443 }],
        });
        server.apply_object(slice).unwrap();
        let range = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ["10.43.0.0/16"] },
        });
        server.apply_object(range).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(server.serve(listener));
        let access = ApiAccess::from_flags(None, Some(url), "kg-test");
        let underlay = Underlay::plain();
        let client = kubernetes::client::connect_over(&access, &underlay).await.unwrap();
        let mut followed =
            Followed::of(Sources { access, client, underlay, resolver: None, service_cidrs: Vec::new() });
        let expected = Surroundings {
            lifelines: Default::default(),
            // The agent itself asks an address of this host.
            api_servers: BTreeSet::new(),
            services: vec!["10.43.0.0/16".parse().unwrap()],
        };
        let told = async {
            loop {
                let told = followed.changed().await;
                if told == expected {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), told).await.expect("all is known within ten seconds");
    }

    /// A virtual address of a server is no place where a server is.
    #[test]
    fn what_stands_for_servers_is_none() {
        let at = |last: u8| IpAddr::from([10, 43, 0, last]);
        let server = IpAddr::from([192, 0, 2, 1]);
        let lifelines = Lifelines {
            api: [(at(1), State::Underlay), (server, State::Mesh)].into(),
            name_servers: [(at(10), State::Silent), (IpAddr::from([192, 0, 2, 53]), State::Unknown)].into(),
        };
        let found = surroundings(&lifelines, &[], &["10.43.0.0/16".parse().unwrap()]);
        assert_eq!(found.api_servers, [server].into());
        assert_eq!(found.lifelines, [(at(1), Lifeline::ApiServer)].into());
    }
}
