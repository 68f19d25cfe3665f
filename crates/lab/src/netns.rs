//! Named network namespaces: entering, listing and deleting them. It does not know what a lab puts into them.
//! Names live where
//! `ip netns` keeps them, so every tool finds them.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    mount::{UnmountFlags, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::LabError;

const DIRECTORY: &str = "/run/netns";

/// What identifies a namespace, whatever its names: the device and inode of its file (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity(u64, u64);

/// The file of a named namespace.
pub fn path(namespace: &str) -> PathBuf {
    Path::new(DIRECTORY).join(namespace)
}

/// Opens a namespace.
///
/// # Errors
/// When there is none of that name.
pub fn open(namespace: &str) -> Result<File, LabError> {
    File::open(path(namespace)).map_err(LabError::io(format!("opening the network namespace {namespace}")))
}

/// Runs `work` inside a namespace, on a thread of its own. Sockets that it opens stay in the namespace
/// wherever they go later.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    let file = open(namespace)?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .map_err(|errno: rustix::io::Errno| {
        LabError::io(format!("entering the network namespace {namespace}"))(errno.into())
    })
}

/// The names of all namespaces that begin with `prefix`, sorted.
///
/// # Errors
/// When the directory cannot be read; that it does not exist means that there are none.
pub fn list(prefix: &str) -> Result<Vec<String>, LabError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(LabError::io(format!("listing {DIRECTORY}")))?,
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}

/// Removes a namespace's name. The kernel frees the namespace once no process and no socket is left in it.
///
/// # Errors
/// When the name exists and cannot be removed.
pub fn delete(namespace: &str) -> Result<(), LabError> {
    let path = path(namespace);
    // A name whose creation was interrupted is a plain file: unmounting it fails, removing it does not.
    let _ = unmount(&path, UnmountFlags::DETACH);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::io(format!("removing the network namespace {namespace}"))(error))
        }
        _ => Ok(()),
    }
}

/// The identity of a named namespace; `None` when there is none of that name.
pub fn identity(namespace: &str) -> Option<Identity> {
    identify(&path(namespace))
}

/// The identity of the namespace a process runs in; `None` when the process is gone.
pub fn identity_of_process(pid: u32) -> Option<Identity> {
    identify(Path::new(&format!("/proc/{pid}/ns/net")))
}

fn identify(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    Some(Identity(metadata.dev(), metadata.ino()))
}
