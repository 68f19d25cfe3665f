//! Files that hold keys.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::{Error, own_uid};

/// Longer than any key with a comment around it.
const MOST: usize = 4096;

/// Who decides which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The program: it is a regular file of root or the own user. One that others can use is closed to them.
    Program,
    /// Whoever runs the program, perhaps with `sudo`: it may be a pipe or a link, and belong to somebody else. It is not
    /// changed.
    User,
}

/// What a file holds.
pub struct Private {
    /// The text, overwritten when dropped.
    pub text: Zeroizing<String>,
    /// Whether others could read it.
    pub was_open: bool,
}

/// Reads a file that only its owner should read. `None`: there is none.
///
/// # Errors
/// When others can write to it, or, unless the user named it, it belongs to somebody else or is no regular file; when it
/// is longer than any key, is no text, or cannot be read.
pub fn read_private(path: &Path, audience: Audience) -> Result<Option<Private>, Error> {
    let fail = |attempt| move |reason| Error::Io { attempt, path: path.to_owned(), reason };
    let mut options = OpenOptions::new();
    options.read(true);
    if audience == Audience::Program {
        // A link could lead anywhere, and a pipe is opened when somebody writes to it.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(Error::NotRegular { path: path.to_owned() });
        }
        Err(error) => return Err(fail("open")(error)),
    };
    let was_open = check(&file, path, audience)?;
    let mut bytes = Zeroizing::new(vec![0; MOST + 1]);
    let mut length = 0;
    // Into a buffer that does not grow: growing leaves copies behind.
    while length < bytes.len() {
        match (&file).read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(fail("read")(error)),
        }
    }
    if length > MOST {
        return Err(Error::TooLong { path: path.to_owned(), most: MOST });
    }
    let text =
        std::str::from_utf8(&bytes[..length]).map_err(|_| fail("read")(ErrorKind::InvalidData.into()))?;
    Ok(Some(Private { text: Zeroizing::new(text.to_owned()), was_open }))
}

/// Whether others could read the file.
fn check(file: &File, path: &Path, audience: Audience) -> Result<bool, Error> {
    let fail = |attempt| move |reason| Error::Io { attempt, path: path.to_owned(), reason };
    let metadata = file.metadata().map_err(fail("look at"))?;
    let mode = metadata.mode();
    if audience == Audience::User {
        return match metadata.is_file() && mode & 0o022 != 0 {
            true => Err(Error::Writable { path: path.to_owned() }),
            false => Ok(metadata.is_file() && mode & 0o044 != 0),
        };
    }
    if !metadata.is_file() {
        return Err(Error::NotRegular { path: path.to_owned() });
    }
    let (uid, own) = (metadata.uid(), own_uid());
    if uid != 0 && uid != own {
        return Err(Error::Owner { path: path.to_owned(), uid, own });
    }
    if mode & 0o022 != 0 {
        return Err(Error::Writable { path: path.to_owned() });
    }
    if mode & 0o077 != 0 {
        let mut permissions = metadata.permissions();
        permissions.set_mode(0o600);
        file.set_permissions(permissions).map_err(fail("close to others the file"))?;
    }
    Ok(mode & 0o044 != 0)
}
