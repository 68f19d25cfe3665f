//! The API that the agent sees, and the other nodes' kubelets and agents writing to it: each its heartbeat in every
//! interval, one after the other, evenly spread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use apiserver::{Counters, Server};
use serde_json::Value;

use super::{
    cluster::{Cluster, agent_heartbeat, kubelet_heartbeat, node_name, peer_object},
    host::Host,
};
use crate::{LabError, objects};

/// The API of one measurement.
pub struct Api {
    server: Server,
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Api {
    /// Serves the cluster's objects in the host's namespace. Nobody writes yet.
    ///
    /// # Errors
    /// When the address cannot be bound, or an object is refused.
    pub fn serve(host: &Host, cluster: &Cluster) -> Result<Self, LabError> {
        let server = Server::new();
        let unix = unix_now();
        let nodes = cluster.nodes().map(|node| cluster.node_object(node, unix));
        let peers = cluster.peers().map(peer_object);
        for object in objects::definitions()?.into_iter().chain(nodes).chain(peers) {
            apply(&server, object)?;
        }
        let listener = host.listen()?;
        listener.set_nonblocking(true).map_err(LabError::io("setting up the API's socket"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(LabError::io("starting the API"))?;
        let serving = server.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            serving.serve(listener).await
        });
        let (stop, beats) = Default::default();
        Ok(Self { server, stop, beats, threads: Vec::new(), runtime: Some(runtime) })
    }

    /// Lets all nodes beat once in every interval from now on.
    pub fn beat(&mut self, cluster: &Cluster, interval: Duration) {
        let (server, stop, beats) = (self.server.clone(), self.stop.clone(), self.beats.clone());
        let nodes: Vec<usize> = cluster.nodes().collect();
        self.threads.push(thread::spawn(move || {
            let begin = Instant::now();
            let pause = interval.div_f64(2.0 * nodes.len() as f64);
            for beat in 0u64.. {
                let due = begin + pause.mul_f64(beat as f64);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let node = nodes[(beat / 2) as usize % nodes.len()];
                let kubelet = beat % 2 == 0;
                if !kubelet && node == 0 {
                    continue;
                }
                let patch = if kubelet { kubelet_heartbeat(unix_now()) } else { agent_heartbeat(unix_now()) };
                // A node that is gone at this moment does not beat.
                if server.patch("nodes", &node_name(node), &patch).is_ok() {
                    beats.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }

    /// Heartbeats so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// What the server has done so far. Only the agent reaches it over HTTP.
    pub fn counters(&self) -> Counters {
        self.server.counters()
    }

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// When it is refused.
    pub fn apply(&self, object: Value) -> Result<(), LabError> {
        apply(&self.server, object)
    }

    /// Changes a node's annotation, or removes it.
    ///
    /// # Errors
    /// When it is refused.
    pub fn annotate(&self, node: usize, key: &str, value: Option<&str>) -> Result<(), LabError> {
        let patch = serde_json::json!({"metadata": {"annotations": {key: value}}});
        let refused = |status| refused("PATCH", &node_name(node), &status);
        self.server.patch("nodes", &node_name(node), &patch).map(drop).map_err(refused)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete(&self, resource: &str, name: &str) -> Result<(), LabError> {
        self.server.delete(resource, name).map_err(|status| refused("DELETE", name, &status))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that has panicked has said so.
            let _ = thread.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Seconds since 1970.
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

fn apply(server: &Server, object: Value) -> Result<(), LabError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    server.apply_object(object).map(drop).map_err(|status| refused("PUT", &name, &status))
}

fn refused(method: &str, name: &str, status: &apiserver::Status) -> LabError {
    LabError::Api { status: 0, method: method.into(), path: name.into(), message: status.to_string() }
}
