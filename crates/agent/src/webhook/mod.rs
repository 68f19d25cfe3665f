//! `kg webhook`: answers API servers whether a Peer may be stored.
//!
//! It composes: the Kubernetes watch feeds what is known of the cluster, `kubernetes::admission` judges, and here are
//! the flags, HTTP, and the beginning and end of it all.

mod answers;
mod certificate;
mod cluster;
mod desk;
mod metrics;

use std::{net::SocketAddr, path::PathBuf, pin::pin, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;
use kubernetes::ApiAccess;
use program::flags::PodCidrSource;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    cli::listen_address,
    serve::{Limits, Seldom, Server, listen},
};
use cluster::Cluster;
use desk::Desk;
use metrics::Metrics;

/// The flags of `kg webhook`.
#[derive(Args, Debug)]
pub struct Flags {
    /// The TLS certificate, and those that lead from it to its authority, in PEM. It is read again when it changes.
    #[arg(long, value_name = "FILE")]
    cert_file: PathBuf,
    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// The kubeconfig file; it and the files that it names are read again when they change [default: the pod's service
    /// account].
    #[arg(long, value_name = "FILE", value_parser = program::flags::path)]
    kubeconfig: Option<PathBuf>,
    /// Where /validate and /health are served over TLS: ADDRESS:PORT or :PORT.
    #[arg(long, default_value = ":8443", value_parser = listen_address, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where /metrics and /health are served without TLS: ADDRESS:PORT or :PORT.
    #[arg(long, default_value = ":1107", value_parser = listen_address, value_name = "ADDRESS")]
    listen_metrics: SocketAddr,
    /// The URL of the Kubernetes API; overrides the kubeconfig's.
    #[arg(long, value_name = "URL")]
    master: Option<String>,
    /// Where the pod subnets of nodes come from, as the agents have it; auto: the Node's spec.podCIDRs.
    #[arg(long, default_value = "auto", value_enum, value_name = "SOURCE")]
    pod_cidr_source: PodCidrSource,
}

/// What all requests share.
struct Webhook {
    certificate: certificate::Shown,
    cluster: Arc<Cluster>,
    desk: Desk,
    metrics: Metrics,
    /// Requests that could not be answered. Anybody can make many.
    failures: Seldom,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the certificate, the credentials or an address cannot be used at the beginning.
pub async fn run(flags: Flags) -> Result<()> {
    let mut end = pin!(signalled()?);
    let files = certificate::Files { certificate: flags.cert_file, key: flags.key_file };
    let webhook = Arc::new(Webhook {
        certificate: certificate::Shown::start(files)?,
        cluster: Arc::new(Cluster::new(flags.pod_cidr_source.named().unwrap_or_default())),
        desk: Desk::default(),
        metrics: Metrics::new(),
        failures: Seldom::default(),
    });
    webhook.show_certificate();
    let user_agent = concat!("kg-webhook/", env!("CARGO_PKG_VERSION"));
    let access = ApiAccess::from_flags(flags.kubeconfig, flags.master, user_agent);
    let mut tasks = JoinSet::new();
    webhook.cluster.follow(&access, webhook.metrics.clone(), &mut tasks).await?;
    tokio::select! {
        () = &mut end => return Ok(()),
        () = webhook.cluster.settled() => {}
    }
    let listener = listen(flags.listen, "--listen").await?;
    let metrics_listener = listen(flags.listen_metrics, "--listen-metrics").await?;
    let reviews = Server::tls(answers::reviews(webhook.clone()), Limits::default(), webhook.clone())?;
    let measurements = Server::plain(answers::measurements(webhook.clone()), Limits::default());
    tracing::info!(
        address = %listener.local_addr()?,
        metrics = %metrics_listener.local_addr()?,
        not_after = %webhook.certificate.not_after(),
        "the webhook listens"
    );
    tokio::select! {
        () = reviews.serve(listener, end) => {}
        () = measurements.serve(metrics_listener, std::future::pending()) => {}
        () = webhook.certificate.follow(|| webhook.show_certificate()) => {}
    }
    tracing::info!("ended");
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
fn signalled() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "ending");
    })
}

impl Webhook {
    fn show_certificate(&self) {
        self.metrics.certificate(self.certificate.not_after().as_second());
    }
}

impl rustls::server::ResolvesServerCert for Webhook {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.certificate.resolve(hello)
    }
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
