//! Where a kubeconfig says the API is, how to know it, and what leads there.

use serde_json::{Value, json};

use super::{
    Case,
    Expected::{Refused, Works},
    at, base64, cluster,
    plugins::exec,
    text, token, trusting, with,
};
use crate::world::World;

pub fn authorities(world: &World) -> Vec<Case> {
    let case = |name: &str, cluster: Value, expected| {
        Case::new(format!("authority: {name}"), text(&cluster, &token()), expected)
    };
    let file = json!({ "server": format!("https://{}", world.api), "certificate-authority": "pki/ca.crt" });
    let bundle = format!(
        "# old\n{}\nsome text\n-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n{}",
        world.of_version_1.1, world.authority.pem
    );
    let insecure =
        |address| json!({ "server": format!("https://{address}"), "insecure-skip-tls-verify": true });
    let named = trusting(world.named, &world.authority.pem);
    vec![
        case("file", file.clone(), Works).file("pki/ca.crt", &*world.authority.pem),
        case("several, with text and a broken one", file.clone(), Works).file("pki/ca.crt", bundle),
        case("file missing", file.clone(), Refused("/pki/ca.crt: No such file")),
        case("nothing in the file", file, Refused("has no certificate in PEM")).file("pki/ca.crt", "nothing"),
        case("of version 1", trusting(world.of_version_1.0, &world.of_version_1.1), Works),
        case("the server's own, self-signed", trusting(world.self_signed.0, &world.self_signed.1), Works),
        case("the server's own, no authority", trusting(world.pinned.0, &world.pinned.1), Works),
        case("the server's own, on P-521", trusting(world.p521.0, &world.p521.1), Works),
        case(
            "the server's own, expired",
            trusting(world.expired_pinned.0, &world.expired_pinned.1),
            Refused("xpired"),
        ),
        case("another", trusting(world.api, &world.pinned.1), Refused("invalid peer certificate")),
        case("server expired", trusting(world.expired, &world.authority.pem), Refused("expired")),
        case("server without a name", trusting(world.nameless, &world.authority.pem), Refused("certificate")),
        case("server of another name", named.clone(), Refused("api.kilo.test")),
        case("tls-server-name", with(named, json!({ "tls-server-name": "api.kilo.test" })), Works),
        case("insecure-skip-tls-verify", insecure(world.pinned.0), Works),
        case("insecure-skip-tls-verify, no name", insecure(world.nameless), Works),
        case(
            "and insecure-skip-tls-verify",
            with(insecure(world.api), json!({ "certificate-authority-data": base64(&world.authority.pem) })),
            Refused("remove one of them"),
        ),
        case("the system's", json!({ "server": format!("https://{}", world.api) }), Works)
            .file("system.crt", &*world.authority.pem)
            .env("SSL_CERT_FILE", "system.crt"),
    ]
}

pub fn addresses(world: &World) -> Vec<Case> {
    let port = world.api.port();
    let case = |name: &str, server: String| {
        Case::new(format!("server: {name}"), text(&at(world, &server), &token()), Works)
    };
    // The server there refuses whoever shows it this.
    let user = json!({ "token": "a secret" });
    let plain =
        |name: &str, cluster: Value| Case::new(format!("server: {name}"), text(&cluster, &user), Works);
    let of = |server: String| json!({ "server": server });
    vec![
        case("a name", format!("https://localhost:{port}")),
        case("IPv6", format!("https://{}", world.api6)),
        case("a path", format!("https://127.0.0.1:{port}/k8s/clusters/c-xyz")),
        case("a slash", format!("https://127.0.0.1:{port}/")),
        plain("no scheme", of(world.plain.to_string())),
        plain("no scheme, with an authority", at(world, &world.plain.to_string())),
        plain("http, with a token", of(format!("http://{}", world.plain))),
        Case::new(
            "server: http, with a plugin",
            text(&of(format!("http://{}", world.plain)), &exec("v1", json!({ "command": "none" }))),
            Works,
        ),
    ]
}

/// Nothing leads to a name that only proxies know; how soon that shows is up to the machine's resolver.
const UNKNOWN: super::Expected = Refused("no connection to the API server");

/// The name is one that only proxies know.
fn hidden(world: &World) -> String {
    format!("https://api.kilo.test:{}", world.api.port())
}

