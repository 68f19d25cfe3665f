//! The agent's process: started so that the moment of its exec is known, and what it uses.

use std::{
    fs::{self, File},
    io::{self, PipeWriter, Read},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    Measurement,
    clock::{Moment, processor_time},
    cluster::node_name,
    host::Host,
};
use crate::{INTERFACE, LabError, programs};

/// `USER_HZ`: what the kernel counts in towards programs, on all of its common architectures.
const TICKS: u64 = 100;

/// A running agent. It is killed when the value ends.
pub struct Agent {
    /// When it was executed.
    pub executed: Moment,
    child: Child,
    log: PathBuf,
    /// The device in user space that was made for it.
    device: Option<Child>,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time, with that of children that have ended.
    pub processor: Duration,
    /// The most memory it had at once, in bytes.
    pub peak_memory: u64,
    /// Memory now, in bytes.
    pub memory: u64,
}

impl Agent {
    /// Starts it as the first node's agent.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(measurement: &Measurement, host: &Host) -> Result<Self, LabError> {
        let program = match &measurement.agent {
            Some(path) => programs::find("the agent", Some(path))?,
            None => programs::find("kg", None)?,
        };
        let device = measurement.device_beforehand.then(|| start_device(host)).transpose()?;
        let mut arguments = vec![
            program.display().to_string(),
            format!("--kubeconfig={}", host.kubeconfig().display()),
            format!("--hostname={}", node_name(0)),
            format!("--interface={INTERFACE}"),
            format!("--mesh-granularity={}", measurement.granularity.name()),
            "--encapsulate=never".into(),
            "--cni=false".into(),
            "--listen=127.0.0.1:1107".into(),
        ];
        if device.is_some() {
            arguments.push("--create-interface=false".into());
        }
        arguments.extend(measurement.arguments.iter().cloned());
        let log = host.file("agent.log");
        let output = File::create(&log).map_err(LabError::io("making the agent's log"))?;
        let errors = output.try_clone().map_err(LabError::io("duplicating a log's descriptor"))?;
        let (mut reader, writer) = io::pipe().map_err(LabError::io("making a pipe"))?;
        let mut command = host.place().command(&arguments)?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        tell_exec(&mut command, writer);
        let started = command.spawn();
        drop(command);
        let child = started.map_err(LabError::io(format!("starting {}", program.display())))?;
        let mut moment = [0; 8];
        reader.read_exact(&mut moment).map_err(LabError::io("learning when the agent began"))?;
        Ok(Self { executed: Moment(u64::from_ne_bytes(moment)), child, log, device })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of its log when it has ended.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn check(&mut self) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            ended => {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let last = log.lines().rev().take(3).collect::<Vec<_>>();
                Err(LabError::Command {
                    command: "the agent".into(),
                    place: "its namespace".into(),
                    reason: format!("it ended ({ended:?}): {}", last.join(" | ")),
                })
            }
        }
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Usage, LabError> {
        let own = processor_time(self.pid()).map_err(LabError::io("reading the agent's processor time"))?;
        let bytes = |field: &str| {
            let bytes = status_bytes(self.pid(), field);
            bytes.map_err(LabError::io(format!("reading the agent's {field}")))
        };
        Ok(Usage {
            processor: own + children_time(self.pid()),
            peak_memory: bytes("VmHWM:")?,
            memory: bytes("VmRSS:")?,
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A polite end would clean up for minutes where an agent removes routes one by one; the namespace goes anyway.
        for child in [Some(&mut self.child), self.device.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A field of `/proc/<pid>/status` (proc(5)) that is an amount of memory, in bytes.
pub fn status_bytes(pid: u32, field: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Lets the child write the time into the pipe as the last thing before exec.
fn tell_exec(command: &mut std::process::Command, writer: PipeWriter) {
    // SAFETY: the closure runs between fork and exec. It makes two system calls on memory of its own.
    unsafe {
        command.pre_exec(move || {
            let moment = Moment::now().0.to_ne_bytes();
            let written = libc::write(writer.as_raw_fd(), moment.as_ptr().cast(), moment.len());
            if written == 8 { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

/// The processor time of children that have been waited for (proc(5), `cutime` and `cstime`).
fn children_time(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rfind(')').and_then(|end| text.get(end + 1..)).unwrap_or_default();
    let ticks: u64 =
        fields.split_ascii_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// Makes the WireGuard interface in user space, for an agent that cannot.
fn start_device(host: &Host) -> Result<Child, LabError> {
    let kg = programs::find("kg", None)?;
    let mut command = host.place().command(&[&kg.display().to_string(), "tunnel", INTERFACE])?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(LabError::io(format!("starting {}", kg.display())))?;
    let socket = host.file("wireguard").join(format!("{INTERFACE}.sock"));
    let begin = Instant::now();
    while !Path::new(&socket).exists() {
        if begin.elapsed() > Duration::from_secs(10) {
            if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
                let _ = kill_process(pid, Signal::KILL);
            }
            return Err(LabError::Deadline {
                what: "the making of a WireGuard interface in user space".into(),
                within: Duration::from_secs(10),
                seen: format!("{} does not exist", socket.display()),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}
