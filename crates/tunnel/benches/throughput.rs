//! Throughput of WireGuard implementations between two network namespaces, measured with iperf3, interleaved in one run.
//!
//! `cargo bench -p tunnel --bench throughput`, as root. Compared are this device and whatever else is found: the
//! kernel's WireGuard, `wireguard-go` (named by `WIREGUARD_GO`, or on the PATH) and `boringtun-cli` on the PATH.
//! `BENCH_SECONDS` (2) and `BENCH_ROUNDS` (3) set the effort, `BENCH_FILTER` picks scenarios; different implementations at
//! the two ends are measured in the first round only. Prints a table in Markdown.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tunnel::uapi::{Client, socket_path};
use tunnel::{Config, Device, Lack, PrivateKey};

type Failure = Box<dyn std::error::Error>;

/// The namespaces and, in them, the WireGuard interfaces.
const ENDS: [(&str, &str); 2] = [("kgbench-a", "kgbench0"), ("kgbench-b", "kgbench1")];
const PORT: u16 = 51820;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Implementation {
    Ours,
    /// Ours without AVX-512, where the processor has it.
    Portable,
    WireguardGo,
    Boringtun,
    Kernel,
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ours => "this device",
            Self::Portable => "this device without AVX-512",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Kernel => "kernel",
        })
    }
}

/// What iperf3 is asked to do, and over what.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// Inner and outer family: 4 or 6.
    family: u8,
    arguments: &'static str,
}

const SCENARIOS: [Scenario; 8] = [
    Scenario { name: "TCP, 1 stream, IPv4", family: 4, arguments: "" },
    Scenario { name: "TCP, 8 streams, IPv4", family: 4, arguments: "-P 8" },
    Scenario { name: "TCP, 1 stream, IPv6", family: 6, arguments: "" },
    Scenario { name: "TCP, 8 streams, IPv6", family: 6, arguments: "-P 8" },
    Scenario { name: "UDP, 1 × 1 Gbit/s, IPv4", family: 4, arguments: "-u -b 1G -l 1300" },
    Scenario { name: "UDP, 8 × 100 Mbit/s, IPv4", family: 4, arguments: "-u -b 100M -l 1300 -P 8" },
    Scenario { name: "UDP, 1 × 1 Gbit/s, IPv6", family: 6, arguments: "-u -b 1G -l 1300" },
    Scenario { name: "UDP, 8 × 100 Mbit/s, IPv6", family: 6, arguments: "-u -b 100M -l 1300 -P 8" },
];

/// One run.
#[derive(Debug, Clone, Copy)]
struct Sample {
    gigabits: f64,
    /// Of both devices, per gigabyte that arrived. None where the work is not done in a process.
    cpu_per_gigabyte: Option<f64>,
    /// The larger of the two peaks.
    memory_mib: Option<f64>,
    /// Retransmissions (TCP) or lost percent (UDP).
    lost: f64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, interface] = &arguments[..] {
        match command.as_str() {
            "--device" => return finish(run_device(interface, &[])),
            "--portable-device" => return finish(run_device(interface, &[Lack::WideRegisters])),
            _ => {}
        }
    }
    let result = measure_all();
    clean_up();
    finish(result)
}

/// A device alone in this process, until somebody ends it.
fn run_device(interface: &str, lacks: &'static [Lack]) -> Result<(), Failure> {
    let device = Device::create(Config { uapi: true, lacks, ..Config::named(interface) })?;
    Ok(device.wait(None)?)
}

fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all() -> Result<(), Failure> {
    clean_up();
    let seconds = setting("BENCH_SECONDS", 2)?;
    let rounds = setting("BENCH_ROUNDS", 3)?;
    let filter = std::env::var("BENCH_FILTER").unwrap_or_default();
    let found = implementations();
    println!("{}\n", facts(&found));
    let mut pairs: Vec<_> = found.iter().map(|one| [*one, *one]).collect();
    for other in
        found.iter().filter(|other| !matches!(other, Implementation::Ours | Implementation::Portable))
    {
        pairs.extend([[Implementation::Ours, *other], [*other, Implementation::Ours]]);
    }
    println!("| scenario | from → to | Gbit/s | to wireguard-go | CPU s/GB | peak RSS MiB | lost |");
    println!("|---|---|--:|--:|--:|--:|--:|");
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(&filter)) {
        let mut samples: BTreeMap<[Implementation; 2], Vec<Sample>> = BTreeMap::new();
        for round in 0..rounds {
            for pair in pairs.iter().filter(|pair| round == 0 || pair[0] == pair[1]) {
                samples.entry(*pair).or_default().push(measure(*pair, *scenario, seconds)?);
            }
        }
        print_rows(scenario, &pairs, &samples);
    }
    Ok(())
}

