//! How kubeconfigs are written, and how several are put together.

use serde_json::{Value, json};

use super::{
    Case,
    Expected::{Refused, Works},
    base64, cluster, config, text, token, with, yaml,
};
use crate::{server::TOKEN, world::World};

pub fn lists(world: &World) -> Vec<Case> {
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

pub fn forms(world: &World) -> Vec<Case> {
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

pub fn mistakes(world: &World) -> Vec<Case> {
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
