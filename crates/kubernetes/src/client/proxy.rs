//! Which proxy leads to an API server, by the rules of Go's `net/http` and client-go.
//!
//! `hyper-util` has such rules too, but curl's: there `.example.com` holds for `example.com`, ports in `NO_PROXY` mean
//! nothing, `ALL_PROXY` counts, and this very host is asked for through a proxy.

use std::{env, net::IpAddr};

use http::Uri;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address::{Login, host_and_port, split};

/// A proxy and how to talk to it.
#[derive(Clone, PartialEq)]
pub(super) struct Proxy {
    pub kind: Kind,
    /// Without the login.
    pub url: Uri,
    pub login: Option<Login>,
    /// Where it is named, for whoever has to mend it.
    pub origin: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP, or with an `https` URL HTTP in TLS.
    Http,
    Socks5,
}

impl Proxy {
    /// A proxy as a kubeconfig names it. The environment does not matter then.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_kubeconfig(url: &str) -> Result<Self, String> {
        Self::parse(url, "proxy-url")
    }

    fn parse(url: &str, origin: &'static str) -> Result<Self, String> {
        // The URL may hold a password.
        let wrong = |why: &str| format!("the proxy of {origin} cannot be used: {why}");
        let (url, login) = split(url).map_err(|why| wrong(&why))?;
        let kind = match url.scheme_str() {
            Some("http" | "https") => Kind::Http,
            Some("socks5" | "socks5h") => Kind::Socks5,
            other => {
                let scheme = other.unwrap_or_default();
                return Err(wrong(&format!(
                    "{scheme:?} is none of http, https, socks5 and socks5h; write something like http://192.0.2.1:3128"
                )));
            }
        };
        Ok(Self { kind, url, login, origin })
    }
}

/// What the environment says of proxies.
#[derive(Default)]
pub(super) struct Environment {
    pub http: String,
    pub https: String,
    pub no: String,
    /// This is a CGI program. There `HTTP_PROXY` is a header of whoever asks.
    pub cgi: bool,
}

impl Environment {
    pub fn read() -> Self {
        // An empty variable is as good as none.
        let get = |names: [&str; 2]| {
            let values = names.into_iter().filter_map(|name| env::var(name).ok());
            values.into_iter().find(|value| !value.is_empty()).unwrap_or_default()
        };
        Self {
            http: get(["HTTP_PROXY", "http_proxy"]),
            https: get(["HTTPS_PROXY", "https_proxy"]),
            no: get(["NO_PROXY", "no_proxy"]),
            cgi: env::var_os("REQUEST_METHOD").is_some(),
        }
    }

    /// The proxy for a server.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn proxy(&self, server: &Uri) -> Result<Option<Proxy>, String> {
        let (url, origin) = match server.scheme_str() {
            Some("https") => (&self.https, "HTTPS_PROXY"),
            _ if self.cgi => return Ok(None),
            _ => (&self.http, "HTTP_PROXY"),
        };
        let (host, port) = host_and_port(server);
        if url.is_empty() || !is_proxied(&self.no, host, port) {
            return Ok(None);
        }
        let url = if url.contains("://") { url.clone() } else { format!("http://{url}") };
        Proxy::parse(&url, origin).map(Some)
    }
}

/// Whether a host is asked for through a proxy: not this one, and none of `NO_PROXY`.
fn is_proxied(no_proxy: &str, host: &str, port: u16) -> bool {
    let host = host.to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok().map(|ip: IpAddr| ip.to_canonical());
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return false;
    }
    let mut entries = no_proxy.split(',').map(|entry| entry.trim().to_ascii_lowercase());
    !entries.any(|entry| exempts(&entry, &host, ip, port))
}

