//! When credentials end, for whoever has to know why they are no longer accepted.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;

/// The end of a certificate or a token.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expiry {
    what: String,
    at: Timestamp,
}

impl Expiry {
    /// Of the first certificate in a PEM file. `None`: it cannot be read.
    pub fn of_certificate(pem: &[u8], source: &str) -> Option<Self> {
        let certificate = CertificateDer::pem_slice_iter(pem).find_map(Result::ok)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        let at = Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?;
        Some(Self { what: format!("the client certificate of {source}"), at })
    }

    /// Of a JSON web token, such as those of service accounts. `None`: it is none, or does not end.
    pub fn of_token(token: &str, source: &str) -> Option<Self> {
        let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        let at = Timestamp::from_second(claims["exp"].as_i64()?).ok()?;
        Some(Self { what: format!("the token of {source}"), at })
    }

    pub fn is_past(&self) -> bool {
        self.at <= Timestamp::now()
    }
}

/// A sentence about an end that is past.
impl fmt::Display for Expiry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} expired at {}", self.what, self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_a_service_account_says_when_it_ends() {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"a","exp":1767225600}"#);
        let expiry = Expiry::of_token(&format!("h.{payload}.s"), "/t").unwrap();
        assert_eq!(expiry.to_string(), "the token of /t expired at 2026-01-01T00:00:00Z");
        assert!(["", "a", "a.b.c", "a.e30.c"].iter().all(|token| Expiry::of_token(token, "/t").is_none()));
    }
}
