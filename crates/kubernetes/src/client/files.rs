//! Whether files are still those that were read, without reading them.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tokio::sync::oneshot;

/// What a file is. A link that leads to another file, a file that was replaced and one that was written to become
/// something else. `None`: it cannot be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileIdentity(Option<[i64; 7]>);

impl FileIdentity {
    fn of(path: &Path) -> Self {
        let metadata = path.metadata().ok();
        Self(metadata.map(|file| {
            [
                file.dev().cast_signed(),
                file.ino().cast_signed(),
                file.size().cast_signed(),
                file.mtime(),
                file.mtime_nsec(),
                file.ctime(),
                file.ctime_nsec(),
            ]
        }))
    }
}

/// What these files are now.
pub(super) fn identities(files: &[PathBuf]) -> Vec<FileIdentity> {
    files.iter().map(|path| FileIdentity::of(path)).collect()
}

/// Whether it is there and no regular file, for example a pipe.
pub(super) fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| !file.is_file())
}

/// Does something with files on a thread of its own. On a network filesystem that may take for ever, and nothing waits for
/// it then, not even the end of the program. There is no answer if the system gives no thread.
pub(super) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("files".to_owned());
    // Whoever asked may have lost patience.
    let _ = thread.spawn(move || sender.send(work()));
    receiver
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn whatever_may_change_the_content_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let [current, new, one, two] = ["current", "new", "one", "two"].map(|name| folder.path().join(name));
        fs::write(&one, "1").unwrap();
        fs::write(&two, "2").unwrap();
        let seen = || identities(std::slice::from_ref(&current));
        let missing = seen();
        symlink(&one, &current).unwrap();
        let first = seen();
        assert_ne!(missing, first);
        assert_eq!(first, seen());
        // As the kubelet does.
        symlink(&two, &new).unwrap();
        fs::rename(&new, &current).unwrap();
        let second = seen();
        assert_ne!(first, second);
        fs::write(&two, "22").unwrap();
        assert_ne!(second, seen());
    }
}