fn exempts(entry: &str, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(net) = entry.parse::<IpNet>() {
        let net = canonical(net);
        return ip.is_some_and(|ip| net.contains(&ip));
    }
    let (name, only) = match entry.parse::<IpAddr>() {
        Ok(_) => (entry, None),
        Err(_) => entry.rsplit_once(':').map_or((entry, None), |(name, port)| (name, Some(port))),
    };
    if only.is_some_and(|only| !only.is_empty() && only != port.to_string()) {
        return false;
    }
    if let Ok(own) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return ip == Some(own.to_canonical());
    }
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    match name.strip_prefix('.') {
        _ if name.is_empty() => false,
        // Names below it, but not itself.
        Some(_) => host.ends_with(name),
        None => host == name || host.strip_suffix(name).is_some_and(|above| above.ends_with('.')),
    }
}

/// A range of IPv4 addresses that are written as IPv6, as one of IPv4.
fn canonical(net: IpNet) -> IpNet {
    let mapped =
        |net: Ipv6Net| Ipv4Net::new(net.addr().to_ipv4_mapped()?, net.prefix_len().checked_sub(96)?).ok();
    match net {
        IpNet::V6(net) => mapped(net).map_or(IpNet::V6(net), IpNet::V4),
        IpNet::V4(_) => net,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_means_what_it_means_to_go() {
        for (no_proxy, host, proxied) in [
            ("", "example.com", true),
            ("", "localhost", false),
            ("", "127.0.0.9", false),
            ("", "::1", false),
            ("*", "example.com", false),
            ("x, *", "example.com", false),
            ("example.com", "example.com", false),
            ("example.com", "API.Example.com", false),
            ("example.com", "anexample.com", true),
            (".example.com", "example.com", true),
            (".example.com", "api.example.com", false),
            ("*.example.com", "example.com", true),
            ("*.example.com", "api.example.com", false),
            ("a, Example.COM ,b", "example.com", false),
            ("example.com:6443", "example.com", false),
            ("example.com:443", "example.com", true),
            ("10.0.0.0/8", "10.1.2.3", false),
            ("10.0.0.0/8", "11.1.2.3", true),
            ("10.1.2.3", "10.1.2.3", false),
            ("10.1.2.3:443", "10.1.2.3", true),
            ("10.1.2.3:6443", "10.1.2.3", false),
            ("2001:db8::1", "2001:db8::1", false),
            ("[2001:db8::1]:6443", "2001:db8::1", false),
            ("[2001:db8::1]:443", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8::7", false),
            (",, :6443", "example.com", true),
            ("example.com:", "api.example.com", false),
            ("[example.com]", "example.com", true),
            ("10.1.2.3:", "10.1.2.3", false),
            ("[2001:db8::1]:", "2001:db8::1", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", false),
            ("::ffff:10.0.0.0/104", "11.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", false),
        ] {
            assert_eq!(is_proxied(no_proxy, host, 6443), proxied, "{no_proxy:?} {host}");
        }
    }

    #[test]
    fn the_scheme_chooses_the_variable() {
        let environment = Environment {
            http: "a:3128".to_owned(),
            https: "socks5://u:p@b".to_owned(),
            no: "direct".to_owned(),
            cgi: false,
        };
        let proxy = |url: &str| environment.proxy(&url.parse().unwrap()).ok().unwrap();
        let http = proxy("http://x").unwrap();
        assert_eq!(
            (http.kind, http.url, http.origin),
            (Kind::Http, "http://a:3128".parse().unwrap(), "HTTP_PROXY")
        );
        let socks = proxy("https://x").unwrap();
        assert_eq!((socks.kind, host_and_port(&socks.url)), (Kind::Socks5, ("b", 1080)));
        assert!(socks.login.is_some_and(|login| login.password == "p"));
        assert!(proxy("https://direct").is_none() && proxy("https://[::1]:6443").is_none());
    }

    #[test]
    fn a_password_is_not_repeated() {
        for url in ["ftp://u:secret@b", "http://u:secret@", "http://u:secret@b c"] {
            let error = Proxy::of_kubeconfig(url).err().unwrap();
            assert!(error.contains("proxy-url") && !error.contains("secret"), "{error}");
        }
    }
}
