//! `kg tunnel` as its users run it: what it leaves behind, whatever ends it, and what it says when it cannot start. Needs
//! root, /dev/net/tun and wireguard-tools.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that no other test uses, now or in another process.
fn unique() -> String {
    format!("kt{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn command(text: &str) -> Command {
    let mut words = text.split_whitespace();
    let mut command = Command::new(words.next().expect("a command has a name"));
    command.args(words);
    command
}

/// What a command printed, if it went well.
fn run(text: &str) -> Result<String, String> {
    let output = command(text).output().map_err(|error| format!("{text}: {error}"))?;
    if output.status.success() { Ok(out(&output)) } else { Err(format!("{text}: {}", err(&output))) }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if start.elapsed() > PATIENCE => panic!("{what} did not happen; seen last: {seen}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A network namespace that is removed with this value.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let name = unique();
        run(&format!("ip netns add {name}")).expect("a namespace (root is needed)");
        Self(name)
    }

    /// `kg tunnel` in it.
    fn kg(&self, interface: &str) -> Command {
        command(&format!("ip netns exec {} {} tunnel {interface}", self.0, env!("CARGO_BIN_EXE_kg")))
    }

    fn has_link(&self, interface: &str) -> bool {
        run(&format!("ip -n {} link show {interface}", self.0)).is_ok()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(problem) = run(&format!("ip netns del {}", self.0)) {
            eprintln!("{problem}");
        }
    }
}

/// A device that runs and answers `wg`.
struct Running {
    process: Option<Child>,
    namespace: Namespace,
    interface: String,
}

impl Running {
    fn start(interface: String) -> Self {
        let namespace = Namespace::new();
        let process = namespace.kg(&interface).stderr(Stdio::piped()).spawn().expect("ip is installed");
        let running = Self { process: Some(process), namespace, interface };
        eventually("an answer of the device", || run(&format!("wg show {} listen-port", running.interface)));
        assert!(running.namespace.has_link(&running.interface) && running.socket().exists());
        running
    }

    fn socket(&self) -> PathBuf {
        Path::new("/var/run/wireguard").join(format!("{}.sock", self.interface))
    }

    fn signal(&self, signal: &str) {
        let id = self.process.as_ref().expect("it runs").id();
        run(&format!("kill -{signal} {id}")).expect("our child");
    }

    /// Waits for its end.
    fn end(&mut self) -> Output {
        let mut process = self.process.take().expect("it runs");
        eventually("the end of the process", || match process.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        process.wait_with_output().expect("our child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
        drop(std::fs::remove_file(self.socket()));
    }
}

#[test]
fn asked_to_end_it_leaves_nothing_behind() {
    for signal in ["INT", "TERM", "HUP"] {
        let mut running = Running::start(unique());
        running.signal(signal);
        let output = running.end();
        assert!(output.status.success(), "{signal}: {}", err(&output));
        assert!(!running.socket().exists(), "{signal}: the socket is removed");
        assert!(!running.namespace.has_link(&running.interface), "{signal}: the interface is removed");
    }
}

#[test]
fn it_ends_with_its_interface() {
    let mut running = Running::start(unique());
    run(&format!("ip -n {} link del {}", running.namespace.0, running.interface)).expect("the interface");
    let output = running.end();
    assert!(output.status.success(), "{}", err(&output));
    assert!(!running.socket().exists());
}

#[test]
fn what_a_killed_one_left_is_replaced() {
    let interface = unique();
    let mut killed = Running::start(interface.clone());
    killed.signal("KILL");
    killed.end();
    assert!(killed.socket().exists(), "nobody could remove it");
    let running = Running::start(interface);
    running.signal("TERM");
}

#[test]
fn a_second_one_of_that_name_is_refused_and_the_first_goes_on() {
    let running = Running::start(unique());
    let elsewhere = Namespace::new();
    for (namespace, problem) in [
        (&running.namespace, "the interface is used by another process"),
        (&elsewhere, "served by another process"),
    ] {
        let output = namespace.kg(&running.interface).output().expect("ip is installed");
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains(problem) && err(&output).lines().count() == 1, "{}", err(&output));
    }
    assert!(!elsewhere.has_link(&running.interface), "nothing is left behind");
    run(&format!("wg show {} listen-port", running.interface)).expect("the first one still answers");
}

#[test]
fn it_says_what_is_missing() {
    let kg = env!("CARGO_BIN_EXE_kg");
    let interface = unique();
    let namespace = Namespace::new();
    let inside = format!("ip netns exec {}", namespace.0);
    let without_tun = format!("mount -t tmpfs none /dev/net && exec {kg} tunnel {interface}");
    let mut no_tun = command(&inside);
    no_tun.args(["unshare", "-m", "sh", "-c", &without_tun]);
    let no_right = command(&format!("{inside} setpriv --bounding-set -net_admin {kg} tunnel {interface}"));
    for (mut command, problem) in [
        (no_tun, "is the tun module loaded and /dev/net/tun there?"),
        (no_right, "CAP_NET_ADMIN is needed"),
        (namespace.kg("%d"), "must have 1 to 15 bytes without"),
        (namespace.kg("longer-than-allowed"), "longer-than-allowed"),
    ] {
        let output = command.output().expect("the program is installed");
        assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
        assert!(err(&output).contains(problem), "{}", err(&output));
    }
    assert!(!Path::new(&format!("/var/run/wireguard/{interface}.sock")).exists());
}
