//! `kg webhook`: answers API servers whether a Peer may be stored.
//!
//! It composes: the Kubernetes watch feeds what is known of the cluster, `kubernetes::admission` judges, and here are
//! the flags, HTTP, and the beginning and end of it all.

mod answers;
mod certificate;
mod connections;
mod metrics;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use clap::Args;
use kubernetes::{ApiAccess, Credentials, WatchConfig, admission::Surroundings, connect, watch};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::listen_address;
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
    /// The kubeconfig file [default: the pod's service account].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where /validate and /health are served over TLS: ADDRESS:PORT or :PORT.
    #[arg(long, default_value = ":8443", value_parser = listen_address)]
    listen: SocketAddr,
    /// Where /metrics and /health are served without TLS: ADDRESS:PORT or :PORT.
    #[arg(long, default_value = ":1107", value_parser = listen_address)]
    listen_metrics: SocketAddr,
    /// The form of log lines.
    #[arg(long, default_value = "text", value_enum)]
    pub log_format: program::log::Format,
    /// Which log lines are written.
    #[arg(long, default_value = "info", value_enum)]
    pub log_level: program::log::Level,
    /// The URL of the Kubernetes API; overrides the kubeconfig's.
    #[arg(long, value_name = "URL")]
    master: Option<String>,
}

/// What all requests share.
struct Webhook {
    certificate: certificate::Shown,
    surroundings: Mutex<Surroundings>,
    metrics: Metrics,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the certificate, the credentials or an address cannot be used at the beginning.
pub async fn run(flags: Flags) -> Result<()> {
    let files = certificate::Files { certificate: flags.cert_file.clone(), key: flags.key_file.clone() };
    let webhook = Arc::new(Webhook {
        certificate: certificate::Shown::start(files)?,
        surroundings: Mutex::new(Surroundings::unknown("Nodes and Peers have not been read yet")),
        metrics: Metrics::new(),
    });
    webhook.show_certificate();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let follow_cluster = webhook.clone().follow_cluster(&flags).await?;
    let listener = connections::listen(flags.listen, "--listen").await?;
    let metrics_listener = connections::listen(flags.listen_metrics, "--listen-metrics").await?;
    let tls = connections::acceptor(webhook.clone())?;
    tracing::info!(
        address = %listener.local_addr()?,
        metrics = %metrics_listener.local_addr()?,
        not_after = %webhook.certificate.not_after(),
        "the webhook listens"
    );
    let end = async {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "ending");
    };
    tokio::select! {
        () = connections::serve(listener, tls, answers::reviews(webhook.clone()), end) => {}
        served = axum::serve(metrics_listener, answers::measurements(webhook.clone())) => served.context("the HTTP server has ended")?,
        () = webhook.certificate.follow(|| webhook.show_certificate()) => {}
        () = follow_cluster => {}
    }
    tracing::info!("ended");
    Ok(())
}

impl Webhook {
    /// Prepares to keep what is known of the cluster up to date; what comes of it does not end.
    ///
    /// Without an API there is still the shape of Peers to judge, as the Go implementation does, which needs no
    /// credentials. Only credentials that were asked for have to work.
    async fn follow_cluster(self: Arc<Self>, flags: &Flags) -> Result<impl Future<Output = ()> + use<>> {
        let user_agent = concat!("kg-webhook/", env!("CARGO_PKG_VERSION"));
        let access = ApiAccess::from_flags(flags.kubeconfig.clone(), flags.master.clone(), user_agent);
        let client = match connect(&access).await {
            Ok(client) => Some(client),
            Err(error) if access.credentials == Credentials::ServiceAccount => {
                tracing::warn!("overlaps with nodes and other Peers are not checked: {error}");
                *self.surroundings() = Surroundings::unknown(error.to_string());
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(async move {
            let Some(client) = client else { return std::future::pending().await };
            let config = WatchConfig {
                topology_label: kubernetes::annotations::REGION_LABEL.to_owned(),
                own_node: None,
            };
            let mut updates = watch(&client, config);
            let mut told = None;
            loop {
                let update = updates.next().await;
                self.surroundings().take(update);
                let gap = self.surroundings().gap().map(str::to_owned);
                self.metrics.overlaps_checked(gap.is_none());
                if gap != told {
                    match &gap {
                        None => tracing::info!("overlaps with nodes and other Peers are checked"),
                        Some(gap) => {
                            tracing::warn!("overlaps with nodes and other Peers are not checked: {gap}")
                        }
                    }
                    told = gap;
                }
            }
        })
    }

    fn show_certificate(&self) {
        self.metrics.certificate(self.certificate.not_after().as_second());
    }

    fn surroundings(&self) -> std::sync::MutexGuard<'_, Surroundings> {
        self.surroundings.lock().unwrap_or_else(PoisonError::into_inner)
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
