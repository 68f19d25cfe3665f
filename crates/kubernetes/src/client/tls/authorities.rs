//! What may vouch for servers. To `webpki` an authority is a name with a key; to Go's `crypto/x509` it is a certificate like
//! the others of a chain, which ends, may be for other things, and may not sign at all. A server's own certificate among the
//! authorities must not vouch for others.

use std::{cell::RefCell, fmt, sync::Arc};

use rustls::{
    CertificateError, Error, OtherError, RootCertStore,
    pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::{
    certificate::X509Certificate, extensions::X509Extension, parse_x509_certificate, x509::X509Version,
};

use super::verifier::{check_purpose, check_time};

/// Certificates that may vouch for others, within limits.
pub(super) struct Authorities(Vec<Authority>);

struct Authority {
    anchor: TrustAnchor<'static>,
    certificate: CertificateDer<'static>,
}

/// Why a chain that is signed well is not enough.
#[derive(Debug, Clone, thiserror::Error)]
#[error("invalid peer certificate: the authority {subject} cannot vouch for it: {why}")]
struct Refusal {
    subject: String,
    why: &'static str,
}

impl fmt::Debug for Authorities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} authorities", self.0.len())
    }
}

impl Authorities {
    /// Those of these certificates that can be read.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        let authority = |certificate: CertificateDer<'static>| {
            let anchor = anchor_from_trusted_cert(&certificate).ok()?.to_owned();
            parse_x509_certificate(&certificate).ok()?;
            Some(Authority { anchor, certificate })
        };
        Self(certificates.into_iter().filter_map(authority).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As names with keys.
    pub fn anchors(&self) -> RootCertStore {
        self.0.iter().map(|authority| authority.anchor.clone()).collect()
    }

    /// Whether a chain leads from the certificate to an authority that may vouch for it. Names are not looked at.
    ///
    /// # Errors
    /// Why none does.
    pub fn vouch(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        now: UnixTime,
    ) -> Result<(), Error> {
        let refusal = RefCell::new(None);
        let check = |path: &VerifiedPath<'_>| {
            self.check(path, now).map_err(|error| {
                refusal.replace(Some(error));
                webpki::Error::UnknownIssuer
            })
        };
        let anchors: Vec<_> = self.0.iter().map(|authority| authority.anchor.clone()).collect();
        let unreadable = |_| Error::from(CertificateError::BadEncoding);
        let certificate = EndEntityCert::try_from(certificate).map_err(unreadable)?;
        let usage = KeyUsage::server_auth();
        let verified =
            certificate.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, Some(&check));
        let unknown = |_| refusal.take().unwrap_or_else(|| CertificateError::UnknownIssuer.into());
        verified.map(drop).map_err(unknown)
    }

    fn check(&self, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), Error> {
        let mut below = 0;
        for certificate in path.intermediate_certificates() {
            let der = certificate.der();
            let (_, parsed) = parse_x509_certificate(&der).map_err(|_| CertificateError::BadEncoding)?;
            check_signs(&parsed).map_err(|why| refused(&parsed, why))?;
            below += 1;
        }
        // There may be several with one name and one key, such as one that has ended and its successor.
        let mut last = Error::from(CertificateError::UnknownIssuer);
        for authority in self.0.iter().filter(|authority| authority.anchor == *path.anchor()) {
            match authority.check(below, now) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Authority {
    fn check(&self, below: u32, now: UnixTime) -> Result<(), Error> {
        let (_, parsed) =
            parse_x509_certificate(&self.certificate).map_err(|_| CertificateError::BadEncoding)?;
        check_time(&parsed, now).map_err(|_| refused(&parsed, "it has expired, or is not valid yet"))?;
        check_purpose(&parsed).map_err(|_| refused(&parsed, "it is not for servers"))?;
        let is_strange =
            |extension: &X509Extension<'_>| extension.critical && extension.parsed_extension().unsupported();
        if parsed.extensions().iter().any(is_strange) {
            return Err(refused(&parsed, "it has a critical extension that is not known"));
        }
        check_signs(&parsed).map_err(|why| refused(&parsed, why))?;
        let limit =
            parsed.basic_constraints().ok().flatten().and_then(|found| found.value.path_len_constraint);
        if limit.is_some_and(|limit| below > limit) {
            return Err(refused(&parsed, "there are more authorities below it than it allows"));
        }
        Ok(())
    }
}

/// Version 1 has no words for this, and whoever lists such a certificate means it.
fn check_signs(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    let unreadable = "it cannot be read";
    let constraints = certificate.basic_constraints().map_err(|_| unreadable)?;
    let is_ca = constraints.map_or(certificate.version() != X509Version::V3, |found| found.value.ca);
    if !is_ca {
        return Err("it is no certificate authority");
    }
    let usage = certificate.key_usage().map_err(|_| unreadable)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("its key is not for signing certificates");
    }
    Ok(())
}

fn refused(certificate: &X509Certificate<'_>, why: &'static str) -> Error {
    let refusal = Refusal { subject: certificate.subject().to_string(), why };
    Error::Other(OtherError(Arc::new(refusal)))
}
