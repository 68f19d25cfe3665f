//! `kgctl graph` over the same cluster: how long it takes and what it needs.

use std::{
    fs::File,
    io,
    mem::MaybeUninit,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use super::{agent::status_bytes, host::Host, report::Graph};
use crate::{LabError, programs};

/// Runs `kgctl graph` once. `None`: it is not installed.
///
/// # Errors
/// When it does not end with success.
pub fn measure(host: &Host) -> Result<Option<Graph>, LabError> {
    let Ok(kgctl) = programs::find("kgctl", None) else { return Ok(None) };
    let kubeconfig = format!("--kubeconfig={}", host.kubeconfig().display());
    let mut command = host.place().command(&[&kgctl.display().to_string(), "graph", &kubeconfig])?;
    let path = host.file("graph.dot");
    let output = File::create(&path).map_err(LabError::io("making a file for the graph"))?;
    let begin = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .map_err(LabError::io(format!("starting {}", kgctl.display())))?;
    // The peak that wait4(2) tells is that of the process before exec, too: ours, with all Nodes. So it is looked at.
    let mut peak_memory = 0;
    let (status, usage) = loop {
        peak_memory = peak_memory.max(status_bytes(child.id(), "VmHWM:").unwrap_or_default());
        if let Some(ended) = try_wait(child.id()).map_err(LabError::io("waiting for kgctl"))? {
            break ended;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let seconds = begin.elapsed().as_secs_f64();
    if status != 0 {
        return Err(LabError::Command {
            command: "kgctl graph".into(),
            place: host.namespace().into(),
            reason: format!("wait status {status}"),
        });
    }
    let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let time = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Some(Graph { seconds, cpu_seconds: time(usage.ru_utime) + time(usage.ru_stime), peak_memory, bytes }))
}

/// Status and use of a child that has ended; `None` while it runs.
fn try_wait(pid: u32) -> io::Result<Option<(i32, libc::rusage)>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call writes to the two places that it is given, and nothing else.
    let waited =
        unsafe { libc::wait4(pid.cast_signed(), &raw mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    match waited {
        0 => Ok(None),
        // SAFETY: the structure consists of numbers, for which zeros are valid, and the call has filled it.
        1.. => Ok(Some((status, unsafe { usage.assume_init() }))),
        _ => Err(io::Error::last_os_error()),
    }
}
