//! Processes: starting one inside a namespace with its own view of a few files, running a batch of commands,
//! and recognising and ending one later, also from another process. It does not know which processes a lab
//! has.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount},
    process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, setsid, waitpid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use serde::{Deserialize, Serialize};

use crate::{LabError, netns};

/// Where a process runs: in a namespace, with some files replaced by others.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The network namespace.
    pub namespace: String,
    /// What is mounted over what, for this process alone: path as seen → path on this machine.
    pub mounts: BTreeMap<PathBuf, PathBuf>,
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
}

/// A process that can be recognised later: a process id alone could meanwhile belong to a stranger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The process id.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub start_time: u64,
}

impl Place {
    /// In that namespace, with no file replaced.
    pub fn namespace(name: impl Into<String>) -> Self {
        Self { namespace: name.into(), ..Self::default() }
    }

    /// A command that will run here.
    ///
    /// # Errors
    /// When the namespace does not exist or the command is empty.
    pub fn command<S: AsRef<str>>(&self, arguments: &[S]) -> Result<Command, LabError> {
        let [program, rest @ ..] = arguments else {
            return Err(LabError::Spec("no command was given".into()));
        };
        let mut command = Command::new(program.as_ref());
        command.args(rest.iter().map(AsRef::as_ref)).envs(&self.environment);
        let file = netns::open(&self.namespace)?;
        let mounts = self
            .mounts
            .iter()
            .map(|(seen, real)| Ok((c_path(real)?, c_path(seen)?)))
            .collect::<Result<Vec<_>, LabError>>()?;
        // SAFETY: the closure runs between fork and exec. It makes system calls alone, on memory that was
        // prepared here.
        unsafe {
            command.pre_exec(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                unshare_unsafe(UnshareFlags::NEWNS)?;
                mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)?;
                // /sys shows the devices of the namespace it was mounted from. Where it cannot be mounted,
                // nobody misses it.
                let _ = unmount(c"/sys", UnmountFlags::DETACH);
                let _ = mount(c"sysfs", c"/sys", c"sysfs", MountFlags::empty(), None);
                for (real, seen) in &mounts {
                    mount_bind(real, seen)?;
                }
                Ok(())
            });
        }
        Ok(command)
    }

    /// Runs a command to its end and returns what it printed.
    ///
    /// # Errors
    /// When it cannot be started. How it ended is in the output.
    pub fn output<S: AsRef<str>>(&self, arguments: &[S]) -> Result<Output, LabError> {
        self.command(arguments)?.stdin(Stdio::null()).output().map_err(|error| cannot_start(arguments, error))
    }

    /// Starts a process in the background, in a session of its own, with its output appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<S: AsRef<str>>(&self, arguments: &[S], log: &Path) -> Result<Running, LabError> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(LabError::io(format!("opening the log {}", log.display())))?;
        let errors = output.try_clone().map_err(LabError::io("duplicating a log's descriptor"))?;
        let mut command = self.command(arguments)?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // SAFETY: setsid is a system call without memory of ours.
        unsafe {
            command.pre_exec(|| Ok(setsid().map(drop)?));
        }
        let child = command.spawn().map_err(|error| cannot_start(arguments, error))?;
        let pid = child.id();
        // The child cannot be reaped by anyone else yet, so even if it has ended by now its entry is there.
        let start_time = stat(pid).map_or(0, |stat| stat.start_time);
        Ok(Running { pid, start_time })
    }
}

impl Running {
    /// Whether it still runs. One that has ended is reaped if it is our child.
    pub fn is_alive(&self) -> bool {
        if let Some(pid) = self.pid() {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        let same = |stat: &Stat| stat.start_time == self.start_time;
        let Some(stat) = stat(self.pid).filter(same) else { return false };
        // The first thread may be a zombie while others still end, and keep sockets and files open until they have.
        !matches!(stat.state, 'Z' | 'X') || threads(self.pid) > 1
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), self.pid()) {
            // It may end between the look and the signal; then there is nothing left to do.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it has ended; `false` when it still runs after that time.
    pub fn wait(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        while self.is_alive() {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid).ok()?)
    }
}

/// The process that runs this code.
pub fn myself() -> Running {
    let pid = std::process::id();
    Running { pid, start_time: stat(pid).map_or(0, |stat| stat.start_time) }
}

/// All processes whose network namespace is one of these, except ourselves.
pub fn inhabitants(namespaces: &[netns::Identity]) -> Vec<Running> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| netns::identity_of_process(*pid).is_some_and(|identity| namespaces.contains(&identity)))
        .filter_map(|pid| stat(pid).map(|stat| Running { pid, start_time: stat.start_time }))
        .filter(Running::is_alive)
        .collect()
}

/// A program run with a script on its standard input.
#[derive(Debug)]
pub struct Batch {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What it reads.
    pub script: String,
}

/// Runs all batches at the same time and waits for all.
///
/// # Errors
/// The first failure, with the program's own words.
pub fn run_batches(batches: &[Batch]) -> Result<(), LabError> {
    let mut started = Vec::new();
    for batch in batches.iter().filter(|batch| !batch.script.is_empty()) {
        let mut command = Command::new(&batch.command[0]);
        // SAFETY: the closure makes one system call, without memory of ours. Should this process be killed,
        // the batch must not go on building while the next lab of the same name is being cleaned up.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = command
            .args(&batch.command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| cannot_start(&batch.command, error))?;
        // A program that fails early closes its input; its exit status then tells more than the broken pipe.
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(batch.script.as_bytes());
        }
        started.push((batch, child));
    }
    let mut first_failure = Ok(());
    for (batch, child) in started {
        let output =
            child.wait_with_output().map_err(LabError::io(format!("waiting for {}", batch.command[0])))?;
        if !output.status.success() && first_failure.is_ok() {
            first_failure = Err(LabError::Command {
                command: batch.command.join(" "),
                place: "this machine".into(),
                reason: format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
            });
        }
    }
    first_failure
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

struct Stat {
    state: char,
    start_time: u64,
}

/// Reads `/proc/<pid>/stat` (proc(5)). The command name in parentheses may hold anything, so fields are
/// counted from its end.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Stat { state, start_time: fields.nth(18)?.parse().ok()? })
}

fn c_path(path: &Path) -> Result<CString, LabError> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| LabError::Spec(format!("the path {} holds a zero byte", path.display())))
}

fn cannot_start<S: AsRef<str>>(arguments: &[S], error: io::Error) -> LabError {
    let program = arguments.first().map_or("", AsRef::as_ref).to_owned();
    if error.kind() == io::ErrorKind::NotFound {
        return LabError::MissingProgram {
            program,
            advice: "is it installed? scripts/install-packages installs what the lab needs".into(),
        };
    }
    LabError::io(format!("starting {program}"))(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_by_its_start_time() {
        let me = myself();
        assert!(me.is_alive());
        assert!(
            !Running { start_time: me.start_time + 1, ..me }.is_alive(),
            "another start time is another process"
        );
    }

    #[test]
    fn a_failing_batch_says_why() {
        let batch = Batch {
            command: ["sh", "-c", "cat >&2; exit 3"].map(String::from).to_vec(),
            script: "no such thing".into(),
        };
        let error = run_batches(&[batch]).expect_err("it exits with 3").to_string();
        assert!(error.contains("no such thing") && error.contains('3'), "{error}");
    }
}