fn print_rows(
    scenario: &Scenario,
    pairs: &[[Implementation; 2]],
    samples: &BTreeMap<[Implementation; 2], Vec<Sample>>,
) {
    let medians = |pair: &[Implementation; 2], value: fn(&Sample) -> Option<f64>| {
        median(samples.get(pair).into_iter().flatten().filter_map(value).collect())
    };
    let reference = medians(&[Implementation::WireguardGo; 2], |sample| Some(sample.gigabits));
    let show = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "–".to_owned(),
    };
    for pair in pairs {
        let speed = medians(pair, |sample| Some(sample.gigabits));
        let ratio = speed.zip(reference).map(|(speed, reference)| speed / reference);
        println!(
            "| {} | {} → {} | {} | {} | {} | {} | {}{} |",
            scenario.name,
            pair[0],
            pair[1],
            show(speed, 2),
            show(ratio, 2),
            show(medians(pair, |sample| sample.cpu_per_gigabyte), 2),
            show(medians(pair, |sample| sample.memory_mib), 1),
            show(medians(pair, |sample| Some(sample.lost)), 0),
            if scenario.arguments.contains("-u") { " %" } else { "" },
        );
    }
}

/// One run of iperf3 through a fresh tunnel.
fn measure(pair: [Implementation; 2], scenario: Scenario, seconds: u64) -> Result<Sample, Failure> {
    let mut tunnel = Tunnel::start(pair, scenario.family)?;
    let before = tunnel.cpu_seconds();
    let target = if scenario.family == 4 { "10.98.0.2" } else { "fd98::2" };
    let command = format!("iperf3 -J -c {target} -t {seconds} {}", scenario.arguments);
    let report: Value = serde_json::from_str(&inside(ENDS[0].0, &command)?)?;
    let end = &report["end"];
    let received = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    let number = |value: &Value| value.as_f64().ok_or_else(|| Failure::from(format!("iperf3 reports {end}")));
    let lost = received["lost_percent"].as_f64().or(end["sum_sent"]["retransmits"].as_f64());
    let mut gigabytes = number(&received["bytes"])? / 1e9;
    let mut gigabits = number(&received["bits_per_second"])? / 1e9;
    if let Some(percent) = received["lost_percent"].as_f64()
        && !end["sum_received"].is_object()
    {
        // Older reports count what was sent.
        gigabytes *= 1.0 - percent / 100.0;
        gigabits *= 1.0 - percent / 100.0;
    }
    let cpu = tunnel.cpu_seconds().zip(before).map(|(after, before)| (after - before) / gigabytes);
    let memory_mib = tunnel.memory_mib();
    tunnel.stop();
    Ok(Sample { gigabits, cpu_per_gigabyte: cpu, memory_mib, lost: lost.unwrap_or(0.0) })
}

/// Two namespaces, two devices, an iperf3 server.
struct Tunnel {
    devices: Vec<Child>,
    server: Option<Child>,
}

