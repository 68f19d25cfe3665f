//! Where a WireGuard peer can be reached: an address or a DNS name, and a UDP port.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// There is no `:port` at the end, or an IPv6 address lacks its brackets.
    #[error("an endpoint is written HOST:PORT or [IPV6]:PORT, this is {0:?}")]
    Form(String),
    /// The port is not a number from 1 to 65535.
    #[error("the port of an endpoint is a number from 1 to 65535, this is {0:?}")]
    Port(String),
    /// The host is neither an IP address nor a DNS name.
    #[error("the host of an endpoint is an IP address or a DNS name in lower case, this is {0:?}")]
    Host(String),
}

/// The host part of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A DNS-1123 subdomain: labels of lower-case letters, digits and '-', joined by dots, at most 253 characters.
    Dns(String),
}

impl FromStr for Host {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Host::Ip(address.to_canonical()));
        }
        if is_dns_subdomain(text) {
            Ok(Host::Dns(text.to_owned()))
        } else {
            Err(EndpointError::Host(text.to_owned()))
        }
    }
}

/// Where a WireGuard peer can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address or name.
    pub host: Host,
    /// UDP port, 1 to 65535.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint with an address.
    pub fn from_ip(address: IpAddr, port: u16) -> Self {
        Self { host: Host::Ip(address.to_canonical()), port }
    }

    /// The address, unless the endpoint is a name.
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Ip(address) => Some(*address),
            Host::Dns(_) => None,
        }
    }

    /// The address and port, unless the endpoint is a name.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.ip().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::from_ip(address.ip(), address.port())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(form)?,
            None if host.contains(':') => return Err(form()),
            None => host,
        };
        let number = port.parse::<u16>().ok().filter(|port| *port != 0);
        let port = number.ok_or_else(|| EndpointError::Port(port.to_owned()))?;
        Ok(Self { host: host.parse()?, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(address) => write!(f, "{}", SocketAddr::new(*address, self.port)),
            Host::Dns(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// DNS-1123 subdomain as Kubernetes defines it (RFC 1123, lower case only).
pub fn is_dns_subdomain(text: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["203.0.113.1:51820", "[2001:db8::1]:4000", "vpn.example.com:1", "localhost:65535"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_an_endpoint() {
        for text in
            ["", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:65536", "::1:51820", "[::1:5", "UPPER.example:1", "a_b:1"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?} was accepted");
        }
    }
}
