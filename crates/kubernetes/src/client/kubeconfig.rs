//! A kubeconfig file as data: what is in one, read as client-go reads it.
//!
//! Fields that are not known are ignored, as is every YAML document but the first. Files that are read from here are looked
//! for beside the kubeconfig. What the entries of several files come to is for [`super::loading`].

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use files::read_regular;
use serde::Deserialize;
use serde_json::Value;
use serde_norway::Deserializer;

use super::files::is_special;

/// The longest file that is read, in bytes: a kubeconfig, certificates, a key or a token.
const LONGEST: u64 = 4 << 20;

/// The content of a file.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Document {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    pub current_context: String,
    pub clusters: Vec<NamedCluster>,
    pub contexts: Vec<NamedContext>,
    pub users: Vec<NamedUser>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct NamedCluster {
    pub name: String,
    pub cluster: Cluster,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct NamedContext {
    pub name: String,
    pub context: Context,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct NamedUser {
    pub name: String,
    pub user: User,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Cluster {
    pub server: String,
    pub certificate_authority: PathBuf,
    /// In base64.
    pub certificate_authority_data: String,
    pub insecure_skip_tls_verify: bool,
    pub tls_server_name: String,
    pub proxy_url: String,
    pub disable_compression: bool,
    pub extensions: Vec<Extension>,
}

/// What other programs keep in a kubeconfig.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Extension {
    pub name: String,
    pub extension: Value,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    pub cluster: String,
    pub user: String,
    pub namespace: String,
}

/// It holds secrets and so has no `Debug`.
#[derive(Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct User {
    pub token: String,
    #[serde(rename = "tokenFile")]
    pub token_file: PathBuf,
    pub username: String,
    pub password: String,
    pub client_certificate: PathBuf,
    /// In base64.
    pub client_certificate_data: String,
    pub client_key: PathBuf,
    /// In base64.
    pub client_key_data: String,
    #[serde(rename = "as")]
    pub as_user: String,
    pub as_uid: String,
    pub as_groups: Vec<String>,
    pub as_user_extra: BTreeMap<String, Vec<String>>,
    pub auth_provider: Option<AuthProvider>,
    pub exec: Option<Exec>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AuthProvider {
    pub name: String,
}

/// A program that gives credentials.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Exec {
    pub api_version: String,
    pub command: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<Variable>,
    pub install_hint: String,
    pub interactive_mode: String,
    pub provide_cluster_info: bool,
}

#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Variable {
    pub name: String,
    pub value: String,
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not name it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = if is_special(path) { read_special(path) } else { read(path) }?;
        let text = str::from_utf8(&bytes).map_err(|_| "it is no UTF-8 text; correct the file".to_owned())?;
        let mut document = Self::parse(text).map_err(|why| format!("{why}; correct the file"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let folder = std::path::absolute(folder).or_else(|_| env::current_dir()).unwrap_or_default();
        document.resolve(&folder);
        Ok(document)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_start_matches('\u{feff}');
        let Some(first) = Deserializer::from_str(text).next() else { return Ok(Self::default()) };
        // By way of JSON, as in Go: there the last of several equal keys counts, and null is as good as nothing.
        let value = Value::deserialize(first).map_err(|error| without_values(&error))?;
        if value.is_null() {
            return Ok(Self::default());
        }
        let document: Self =
            serde_json::from_value(without_nulls(value)).map_err(|error| without_values(&error))?;
        match (document.api_version.as_str(), document.kind.as_str()) {
            ("" | "v1", "" | "Config") => {}
            (version, kind) => {
                return Err(format!("it is a {kind:?} of {version:?}, and not a \"Config\" of \"v1\""));
            }
        }
        unique("cluster", document.clusters.iter().map(|entry| &entry.name))?;
        unique("context", document.contexts.iter().map(|entry| &entry.name))?;
        unique("user", document.users.iter().map(|entry| &entry.name))?;
        Ok(document)
    }

    /// Paths in a kubeconfig begin at its directory.
    fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| {
            if !path.as_os_str().is_empty() {
                // Without the `.` of `./name`.
                *path = folder.join(&*path).components().collect();
            }
        };
        for NamedCluster { cluster, .. } in &mut self.clusters {
            resolve(&mut cluster.certificate_authority);
        }
        for NamedUser { user, .. } in &mut self.users {
            resolve(&mut user.token_file);
            resolve(&mut user.client_certificate);
            resolve(&mut user.client_key);
            // A bare name is looked for on the PATH.
            if let Some(exec) = &mut user.exec
                && exec.command.components().count() > 1
            {
                resolve(&mut exec.command);
            }
        }
    }
}

