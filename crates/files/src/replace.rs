//! Files that are read and written whole.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// Longer than any configuration.
const MOST: u64 = 1 << 20;

/// Reads a text of up to 1 MiB. A pipe or a device in its place is an error, and is not waited for.
///
/// # Errors
/// When it is no regular file, too long, no UTF-8, or cannot be read.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_regular(path, MOST)?)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// Reads a file of up to `most` bytes. A pipe or a device in its place is an error, and is not waited for.
///
/// # Errors
/// When it is no regular file, too long, or cannot be read.
pub fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = options.read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    if file.take(most + 1).read_to_end(&mut content)? as u64 > most {
        return Err(io::Error::other(format!("it has more than {} MiB", most >> 20)));
    }
    Ok(content)
}

/// Writes a file beside its place and renames it, so that nobody ever reads half of one and a crash leaves the old one.
/// Nothing that has the name of the file beside, for example a link to another file, is written to.
///
/// # Errors
/// When it cannot be written; the old one stays.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // Programs know their files by how the names end; no name ends like this.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".kilo-new-{}", std::process::id()));
    let beside = path.with_file_name(name);
    let create = || OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside);
    let mut file = match create() {
        // What an earlier process of this number has left.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(&beside)?;
            create()?
        }
        result => result?,
    };
    let mut write = || -> io::Result<()> {
        file.write_all(content)?;
        // Not all that was asked for may have got past the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&beside)))
}
