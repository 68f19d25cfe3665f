//! Files that a privileged program reads and writes on a host where others have accounts.
//!
//! A file is as good as the directories that lead to it: whoever can write into one of them can put another file in its
//! place. And a name can stand for anything: a link to somebody else's file, or a pipe that is never written. What is in
//! the files is not known here.

mod directory;
mod private;
mod replace;

use std::{io, path::PathBuf};

pub use directory::{check_directory, make_directory};
pub use private::{Audience, Private, read_private};
pub use replace::{read_regular, read_text, replace};

/// Why a file or directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others could replace what is in the directory, or put another directory in its place.
    #[error(
        "{} {}, who could replace files in {}; {advice}",
        found.display(), fault, directory.display()
    )]
    Directory {
        /// The directory that was to be used.
        directory: PathBuf,
        /// The one that leads to it, or itself, with which something is wrong.
        found: PathBuf,
        /// What is wrong with it.
        fault: String,
        /// What to do.
        advice: String,
    },
    /// The file belongs to somebody else.
    #[error("{} belongs to the user with the id {uid}; if its content is right, run: chown {own} {}", path.display(), path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Who we are.
        own: u32,
    },
    /// Others can write to the file.
    #[error("others can write to {}; if its content is right, run: chmod 600 {}", path.display(), path.display())]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// It is a link, a directory, a pipe or a device.
    #[error("{} is not a regular file; remove it, or name another", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// It is longer than anything that it is to hold.
    #[error("{} has more than {most} bytes; it holds something else", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How many it may have.
        most: usize,
    },
    /// The system does not let it be used.
    #[error("cannot {attempt} {}: {reason}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
}

/// The user whose rights this process has.
fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
