//! What can go wrong while a lab is built, used or torn down. It decides nothing; every variant names the
//! object it is about and, where there is something to do about it, what.

use std::{io, path::PathBuf, time::Duration};

/// An error of the lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The description of the lab contradicts itself or exceeds a limit.
    #[error("the lab description is wrong: {0}")]
    Spec(String),
    /// A system call or file operation failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, on what.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that the lab runs (`ip`, `nft`, …) ended with an error.
    #[error("`{command}` failed in {place}: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// The namespace it ran in.
        place: String,
        /// Its exit status and what it wrote to standard error.
        reason: String,
    },
    /// A program is not installed or not built.
    #[error("cannot find {program}: {advice}")]
    MissingProgram {
        /// The program's name.
        program: String,
        /// How to get it.
        advice: String,
    },
    /// Nothing of that name is in the lab.
    #[error("lab {lab} has no node or pod {name}; it has {known}")]
    UnknownMember {
        /// The lab.
        lab: String,
        /// What was asked for.
        name: String,
        /// What there is, separated by spaces.
        known: String,
    },
    /// No lab of that name is up.
    #[error("lab {0} is not up; `kilo-lab up --name {0}` brings it up")]
    NotUp(String),
    /// Another process is building or tearing down a lab of the same name.
    #[error("lab {lab} is being brought up or torn down by another process (lock file {lock})")]
    Busy {
        /// The lab.
        lab: String,
        /// The file whose lock the other process holds.
        lock: PathBuf,
    },
    /// A lab of that name belongs to a process that still runs.
    #[error("lab {lab} belongs to process {owner}, which still runs; choose another name, or end it")]
    Owned {
        /// The lab.
        lab: String,
        /// The process.
        owner: u32,
    },
    /// Something was still there after the teardown.
    #[error("lab {lab} could not be torn down completely; still there: {left}")]
    Leftovers {
        /// The lab.
        lab: String,
        /// Namespaces and process ids.
        left: String,
    },
    /// A condition did not come true in time.
    #[error("{what} did not happen within {} s; last seen: {seen}", within.as_secs_f32())]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// What was seen when the time was over.
        seen: String,
    },
    /// An HTTP exchange broke.
    #[error("{method} {url} from {place}: {reason}")]
    Http {
        /// The method.
        method: String,
        /// Address and path.
        url: String,
        /// The namespace it was sent from.
        place: String,
        /// What went wrong.
        reason: String,
    },
    /// The API refused a request.
    #[error("the API answered {status} to {method} {path}: {message}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// The method.
        method: String,
        /// The path.
        path: String,
        /// The message of the Status object, or the body.
        message: String,
    },
    /// A signal asked for the end.
    #[error("interrupted")]
    Interrupted,
}

impl LabError {
    /// An I/O error together with what was attempted.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

impl From<rustix::io::Errno> for LabError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io { action: "system call".into(), source: errno.into() }
    }
}
