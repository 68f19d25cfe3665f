//! The kubeconfigs, and what has to become of each.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    server::TOKEN,
    world::{CERTIFICATES, World},
};

/// What a program has to make of a kubeconfig.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    Works,
    /// With these words from kgctl and kg; kubectl has its own.
    Refused(&'static str),
}

/// How programs get the kubeconfig.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `--kubeconfig config`
    Flag,
    /// `$KUBECONFIG`
    List(&'static str),
}

pub struct Case {
    pub name: String,
    pub files: Vec<(&'static str, String)>,
    pub environment: Vec<(String, String)>,
    pub source: Source,
    pub exception: &'static str,
    expected: [Expected; 3],
}

impl Case {
    fn new(name: impl Into<String>, config: impl Into<String>, expected: Expected) -> Self {
        let files = vec![("config", config.into())];
        let (environment, source, exception) = (Vec::new(), Source::Flag, "");
        Self { name: name.into(), files, environment, source, exception, expected: [expected; 3] }
    }

    fn file(mut self, name: &'static str, content: impl Into<String>) -> Self {
        self.files.push((name, content.into()));
        self
    }

    fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    fn list(mut self, list: &'static str) -> Self {
        self.source = Source::List(list);
        self
    }

    /// kg starts no programs.
    fn of_plugin(mut self) -> Self {
        self.expected[2] = Expected::Refused("an agent starts no programs");
        self.exception = "kg starts no programs";
        self
    }

    /// kubectl does not take it.
    fn but_kubectl(mut self, why: &'static str) -> Self {
        self.expected[0] = Expected::Refused("");
        self.exception = why;
        self
    }

    pub fn expected(&self) -> [Expected; 3] {
        self.expected
    }
}

use Expected::{Refused, Works};

pub fn all(world: &World) -> Vec<Case> {
    [
        users(world),
        certificates(world),
        authorities(world),
        addresses(world),
        proxies(world),
        environment(world),
    ]
    .into_iter()
    .chain([lists(world), forms(world), mistakes(world), plugins(world)])
    .flatten()
    .collect()
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// A kubeconfig of one cluster and one user.
fn config(cluster: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x", "preferences": {},
        "clusters": [{ "name": "c", "cluster": cluster }],
        "users": [{ "name": "u", "user": user }],
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
    })
}

fn yaml(config: &Value) -> String {
    serde_norway::to_string(config).unwrap()
}

fn text(cluster: &Value, user: &Value) -> String {
    yaml(&config(cluster, user))
}

fn token() -> Value {
    json!({ "token": TOKEN })
}

/// The cluster as most cases have it.
fn cluster(world: &World) -> Value {
    at(world, &format!("https://{}", world.api))
}

fn at(world: &World, server: &str) -> Value {
    json!({ "server": server, "certificate-authority-data": base64(&world.authority.pem) })
}

fn trusting(address: std::net::SocketAddr, pem: &str) -> Value {
    json!({ "server": format!("https://{address}"), "certificate-authority-data": base64(pem) })
}

fn with(mut object: Value, further: Value) -> Value {
    object.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    object
}

fn users(world: &World) -> Vec<Case> {
    let user = |name: &str, user: Value, expected| Case::new(name, text(&cluster(world), &user), expected);
    let actor = json!({
        "token": "the-actor", "as": "kilo", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": { "scopes": ["view"] },
    });
    vec![
        user("token", token(), Works),
        user("wrong token", json!({ "token": "wrong" }), Refused("Unauthorized")),
        user("nobody", json!({}), Refused("Unauthorized")),
        user("tokenFile with a newline", json!({ "tokenFile": "token" }), Works)
            .file("token", format!("{TOKEN}\n")),
        user("tokenFile beside an older token", json!({ "token": "old", "tokenFile": "token" }), Works)
            .file("token", TOKEN),
        user("tokenFile missing beside a token", json!({ "token": TOKEN, "tokenFile": "gone" }), Works),
        user("tokenFile missing", json!({ "tokenFile": "gone" }), Refused("/gone: No such file")),
        user("username and password", json!({ "username": "user", "password": "pass" }), Works),
        user("impersonation", actor.clone(), Works),
        user("impersonation of another", with(actor, json!({ "as": "else" })), Refused("Unauthorized")),
        Case::new(
            "user missing",
            text(&cluster(world), &token()).replace("user: u\n", "user: nobody\n"),
            Refused("Unauthorized"),
        ),
    ]
}

