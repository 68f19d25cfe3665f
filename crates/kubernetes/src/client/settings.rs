//! What a client is made of: everything that the credentials name, read and decoded. Two settings that are equal make
//! the same connections and the same requests.

use std::{
    env, iter,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::Uri;
use zeroize::Zeroizing;

use super::{
    ApiAccess, Credentials, Plugins, address,
    expiry::Expiry,
    files::is_special,
    identity::Identity,
    kubeconfig::{Cluster, Exec, User, read},
    loading::{self, Chosen},
    proxy::{Environment, Proxy},
};
use crate::Error;

/// Where the kubelet puts what a pod's service account is.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// All of it.
pub(super) struct Settings {
    pub namespace: String,
    pub transport: Transport,
    pub identity: Identity,
    /// A program that adds to the identity or to the transport.
    pub plugin: Option<Plugin>,
    /// What was read, and what would have been, had it been there.
    pub files: Vec<PathBuf>,
    /// What ends by itself.
    pub expiries: Vec<Expiry>,
    /// There are credentials that are not sent, because there is no TLS.
    pub withheld: bool,
}

/// What connections depend on.
#[derive(Clone, PartialEq)]
pub(super) struct Transport {
    pub server: Uri,
    pub trust: Trust,
    /// The name in the server's certificate, where it is not the server's.
    pub server_name: Option<String>,
    pub certificate: Option<ClientCertificate>,
    pub proxy: Option<Proxy>,
}

/// Which certificates of servers are good.
#[derive(Clone, PartialEq)]
pub(super) enum Trust {
    /// Those of the authorities that this system knows.
    System,
    /// These, and those of these authorities, as PEM.
    Authorities { pem: Vec<u8>, source: String },
    /// All.
    Anything,
}

/// A client's certificate with its key, as PEM. It has no `Debug`.
#[derive(Clone, PartialEq)]
pub(super) struct ClientCertificate {
    pub chain: Vec<u8>,
    pub key: Zeroizing<Vec<u8>>,
    /// Where both are from, for example `/etc/kubernetes/pki/admin.crt`.
    pub source: (String, String),
}

/// An exec plugin and what it is given.
#[derive(Clone, PartialEq)]
pub(super) struct Plugin {
    pub exec: Exec,
    /// The cluster, for those that ask for it, as `ExecCredential` has it.
    pub cluster: Option<serde_json::Value>,
}

impl Settings {
    /// Reads all that the access names. Nothing is run, and nothing is asked of the network.
    ///
    /// # Errors
    /// What is missing or makes no sense.
    pub fn of(access: &ApiAccess) -> Result<Self, Error> {
        let master = access.master.as_deref();
        if let Some(url) = master {
            address::server(url).map_err(|why| Error::Address { url: address::without_login(url), why })?;
        }
        let mut settings = match &access.credentials {
            Credentials::Kubeconfig(path) => {
                let wrong = |why| Error::Kubeconfig { path: path.clone(), why };
                let chosen = loading::load_one(path, master).map_err(wrong)?;
                Self::chosen(chosen, vec![path.clone()], access.plugins).map_err(wrong)?
            }
            Credentials::UserKubeconfig => Self::user(master, access.plugins)?,
            Credentials::ServiceAccount => Self::service_account().map_err(Error::NotInCluster)?,
            Credentials::Anonymous => Self::anonymous(master.unwrap_or_default())
                .map_err(|_| Error::Address { url: String::new(), why: "there is none".to_owned() })?,
        };
        if settings.transport.proxy.is_none() {
            let server = &settings.transport.server;
            let proxy = Environment::read().proxy(server);
            settings.transport.proxy = proxy.map_err(|why| Error::Client { url: server.to_string(), why })?;
        }
        Ok(settings)
    }

    /// The same, later: what is no file is not read, because that can take for ever.
    ///
    /// # Errors
    /// As those of [`Settings::of`].
    pub fn again(access: &ApiAccess) -> Result<Self, Error> {
        match &access.credentials {
            Credentials::Kubeconfig(path) if is_special(path) => Err(Error::Kubeconfig {
                path: path.clone(),
                why: "it is no regular file, and so is read only at the start; put a file there".to_owned(),
            }),
            _ => Self::of(access),
        }
    }

    fn user(master: Option<&str>, plugins: Plugins) -> Result<Self, Error> {
        let files = loading::user_files();
        if let Some(chosen) = loading::load_all(&files, master).map_err(Error::UserKubeconfig)? {
            return Self::chosen(chosen, files, plugins).map_err(Error::UserKubeconfig);
        }
        // As kubectl, in a pod.
        Self::service_account().map_err(|_| {
            let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
            Error::UserKubeconfig(format!(
                "there is no {}; give a file that is there with --kubeconfig",
                files.join(" and no ")
            ))
        })
    }

    fn chosen(chosen: Chosen, mut files: Vec<PathBuf>, plugins: Plugins) -> Result<Self, String> {
        let Chosen { cluster, user, namespace } = chosen;
        let (server, login) = address::server(&cluster.server).map_err(|why| {
            let url = address::without_login(&cluster.server);
            format!("its cluster url {url:?} makes no sense: {why}; correct it")
        })?;
        // What cannot be read is wrong also where it is not needed.
        let (trust, certificate) = (trust(&cluster)?, certificate(&user)?);
        let read =
            [&cluster.certificate_authority, &user.client_certificate, &user.client_key, &user.token_file];
        files.extend(read.into_iter().filter(|path| !path.as_os_str().is_empty()).cloned());
        let proxy = Some(&cluster.proxy_url).filter(|url| !url.is_empty());
        let proxy = proxy.map(|url| Proxy::of_kubeconfig(url)).transpose()?;
        let server_name = Some(&cluster.tls_server_name).filter(|name| !name.is_empty()).cloned();
        let (shown, certificate, withheld) = disclosed(&server, &user, certificate);
        let plugin = plugin(&cluster, &shown, plugins)?;
        let mut identity = Identity::of(&shown)?;
        identity.log_in(login);
        let expiries = expiries(certificate.as_ref(), &identity);
        let transport = Transport { server, trust, server_name, certificate, proxy };
        let namespace = if namespace.is_empty() { "default".to_owned() } else { namespace };
        Ok(Self { namespace, transport, identity, plugin, files, expiries, withheld })
    }

    fn service_account() -> Result<Self, String> {
        let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let (server, _) = address::server(&format!("https://{host}:{port}"))
            .map_err(|why| format!("KUBERNETES_SERVICE_HOST and _PORT make no sense: {why}"))?;
        let folder = Path::new(SERVICE_ACCOUNT);
        let [token, authority, namespace] = ["token", "ca.crt", "namespace"].map(|name| folder.join(name));
        let identity = Identity::of(&User { token_file: token.clone(), ..User::default() })?;
        let trust = Trust::Authorities { pem: read(&authority)?, source: authority.display().to_string() };
        let namespace = String::from_utf8_lossy(&read(&namespace)?).trim().to_owned();
        let expiries = expiries(None, &identity);
        let transport = Transport { server, trust, server_name: None, certificate: None, proxy: None };
        let files = vec![token, authority];
        Ok(Self { namespace, transport, identity, plugin: None, files, expiries, withheld: false })
    }

    fn anonymous(master: &str) -> Result<Self, String> {
        let (server, login) = address::server(master)?;
        let mut identity = Identity::default();
        identity.log_in(login);
        let transport =
            Transport { server, trust: Trust::System, server_name: None, certificate: None, proxy: None };
        Ok(Self {
            namespace: "default".to_owned(),
            transport,
            identity,
            plugin: None,
            files: Vec::new(),
            expiries: Vec::new(),
            withheld: false,
        })
    }
}

/// What of a user a server gets to see, and whether something is withheld: as client-go, without TLS credentials are not
/// sent to where everybody can read them.
fn disclosed(
    server: &Uri,
    user: &User,
    certificate: Option<ClientCertificate>,
) -> (User, Option<ClientCertificate>, bool) {
    if server.scheme_str() == Some("https") {
        return (user.clone(), certificate, false);
    }
    let shown = User {
        as_user: user.as_user.clone(),
        as_uid: user.as_uid.clone(),
        as_groups: user.as_groups.clone(),
        as_user_extra: user.as_user_extra.clone(),
        ..User::default()
    };
    let withheld = certificate.is_some()
        || user.exec.is_some()
        || !user.token_file.as_os_str().is_empty()
        || [&user.token, &user.username, &user.password].iter().any(|text| !text.is_empty());
    (shown, None, withheld)
}

fn plugin(cluster: &Cluster, user: &User, plugins: Plugins) -> Result<Option<Plugin>, String> {
    let Some(exec) = user.exec.clone() else { return Ok(None) };
    if plugins == Plugins::Refused {
        return Err(format!(
            "its user takes credentials from the program {}, and an agent starts no programs; give it a kubeconfig with \
             a certificate or a token, such as the kubelet's, or run it with a service account",
            exec.command.display()
        ));
    }
    let cluster = exec.provide_cluster_info.then(|| super::plugin::cluster_info(cluster)).transpose()?;
    Ok(Some(Plugin { exec, cluster }))
}

fn trust(cluster: &Cluster) -> Result<Trust, String> {
    if cluster.insecure_skip_tls_verify {
        return Ok(Trust::Anything);
    }
    let found =
        data("certificate-authority", &cluster.certificate_authority_data, &cluster.certificate_authority)?;
    Ok(found.map_or(Trust::System, |(pem, source)| Trust::Authorities { pem, source }))
}

fn certificate(user: &User) -> Result<Option<ClientCertificate>, String> {
    let chain = data("client-certificate", &user.client_certificate_data, &user.client_certificate)?;
    let key = data("client-key", &user.client_key_data, &user.client_key)?;
    let pair = chain.zip(key);
    Ok(pair.map(|((chain, chain_source), (key, key_source))| ClientCertificate {
        chain,
        key: Zeroizing::new(key),
        source: (chain_source, key_source),
    }))
}

/// What a field holds, in base64 or by the name of a file, and where it is from.
pub(super) fn data(field: &str, base64: &str, path: &Path) -> Result<Option<(Vec<u8>, String)>, String> {
    if !base64.is_empty() {
        let text: String = base64.split_whitespace().collect();
        let bytes = BASE64_STANDARD.decode(text);
        let bytes = bytes.map_err(|error| format!("its {field}-data is not base64: {error}; correct it"))?;
        return Ok(Some((bytes, format!("{field}-data"))));
    }
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let bytes = read(path).map_err(|why| format!("{why}; that is its {field}"))?;
    Ok(Some((bytes, path.display().to_string())))
}

fn expiries(certificate: Option<&ClientCertificate>, identity: &Identity) -> Vec<Expiry> {
    let certificate =
        certificate.and_then(|certificate| Expiry::of_certificate(&certificate.chain, &certificate.source.0));
    certificate.into_iter().chain(iter::once(identity.expiry()).flatten()).collect()
}
