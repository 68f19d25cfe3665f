//! Where the API is: kubeconfig files, addresses, and what is said of those that make no sense.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{fs, path::PathBuf};

use common::{TestApi, node};
use kubernetes::{ApiAccess, Credentials, Error, connect, list_nodes};
use tempfile::TempDir;

fn file(folder: &TempDir, content: &str) -> PathBuf {
    let path = folder.path().join("kubeconfig");
    fs::write(&path, content).unwrap();
    path
}

async fn refuse(access: ApiAccess) -> Error {
    match connect(&access).await {
        Ok(_) => panic!("{access:?} was accepted"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_kubeconfig_and_an_address_lead_to_the_api() {
    let api = TestApi::new().await;
    api.apply(node("a", &[]));
    let folder = TempDir::new().unwrap();
    let path = file(&folder, &apiserver::Server::kubeconfig(&api.address.to_string()));
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, apiserver::Server::kubeconfig("127.0.0.1:1")).unwrap();
    for access in [
        ApiAccess::from_flags(Some(path), None, "kilo-test"),
        ApiAccess::from_flags(None, Some(format!("http://{}", api.address)), "kilo-test"),
        ApiAccess::from_flags(None, Some(api.address.to_string()), "kilo-test"),
        // The address wins over that of the file.
        ApiAccess::from_flags(Some(elsewhere), Some(format!("http://{}", api.address)), "kilo-test"),
    ] {
        let client = connect(&access).await.unwrap();
        assert_eq!(list_nodes(&client, "x", None).await.unwrap().0.len(), 1, "{access:?}");
    }
}

#[test]
fn flags_mean_what_they_mean_to_go() {
    let credentials = |file: Option<&str>, master: Option<&str>| {
        ApiAccess::from_flags(file.map(PathBuf::from), master.map(str::to_owned), "x").credentials
    };
    assert_eq!(credentials(None, None), Credentials::ServiceAccount);
    assert_eq!(credentials(Some(""), Some("")), Credentials::ServiceAccount);
    assert_eq!(credentials(None, Some("http://x")), Credentials::Anonymous);
    assert_eq!(credentials(Some("/f"), Some("http://x")), Credentials::Kubeconfig("/f".into()));
}

#[tokio::test]
async fn a_kubeconfig_that_makes_no_sense_says_why() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing");
    let error = refuse(ApiAccess::from_flags(Some(missing), None, "x")).await.to_string();
    assert!(
        error.contains("/missing") && error.contains("No such file") && error.contains("--kubeconfig"),
        "{error}"
    );

    let good = apiserver::Server::kubeconfig("127.0.0.1:1");
    for (content, named) in [
        (good.replace("current-context: lab\n", ""), "kubectl config use-context"),
        (good.replace("current-context: lab", "current-context: moon"), "\"moon\""),
        (good.replace("cluster: lab\n", "cluster: moon\n"), "cluster \"moon\""),
        (good.replace("server: http", "other: http"), "no server"),
        (good.replace("server: http://127.0.0.1:1", "server: 'http://a b'"), "cluster url"),
        ("{".to_owned(), "correct the file"),
        (
            good.replace("user: {}", "user: { client-certificate: /no/such, client-key: /no/such }"),
            "/no/such",
        ),
    ] {
        let path = file(&folder, &content);
        let error = refuse(ApiAccess::from_flags(Some(path), None, "x")).await.to_string();
        assert!(error.contains(named), "{named:?} is not in {error}");
    }
}

#[tokio::test]
async fn addresses_that_make_no_sense_are_refused() {
    for url in ["ftp://x", "http://", "not a url", "http://[::1", ":6443"] {
        let error = refuse(ApiAccess::from_flags(None, Some(url.to_owned()), "x")).await;
        assert!(matches!(error, Error::Address { .. }), "{url}: {error}");
        assert!(error.to_string().contains("https://192.0.2.1:6443"), "{error}");
    }
    let nowhere = ApiAccess { credentials: Credentials::Anonymous, ..ApiAccess::from_flags(None, None, "x") };
    assert!(matches!(refuse(nowhere).await, Error::Address { .. }));
}

#[tokio::test]
async fn outside_of_a_pod_there_is_no_service_account() {
    let error = refuse(ApiAccess::from_flags(None, None, "x")).await.to_string();
    assert!(error.contains("no pod") && error.contains("--kubeconfig"), "{error}");
}

/// TLS has its cryptography: without a provider this would panic.
#[tokio::test]
async fn https_is_prepared() {
    let access = ApiAccess::from_flags(None, Some("https://127.0.0.1:1".to_owned()), "x");
    let error = list_nodes(&connect(&access).await.unwrap(), "x", None).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}
