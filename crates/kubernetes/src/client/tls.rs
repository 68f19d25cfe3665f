//! TLS as client-go has it: whom to trust and what to show.

mod authorities;
mod p521;
mod provider;
#[cfg(test)]
mod tests;
mod verifier;

use std::sync::Arc;

use rustls::{
    ClientConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _, pem::SectionKind},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use x509_parser::parse_x509_certificate;

pub use self::provider::provider;
use self::{
    authorities::Authorities,
    verifier::{Anyone, Trusted},
};
use super::{
    address::host_and_port,
    settings::{ClientCertificate, Transport, Trust},
};

/// What TLS is made with.
#[derive(Clone)]
pub(super) struct Tls {
    pub config: Arc<ClientConfig>,
    /// The name in the server's certificate.
    pub name: Option<ServerName<'static>>,
}

impl Tls {
    /// Prepares TLS for a server.
    ///
    /// # Errors
    /// Which certificates or keys cannot be used, and why.
    pub fn new(transport: &Transport) -> Result<Self, String> {
        let provider = Arc::new(provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?.dangerous();
        let builder = match &transport.trust {
            Trust::Anything => {
                let schemes = provider.signature_verification_algorithms.supported_schemes();
                builder.with_custom_certificate_verifier(Arc::new(Anyone(schemes)))
            }
            Trust::System => builder.with_custom_certificate_verifier(system(&provider)?),
            Trust::Authorities { pem, source } => {
                builder.with_custom_certificate_verifier(authorities(pem, source, &provider)?)
            }
        };
        let config = match &transport.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let key = certified_key(certificate, &provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        let name = transport.server_name.as_deref().map(server_name).transpose()?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// The name that a host's certificate has to have.
    pub fn name_of(&self, url: &http::Uri) -> Result<ServerName<'static>, String> {
        self.name.clone().map_or_else(|| server_name(host_and_port(url).0), Ok)
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|error| format!("{name:?} is no name of a server: {error}"))
}

fn system(provider: &Arc<CryptoProvider>) -> Result<Arc<Trusted>, String> {
    let found = rustls_native_certs::load_native_certs();
    let authorities = Authorities::new(found.certs);
    if authorities.is_empty() {
        return Err(
            "no certificate authorities are known to this system; install ca-certificates, or name the \
                    cluster's own in the kubeconfig as certificate-authority"
                .to_owned(),
        );
    }
    Trusted::new(authorities, Vec::new(), provider).map(Arc::new)
}

/// As Go, it takes for an authority whatever is a certificate, and passes over the rest.
fn authorities(pem: &[u8], source: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<Trusted>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
    let authorities = Authorities::new(certificates.clone());
    if authorities.is_empty() {
        return Err(format!("the certificate authority of {source} has no certificate in PEM; correct it"));
    }
    Trusted::new(authorities, certificates, provider).map(Arc::new)
}

fn certified_key(certificate: &ClientCertificate, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let (source, key_source) = &certificate.source;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate.chain).filter_map(Result::ok).collect();
    let first = chain.first();
    let first =
        first.ok_or_else(|| format!("the client certificate of {source} is no certificate in PEM"))?;
    let key = signing_key(&certificate.key, provider)
        .map_err(|why| format!("the client key of {key_source} cannot be used: {why}"))?;
    // rustls compares them too, but refuses certificates of version 1.
    if let (Some(public), Ok((_, parsed))) = (key.public_key(), parse_x509_certificate(first))
        && parsed.public_key().raw != public.as_ref()
    {
        return Err(format!(
            "the client key of {key_source} is not that of the certificate of {source}; give those that belong together"
        ));
    }
    Ok(CertifiedKey::new(chain, key))
}

/// The first key in a PEM file. As Go, it believes no label: each form is tried.
fn signing_key(pem: &[u8], provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, String> {
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).filter_map(Result::ok);
    let is_key = |kind: &SectionKind| {
        matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
    };
    let Some((_, der)) = sections.find(|(kind, _)| is_key(kind)) else {
        let encrypted = pem.windows(9).any(|word| word == b"ENCRYPTED");
        return Err(if encrypted { "it is encrypted; decrypt it" } else { "there is no private key in PEM" }
            .to_owned());
    };
    let der = zeroize::Zeroizing::new(der);
    let forms = [
        PrivateKeyDer::Pkcs8(der.to_vec().into()),
        PrivateKeyDer::Pkcs1(der.to_vec().into()),
        PrivateKeyDer::Sec1(der.to_vec().into()),
    ];
    let load = |form: PrivateKeyDer<'static>| provider.key_provider.load_private_key(form).ok();
    forms.into_iter().find_map(load).ok_or_else(|| {
        "it is none of RSA (2048 bits and more), ECDSA (P-256, P-384, P-521) and Ed25519".to_owned()
    })
}
