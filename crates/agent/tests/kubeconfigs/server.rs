//! API servers behind TLS, and certificates for them and for their clients.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{HeaderValue, Request, header::AUTHORIZATION};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime, pem::PemObject},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// The token that the API takes.
pub const TOKEN: &str = "the-token";

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    pub fn new(certificate: &str, key: &str) -> Self {
        Self { certificate: certificate.to_owned(), key: key.to_owned() }
    }

    /// One that is signed with its own key.
    pub fn self_signed(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }
}

pub fn params(names: &[&str], is_ca: IsCa) -> CertificateParams {
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.is_ca = is_ca;
    params
}

/// A certificate authority.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let params = params(&[], IsCa::Ca(BasicConstraints::Unconstrained));
        let key = KeyPair::generate().unwrap();
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// One whose certificate is there already.
    pub fn existing(pem: &str, name: &str, key: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, rcgen::DnValue::Utf8String(name.to_owned()));
        Self { pem: pem.to_owned(), issuer: Issuer::new(params, KeyPair::from_pem(key).unwrap()) }
    }

    pub fn issue(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// Whose certificates an API admits, and what it was asked. As Kubernetes, it takes any certificate and then answers 401.
#[derive(Clone, Default, Debug)]
pub struct Clients(Arc<Mutex<Known>>);

#[derive(Default, Debug)]
struct Known {
    admitted: BTreeSet<Vec<u8>>,
    asked: Vec<Asked>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub certificate: Option<Vec<u8>>,
    pub authorization: String,
    pub uri: String,
}

impl Clients {
    pub fn admit(&self, certificate: &str) {
        self.0.lock().unwrap().admitted.insert(der(certificate).to_vec());
    }

    pub fn refuse(&self, certificate: &str) {
        self.0.lock().unwrap().admitted.remove(&der(certificate).to_vec());
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.0.lock().unwrap().asked.clone()
    }

    /// The watches that were asked for with a certificate.
    pub fn watches(&self, certificate: &str) -> usize {
        let certificate = Some(der(certificate).to_vec());
        self.asked()
            .iter()
            .filter(|asked| asked.certificate == certificate && asked.uri.contains("watch=true"))
            .count()
    }

    fn admits(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        request: &Request<hyper::body::Incoming>,
    ) -> bool {
        let certificate = certificate.map(|certificate| certificate.to_vec());
        let mut known = self.0.lock().unwrap();
        let admitted = certificate.as_ref().is_some_and(|certificate| known.admitted.contains(certificate));
        let authorization = request.headers().get(AUTHORIZATION);
        let authorization =
            authorization.map_or_else(String::new, |value| value.to_str().unwrap().to_owned());
        known.asked.push(Asked { certificate, authorization, uri: request.uri().to_string() });
        admitted
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// How an API is served.
pub struct Front {
    pub pair: Pair,
    pub versions: &'static [&'static rustls::SupportedProtocolVersion],
    pub clients: Clients,
}

impl Front {
    pub fn new(pair: Pair, clients: &Clients) -> Self {
        Self { pair, versions: rustls::ALL_VERSIONS, clients: clients.clone() }
    }

    fn config(&self) -> ServerConfig {
        let provider = Arc::new(kubernetes::client::tls_provider());
        let verifier = Arc::new(Anyone(provider.clone()));
        let chain =
            CertificateDer::pem_slice_iter(self.pair.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.pair.key.as_bytes()).unwrap();
        let builder =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(self.versions).unwrap();
        builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap()
    }

    /// Serves on a port of its own of an address of this host.
    pub async fn serve(self, server: &apiserver::Server, address: &str) -> SocketAddr {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(self.config()));
        let (server, clients) = (server.clone(), self.clients);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, server, clients) = (acceptor.clone(), server.clone(), clients.clone());
                tokio::spawn(async move {
                    // A client that refuses our certificate is what some cases are about.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
                    connection(stream, &server, move |request| clients.admits(certificate.as_ref(), request))
                        .await;
                });
            }
        });
        address
    }
}

/// Serves without TLS, for whoever shows no credentials: nobody is to show them there.
pub async fn serve_plain(server: &apiserver::Server) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move { connection(stream, &server, |_| true).await });
        }
    });
    address
}

async fn connection<S>(
    stream: S,
    server: &apiserver::Server,
    admitted: impl Fn(&Request<hyper::body::Incoming>) -> bool + Clone + Send + 'static,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let router = server.router();
    let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let admitted = admitted(&request);
        authenticate(&mut request, admitted);
        router.clone().oneshot(request)
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Makes what the API knows, a token, of what this front knows. Whoever is nobody gets a 401.
fn authenticate(request: &mut Request<hyper::body::Incoming>, admitted: bool) {
    // A proxy before the API, as Rancher's.
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    if let Some(path) = path.strip_prefix("/k8s/clusters/c-xyz") {
        *request.uri_mut() = path.parse().unwrap();
    }
    let headers = request.headers();
    let values =
        |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    let acts = values("impersonate-user") == ["kilo"]
        && values("impersonate-uid") == ["7"]
        && values("impersonate-group") == ["a", "b"]
        && values("impersonate-extra-scopes") == ["view"];
    let known = match headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap()) {
        None => admitted,
        Some("Basic dXNlcjpwYXNz" | "Bearer the-token") => true,
        Some("Bearer the-actor") => acts,
        Some(_) => false,
    };
    let token = if known { "Bearer the-token" } else { "Bearer nobody" };
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static(token));
}

/// Takes every client's certificate, of any version, if the client has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
