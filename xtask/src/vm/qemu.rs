//! Runs QEMU and watches it: until it ends, or for as long as it may take.
//!
//! The machine is emulated (TCG) even where the hardware could virtualise: a run behaves the same everywhere.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::Console;
use super::image::find_program;

/// What to boot.
pub struct Boot<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The archive with its first and only file system.
    pub initramfs: &'a Path,
    /// The kernel's parameters.
    pub parameters: &'a str,
    /// The memory, in QEMU's notation.
    pub memory: &'a str,
    /// How long all may take.
    pub timeout: Duration,
}

/// Boots, prints what the console says, and returns the exit status that was announced there. It is an error when
/// the kernel panics, time runs out, or the machine ends without a status.
pub fn run(boot: &Boot, mut console: Console) -> Result<u8> {
    let start = Instant::now();
    let mut qemu = start_qemu(boot)?;
    let output = qemu.stdout.take().expect("invariant: standard output is a pipe");
    let (sender, lines) = channel();
    std::thread::spawn(move || read_lines(output, &sender));
    let ended = watch(&lines, &mut console, start + boot.timeout);
    if !matches!(ended, Ok(Ended::Machine)) {
        // It fails when the machine has just ended by itself.
        let _ = qemu.kill();
    }
    let exit = qemu.wait().context("wait for QEMU")?;
    if let Some(panic) = console.panic() {
        bail!("the kernel in the virtual machine gave up: {panic}\n{}", console.tail());
    }
    match (ended?, console.status()) {
        (Ended::Machine, Some(status)) => Ok(status),
        (Ended::Machine, None) if !exit.success() => bail!("QEMU failed ({exit}); {}", console.tail()),
        (Ended::Machine, None) => {
            bail!("the virtual machine ended without an exit status; {}", console.tail())
        }
        (Ended::Time, _) => {
            bail!("the virtual machine took longer than {} s; {}", boot.timeout.as_secs(), console.tail())
        }
    }
}

enum Ended {
    Machine,
    Time,
}

fn start_qemu(boot: &Boot) -> Result<Child> {
    let qemu = find_program("qemu-system-x86_64")?;
    // setpriv makes the kernel end QEMU when this process ends in whatever way.
    let mut command = Command::new(find_program("setpriv")?);
    command.args(["--pdeathsig", "KILL", "--"]).arg(qemu);
    command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", boot.memory]);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command
        .arg("-kernel")
        .arg(boot.kernel)
        .arg("-initrd")
        .arg(boot.initramfs)
        .args(["-append", boot.parameters]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().context("start qemu-system-x86_64")
}

/// Shows lines until there are no more or time is up.
fn watch(lines: &Receiver<Vec<u8>>, console: &mut Console, deadline: Instant) -> Result<Ended> {
    let mut output = std::io::stdout().lock();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let Some(shown) = console.line(&line) else { continue };
                match writeln!(output, "{shown}") {
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => bail!("nobody reads the output"),
                    result => result.context("write the console's output")?,
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Ended::Machine),
            Err(RecvTimeoutError::Timeout) => return Ok(Ended::Time),
        }
    }
}

fn read_lines(output: impl Read, lines: &Sender<Vec<u8>>) {
    // An error or a receiver that is gone means that the run is over; `run` finds out how.
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        if lines.send(line).is_err() {
            return;
        }
    }
}
