//! What is known of the cluster, kept up to date by a watch.
//!
//! Without an API there is still the shape of Peers to judge, as the Go implementation does, which needs no credentials.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use kubernetes::{
    ApiAccess, Credentials, PodCidrSource, WatchConfig, admission::Surroundings, connect, watch,
};
use tokio::{sync::Notify, task::JoinSet};

use super::metrics::Metrics;

/// How long the first list may keep others waiting. An API server asks for nothing while nobody listens, and what it
/// asks for before all is known is answered without what is not.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// The nodes and peers of the cluster.
pub struct Cluster {
    /// Whoever judges by it takes a share and goes on with that, so nobody waits for anybody.
    surroundings: Mutex<Arc<Surroundings>>,
    /// Told when it is known for the first time whether the cluster can be read.
    settled: Notify,
    pod_cidr_source: PodCidrSource,
}

impl Cluster {
    /// Nothing is known yet.
    pub fn new(pod_cidr_source: PodCidrSource) -> Self {
        let surroundings = Surroundings::unknown("Nodes and Peers have not been read yet");
        Self { surroundings: Mutex::new(Arc::new(surroundings)), settled: Notify::new(), pod_cidr_source }
    }

    /// What is known now.
    pub fn surroundings(&self) -> Arc<Surroundings> {
        self.surroundings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Surroundings)) {
        let mut shared = self.surroundings.lock().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut shared));
    }

    /// Begins to follow the cluster, until `tasks` is dropped.
    ///
    /// # Errors
    /// When the credentials that were asked for cannot be used. A pod that has none does without.
    pub async fn follow(
        self: &Arc<Self>,
        access: &ApiAccess,
        metrics: Metrics,
        tasks: &mut JoinSet<()>,
    ) -> Result<()> {
        match connect(access).await {
            Ok(client) => {
                let cluster = self.clone();
                tasks.spawn(async move { cluster.take_updates(&client, &metrics).await });
                Ok(())
            }
            Err(error) if access.credentials == Credentials::ServiceAccount => {
                tracing::warn!("overlaps with nodes and other Peers are not checked: {error}");
                self.change(|surroundings| *surroundings = Surroundings::unknown(error.to_string()));
                self.settled.notify_one();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until Nodes and Peers are known, or why they are not, or it takes too long.
    pub async fn settled(&self) {
        // Both outcomes are told in the log and in every answer.
        let _ = tokio::time::timeout(FIRST_LIST, self.settled.notified()).await;
    }

    async fn take_updates(&self, client: &kube::Client, metrics: &Metrics) {
        let topology_label = kubernetes::annotations::REGION_LABEL.to_owned();
        let pod_cidr_source = self.pod_cidr_source;
        let mut updates = watch(client, WatchConfig { topology_label, own_node: None, pod_cidr_source });
        let mut told = self.gap();
        loop {
            let update = updates.next().await;
            self.change(|surroundings| surroundings.take(update));
            let gap = self.gap();
            if gap == told {
                continue;
            }
            metrics.overlaps_checked(gap.is_none());
            match &gap {
                None => tracing::info!("overlaps with nodes and other Peers are checked"),
                Some(gap) => tracing::warn!("overlaps with nodes and other Peers are not checked: {gap}"),
            }
            told = gap;
            self.settled.notify_one();
        }
    }

    fn gap(&self) -> Option<String> {
        self.surroundings().gap().map(str::to_owned)
    }
}
