//! The node's private key in a file that only root reads.

use std::path::Path;

use anyhow::{Context, Result};
use files::{Audience, check_directory, make_directory, read_private, replace};
use mesh::PrivateKey;

/// Reads the key from `DIR/key`; makes one when there is none.
///
/// # Errors
/// When the file holds something else, when others own or can write the file or a directory that leads to it, or when the
/// directory cannot be written. A key is never replaced: other nodes would lose this one.
pub fn load_or_create(directory: &Path) -> Result<PrivateKey> {
    make_directory(directory, 0o700).context("no private key can be kept")?;
    match load(directory)? {
        Some(key) => Ok(key),
        None => create(&directory.join("key")),
    }
}

/// Reads the key, if there is one; for those who must not make one.
///
/// # Errors
/// As [`load_or_create`].
pub fn load(directory: &Path) -> Result<Option<PrivateKey>> {
    if !directory.exists() {
        return Ok(None);
    }
    check_directory(directory).context("the private key is not safe")?;
    let path = directory.join("key");
    let Some(read) = read_private(&path, Audience::Program).context("the private key cannot be used")? else {
        return Ok(None);
    };
    if read.was_open {
        tracing::warn!(
            path = %path.display(),
            "others could read the private key; it is 0600 again. If others have accounts on this host, stop kg and \
             remove the file to get a new key"
        );
    }
    let key = read.text.trim().parse().with_context(|| {
        format!("{} does not hold a WireGuard private key; remove the file to get a new one", path.display())
    })?;
    Ok(Some(key))
}

fn create(path: &Path) -> Result<PrivateKey> {
    let key = PrivateKey::from_random(rand::random());
    replace(path, key.expose_base64().as_bytes(), 0o600).with_context(|| {
        format!(
            "cannot write the private key {}; the node would get a new identity at every start",
            path.display()
        )
    })?;
    tracing::info!(path = %path.display(), "made a new private key");
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_for_root() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("kilo");
        let key = load_or_create(&inner).unwrap();
        assert!(key == load_or_create(&inner).unwrap());
        let path = inner.join("key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(key == load_or_create(&inner).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_not_a_key_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("key"), "not a key\n").unwrap();
        let error = load_or_create(directory.path()).unwrap_err();
        assert!(format!("{error:#}").contains("remove the file"), "{error:#}");
        assert_eq!(fs::read_to_string(directory.path().join("key")).unwrap(), "not a key\n");
    }

    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", directory.path().join("key")).unwrap();
        assert!(load_or_create(directory.path()).is_err());
    }

    #[test]
    fn a_key_that_others_could_have_put_there_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("kilo");
        load_or_create(&inner).unwrap();
        for (path, mode) in [(inner.clone(), 0o777), (inner.join("key"), 0o622)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for error in [load_or_create(&inner).unwrap_err(), load(&inner).unwrap_err()] {
                let text = format!("{error:#}");
                assert!(text.contains("chmod") && text.contains(&path.display().to_string()), "{text}");
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
    }
}
