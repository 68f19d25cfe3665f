//! An API as clusters have it: behind TLS with a certificate of the cluster's own, for those who have a token.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path, sync::Arc};

use apiserver::Server;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use kubernetes::{
    Error,
    client::{ApiAccess, connect},
    list::list_nodes,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio_rustls::TlsAcceptor;

/// A cluster's certificate authority, as PEM, and what a server of its needs.
struct Authority {
    pem: String,
    server: Arc<rustls::ServerConfig>,
}

impl Authority {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let server_key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&server_key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let server =
            rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self { pem: authority.pem(), server: Arc::new(server) }
    }
}

/// Serves the API over TLS; returns where.
async fn serve(authority: &Authority, server: Server) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(authority.server.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), server.router());
            tokio::spawn(async move {
                // A client that refuses our certificate is what one of the tests is about.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = TowerToHyperService::new(router);
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    format!("https://{address}")
}

fn cluster() -> Server {
    let server = Server::new();
    server.add_token("the-token", "system:serviceaccount:kube-system:kilo");
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    server.apply_object(node).unwrap();
    server
}

fn kubeconfig(directory: &Path, url: &str, authority: &str, token: &str) -> ApiAccess {
    fs::write(directory.join("ca.crt"), authority).unwrap();
    fs::write(directory.join("token"), token).unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": url, "certificate-authority": "ca.crt" } }],
        "users": [{ "name": "u", "user": { "tokenFile": directory.join("token") } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    let path = directory.join("kubeconfig");
    fs::write(&path, config.to_string()).unwrap();
    ApiAccess::from_flags(Some(path), None, "test")
}

#[tokio::test]
async fn a_token_and_the_clusters_authority_open_the_door() {
    let authority = Authority::new();
    let url = serve(&authority, cluster()).await;
    let directory = tempfile::tempdir().unwrap();
    let access = kubeconfig(directory.path(), &url, &authority.pem, "the-token");
    let client = connect(&access).await.unwrap();
    let (nodes, _) = list_nodes(&client, "topology.kubernetes.io/region", None).await.unwrap();
    assert_eq!(nodes[0].name, "n1");
}

#[tokio::test]
async fn a_wrong_token_is_said() {
    let authority = Authority::new();
    let url = serve(&authority, cluster()).await;
    let directory = tempfile::tempdir().unwrap();
    let client = connect(&kubeconfig(directory.path(), &url, &authority.pem, "another")).await.unwrap();
    let error = list_nodes(&client, "l", None).await.unwrap_err();
    assert!(matches!(error, Error::Request { .. }), "{error:?}");
    assert!(error.to_string().to_lowercase().contains("unauthorized"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let url = serve(&Authority::new(), cluster()).await;
    let directory = tempfile::tempdir().unwrap();
    let access = kubeconfig(directory.path(), &url, &Authority::new().pem, "the-token");
    let error = list_nodes(&connect(&access).await.unwrap(), "l", None).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}
