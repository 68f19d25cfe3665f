//! Follows in the background what this host depends on: which API servers and name servers there are, and on which way
//! each of them answers.

use std::{
    collections::BTreeSet,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use futures::future::join_all;
use kube::Client;
use kubernetes::{api_servers::api_servers, client::ApiAccess};
use program::Resolver;
use tokio::{sync::watch, task::JoinSet, time::interval};
use underlay::{Lifelines, State, Underlay};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(60);

/// In how many looks one asks the API where its servers are, which changes when one of them is replaced, and connects to
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
}

/// What this host depends on, as it is known now. It is followed for as long as this is there.
pub struct Followed {
    lifelines: watch::Receiver<Lifelines>,
    _task: JoinSet<()>,
}

impl Followed {
    /// Begins to look.
    pub fn of(sources: Sources) -> Self {
        let (sender, lifelines) = watch::channel(Lifelines::default());
        let mut task = JoinSet::new();
        let follower = Follower { sources, sender, named: BTreeSet::new(), servers: BTreeSet::new() };
        task.spawn(follower.follow());
        Self { lifelines, _task: task }
    }

    /// Waits until something else is known, and gives it.
    pub async fn changed(&mut self) -> Lifelines {
        if self.lifelines.changed().await.is_err() {
            // Only a panic ends the task, and what it has found out still holds.
            std::future::pending::<()>().await;
        }
        self.lifelines.borrow_and_update().clone()
    }
}

struct Follower {
    sources: Sources,
    sender: watch::Sender<Lifelines>,
    /// The addresses that the agent's own client may connect to.
    named: BTreeSet<SocketAddr>,
    /// Those of the servers themselves, which may be others.
    servers: BTreeSet<SocketAddr>,
}

impl Follower {
    async fn follow(mut self) {
        let mut times = interval(PERIOD);
        for look in (0..SELDOM).cycle() {
            self.telling(times.tick()).await;
            let seldom = look == 0;
            let found = self.telling(self.find(seldom)).await;
            (self.named, self.servers) = found;
            self.telling(self.probe(seldom)).await;
        }
    }

    /// The addresses of the API; what cannot be read is as it was before.
    async fn find(&self, seldom: bool) -> (BTreeSet<SocketAddr>, BTreeSet<SocketAddr>) {
        let named = kubernetes::client::addresses(&self.sources.access).await;
        let named = match named {
            Ok(addresses) => addresses.into_iter().collect(),
            Err(error) => {
                tracing::debug!("the addresses of the API are not known: {error}");
                self.named.clone()
            }
        };
        if !seldom && !self.servers.is_empty() {
            return (named, self.servers.clone());
        }
        let servers = api_servers(&self.sources.client).await.unwrap_or_else(|error| {
            tracing::debug!("the addresses of the API's servers are not known: {error}");
            self.servers.clone()
        });
        (named, servers)
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
        self.named.union(&self.servers)
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
        self.sender.send_if_modified(|told| {
            let other = *told != lifelines;
            *told = lifelines;
            other
        });
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
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(server.serve(listener));
        let access = ApiAccess::from_flags(None, Some(url), "kg-test");
        let underlay = Underlay::plain();
        let client = kubernetes::client::connect_over(&access, &underlay).await.unwrap();
        let mut followed = Followed::of(Sources { access, client, underlay, resolver: None });
        let told = tokio::time::timeout(Duration::from_secs(10), followed.changed()).await.unwrap();
        let unknown = |last| (IpAddr::from([203, 0, 113, last]), State::Unknown);
        assert_eq!(told.api, [unknown(1), unknown(2)].into());
        assert!(told.name_servers.is_empty());
    }
}
