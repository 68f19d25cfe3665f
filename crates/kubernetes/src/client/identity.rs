//! Who a client is towards the API, as far as headers say so.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, InvalidHeaderName},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    address::Login,
    expiry::Expiry,
    kubeconfig::{User, read},
};

/// What a header's name may consist of (RFC 9110, token), but for the sign of the encoding.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// The headers of every request. It has no `Debug`.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Identity {
    headers: HeaderMap,
    expiry: Option<Expiry>,
}

impl Identity {
    /// As a kubeconfig says.
    ///
    /// # Errors
    /// What is missing or makes no sense.
    pub fn of(user: &User) -> Result<Self, String> {
        let mut identity = Self::default();
        if let Some((token, source)) = token(user)? {
            identity.expiry = Expiry::of_token(&token, &source);
            identity
                .bear(&token)
                .map_err(|()| format!("the token of {source} has signs that no token has"))?;
        } else if !user.username.is_empty() || !user.password.is_empty() {
            let login = Login { user: user.username.clone(), password: user.password.clone() };
            identity.log_in(Some(login));
        }
        identity.act_as(user)?;
        Ok(identity)
    }

    /// Adds a token.
    ///
    /// # Errors
    /// When it cannot be part of a header.
    pub fn bear(&mut self, token: &str) -> Result<(), ()> {
        self.authorize(&format!("Bearer {token}")).ok_or(())
    }

    /// Adds a user's name and password, unless there is something better.
    pub fn log_in(&mut self, login: Option<Login>) {
        if let Some(login) = login.filter(|_| !self.headers.contains_key(AUTHORIZATION)) {
            // Base64 has no signs that a header cannot have.
            let _ = self.authorize(&basic(&login));
        }
    }

    fn authorize(&mut self, value: &str) -> Option<()> {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        Some(())
    }

    fn act_as(&mut self, user: &User) -> Result<(), String> {
        if user.as_user.is_empty() {
            return Ok(());
        }
        let mut add = |name: HeaderName, value: &str| {
            let value =
                HeaderValue::from_str(value).map_err(|_| format!("its {name} cannot be {value:?}"))?;
            self.headers.append(name, value);
            Ok::<_, String>(())
        };
        add(HeaderName::from_static("impersonate-user"), &user.as_user)?;
        if !user.as_uid.is_empty() {
            add(HeaderName::from_static("impersonate-uid"), &user.as_uid)?;
        }
        for group in &user.as_groups {
            add(HeaderName::from_static("impersonate-group"), group)?;
        }
        for (key, values) in &user.as_user_extra {
            let name = format!("impersonate-extra-{}", utf8_percent_encode(key, ENCODED));
            let name = name
                .parse()
                .map_err(|error: InvalidHeaderName| format!("{key:?} of as-user-extra: {error}"))?;
            values.iter().try_for_each(|value| add(HeaderName::clone(&name), value))?;
        }
        Ok(())
    }

    /// Adds to the headers of a request what they do not have.
    pub fn introduce(&self, headers: &mut HeaderMap) {
        for name in self.headers.keys().filter(|name| !headers.contains_key(*name)).collect::<Vec<_>>() {
            for value in self.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
    }

    pub fn expiry(&self) -> Option<Expiry> {
        self.expiry.clone()
    }
}

/// The value of a header for basic authentication.
pub(super) fn basic(login: &Login) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", login.user, login.password)))
}

/// A file's token is younger than one beside it, unless it cannot be read.
fn token(user: &User) -> Result<Option<(String, String)>, String> {
    let own = Some(&user.token).filter(|token| !token.is_empty());
    let own = own.map(|token| (token.clone(), "the kubeconfig".to_owned()));
    if user.token_file.as_os_str().is_empty() {
        return Ok(own);
    }
    let path = user.token_file.display();
    let found =
        read(&user.token_file).map_err(|why| format!("{why}; that is its tokenFile")).and_then(|bytes| {
            let token = String::from_utf8_lossy(&bytes).trim().to_owned();
            if token.is_empty() { Err(format!("its tokenFile {path} is empty")) } else { Ok(token) }
        });
    match (found, own) {
        (Ok(token), _) => Ok(Some((token, path.to_string()))),
        (Err(_), Some(own)) => Ok(Some(own)),
        (Err(why), None) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(yaml: &str) -> Vec<String> {
        let identity = Identity::of(&serde_norway::from_str(yaml).unwrap()).ok().unwrap();
        let mut headers = HeaderMap::new();
        identity.introduce(&mut headers);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn users_are_introduced_as_by_kubectl() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from-file\n").unwrap();
        let file = file.display();
        for (yaml, expected) in [
            ("{}".to_owned(), vec![]),
            ("{token: a}".to_owned(), vec!["authorization: Bearer a"]),
            (format!("{{token: a, tokenFile: {file}}}"), vec!["authorization: Bearer from-file"]),
            ("{token: a, tokenFile: /nowhere}".to_owned(), vec!["authorization: Bearer a"]),
            ("{username: u, password: p}".to_owned(), vec!["authorization: Basic dTpw"]),
            (
                "{token: a, as: b, as-uid: '7', as-groups: [c, d], as-user-extra: {e/f: [g, h]}}".to_owned(),
                vec![
                    "authorization: Bearer a",
                    "impersonate-user: b",
                    "impersonate-uid: 7",
                    "impersonate-group: c",
                    "impersonate-group: d",
                    "impersonate-extra-e%2ff: g",
                    "impersonate-extra-e%2ff: h",
                ],
            ),
        ] {
            assert_eq!(headers(&yaml), expected, "{yaml}");
        }
    }

    #[test]
    fn a_token_that_is_missing_is_said() {
        let user = User { token_file: "/nowhere".into(), ..User::default() };
        assert!(Identity::of(&user).err().unwrap().contains("/nowhere"));
        let user = User { token: "a\u{1}".to_owned(), ..User::default() };
        assert!(Identity::of(&user).err().unwrap().contains("the kubeconfig"));
    }
}
