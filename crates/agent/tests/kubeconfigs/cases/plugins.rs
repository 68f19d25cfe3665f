//! Programs that give credentials.

use serde_json::{Value, json};

use super::{
    Case,
    Expected::{Refused, Works},
    cluster, text, token, with,
};
use crate::world::World;

pub fn plugins(world: &World) -> Vec<Case> {
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

/// A plugin that prints this, if the rest of what it checks is so.
fn script(check: &str, credential: &Value) -> String {
    format!("#!/bin/sh\nset -eu\n{check}\ncat <<'END'\n{credential}\nEND\n")
}

fn credential(version: &str, status: Value) -> Value {
    json!({ "kind": "ExecCredential", "apiVersion": format!("client.authentication.k8s.io/{version}"), "status": status })
}

pub fn exec(version: &str, further: Value) -> Value {
    let exec = json!({
        "apiVersion": format!("client.authentication.k8s.io/{version}"), "command": "./plugin", "interactiveMode": "Never",
    });
    json!({ "exec": with(exec, further) })
}