fn certificates(world: &World) -> Vec<Case> {
    let files = json!({ "client-certificate": "client.crt", "client-key": "client.key" });
    let (certificate, key) = (&world.client.certificate, &world.client.key);
    let filed = |name: &str, certificate: &str, key: &str, expected| {
        let case = Case::new(format!("client certificate: {name}"), text(&cluster(world), &files), expected);
        case.file("client.crt", certificate).file("client.key", key)
    };
    let data = |certificate: &str, key: &str| json!({ "client-certificate-data": base64(certificate), "client-key-data": base64(key) });
    let mut cases = vec![
        Case::new(
            "client certificate: P-256, data, TLS 1.2",
            text(&at(world, &format!("https://{}", world.tls12)), &data(certificate, key)),
            Works,
        ),
        Case::new(
            "client certificate: with its key in one file",
            text(&cluster(world), &json!({ "client-certificate": "a.pem", "client-key": "a.pem" })),
            Works,
        )
        .file("a.pem", format!("{key}{certificate}")),
        filed("with its authority", &format!("{certificate}{}", world.authority.pem), key, Works),
        filed(
            "with text around it",
            &format!("subject=CN = kilo\n\n{certificate}\nend\n"),
            &format!("Key Attributes: <No Attributes>\r\n{}", key.replace('\n', "\r\n")),
            Works,
        ),
        filed(
            "that is not admitted",
            &world.stranger.certificate,
            &world.stranger.key,
            Refused("Unauthorized"),
        ),
        filed(
            "expired",
            &world.expired_client.certificate,
            &world.expired_client.key,
            Refused("client.crt expired at 2001-01-01T00:00:00Z"),
        ),
        filed(
            "with the key of another",
            certificate,
            CERTIFICATES[2].2,
            Refused("is not that of the certificate"),
        ),
        filed("without a certificate", "nothing", key, Refused("client.crt is no certificate")),
        filed("without a key", certificate, "nothing", Refused("there is no private key")),
        filed("with a key that is encrypted", certificate, ENCRYPTED, Refused("decrypt it")),
    ];
    for (number, (name, certificate, key)) in CERTIFICATES.iter().enumerate() {
        cases.push(match number % 2 {
            0 => filed(name, certificate, key, Works),
            _ => Case::new(
                format!("client certificate: {name}, data"),
                text(&cluster(world), &data(certificate, key)),
                Works,
            ),
        });
    }
    cases
}

const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";

