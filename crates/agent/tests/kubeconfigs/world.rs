//! The servers that the kubeconfigs lead to.

use std::{net::SocketAddr, sync::Arc};

use apiserver::Server;
use rcgen::{BasicConstraints, IsCa};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;

use crate::{
    proxies::{self, Kind},
    server::{Authority, Clients, Front, Pair, TOKEN, params, serve_plain},
};

macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("data/", $name))
    };
}

/// Client certificates of every kind, each with its key.
pub const CERTIFICATES: &[(&str, &str, &str)] = &[
    ("version 1, RSA, PKCS#1", data!("rsa-v1.crt"), data!("rsa-pkcs1.key")),
    ("version 1, RSA, PKCS#8", data!("rsa-v1.crt"), data!("rsa-pkcs8.key")),
    ("P-384, SEC 1 with parameters", data!("p384.crt"), data!("p384-sec1.key")),
    ("P-521, SEC 1", data!("p521.crt"), data!("p521-sec1.key")),
    ("P-521, PKCS#8", data!("p521.crt"), data!("p521-pkcs8.key")),
    ("Ed25519", data!("ed25519.crt"), data!("ed25519.key")),
];

static TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// A cluster whose Node n1 everybody reads.
pub fn cluster() -> Server {
    let server = Server::new();
    server.add_token(TOKEN, "kilo");
    server.apply_object(kubernetes::peer::custom_resource_definition()).unwrap();
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "n1", "annotations": {
            "kilo.squat.ai/endpoint": "192.0.2.1:51820", "kilo.squat.ai/key": "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=",
            "kilo.squat.ai/internal-ip": "10.1.0.1/16", "kilo.squat.ai/wireguard-ip": "10.4.0.1/16",
            "kilo.squat.ai/granularity": "location", "kilo.squat.ai/last-seen": "4102444800",
        } },
        "spec": { "podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24"] },
    });
    server.apply_object(node).unwrap();
    server
}

/// Where everything is. All are one API.
pub struct World {
    /// The authority of most servers.
    pub authority: Authority,
    pub api: SocketAddr,
    pub api6: SocketAddr,
    pub plain: SocketAddr,
    pub tls12: SocketAddr,
    /// Its certificate has only the name api.kilo.test.
    pub named: SocketAddr,
    pub nameless: SocketAddr,
    pub expired: SocketAddr,
    /// Those whose certificates are their own authorities, and those certificates.
    pub self_signed: (SocketAddr, String),
    pub pinned: (SocketAddr, String),
    pub expired_pinned: (SocketAddr, String),
    pub p521: (SocketAddr, String),
    pub of_version_1: (SocketAddr, String),
    /// A client's certificate that is admitted.
    pub client: Pair,
    /// Two that are not.
    pub stranger: Pair,
    pub expired_client: Pair,
    pub http_proxy: SocketAddr,
    pub http_proxy_with_login: SocketAddr,
    pub https_proxy: SocketAddr,
    pub socks: SocketAddr,
    pub socks_with_login: SocketAddr,
}

impl World {
    pub async fn new() -> Self {
        let (server, clients, authority) = (cluster(), Clients::default(), Authority::new());
        let client = authority.issue(&params(&[], IsCa::NoCa));
        clients.admit(&client.certificate);
        for (_, certificate, _) in CERTIFICATES {
            clients.admit(certificate);
        }
        let own = |names: &[&str]| Front::new(authority.issue(&params(names, IsCa::NoCa)), &clients);
        let pinned = async |pair: Pair| {
            let pem = pair.certificate.clone();
            (Front::new(pair, &clients).serve(&server, "127.0.0.1").await, pem)
        };
        let old = |is_ca| {
            let mut params = params(&["127.0.0.1"], is_ca);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params
        };
        let is_ca = || IsCa::Ca(BasicConstraints::Unconstrained);
        let names = ["127.0.0.1", "localhost", "api.kilo.test", "::1"];
        let mut tls12 = own(&["127.0.0.1"]);
        tls12.versions = TLS12;
        let old_authority =
            Authority::existing(data!("authority-v1.crt"), "old authority", data!("authority-v1.key"));
        let of_version_1 = Front::new(old_authority.issue(&params(&["127.0.0.1"], IsCa::NoCa)), &clients);
        let http = async |login| proxies::serve(Kind::Http { login }, None).await;
        let socks = async |login| proxies::serve(Kind::Socks5 { login }, None).await;
        Self {
            api: own(&names).serve(&server, "127.0.0.1").await,
            api6: own(&names).serve(&server, "::1").await,
            plain: serve_plain(&server).await,
            tls12: tls12.serve(&server, "127.0.0.1").await,
            named: own(&["api.kilo.test"]).serve(&server, "127.0.0.1").await,
            nameless: own(&[]).serve(&server, "127.0.0.1").await,
            expired: Front::new(authority.issue(&old(IsCa::NoCa)), &clients)
                .serve(&server, "127.0.0.1")
                .await,
            self_signed: pinned(Pair::self_signed(params(&["127.0.0.1"], is_ca()))).await,
            pinned: pinned(Authority::new().issue(&params(&["127.0.0.1"], IsCa::NoCa))).await,
            expired_pinned: pinned(Pair::self_signed(old(is_ca()))).await,
            p521: pinned(Pair::new(data!("p521.crt"), data!("p521-pkcs8.key"))).await,
            of_version_1: (of_version_1.serve(&server, "127.0.0.1").await, old_authority.pem),
            http_proxy: http(false).await,
            http_proxy_with_login: http(true).await,
            https_proxy: proxies::serve(Kind::Http { login: false }, Some(proxy_tls(&authority))).await,
            socks: socks(false).await,
            socks_with_login: socks(true).await,
            client,
            stranger: authority.issue(&params(&[], IsCa::NoCa)),
            expired_client: authority.issue(&old(IsCa::NoCa)),
            authority,
        }
    }
}

fn proxy_tls(authority: &Authority) -> rustls::ServerConfig {
    let pair = authority.issue(&params(&["127.0.0.1"], IsCa::NoCa));
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = Arc::new(kubernetes::client::tls_provider());
    let builder =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(chain, key).unwrap()
}
