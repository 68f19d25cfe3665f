//! Preshared keys of Peers that are kept in Secrets.
//!
//! Peers belong to the whole cluster, so whoever may create one could name any Secret, and an agent would read it for them.
//! Therefore a reference has no namespace: all these Secrets are in one of their own, the only one in which agents
//! may read Secrets, and have a type of their own. Of what else is found there nothing gets into an error.
//!
//! Each Secret is read by itself. Nobody needs permission to list or watch them.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::Client;
use mesh::{PresharedKey, SecretRef};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{Error, decode::decode_preshared_key, explain::Resource, patch::request, peer::Secret};

/// The namespace of the Secrets.
pub const NAMESPACE: &str = "kilo-preshared-keys";

/// The type of the Secrets.
pub const SECRET_TYPE: &str = "kilo.squat.ai/preshared-key";

/// The entry of a Secret that holds the key, unless the Peer names another.
pub const DEFAULT_KEY: &str = "presharedKey";

/// Reads a preshared key.
///
/// # Errors
/// When the API does not answer or refuses; when there is no such Secret; when it has another type, no such entry, or
/// something else than a preshared key in it.
pub async fn get_preshared_key(client: &Client, reference: &SecretRef) -> Result<PresharedKey, Error> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{}", reference.name());
    let asked = http::Request::get(path).body(Vec::new()).expect("the name of an object fits into a path");
    let object = format!("the Secret {} in the namespace {NAMESPACE}", reference.name());
    // As text: a typed request writes an answer that it cannot read to the log.
    let answer = request("get", Resource::PresharedKeys, &object, client.request_text(asked)).await?;
    decode(&Zeroizing::new(answer), reference.key())
        .map_err(|why| Error::PresharedKey { name: reference.name().to_owned(), why })
}

/// What matters of a Secret.
#[derive(Deserialize)]
struct Object {
    #[serde(default, rename = "type")]
    kind: String,
    /// Base64 of base64: the first is the API's, the second WireGuard's.
    #[serde(default)]
    data: BTreeMap<String, Secret>,
}

/// The key in a Secret, or what is wrong and what to do. The error names neither another type nor other entries:
/// whoever writes Peers may not be allowed to know.
fn decode(text: &str, key: &str) -> Result<PresharedKey, String> {
    let object: Object =
        serde_json::from_str(text).map_err(|_| "the API's answer is no Secret".to_owned())?;
    if object.kind != SECRET_TYPE {
        return Err(format!("its type is not {SECRET_TYPE}; delete it and create it with this type"));
    }
    let advice = format!("put a key that `wg genpsk` makes into its data as {key}");
    let value = object.data.get(key).ok_or_else(|| format!("it has no {key}; {advice}"))?;
    let value = value.expose();
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(value.len())]);
    let length = STANDARD.decode_slice(value, &mut bytes);
    let text = length.ok().and_then(|length| std::str::from_utf8(&bytes[..length]).ok());
    let text = text.ok_or_else(|| format!("{key} is no text; {advice}"))?;
    decode_preshared_key(text).map_err(|error| format!("{key} is no key: {error}; {advice}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PSK: &str = "X5iEdx2IJEvQ3kYRZ09X33bW1Q4IMvQiaL5X1LuCiqQ=";

    fn error(change: impl FnOnce(&mut Value)) -> String {
        let mut secret = json!({ "type": SECRET_TYPE, "data": { "k": STANDARD.encode(PSK) } });
        change(&mut secret);
        decode(&secret.to_string(), "k").unwrap_err()
    }

    #[test]
    fn a_key_is_read_as_wg_prints_it() {
        for text in [PSK.to_owned(), format!("{PSK}\n")] {
            let secret = json!({ "type": SECRET_TYPE, "data": { "k": STANDARD.encode(text), "other": "" } });
            assert_eq!(*decode(&secret.to_string(), "k").unwrap().expose_base64(), PSK);
        }
    }

    #[test]
    fn other_secrets_are_refused_and_nothing_of_them_is_told() {
        let token = error(|secret| secret["type"] = json!("kubernetes.io/service-account-token"));
        assert!(token.contains(SECRET_TYPE) && !token.contains("token"), "{token}");
        assert!(error(|secret| *secret = json!({ "data": {} })).contains(SECRET_TYPE));
        let missing = error(|secret| secret["data"] = json!({ "hunter2": "" }));
        assert!(missing.contains("it has no k; put a key") && !missing.contains("hunter2"), "{missing}");
        for (value, expected) in [
            (json!(STANDARD.encode("hunter2")), "44 characters"),
            (json!(STANDARD.encode("AAAA")), "this has 3"),
            (json!(STANDARD.encode(STANDARD.encode([0; 32]))), "all zeros"),
            (json!(STANDARD.encode([0xff, 0xfe])), "no text"),
            (json!("hunter2"), "no text"),
            (json!(["hunter2"]), "no Secret"),
        ] {
            let said = error(|secret| secret["data"]["k"] = value);
            assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
        }
    }
}
