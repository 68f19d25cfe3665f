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

/// The oldest 64-bit processor, with a source of randomness. Newer ones are slower to emulate: with `max`, iperf3
/// measured about half the throughput through WireGuard, probably because the kernel then uses vector instructions
/// for ChaCha20, and less through a veth pair, where leaving out `erms` alone helped.
const PROCESSOR: &str = "qemu64,+rdrand";

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

/// Boots, writes what the console says, and returns the exit status that was announced there. It is an error when
/// the kernel panics, time runs out, or the machine ends without a status.
pub fn run(boot: &Boot, console: Console, output: &mut dyn Write) -> Result<u8> {
    observe(start(boot)?, console, boot.timeout, output)
}

/// Follows a process whose standard output is the console.
fn observe(
    mut machine: Child,
    mut console: Console,
    timeout: Duration,
    output: &mut dyn Write,
) -> Result<u8> {
    let deadline = Instant::now() + timeout;
    let said = machine.stdout.take().expect("invariant: standard output is a pipe");
    let (sender, lines) = channel();
    std::thread::spawn(move || read_lines(said, &sender));
    let ended = watch(&lines, &mut console, deadline, output);
    if !matches!(ended, Ok(Ended::Machine)) {
        // It fails when the machine has just ended by itself.
        let _ = machine.kill();
    }
    let exit = machine.wait().context("wait for QEMU")?;
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
            bail!("the virtual machine took longer than {} s; {}", timeout.as_secs_f32(), console.tail())
        }
    }
}

enum Ended {
    Machine,
    Time,
}

fn start(boot: &Boot) -> Result<Child> {
    let qemu = find_program("qemu-system-x86_64")?;
    // setpriv makes the kernel end QEMU when this process ends in whatever way.
    let mut command = Command::new(find_program("setpriv")?);
    command.args(["--pdeathsig", "KILL", "--"]).arg(qemu);
    command.args(["-machine", "q35,accel=tcg", "-cpu", PROCESSOR, "-smp", "2", "-m", boot.memory]);
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

/// Writes lines until there are no more or time is up.
fn watch(
    lines: &Receiver<Vec<u8>>,
    console: &mut Console,
    deadline: Instant,
    output: &mut dyn Write,
) -> Result<Ended> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell plays the machine.
    fn play(script: &str, timeout: Duration) -> Result<u8> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        observe(shell.spawn().unwrap(), Console::new("status-7:"), timeout, &mut std::io::sink())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_announced_status_is_returned() {
        assert_eq!(play("echo hello; echo status-7: 42", LONG).unwrap(), 42);
    }

    #[test]
    fn a_machine_without_status_is_an_error() {
        let error = play("echo last words", LONG).unwrap_err().to_string();
        assert!(error.contains("without an exit status") && error.contains("last words"), "{error}");
        let error = play("exit 3", LONG).unwrap_err().to_string();
        assert!(error.contains("QEMU failed (exit status: 3)"), "{error}");
    }

    #[test]
    fn a_panic_is_an_error_even_after_a_status() {
        let panic = "echo '[ 1.0] Kernel panic - not syncing: no reason'";
        let error = play(panic, LONG).unwrap_err().to_string();
        assert!(error.contains("gave up: [ 1.0] Kernel panic"), "{error}");
        assert!(play(&format!("{panic}; echo status-7: 0"), LONG).is_err());
    }

    #[test]
    fn time_runs_out() {
        let start = Instant::now();
        let error = play("echo busy; exec sleep 600", Duration::from_secs(2)).unwrap_err().to_string();
        assert!(error.contains("took longer than 2 s") && error.contains("busy"), "{error}");
        assert!(start.elapsed() < LONG, "the machine was not ended");
    }
}