fn authorities(world: &World) -> Vec<Case> {
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

fn addresses(world: &World) -> Vec<Case> {
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

/// The name is one that only proxies know.
fn hidden(world: &World) -> String {
    format!("https://api.kilo.test:{}", world.api.port())
}

fn proxies(world: &World) -> Vec<Case> {
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
        case("none", String::new(), Refused("dns error")),
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

fn environment(world: &World) -> Vec<Case> {
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
        case("HTTP_PROXY is not for https", Refused("dns error")).env("HTTP_PROXY", &*proxy),
        case("ALL_PROXY is curl's", Refused("dns error")).env("ALL_PROXY", &*proxy),
        case("NO_PROXY, the name", Refused("dns error"))
            .env("HTTPS_PROXY", &*proxy)
            .env("NO_PROXY", "api.kilo.test"),
        case("NO_PROXY, a domain", Refused("dns error"))
            .env("HTTPS_PROXY", &*proxy)
            .env("no_proxy", "x,.kilo.test"),
        case("NO_PROXY, below the name", Works).env("HTTPS_PROXY", &*proxy).env("NO_PROXY", ".api.kilo.test"),
        case("NO_PROXY, the port", Refused("dns error"))
            .env("HTTPS_PROXY", &*proxy)
            .env("NO_PROXY", format!("api.kilo.test:{port}")),
        case("NO_PROXY, another port", Works).env("HTTPS_PROXY", &*proxy).env("NO_PROXY", "api.kilo.test:1"),
        case("NO_PROXY=*", Refused("dns error")).env("HTTPS_PROXY", &*proxy).env("NO_PROXY", "*"),
        case("a proxy that is gone", Refused("of HTTPS_PROXY did not connect"))
            .env("HTTPS_PROXY", "127.0.0.1:1"),
        Case::new("environment: HTTP_PROXY for http", text(&plain, &token()), Works)
            .env("HTTP_PROXY", &*proxy),
        Case::new("environment: this host is not proxied", text(&cluster(world), &token()), Works)
            .env("HTTPS_PROXY", "127.0.0.1:1"),
    ]
}

fn lists(world: &World) -> Vec<Case> {
    let whole = text(&cluster(world), &token());
    let chooses = yaml(&json!({ "current-context": "x", "users": [{ "name": "u", "user": token() }] }));
    let other = yaml(&with(
        config(&json!({ "server": "https://127.0.0.1:1" }), &json!({})),
        json!({ "current-context": "z" }),
    ));
    let relative = text(
        &json!({ "server": format!("https://{}", world.api), "certificate-authority": "ca.crt" }),
        &json!({ "tokenFile": "token" }),
    );
    let case = |name: &str, expected| Case::new(format!("KUBECONFIG: {name}"), &*whole, expected);
    vec![
        case("one file", Works).list("config"),
        case("empty entries, missing and empty files", Works)
            .list(":missing:empty::config:config:")
            .file("empty", ""),
        case("the first file's entries, and current-context", Works)
            .list("config:other")
            .file("other", &*other),
        case("the first file's entries, others'", Refused("\"z\" is not among"))
            .list("other:config")
            .file("other", &*other),
        case("one chooses, another has the cluster", Works)
            .list("chooses:other")
            .file("chooses", chooses)
            .file("other", &*whole),
        case("paths begin at each file", Works)
            .list("empty:a/b/config:c/config")
            .file("empty", "# nothing\n")
            .file("a/b/config", relative)
            .file("a/b/ca.crt", &*world.authority.pem)
            .file("a/b/token", TOKEN),
        case("a broken file among good ones", Refused("correct the file"))
            .list("config:broken")
            .file("broken", "{"),
        case("nothing is there", Refused("there is no missing and no gone")).list("missing:gone"),
        case("the default, ~/.kube/config", Works).list("").file(".kube/config", &*whole),
    ]
}

fn forms(world: &World) -> Vec<Case> {
    let plain = config(&cluster(world), &token());
    let named = |name: &str| {
        let renamed = json!({
            "current-context": name,
            "clusters": [{ "name": name, "cluster": cluster(world) }],
            "users": [{ "name": name, "user": token() }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        });
        with(plain.clone(), renamed)
    };
    let form = |name: &str, content: String| Case::new(format!("form: {name}"), content, Works);
    let extended = with(
        plain.clone(),
        json!({ "extensions": [{ "name": "e", "extension": { "a": 1 } }], "unknown": [1, { "b": null }] }),
    );
    let cluster_extended = with(
        cluster(world),
        json!({
            "disable-compression": true, "unknown": 1,
            "extensions": [{ "name": "context_info", "extension": { "provider": "minikube.sigs.k8s.io" } }],
        }),
    );
    let unquoted = yaml(&named("2026-01-01")).replace(['\'', '"'], "");
    let text = yaml(&plain);
    vec![
        form("JSON", plain.to_string()),
        form(
            "without kind and apiVersion",
            text.replace("apiVersion: v1\n", "").replace("kind: Config\n", ""),
        ),
        form("extensions and unknown fields", yaml(&extended)),
        form("extensions of a cluster", yaml(&config(&cluster_extended, &token()))),
        form("the name 'on'", yaml(&named("on")).replace(": on\n", ": \"on\"\n")),
        form("the name 'y'", yaml(&named("y")).replace(": y\n", ": \"y\"\n")),
        form("the name 2026-01-01", unquoted),
        form("the name arn:aws:eks:us-1:1:cluster/a", yaml(&named("arn:aws:eks:us-1:1:cluster/a"))),
        form("a second document", format!("---\n{text}---\nkind: Pod\n")),
        form("a byte order mark", format!("\u{feff}{text}")),
        form("a key twice", format!("current-context: z\n{text}")),
        form("Windows line ends", text.replace('\n', "\r\n")),
        form("null lists", format!("{text}extensions: null\n")),
    ]
}

fn mistakes(world: &World) -> Vec<Case> {
    let plain = config(&cluster(world), &token());
    let text_of = |further: Value| yaml(&with(plain.clone(), further));
    let refused =
        |name: &str, content: String, words| Case::new(format!("mistake: {name}"), content, Refused(words));
    let user = |name: &str, user: Value, words| refused(name, text(&cluster(world), &user), words);
    let contexts =
        json!([{ "name": "x", "context": { "cluster": "c", "user": "u" } }, { "name": "x", "context": {} }]);
    vec![
        refused("current-context: \"\"", text_of(json!({ "current-context": "" })), "no current-context"),
        refused("no such context", text_of(json!({ "current-context": "moon" })), "\"moon\" is not among"),
        refused("no such cluster", text_of(json!({ "clusters": [] })), "cluster \"c\", which is not among"),
        refused(
            "two of a name",
            text_of(json!({ "contexts": contexts })),
            "two entries for the context \"x\"",
        ),
        refused("another kind", text_of(json!({ "kind": "Pod" })), "and not a \"Config\""),
        refused("another version", text_of(json!({ "apiVersion": "v2" })), "and not a \"Config\" of \"v1\""),
        refused("no YAML", "{".to_owned(), "correct the file"),
        refused("no server", text(&json!({}), &token()), "has no server"),
        refused(
            "a scheme",
            text(&json!({ "server": "ftp://127.0.0.1" }), &token()),
            "neither http nor https",
        ),
        user(
            "token and username",
            json!({ "token": "a", "username": "b", "password": "c" }),
            "remove one of them",
        ),
        user("as-groups without as", json!({ "token": TOKEN, "as-groups": ["a"] }), "without as"),
        user("certificate without key", json!({ "client-certificate-data": base64("a") }), "without a key"),
        user(
            "certificate twice",
            json!({ "client-certificate-data": base64("a"), "client-certificate": "a", "client-key": "a" }),
            "remove one of them",
        ),
        user(
            "data that is not base64",
            json!({ "client-certificate-data": "!!", "client-key": "config" }),
            "not base64",
        ),
        user("auth-provider", json!({ "auth-provider": { "name": "gcp" } }), "auth-provider \"gcp\""),
    ]
}

/// A plugin that prints this, if the rest of what it checks is so.
fn script(check: &str, credential: &Value) -> String {
    format!("#!/bin/sh\nset -eu\n{check}\ncat <<'END'\n{credential}\nEND\n")
}

fn credential(version: &str, status: Value) -> Value {
    json!({ "kind": "ExecCredential", "apiVersion": format!("client.authentication.k8s.io/{version}"), "status": status })
}

fn exec(version: &str, further: Value) -> Value {
    let exec = json!({
        "apiVersion": format!("client.authentication.k8s.io/{version}"), "command": "./plugin", "interactiveMode": "Never",
    });
    json!({ "exec": with(exec, further) })
}

fn plugins(world: &World) -> Vec<Case> {
    let case = |name: &str, user: Value, plugin: String, expected| {
        let case = Case::new(format!("exec: {name}"), text(&cluster(world), &user), expected);
        case.file("plugin", plugin).of_plugin()
    };
    let good = |version: &str| script("", &credential(version, token()));
    let checked = |check: &str| script(check, &credential("v1", token()));
    let pair = json!({
        "clientCertificateData": world.client.certificate, "clientKeyData": world.client.key,
        "expirationTimestamp": "2090-01-01T00:00:00Z",
    });
    let environment = json!({ "args": ["a b", "c"], "env": [{ "name": "KILO", "value": "1" }] });
    let info = r#"echo "$KUBERNETES_EXEC_INFO" | grep -q '"interactive":false'
echo "$KUBERNETES_EXEC_INFO" | grep -q '"certificate-authority-data":"[A-Za-z0-9+/=]*"'
echo "$KUBERNETES_EXEC_INFO" | grep -q '"audience":"kilo"'"#;
    let extension = json!({ "extensions": [
        { "name": "client.authentication.k8s.io/exec", "extension": { "audience": "kilo" } },
    ] });
    let informed = text(&with(cluster(world), extension), &exec("v1", json!({ "provideClusterInfo": true })));
    vec![
        case("v1, a token", exec("v1", json!({})), good("v1"), Works),
        case("v1beta1, a token", exec("v1beta1", json!({ "interactiveMode": null })), good("v1beta1"), Works),
        case("a certificate", exec("v1", json!({})), script("", &credential("v1", pair)), Works),
        case("args and env", exec("v1", environment), checked("test \"$1\" = 'a b' -a \"$KILO\" = 1"), Works),
        Case::new("exec: provideClusterInfo", informed, Works).file("plugin", checked(info)).of_plugin(),
        case("on the PATH", exec("v1", json!({ "command": "sh", "args": ["plugin"] })), good("v1"), Works),
        case("it fails", exec("v1", json!({})), checked("exit 3"), Refused("failed with exit status: 3")),
        case("another version", exec("v1", json!({})), good("v1beta1"), Refused("and not an ExecCredential")),
        case(
            "nothing",
            exec("v1", json!({})),
            "#!/bin/sh\n".to_owned(),
            Refused("and not an ExecCredential"),
        ),
        case(
            "no credential",
            exec("v1", json!({})),
            script("", &credential("v1", json!({}))),
            Refused("neither a token"),
        ),
        case(
            "missing",
            exec("v1", json!({ "command": "./none", "installHint": "see kilo.test" })),
            String::new(),
            Refused("install it: see kilo.test"),
        ),
        case("v1alpha1", exec("v1alpha1", json!({})), good("v1alpha1"), Refused("v1 or v1beta1"))
            .said_by_all("v1 or v1beta1"),
        case(
            "v1 without interactiveMode",
            exec("v1", json!({ "interactiveMode": null })),
            good("v1"),
            Refused("interactiveMode"),
        )
        .said_by_all("interactiveMode"),
        case(
            "interactiveMode: Always",
            exec("v1", json!({ "interactiveMode": "Always" })),
            good("v1"),
            Refused("no terminal"),
        ),
    ]
}

impl Case {
    /// It is wrong before it matters whether programs may be run.
    fn said_by_all(mut self, words: &'static str) -> Self {
        self.expected[2] = Refused(words);
        self.exception = "";
        self
    }
}
