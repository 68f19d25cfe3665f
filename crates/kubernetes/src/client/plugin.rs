//! Runs exec plugins: programs that give credentials, as `aws eks get-token` does
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>).

use std::{
    io::{self, IsTerminal as _},
    process::Stdio,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::{
    kubeconfig::{Cluster, Exec, without_values},
    settings::{ClientCertificate, Plugin, data},
};

/// Where a cluster of a kubeconfig keeps what is for plugins.
const EXTENSION: &str = "client.authentication.k8s.io/exec";

/// What a plugin gave. It has no `Debug`.
pub(super) struct Credential {
    pub token: Option<String>,
    pub certificate: Option<ClientCertificate>,
    until: Option<Timestamp>,
}

impl Credential {
    pub fn is_past(&self) -> bool {
        self.until.is_some_and(|until| until <= Timestamp::now())
    }
}

/// A plugin's answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

/// Runs a plugin.
///
/// # Errors
/// Why it gave no credentials, and what to do.
pub(super) async fn run(plugin: &Plugin) -> Result<Credential, String> {
    let exec = &plugin.exec;
    let command = exec.command.display();
    let interactive = is_interactive(exec)?;
    let mut spec = json!({ "interactive": interactive });
    if let Some(cluster) = &plugin.cluster {
        spec["cluster"] = cluster.clone();
    }
    let info = json!({ "kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec });
    let child = Command::new(&exec.command)
        .args(&exec.args)
        .envs(exec.env.iter().map(|variable| (&variable.name, &variable.value)))
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(if interactive { Stdio::inherit() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let child = child.map_err(|error| not_started(exec, &error))?;
    let output = child.wait_with_output().await;
    let output = output.map_err(|error| format!("the exec plugin {command} cannot be read: {error}"))?;
    if !output.status.success() {
        return Err(format!("the exec plugin {command} failed with {}; see what it printed", output.status));
    }
    // It may be a secret in part.
    let stdout = Zeroizing::new(output.stdout);
    read(&stdout, &exec.api_version).map_err(|why| format!("the exec plugin {command} {why}"))
}

fn is_interactive(exec: &Exec) -> Result<bool, String> {
    match exec.interactive_mode.as_str() {
        "Never" => Ok(false),
        "Always" if !io::stdin().is_terminal() => Err(format!(
            "the exec plugin {} wants to ask, and standard input is no terminal; run this at a terminal",
            exec.command.display()
        )),
        "Always" => Ok(true),
        _ => Ok(io::stdin().is_terminal()),
    }
}

fn not_started(exec: &Exec, error: &io::Error) -> String {
    let command = exec.command.display();
    let advice = match exec.install_hint.trim() {
        _ if error.kind() != io::ErrorKind::NotFound => "check its permissions".to_owned(),
        "" => "install it, or put it on the PATH".to_owned(),
        hint => format!("install it: {hint}"),
    };
    format!("the exec plugin {command} cannot be started: {error}; {advice}")
}

fn read(stdout: &[u8], version: &str) -> Result<Credential, String> {
    // client-go takes YAML, too.
    let answer: Answer = serde_norway::from_slice(stdout).map_err(|error| {
        format!("printed something that is no ExecCredential: {}", without_values(&error))
    })?;
    if answer.kind != "ExecCredential" || answer.api_version != version {
        return Err(format!(
            "printed a {:?} of {:?}, and not an ExecCredential of {version}; correct its apiVersion in the kubeconfig",
            answer.kind, answer.api_version
        ));
    }
    let status = answer.status.ok_or("printed no status")?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let token = given(status.token);
    let certificate = match (given(status.client_certificate_data), given(status.client_key_data)) {
        (Some(chain), Some(key)) => {
            let source = "the exec plugin".to_owned();
            let key = Zeroizing::new(key.into_bytes());
            Some(ClientCertificate { chain: chain.into_bytes(), key, source: (source.clone(), source) })
        }
        (None, None) => None,
        _ => return Err("printed only one of clientCertificateData and clientKeyData".to_owned()),
    };
    if token.is_none() && certificate.is_none() {
        return Err("printed neither a token nor a certificate".to_owned());
    }
    let until = given(status.expiration_timestamp).map(|time| time.parse());
    let until = until.transpose().map_err(|error| format!("printed no expirationTimestamp: {error}"))?;
    Ok(Credential { token, certificate, until })
}

/// The cluster, for a plugin that asks for it (`provideClusterInfo`).
///
/// # Errors
/// When the certificate authority cannot be read.
pub(super) fn cluster_info(cluster: &Cluster) -> Result<Value, String> {
    let mut info = json!({ "server": cluster.server });
    let authority =
        data("certificate-authority", &cluster.certificate_authority_data, &cluster.certificate_authority)?;
    if let Some((pem, _)) = authority {
        info["certificate-authority-data"] = BASE64_STANDARD.encode(pem).into();
    }
    for (name, value) in [("tls-server-name", &cluster.tls_server_name), ("proxy-url", &cluster.proxy_url)] {
        if !value.is_empty() {
            info[name] = value.clone().into();
        }
    }
    for (name, value) in [
        ("insecure-skip-tls-verify", cluster.insecure_skip_tls_verify),
        ("disable-compression", cluster.disable_compression),
    ] {
        if value {
            info[name] = value.into();
        }
    }
    let config = cluster.extensions.iter().find(|extension| extension.name == EXTENSION);
    info["config"] = config.map_or(Value::Null, |extension| extension.extension.clone());
    Ok(info)
}
