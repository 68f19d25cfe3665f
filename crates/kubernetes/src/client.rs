//! A client of the Kubernetes API: from a kubeconfig, a service account or an address.
//!
//! Nothing is asked of the API here but whether it [answers]; else that is seen by whoever uses the client.

mod connector;
mod retry_after;
mod stack;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use http::{HeaderValue, Request, Uri, header::USER_AGENT};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use underlay::Underlay;

use crate::{Error, explain::chain};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Who to be towards the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// As this kubeconfig file says.
    Kubeconfig(PathBuf),
    /// As the user's own kubeconfig says: the files of `$KUBECONFIG`, else `~/.kube/config`.
    UserKubeconfig,
    /// The service account of the pod this runs in.
    ServiceAccount,
    /// Nobody; for an API that asks for no credentials.
    Anonymous,
}

/// Where the API is and who to be towards it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAccess {
    /// Who to be. A kubeconfig says where the API is, too.
    pub credentials: Credentials,
    /// The address of the API, instead of the one that goes with the credentials.
    pub master: Option<String>,
    /// What to call ourselves in the logs of the API, for example `kg/0.1.0`.
    pub user_agent: String,
}

impl ApiAccess {
    /// What an agent's flags `--kubeconfig` and `--master` mean: the file; without it, nobody at the address;
    /// without both, the service account. An empty value is as good as none.
    pub fn from_flags(kubeconfig: Option<PathBuf>, master: Option<String>, user_agent: &str) -> Self {
        let kubeconfig = kubeconfig.filter(|path| !path.as_os_str().is_empty());
        let master = master.filter(|url| !url.is_empty());
        let credentials = match (kubeconfig, &master) {
            (Some(path), _) => Credentials::Kubeconfig(path),
            (None, Some(_)) => Credentials::Anonymous,
            (None, None) => Credentials::ServiceAccount,
        };
        Self { credentials, master, user_agent: user_agent.to_owned() }
    }
}

/// Prepares a client. It connects with the first request, on the routes that everything else has.
///
/// # Errors
/// When a file is missing or makes no sense, or this is no pod, or the address or certificates are wrong.
///
/// # Panics
/// Outside of a Tokio runtime: the client needs one from the beginning.
pub async fn connect(access: &ApiAccess) -> Result<Client, Error> {
    connect_over(access, &Underlay::plain()).await
}

/// Prepares a client that connects over the underlay where that leads to the API.
///
/// # Errors
/// As those of [`connect`].
///
/// # Panics
/// As [`connect`].
pub async fn connect_over(access: &ApiAccess, underlay: &Underlay) -> Result<Client, Error> {
    // TLS needs a cryptography provider; when there is one already, that one is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = config(access).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    // Watches and requests have their own timeouts for silence. One for each read of a connection would be armed and
    // disarmed with every event, which wakes the runtime twice more: a third of what a heartbeat costs in all.
    config.read_timeout = None;
    if let Ok(name) = HeaderValue::from_str(&access.user_agent) {
        config.headers.push((USER_AGENT, name));
    }
    // Without a CA of its own the client wants the system's, even where nothing is encrypted, and a minimal system
    // has none.
    if config.cluster_url.scheme_str() == Some("http") && config.root_cert.is_none() {
        config.root_cert = Some(Vec::new());
    }
    let url = config.cluster_url.to_string();
    stack::client(config, underlay).map_err(|error| {
        let proxy = matches!(error, kube::Error::ProxyProtocolDisabled { .. });
        let advice = if proxy { "; proxies are not supported, unset proxy-url and HTTPS_PROXY" } else { "" };
        Error::Client { url, why: format!("{}{advice}", chain(&error)) }
    })
}

/// Whether the API answers now, on a new connection: for whoever doubts that it is still reached. Any answer will do,
/// also one that refuses, unless it says that the API is not able to do its work.
///
/// # Errors
/// Why it does not.
pub async fn answers(access: &ApiAccess, underlay: &Underlay, within: Duration) -> Result<(), String> {
    let asked = async {
        let client = connect_over(access, underlay).await.map_err(|error| error.to_string())?;
        let request = Request::get("/version").body(Body::empty()).map_err(|error| error.to_string())?;
        let answer = client.send(request).await.map_err(|error| chain(&error))?;
        let status = answer.status();
        if status.is_server_error() { Err(format!("the API server answered {status}")) } else { Ok(()) }
    };
    match tokio::time::timeout(within, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("the API server gave no answer for {within:?}")),
    }
}

/// The addresses of the API as the credentials, or the address that was given, name it.
///
/// # Errors
/// When the credentials cannot be used, or the name is not resolved.
pub async fn addresses(access: &ApiAccess) -> Result<Vec<SocketAddr>, Error> {
    let url = config(access).await?.cluster_url;
    connector::addresses(&url)
        .await
        .map_err(|error| Error::Client { url: url.to_string(), why: chain(&error) })
}

async fn config(access: &ApiAccess) -> Result<Config, Error> {
    let master = access.master.as_deref().map(address).transpose()?;
    let mut config = match &access.credentials {
        Credentials::Kubeconfig(path) => {
            let error = |error: &KubeconfigError| Error::Kubeconfig { path: path.clone(), why: why(error) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(|e| error(&e))?;
            from_kubeconfig(kubeconfig).await.map_err(|e| error(&e))?
        }
        Credentials::UserKubeconfig => {
            let error = |error: &KubeconfigError| Error::UserKubeconfig(why(error));
            let kubeconfig = Kubeconfig::read().map_err(|e| error(&e))?;
            from_kubeconfig(kubeconfig).await.map_err(|e| error(&e))?
        }
        Credentials::ServiceAccount => {
            Config::incluster().map_err(|error| Error::NotInCluster(chain(&error)))?
        }
        Credentials::Anonymous => {
            let missing = || Error::Address { url: String::new(), why: "there is none".to_owned() };
            Config::new(master.clone().ok_or_else(missing)?)
        }
    };
    if let Some(url) = master {
        config.cluster_url = url;
    }
    Ok(config)
}

async fn from_kubeconfig(kubeconfig: Kubeconfig) -> Result<Config, KubeconfigError> {
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

/// `HOST:PORT` without a scheme means plain HTTP, as for `kubectl`.
fn address(url: &str) -> Result<Uri, Error> {
    let refused = |why: &str| Error::Address { url: url.to_owned(), why: why.to_owned() };
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = whole.parse().map_err(|error: http::uri::InvalidUri| refused(&error.to_string()))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        Some("http" | "https") => Err(refused("there is no host in it")),
        _ => Err(refused("it is neither http nor https")),
    }
}

fn why(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(cause, path) => {
            format!("reading {}: {cause}; give a file that is there with --kubeconfig", path.display())
        }
        KubeconfigError::CurrentContextNotSet => {
            "it has no current-context; choose one with kubectl config use-context NAME".to_owned()
        }
        KubeconfigError::LoadContext(name) => format!(
            "its current-context {name:?} is not among its contexts; choose one of kubectl config get-contexts"
        ),
        KubeconfigError::LoadClusterOfContext(name) => {
            format!(
                "its context uses the cluster {name:?}, which is not among its clusters; add it or choose another"
            )
        }
        KubeconfigError::MissingClusterUrl => {
            "its cluster has no server; add the address of the API".to_owned()
        }
        other => format!("{}; correct the file", chain(other)),
    }
}
