//! Where the key that is shared with a peer is found: in its object, or in a Secret that the object refers to.
//!
//! Nothing is read here. Whoever calls reads the Secrets and passes in what it knows.

use std::{collections::BTreeMap, fmt};

use crate::{PresharedKey, endpoint::is_dns_subdomain};

/// The keys of Secrets that have been read.
pub type PresharedKeys = BTreeMap<SecretRef, PresharedKey>;

/// Why a reference cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefError {
    /// The name of the Secret is none that Kubernetes gives to objects.
    #[error("the name of a Secret is up to 253 lower-case letters, digits, '-' and '.'")]
    Name,
    /// The key is none that the data of a Secret can have.
    #[error("a key in a Secret is up to 253 letters, digits, '-', '_' and '.'")]
    Key,
}

/// One entry of a Secret. The namespace is the same for all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    name: String,
    key: String,
}

impl SecretRef {
    /// A reference to the entry `key` of the Secret `name`.
    ///
    /// # Errors
    /// When Kubernetes takes one of them for no name. So a name cannot lead to another object of the API.
    pub fn new(name: impl Into<String>, key: impl Into<String>) -> Result<Self, SecretRefError> {
        let (name, key) = (name.into(), key.into());
        if !is_dns_subdomain(&name) {
            return Err(SecretRefError::Name);
        }
        let in_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if key.is_empty() || key.len() > 253 || !key.bytes().all(in_key) {
            return Err(SecretRefError::Key);
        }
        Ok(Self { name, key })
    }

    /// The name of the Secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key of the entry in its data.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the Secret {}", self.key, self.name)
    }
}

/// Where a preshared key is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresharedKeySource {
    /// In the Peer object.
    Inline(PresharedKey),
    /// In a Secret.
    Secret(SecretRef),
}

impl PresharedKeySource {
    /// The Secret, if it is in one.
    pub fn secret(&self) -> Option<&SecretRef> {
        match self {
            Self::Inline(_) => None,
            Self::Secret(reference) => Some(reference),
        }
    }

    /// The key, if it is in the object or among those that are known.
    pub fn key<'a>(&'a self, known: &'a PresharedKeys) -> Option<&'a PresharedKey> {
        match self {
            Self::Inline(key) => Some(key),
            Self::Secret(reference) => known.get(reference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_no_other_object() {
        assert!(SecretRef::new("laptop.example", "presharedKey").is_ok());
        for name in ["", "a/b", "..", "../../default/secrets/x", "a?b", "a%2fb", "A", "-a", &"a".repeat(254)]
        {
            assert_eq!(SecretRef::new(name, "k"), Err(SecretRefError::Name), "{name}");
        }
        for key in ["", "a/b", "a b", "ä", &"a".repeat(254)] {
            assert_eq!(SecretRef::new("n", key), Err(SecretRefError::Key), "{key}");
        }
    }
}