pub fn proxies(world: &World) -> Vec<Case> {
    let case = |name: &str, url: String, expected| {
        let cluster = with(at(world, &hidden(world)), json!({ "proxy-url": url }));
        Case::new(format!("proxy-url: {name}"), text(&cluster, &token()), expected)
    };
    let unencrypted = json!({
        "server": format!("http://api.kilo.test:{}", world.plain.port()),
        "proxy-url": format!("http://user:pass@{}", world.http_proxy_with_login),
    });
    let local = with(cluster(world), json!({ "proxy-url": "http://127.0.0.1:1" }));
    vec![
        case("none", String::new(), UNKNOWN),
        case("http", format!("http://{}", world.http_proxy), Works),
        case("http, name", format!("http://localhost:{}", world.http_proxy.port()), Works),
        case("http with a login", format!("http://user:pass@{}", world.http_proxy_with_login), Works),
        case(
            "http without the login",
            format!("http://{}", world.http_proxy_with_login),
            Refused("proxy authorization required"),
        ),
        case("https", format!("https://{}", world.https_proxy), Works),
        case("socks5", format!("socks5://{}", world.socks), Works),
        case("socks5 with a login", format!("socks5://user:pass@{}", world.socks_with_login), Works),
        case(
            "socks5 without the login",
            format!("socks5://{}", world.socks_with_login),
            Refused("of proxy-url did not connect"),
        ),
        case("socks5h", format!("socks5h://{}", world.socks), Works).but_kubectl("kubectl has socks5 alone"),
        case("ftp", "ftp://127.0.0.1:1".to_owned(), Refused("none of http, https")),
        case("against NO_PROXY", format!("http://{}", world.http_proxy), Works).env("NO_PROXY", "*"),
        case("and not HTTPS_PROXY", format!("http://{}", world.http_proxy), Works)
            .env("HTTPS_PROXY", "http://127.0.0.1:1"),
        Case::new("proxy-url: http server", text(&unencrypted, &token()), Works),
        Case::new("proxy-url: this host", text(&local, &token()), Refused("of proxy-url did not connect")),
    ]
}

pub fn environment(world: &World) -> Vec<Case> {
    let case = |name: &str, expected| {
        Case::new(format!("environment: {name}"), text(&at(world, &hidden(world)), &token()), expected)
    };
    let proxy = format!("http://{}", world.http_proxy);
    let plain = json!({ "server": format!("http://api.kilo.test:{}", world.plain.port()) });
    let port = world.api.port();
    vec![
        case("HTTPS_PROXY", Works).env("HTTPS_PROXY", &*proxy),
        case("https_proxy", Works).env("https_proxy", &*proxy),
        case("https_proxy beside an empty HTTPS_PROXY", Works)
            .env("HTTPS_PROXY", "")
            .env("https_proxy", &*proxy),
        case("HTTPS_PROXY without a scheme", Works).env("HTTPS_PROXY", world.http_proxy.to_string()),
        case("HTTPS_PROXY=https://", Works).env("HTTPS_PROXY", format!("https://{}", world.https_proxy)),
        case("HTTPS_PROXY=socks5://", Works).env("HTTPS_PROXY", format!("socks5://{}", world.socks)),
        case("HTTPS_PROXY=socks5h://", Works).env("HTTPS_PROXY", format!("socks5h://{}", world.socks)),
        case("HTTP_PROXY is not for https", UNKNOWN).env("HTTP_PROXY", &*proxy),
        case("ALL_PROXY is curl's", UNKNOWN).env("ALL_PROXY", &*proxy),
        case("NO_PROXY, the name", UNKNOWN).env("HTTPS_PROXY", &*proxy).env("NO_PROXY", "api.kilo.test"),
        case("NO_PROXY, a domain", UNKNOWN).env("HTTPS_PROXY", &*proxy).env("no_proxy", "x,.kilo.test"),
        case("NO_PROXY, below the name", Works).env("HTTPS_PROXY", &*proxy).env("NO_PROXY", ".api.kilo.test"),
        case("NO_PROXY, the port", UNKNOWN)
            .env("HTTPS_PROXY", &*proxy)
            .env("NO_PROXY", format!("api.kilo.test:{port}")),
        case("NO_PROXY, another port", Works).env("HTTPS_PROXY", &*proxy).env("NO_PROXY", "api.kilo.test:1"),
        case("NO_PROXY=*", UNKNOWN).env("HTTPS_PROXY", &*proxy).env("NO_PROXY", "*"),
        case("a proxy that is gone", Refused("of HTTPS_PROXY did not connect"))
            .env("HTTPS_PROXY", "127.0.0.1:1"),
        Case::new("environment: HTTP_PROXY for http", text(&plain, &token()), Works)
            .env("HTTP_PROXY", &*proxy),
        Case::new("environment: this host is not proxied", text(&cluster(world), &token()), Works)
            .env("HTTPS_PROXY", "127.0.0.1:1"),
    ]
}