/// Reads a small file.
///
/// # Errors
/// Why it cannot be read, with its path.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    read_regular(path, LONGEST).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Reads a pipe, such as `<(…)` of a shell, and waits for whoever writes to it.
fn read_special(path: &Path) -> Result<Vec<u8>, String> {
    let why = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(why)?.take(LONGEST + 1).read_to_end(&mut bytes).map_err(why)?;
    if bytes.len() as u64 > LONGEST {
        return Err(format!("cannot read {}: it has more than {LONGEST} bytes", path.display()));
    }
    Ok(bytes)
}

/// What serde says is wrong, without what is there in its place: that may be a secret.
pub(super) fn without_values(error: &impl fmt::Display) -> String {
    let said = error.to_string();
    let types = ["invalid type: ", "invalid value: "];
    let Some((start, found)) = types.iter().find_map(|words| Some((said.find(words)?, words))) else {
        return said;
    };
    let kind = said[start + found.len()..].split(['"', '`']).next().unwrap_or_default();
    let kind = kind.split(", expected ").next().unwrap_or_default().trim_end();
    let expected = said.rsplit(", expected ").next().unwrap_or_default();
    format!("{}{found}{kind}, expected {expected}", &said[..start])
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("there are two entries for the {what} {name:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_mean_what_they_mean_to_go() {
        let current = |text: &str| Document::parse(text).map(|document| document.current_context);
        for (text, name) in [
            ("", ""),
            ("# nothing\n", ""),
            ("---\n---\ncurrent-context: x", ""),
            ("current-context: x\n---\ncurrent-context: y", "x"),
            ("\u{feff}current-context: x", "x"),
            ("current-context: ~", ""),
            ("current-context: x\ncurrent-context: y", "y"),
            ("current-context: 2026-01-01", "2026-01-01"),
            ("current-context: 'on'\nclusters: null\nusers: []", "on"),
            (
                r#"{"current-context": "x", "kind": "Config", "apiVersion": "v1", "preferences": {}, "z": 1}"#,
                "x",
            ),
        ] {
            assert_eq!(current(text).as_deref(), Ok(name), "{text}");
        }
        for (text, why) in [
            ("{", ""),
            ("current-context: 7", "string"),
            ("current-context: [x]", "string"),
            ("kind: Pod", "\"Pod\""),
            ("apiVersion: v2", "\"v2\""),
            ("contexts: [{name: a}, {name: b}, {name: a}]", "two entries for the context \"a\""),
        ] {
            let error = current(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_not_repeated() {
        for text in [
            "eyJhbGciOiJSUzI1NiJ9.secret.sig",
            "users: [{name: u, user: secret}]",
            "users: [{name: u, user: {token: [secret]}}]",
            "users: [{name: u, user: {token: {a: secret}}}]",
            "users: secret",
            "users: ['secret, expected secret']",
            "users: [{name: u, user: {exec: \"secret\\\"`secret\"}}]",
            "users: [{name: u, user: {token: 1234567}}]",
            "{\"users\": [{\"name\": \"u\", \"user\": {\"username\": \"a\", \"password\": 1234567}}]}",
            "users: [{name: u, user: {password: 1.234567}}]",
            "users: [{name: u, user: {as-groups: secret}}]",
            "users: [{name: u, user: !secret {token: secret}}]",
            "users:\n- name: u\n  user: {token: \"secret",
            "users:\n- name: u\n  user:\n    token: secret\n   x: secret",
            "users:\n- name: u\n  user:\n    token: @secret",
            "users:\n- name: u\n  user:\n    token: *secret",
        ] {
            let error = Document::parse(text).err().unwrap();
            assert!(!error.contains("secret") && !error.contains("234567"), "{text}: {error}");
        }
        let error = Document::parse("users: [{name: u, user: {token: 1234567}}]").err().unwrap();
        assert_eq!(error, "invalid type: integer, expected a string");
    }

    #[test]
    fn paths_begin_at_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let text = "users:\n- name: u\n  user: {client-certificate: a.crt, client-key: /b.key, exec: {command: ./c}}\n\
                    - name: v\n  user: {exec: {command: aws}}";
        fs::write(&path, text).unwrap();
        let document = Document::read(&path).ok().unwrap();
        let user = &document.users[0].user;
        assert_eq!(user.client_certificate, folder.path().join("a.crt"));
        assert_eq!((&*user.client_key, &*user.token_file), (Path::new("/b.key"), Path::new("")));
        assert_eq!(user.exec.as_ref().unwrap().command, folder.path().join("c"));
        assert_eq!(document.users[1].user.exec.as_ref().unwrap().command, Path::new("aws"));
    }
}