impl Tunnel {
    fn start(pair: [Implementation; 2], family: u8) -> Result<Self, Failure> {
        clean_up();
        let mut tunnel = Self { devices: Vec::new(), server: None };
        for (namespace, _) in ENDS {
            run(&format!("ip netns add {namespace}"))?;
            run(&format!("ip -n {namespace} link set lo up"))?;
        }
        run(&format!("ip -n {} link add ve0 type veth peer name ve0 netns {}", ENDS[0].0, ENDS[1].0))?;
        for (number, (namespace, interface)) in (1..).zip(ENDS) {
            run(&format!("ip -n {namespace} addr add 192.0.2.{number}/24 dev ve0"))?;
            run(&format!("ip -n {namespace} addr add 2001:db8::{number}/64 dev ve0 nodad"))?;
            run(&format!("ip -n {namespace} link set ve0 up"))?;
            tunnel.start_device(pair[number - 1], namespace, interface)?;
            run(&format!("ip -n {namespace} addr add 10.98.0.{number}/24 dev {interface}"))?;
            run(&format!("ip -n {namespace} addr add fd98::{number}/64 dev {interface} nodad"))?;
            run(&format!("ip -n {namespace} link set {interface} mtu 1420 up"))?;
        }
        tunnel.configure(family)?;
        let mut server = Command::new("ip");
        server.args(["netns", "exec", ENDS[1].0, "iperf3", "-s"]);
        tunnel.server = Some(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let start = Instant::now();
        while inside(ENDS[0].0, "ping -n -c 1 -W 1 10.98.0.2").is_err() || !listens()? {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("{} and {} do not get a connection", pair[0], pair[1]).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(tunnel)
    }

    fn start_device(
        &mut self,
        what: Implementation,
        namespace: &str,
        interface: &str,
    ) -> Result<(), Failure> {
        let own = std::env::current_exe()?.display().to_string();
        let wireguard_go = wireguard_go();
        let program = match what {
            Implementation::Ours => vec![own.as_str(), "--device", interface],
            Implementation::Portable => vec![own.as_str(), "--portable-device", interface],
            Implementation::WireguardGo => vec![wireguard_go.as_str(), "-f", interface],
            Implementation::Boringtun => vec!["boringtun-cli", "-f", "--disable-drop-privileges", interface],
            Implementation::Kernel => {
                return run(&format!("ip -n {namespace} link add {interface} type wireguard")).map(drop);
            }
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).args(program);
        self.devices.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let start = Instant::now();
        while Client::new(interface).get().is_err() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("{what} does not serve {}", socket_path(interface).display()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn configure(&self, family: u8) -> Result<(), Failure> {
        let keys = [private_key(1), private_key(2)];
        for (end, (namespace, interface)) in ENDS.iter().enumerate() {
            let file = format!("/tmp/{interface}.key");
            fs::write(&file, format!("{}\n", base64_of(keys[end].as_bytes())))?;
            let other = 2 - end;
            let address =
                if family == 4 { format!("192.0.2.{other}") } else { format!("[2001:db8::{other}]") };
            let peer = keys[1 - end].public_key();
            inside(
                namespace,
                &format!(
                    "wg set {interface} private-key {file} listen-port {PORT} peer {peer} \
                     endpoint {address}:{PORT} allowed-ips 10.98.0.{other}/32,fd98::{other}/128"
                ),
            )?;
            fs::remove_file(file)?;
        }
        Ok(())
    }

    /// User and system time of the devices; `None` without processes.
    fn cpu_seconds(&self) -> Option<f64> {
        let ticks = self.devices.iter().map(|device| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", device.id())).ok()?;
            let (_, fields) = stat.rsplit_once(')')?;
            let fields: Vec<&str> = fields.split_whitespace().collect();
            // Fields 14 and 15 of proc(5); USER_HZ is 100 on every architecture Linux runs on today.
            Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
        });
        let ticks: Option<Vec<f64>> = ticks.collect();
        ticks.filter(|ticks| ticks.len() == 2).map(|ticks| ticks.iter().sum())
    }

    fn memory_mib(&self) -> Option<f64> {
        self.devices.iter().filter_map(|device| peak_memory(device.id())).reduce(f64::max)
    }

    fn stop(&mut self) {
        for mut child in self.devices.drain(..).chain(self.server.take()) {
            // The process may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop();
    }
}

fn implementations() -> Vec<Implementation> {
    let has = |program: &str| Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let has = |program: &str| has(program).is_ok_and(|output| output.status.success());
    let mut found = vec![Implementation::Ours];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512ifma") {
        found.push(Implementation::Portable);
    }
    if has(&wireguard_go()) {
        found.push(Implementation::WireguardGo);
    }
    if has("boringtun-cli") {
        found.push(Implementation::Boringtun);
    }
    let probe = "kgbench-probe";
    if run(&format!("ip link add {probe} type wireguard")).is_ok() {
        found.push(Implementation::Kernel);
        drop(run(&format!("ip link del {probe}")));
    }
    found
}

fn facts(found: &[Implementation]) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown").to_owned();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = run("uname -r").unwrap_or_default();
    let version =
        |program: &str| run(program).unwrap_or_default().lines().next().unwrap_or_default().to_owned();
    let mut text = format!("{cpu}, {cores} cores, Linux {}, {}", kernel.trim(), version("iperf3 --version"));
    for one in found {
        match one {
            Implementation::Ours => text += concat!("; this device ", env!("CARGO_PKG_VERSION")),
            Implementation::Portable => {}
            Implementation::WireguardGo => {
                text = format!("{text}; {}", version(&format!("{} --version", wireguard_go())));
                if let Some(package) = wireguard_go_package() {
                    text = format!("{text} (Debian {package})");
                }
            }
            Implementation::Boringtun => text = format!("{text}; {}", version("boringtun-cli --version")),
            Implementation::Kernel => text += "; the kernel's WireGuard",
        }
    }
    text + ". Both ends run on these cores."
}

/// The program, by name or path.
fn wireguard_go() -> String {
    std::env::var("WIREGUARD_GO").unwrap_or_else(|_| "wireguard-go".to_owned())
}

/// The version of the package, which says more than the program's own; `scripts/install-wireguard-go` writes it down.
fn wireguard_go_package() -> Option<String> {
    let program = wireguard_go();
    let root = program.strip_suffix("/usr/bin/wireguard-go")?;
    Some(fs::read_to_string(format!("{root}/version")).ok()?.trim().to_owned())
}

fn listens() -> Result<bool, Failure> {
    Ok(inside(ENDS[1].0, "ss -Hltn sport = 5201")?.contains("5201"))
}

/// Removes what an earlier run may have left.
fn clean_up() {
    for (namespace, interface) in ENDS {
        if fs::exists(format!("/var/run/netns/{namespace}")).unwrap_or(false) {
            drop(run(&format!("ip netns del {namespace}")));
        }
        drop(fs::remove_file(socket_path(interface)));
    }
}

fn inside(namespace: &str, command: &str) -> Result<String, Failure> {
    run(&format!("ip netns exec {namespace} {command}"))
}

fn run(command: &str) -> Result<String, Failure> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    if !output.status.success() {
        return Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn private_key(number: u32) -> PrivateKey {
    let mut bytes = [5; 32];
    bytes[1..5].copy_from_slice(&number.to_le_bytes());
    PrivateKey::from(bytes)
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn peak_memory(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(value.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn setting(name: &str, default: u64) -> Result<u64, Failure> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}={text} is no number").into()),
        Err(_) => Ok(default),
    }
}
