//! A client of the Kubernetes API: from a kubeconfig, a service account or an address.
//!
//! Nothing is asked of the API here but whether it [answers]; else that is seen by whoever uses the client.

mod address;
mod connector;
mod ending;
mod expiry;
mod files;
mod generation;
mod identity;
mod kubeconfig;
mod loading;
mod plugin;
mod proxy;
mod renewal;
mod settings;
mod stack;
mod status;
mod tls;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use http::{HeaderValue, Request, header::USER_AGENT};
use kube::{
    Client,
    client::{Body, ClientBuilder},
};
use tower::{ServiceBuilder, util::AndThenLayer};
use underlay::Underlay;

use self::{renewal::Renewing, settings::Settings};
use crate::{Error, explain::chain};

pub(crate) use self::renewal::NoCredentials;
pub use self::tls::provider as tls_provider;

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

/// Whether programs may be run that a kubeconfig names to give credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugins {
    /// They are run, as by `kubectl`.
    Run,
    /// A kubeconfig that needs one is refused.
    Refused,
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
    /// Whether a kubeconfig may have programs run.
    pub plugins: Plugins,
}

impl ApiAccess {
    /// What an agent's flags `--kubeconfig` and `--master` mean: the file; without it, nobody at the address;
    /// without both, the service account. An empty value is as good as none. No programs are run.
    pub fn from_flags(kubeconfig: Option<PathBuf>, master: Option<String>, user_agent: &str) -> Self {
        let kubeconfig = kubeconfig.filter(|path| !path.as_os_str().is_empty());
        let master = master.filter(|url| !url.is_empty());
        let credentials = match (kubeconfig, &master) {
            (Some(path), _) => Credentials::Kubeconfig(path),
            (None, Some(_)) => Credentials::Anonymous,
            (None, None) => Credentials::ServiceAccount,
        };
        Self { credentials, master, user_agent: user_agent.to_owned(), plugins: Plugins::Refused }
    }
}

/// Prepares a client. It connects with the first request, on the routes that everything else has. When files that the
/// access names change, it goes on with what they hold then.
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
    let renewing = Renewing::new(access, underlay).await?;
    let namespace = renewing.namespace().await;
    let name = HeaderValue::from_str(&access.user_agent).ok();
    let service = ServiceBuilder::new()
        .map_request(move |mut request: Request<Body>| {
            request.headers_mut().extend(name.clone().map(|name| (USER_AGENT, name)));
            request
        })
        .layer(AndThenLayer::new(status::complete))
        .service(renewing);
    Ok(ClientBuilder::new(service, namespace).build())
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

/// The addresses to which a client connects: those of the API as the credentials, or the address that was given, name it,
/// or those of the proxy that leads there.
///
/// # Errors
/// When the credentials cannot be used, or the name is not resolved.
pub async fn addresses(access: &ApiAccess) -> Result<Vec<SocketAddr>, Error> {
    let transport = renewal::settings(access, Settings::again).await?.transport;
    let url = transport.proxy.map_or(transport.server, |proxy| proxy.url);
    connector::addresses(&url)
        .await
        .map_err(|error| Error::Client { url: url.to_string(), why: chain(&error) })
}
