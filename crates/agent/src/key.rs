//! The node's private key in a file that only root reads.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};
use mesh::PrivateKey;

/// Reads the key from `DIR/key`; makes one when there is none.
///
/// # Errors
/// When the file holds something else, when others than its owner can read or write it, or when the directory cannot
/// be written. A key is never replaced: other nodes would lose this one.
pub fn load_or_create(directory: &Path) -> Result<PrivateKey> {
    let path = directory.join("key");
    match load(&path)? {
        Some(key) => Ok(key),
        None => create(directory, &path),
    }
}

/// Reads the key, if there is one; for those who must not change anything.
pub fn load(path: &Path) -> Result<Option<PrivateKey>> {
    let mut file = match OpenOptions::new().read(true).custom_flags(libc_nofollow()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the private key {}", path.display()));
        }
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        bail!("the private key {} is not a regular file", path.display());
    }
    if metadata.mode() & 0o077 != 0 {
        // The Go agent wrote it 0600; someone has opened it up since. Closing it is safe, so do it and go on.
        let mut permissions = metadata.permissions();
        permissions.set_mode(0o600);
        file.set_permissions(permissions).with_context(|| {
            format!("others can read the private key {}; chmod 600 failed", path.display())
        })?;
        tracing::warn!(path = %path.display(), "others could read the private key; it is 0600 again");
    }
    let mut text = String::new();
    file.read_to_string(&mut text)
        .with_context(|| format!("cannot read the private key {}", path.display()))?;
    let key = text.trim().parse().with_context(|| {
        format!("{} does not hold a WireGuard private key; remove the file to get a new one", path.display())
    })?;
    Ok(Some(key))
}

fn create(directory: &Path, path: &Path) -> Result<PrivateKey> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make the directory {} for the private key", directory.display()))?;
    let key = PrivateKey::from_random(rand::random());
    // Written beside and renamed: a crash in between leaves no half a key.
    let temporary = path.with_extension(format!("new.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(key.expose_base64().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).with_context(|| {
        format!(
            "cannot write the private key {}; the node would get a new identity at every start",
            path.display()
        )
    })?;
    tracing::info!(path = %path.display(), "made a new private key");
    Ok(key)
}

/// A link in place of the file could point to what someone else controls.
fn libc_nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
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
}
