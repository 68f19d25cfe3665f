//! What a lab leaves on disk while it is up, so that later commands find it and a teardown finds everything,
//! and the teardown itself. All of it is under `/run/kilo-lab/<name>/`; nothing here knows how a lab is
//! built.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};
use serde::{Deserialize, Serialize};

use crate::{
    LabError, layout, netns,
    process::{self, Running},
    spec::{Spec, check_lab_name},
};

const ROOT: &str = "/run/kilo-lab";
const LOCK_WAIT: Duration = Duration::from_secs(30);
const END_WAIT: Duration = Duration::from_secs(10);

/// The directory of one lab.
#[derive(Debug, Clone)]
pub struct State {
    lab: String,
    directory: PathBuf,
}

/// What is written when a lab is brought up.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// What was asked for.
    pub spec: Spec,
    /// The process that the lab shall not outlive; `None` when it stays until `down`.
    pub owner: Option<Running>,
}

/// While it exists, no other process builds or tears down a lab of the same name.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl State {
    /// The state of the lab of that name, whether or not it is up.
    ///
    /// # Errors
    /// When the name cannot be a lab's.
    pub fn of(lab: &str) -> Result<Self, LabError> {
        check_lab_name(lab)?;
        Ok(Self { lab: lab.to_owned(), directory: Path::new(ROOT).join(lab) })
    }

    /// The lab's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The log of a process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{process}.log"))
    }

    /// How programs reach the API from inside the lab.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// What belongs to one node alone: its key, its sockets, its `/etc`.
    pub fn node(&self, node: &str) -> PathBuf {
        self.directory.join("nodes").join(node)
    }

    /// Creates the directories and writes the description.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self, description: &Description) -> Result<(), LabError> {
        for part in ["logs", "nodes", "processes"] {
            create_directory(&self.directory.join(part))?;
        }
        let text = serde_json::to_string_pretty(description).expect("a description is plain data");
        write(&self.directory.join("lab.json"), &text)
    }

    /// What was asked for when the lab was brought up.
    ///
    /// # Errors
    /// [`LabError::NotUp`] when there is none.
    pub fn read(&self) -> Result<Description, LabError> {
        let text = fs::read_to_string(self.directory.join("lab.json"))
            .map_err(|_| LabError::NotUp(self.lab.clone()))?;
        serde_json::from_str(&text)
            .map_err(|error| LabError::Spec(format!("{}/lab.json: {error}", self.directory.display())))
    }

    /// Records a process under a name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&self, process: &str, running: &Running) -> Result<(), LabError> {
        let text = serde_json::to_string(running).expect("a record is plain data");
        write(&self.record_file(process), &text)
    }

    /// The process recorded under a name, whether or not it still runs.
    pub fn recorded(&self, process: &str) -> Option<Running> {
        serde_json::from_str(&fs::read_to_string(self.record_file(process)).ok()?).ok()
    }

    /// Waits until no other process builds or tears down this lab.
    ///
    /// # Errors
    /// [`LabError::Busy`] after 30 s.
    pub fn lock(&self) -> Result<Lock, LabError> {
        create_directory(Path::new(ROOT))?;
        let path = Path::new(ROOT).join(format!("{}.lock", self.lab));
        let end = Instant::now() + LOCK_WAIT;
        loop {
            let file = File::create(&path).map_err(LabError::io(format!("creating {}", path.display())))?;
            let locked = flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok();
            let lock = Lock { file, path: path.clone() };
            if locked && lock.is_current() {
                return Ok(lock);
            }
            // Not ours: closing it must not remove another's file.
            lock.forget();
            if Instant::now() > end {
                return Err(LabError::Busy { lab: self.lab.clone(), lock: path });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends every process and removes every namespace and file of the lab, whatever is left of it. Does
    /// nothing when there is nothing. The caller holds the [`Lock`].
    ///
    /// # Errors
    /// [`LabError::Leftovers`] when something resists.
    pub fn tear_down(&self, _lock: &Lock) -> Result<(), LabError> {
        let end = Instant::now() + END_WAIT;
        // Something that was just being started when its parent was killed may appear late, so look until
        // nothing is left.
        loop {
            let namespaces = netns::list(&layout::prefix(&self.lab))?;
            let identities: Vec<_> = namespaces.iter().filter_map(|name| netns::identity(name)).collect();
            let mut processes = self.recorded_processes();
            processes.extend(process::inhabitants(&identities));
            processes.retain(Running::is_alive);
            if processes.is_empty() && namespaces.is_empty() {
                break;
            }
            if Instant::now() > end {
                let processes = processes.iter().map(|running| format!("process {}", running.pid));
                let left: Vec<String> = processes.chain(namespaces).collect();
                return Err(LabError::Leftovers { lab: self.lab.clone(), left: left.join(", ") });
            }
            processes.iter().for_each(|running| running.signal(Signal::KILL));
            let ended: Vec<bool> =
                processes.iter().map(|running| running.wait(Duration::from_millis(500))).collect();
            if ended.into_iter().all(|ended| ended) {
                namespaces.iter().try_for_each(|namespace| netns::delete(namespace))?;
            }
        }
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(LabError::io(format!("removing {}", self.directory.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Moves the logs to where a teardown leaves them, replacing those of an earlier time, and says where
    /// that is.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep_logs(&self) -> Result<PathBuf, LabError> {
        let kept = Path::new(ROOT).join("kept-logs").join(&self.lab);
        let failed = || LabError::io(format!("keeping the logs in {}", kept.display()));
        create_directory(&kept)?;
        fs::remove_dir_all(&kept).map_err(failed())?;
        fs::rename(self.directory.join("logs"), &kept).map_err(failed())?;
        Ok(kept)
    }

    fn recorded_processes(&self) -> Vec<Running> {
        let Ok(entries) = fs::read_dir(self.directory.join("processes")) else { return Vec::new() };
        entries
            .filter_map(|entry| serde_json::from_str(&fs::read_to_string(entry.ok()?.path()).ok()?).ok())
            .collect()
    }

    fn record_file(&self, process: &str) -> PathBuf {
        self.directory.join("processes").join(format!("{process}.json"))
    }
}

impl Lock {
    /// Whether the file still has its name: the one who held the lock before removed it.
    fn is_current(&self) -> bool {
        let inode = |metadata: std::io::Result<fs::Metadata>| metadata.ok().map(|metadata| metadata.ino());
        inode(self.file.metadata()) == inode(fs::metadata(&self.path)) && self.path.exists()
    }

    fn forget(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // The name goes while the lock is still held; whoever waits for it looks again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The names of all labs of which something is on this machine, sorted.
pub fn labs() -> Vec<String> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| check_lab_name(name).is_ok())
        .collect();
    names.sort();
    names
}

/// Tears down the labs whose owner died without doing so.
///
/// # Errors
/// The first one that resists.
pub fn sweep() -> Result<(), LabError> {
    for lab in labs() {
        let Ok(state) = State::of(&lab) else { continue };
        let is_orphan = || state.read().is_ok_and(|found| found.owner.is_some_and(|owner| !owner.is_alive()));
        if is_orphan() {
            let lock = state.lock()?;
            // While we waited, another process may have swept it, or built it anew.
            if is_orphan() {
                state.tear_down(&lock)?;
            }
        }
    }
    Ok(())
}

/// Writes a file.
///
/// # Errors
/// When the file system refuses.
pub fn write(path: &Path, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(LabError::io(format!("writing {}", path.display())))
}

/// Creates a directory and its parents.
///
/// # Errors
/// When the file system refuses.
pub fn create_directory(path: &Path) -> Result<(), LabError> {
    fs::create_dir_all(path).map_err(LabError::io(format!("creating the directory {}", path.display())))
}
