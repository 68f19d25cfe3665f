//! Who a kubeconfig says one is.

use serde_json::{Value, json};

use super::{
    Case,
    Expected::{Refused, Works},
    at, base64, cluster, text, token, with,
};
use crate::{
    server::TOKEN,
    world::{CERTIFICATES, World},
};

pub fn users(world: &World) -> Vec<Case> {
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

pub fn certificates(world: &World) -> Vec<Case> {
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
