//! Who asks, and what of it he may see.
//!
//! What the mesh looks like inside is for those who are on the node or come through the API server (`kubectl
//! port-forward`), which are let in elsewhere. The port itself is open to all who reach the node, so the connection
//! decides: both of its ends are loopback addresses. And the name that was asked for is this host's, or a page in an
//! operator's browser could ask under a name of its own that resolves to 127.0.0.1.

use std::net::IpAddr;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
};

use crate::serve::Ends;

/// Somebody on this node.
pub struct Insider;

/// Why details are refused, and how to get them.
pub const REFUSED: &str = "details are for those on the node: curl http://localhost:1107 there, or kubectl -n kube-system port-forward POD \
     1107 (with the name of the agent's pod there) and then http://localhost:1107 here\n";

impl Insider {
    /// Whether a request comes from this node.
    pub fn sent(parts: &Parts) -> Option<Self> {
        let within = parts.extensions.get::<Ends>().is_some_and(Ends::are_loopback);
        (within && asks_for_this_host(&parts.headers)).then_some(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for Insider {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::sent(parts).ok_or((StatusCode::FORBIDDEN, REFUSED))
    }
}

/// Whether the one `Host` header names this host by loopback address or as `localhost`.
fn asks_for_this_host(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(is_this_host)
}

fn is_this_host(host: &str) -> bool {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.ends_with(':') => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_this_one_or_not() {
        for host in [
            "localhost",
            "LocalHost:1107",
            "127.0.0.1",
            "127.1.2.3:8080",
            "[::1]",
            "[::1]:1107",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_this_host(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:1107",
            "localhost.evil.example",
            "10.0.0.1",
            "[fd00::1]:1107",
            "127.0.0.1.evil.example",
            "localhost:evil",
            "localhost@evil.example",
        ] {
            assert!(!is_this_host(host), "{host}");
        }
    }
}
