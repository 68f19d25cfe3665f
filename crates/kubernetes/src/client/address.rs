//! Addresses of servers and proxies, as they are written in kubeconfigs, flags and the environment.

use http::Uri;
use percent_encoding::percent_decode_str;

/// A user's name and password, as a URL has them. It has no `Debug`.
#[derive(Clone, PartialEq)]
pub(super) struct Login {
    pub user: String,
    pub password: String,
}

/// A URL without the login in it, and that.
///
/// # Errors
/// What is wrong with it.
pub(super) fn split(url: &str) -> Result<(Uri, Option<Login>), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (login, plain) = match rest[..end].rsplit_once('@') {
        None => (None, url.to_owned()),
        Some((login, host)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let login = Login { user: decode(user), password: decode(password) };
            (Some(login), format!("{scheme}://{host}{}", &rest[end..]))
        }
    };
    let uri: Uri = plain.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    if uri.host().is_none_or(str::is_empty) {
        return Err("there is no host in it".to_owned());
    }
    Ok((uri, login))
}

/// The address of an API server. `HOST:PORT` without a scheme means plain HTTP, as for kubectl.
///
/// # Errors
/// What is wrong with it.
pub(super) fn server(url: &str) -> Result<(Uri, Option<Login>), String> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let (uri, login) = split(&whole)?;
    match uri.scheme_str() {
        Some("http" | "https") => Ok((uri, login)),
        _ => Err("it is neither http nor https".to_owned()),
    }
}

/// What was written as a URL, without the login in it, for errors.
pub(super) fn without_login(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    // A password may have any signs; it may even be why this is no URL.
    match url[start..].rfind('@') {
        Some(at) => format!("{}…{}", &url[..start], &url[start + at..]),
        None => url.to_owned(),
    }
}

/// The host without the brackets of an IPv6 address, and the port.
pub(super) fn host_and_port(url: &Uri) -> (&str, u16) {
    let default = match url.scheme_str() {
        Some("https") => 443,
        Some("socks5" | "socks5h") => 1080,
        _ => 80,
    };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    (host, url.port_u16().unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_a_scheme_and_have_a_path() {
        let whole = |url: &str| server(url).map(|(uri, _)| uri.to_string());
        assert_eq!(whole("10.0.0.1:6443").as_deref(), Ok("http://10.0.0.1:6443/"));
        assert_eq!(whole("[2001:db8::1]:6443").as_deref(), Ok("http://[2001:db8::1]:6443/"));
        assert_eq!(whole("http://[::1]").as_deref(), Ok("http://[::1]/"));
        assert_eq!(whole("https://r/k8s/clusters/c-1/").as_deref(), Ok("https://r/k8s/clusters/c-1/"));
        for wrong in ["ftp://a", "https://", ":6443", "https://a b", "http://[::1"] {
            assert!(whole(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_login_is_not_shown() {
        for (url, shown) in [
            ("https://10.0.0.1:x", "https://10.0.0.1:x"),
            ("https://u:secret@a b", "https://…@a b"),
            ("u:secret@", "…@"),
            ("https://u:sec/ret@a:b@c", "https://…@c"),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }

    #[test]
    fn a_login_is_taken_out() {
        let (url, login) = split("http://a%40b:c%3Ad@proxy:3128/x@y").unwrap();
        assert_eq!(url, "http://proxy:3128/x@y");
        let login = login.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("a@b", "c:d"));
        assert!(split("http://proxy/x@y").unwrap().1.is_none());
    }
}
