//! A laptop on the WAN of a lab that runs `kgctl connect`: beside the API, outside of all sites.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use kilo_lab::{Lab, LabError, Outage, Running};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The laptop's addresses in the mesh.
const ADDRESSES: &str = "--allowed-ip=10.99.0.1/32,fd99::1/128";

/// A pod of each site, in each family.
const PODS: [&str; 6] = ["10.42.1.11", "10.42.4.11", "10.42.5.11", "fd42:1::11", "fd42:4::11", "fd42:5::11"];

#[test]
fn a_laptop_connects_follows_the_cluster_and_leaves_no_trace() {
    let laptop = Laptop::new("conn");
    let lab = &laptop.lab;
    let before = laptop.host_state();
    let further = ["--allowed-ips=10.43.0.0/16", "--log-level=all"];
    let process = laptop.connect(&further);
    laptop.reaches(&PODS);
    // Nodes themselves, by their internal and WireGuard addresses.
    laptop.reaches(&["10.102.0.12", "fd00:102::12", "10.4.0.2", "fd00:4::2"]);
    for pod in ["a2-p1", "b1-p1", "c1-p1"] {
        reaches(lab, pod, "10.99.0.1");
        reaches(lab, pod, "fd99::1");
    }
    let services = laptop.run("ip route get 10.43.0.1");
    assert!(services.contains(&laptop.interface), "services are not reached through the mesh: {services}");

    // A location that is new: b2 leaves b and is reached by a tunnel of its own.
    assert_eq!(laptop.tunnels(), 3);
    lab.api().annotate("b2", "kilo.squat.ai/location", Some("d")).expect("it is free text");
    laptop.comes_to("four tunnels", |laptop| laptop.tunnels() == 4);
    laptop.reaches(&PODS);
    // A node that leaves, and comes again.
    let c1 = lab.node("c1").expect("the demo has it");
    c1.stop_agent().unwrap_or_else(|error| panic!("{error}"));
    laptop.comes_to("three tunnels", |laptop| laptop.tunnels() == 3);
    laptop.comes_to("no route to c1", |laptop| !laptop.routes().contains("10.42.5.0/24"));
    c1.start_agent(&[]).expect("it starts");
    laptop.reaches(&["10.42.5.11", "fd42:5::11"]);
    // Somebody takes a route away.
    laptop.run("ip route del 10.42.1.0/24 table 1109");
    laptop.comes_to("the route", |laptop| laptop.routes().contains("10.42.1.0/24"));
    // A leader that dies without a word.
    lab.node("a1").expect("the demo has it").cut_link().expect("it has a cable");
    laptop.reaches(&["10.42.2.11", "fd42:2::11"]);

    let secret = laptop.run(&format!("wg show {} private-key", laptop.interface));
    laptop.ends_well(&process, Signal::TERM);
    assert!(!laptop.peer_exists(), "the Peer is still there");
    assert_eq!(laptop.host_state(), before, "something is left");
    assert!(!laptop.log().contains(secret.trim()), "the log tells the key");
}

#[test]
fn an_outage_of_the_api_cuts_nothing_and_what_happened_meanwhile_is_followed() {
    let laptop = Laptop::new("capi");
    let process = laptop.connect(&[]);
    laptop.reaches(&PODS);
    laptop.lab.api().pause(Outage::Refusing).expect("it does as it is told");
    laptop.comes_to("a word about it", |laptop| laptop.log().contains("no changes arrive"));
    laptop.reaches(&PODS);
    laptop.lab.api().annotate("b2", "kilo.squat.ai/location", Some("d")).expect("it is free text");
    laptop.lab.api().resume().expect("it does as it is told");
    laptop.comes_to("four tunnels", |laptop| laptop.tunnels() == 4);
    laptop.reaches(&PODS);
    // Ended while the API is away: the host is cleaned up, and what is not is told.
    laptop.lab.api().pause(Outage::Refusing).expect("it does as it is told");
    process.signal(Signal::TERM);
    assert!(process.wait(common::patiently(Duration::from_secs(15))), "it does not end");
    assert!(laptop.log().contains("kubectl delete peer laptop"), "{}", laptop.log());
    assert!(!laptop.has_interface());
    // The next connection takes the Peer over, and deletes it.
    laptop.lab.api().resume().expect("it does as it is told");
    let process = laptop.connect(&[]);
    laptop.reaches(&PODS);
    assert!(laptop.log().contains("took over the Peer"), "{}", laptop.log());
    laptop.ends_well(&process, Signal::INT);
    assert!(!laptop.peer_exists(), "the Peer is still there");
}

#[test]
fn a_peer_that_exists_is_used_with_its_key_and_stays() {
    let laptop = Laptop::new("cpeer");
    let (file, public) = laptop.make_key("key");
    let shared = laptop.run("wg genpsk");
    let peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": "laptop"},
        "spec": {
            "publicKey": public, "presharedKey": shared.trim(), "persistentKeepalive": 5,
            "allowedIPs": ["10.99.0.7/32", "fd99::7/128"],
        },
    });
    laptop.lab.api().apply(&peer).expect("the API takes it");
    let key = format!("--private-key={}", file.display());
    let process = laptop.start(&["laptop", &key]);
    laptop.reaches(&PODS);
    let addresses = laptop.run(&format!("ip address show {}", laptop.interface));
    assert!(addresses.contains("10.99.0.7/32") && addresses.contains("fd99::7/128"), "{addresses}");
    // Another connection by this name, from elsewhere.
    let (_, other) = laptop.make_key("other");
    let patch = json!({"spec": {"publicKey": other}});
    laptop.lab.api().patch("Peer", "laptop", &patch).expect("the API takes it");
    laptop.comes_to("a word about it", |laptop| laptop.log().contains("somebody else connects"));
    let patch = json!({"spec": {"publicKey": public}});
    laptop.lab.api().patch("Peer", "laptop", &patch).expect("the API takes it");
    laptop.reaches(&PODS);
    laptop.ends_well(&process, Signal::INT);
    assert!(laptop.peer_exists(), "it was not made by the command");
    assert!(!laptop.has_interface());
}

#[test]
fn without_clean_up_a_kernel_interface_stays_and_once_needs_one() {
    let laptop = Laptop::new("conce");
    let once = laptop.command(&["laptop", ADDRESSES, "--once"]);
    let output = laptop.output(&once);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !common::has_kernel_wireguard(laptop.lab.node("a1").expect("the demo has it")) {
        assert!(!output.status.success() && said.contains("embedded device would vanish"), "{said}");
        assert!(!laptop.peer_exists(), "it was refused, and made a Peer");
        return;
    }
    assert!(output.status.success(), "{said}");
    assert!(laptop.peer_exists());
    laptop.reaches(&PODS);
    laptop.lab.api().annotate("b2", "kilo.squat.ai/location", Some("d")).expect("it is free text");
    common::eventually("four tunnels", common::patiently(Duration::from_secs(30)), || {
        let output = laptop.output(&once);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok((laptop.tunnels() != 4).then(|| laptop.tunnels().to_string()))
    });
    laptop.reaches(&PODS);
    // A connection that lasts takes over what was left, and takes it away.
    let process = laptop.connect(&[]);
    laptop.comes_to("its being connected", |laptop| laptop.log().contains("connected"));
    laptop.ends_well(&process, Signal::HUP);
    assert!(!laptop.peer_exists() && !laptop.has_interface());
}

#[test]
fn flags_show_on_the_host() {
    let laptop = Laptop::new("cflag");
    let flags = [
        "--mtu=1333",
        "--mark-bits=0x700",
        "--persistent-keepalive=7",
        "--port=51777",
        "--resync-period=2s",
        "--clean-up=false",
    ];
    let process = laptop.connect(&flags);
    laptop.reaches(&PODS);
    let interface = &laptop.interface;
    let link = laptop.run(&format!("ip link show {interface}"));
    assert!(link.contains("mtu 1333"), "{link}");
    assert_eq!(laptop.run(&format!("wg show {interface} listen-port")).trim(), "51777");
    assert_eq!(laptop.run(&format!("wg show {interface} fwmark")).trim(), "0x100");
    let keepalives = laptop.run(&format!("wg show {interface} persistent-keepalive"));
    assert!(
        keepalives.lines().count() == 3 && keepalives.lines().all(|line| line.ends_with("\t7")),
        "{keepalives}"
    );
    let peer = laptop.lab.api().get("/apis/kilo.squat.ai/v1alpha1/peers/laptop").expect("it is there");
    assert_eq!(peer["spec"]["persistentKeepalive"], 7);
    // Of a tunnel that somebody takes away the kernel tells nobody.
    let tunnel = laptop.run(&format!("wg show {interface} peers | head -1"));
    laptop.run(&format!("wg set {interface} peer {} remove", tunnel.trim()));
    let begin = std::time::Instant::now();
    laptop.comes_to("the tunnel", |laptop| laptop.tunnels() == 3);
    assert!(begin.elapsed() < common::patiently(Duration::from_secs(10)), "after {:?}", begin.elapsed());
    laptop.ends_well(&process, Signal::TERM);
    // An embedded device ends with its process all the same.
    let kernel = common::has_kernel_wireguard(laptop.lab.node("a1").expect("the demo has it"));
    assert_eq!(laptop.has_interface(), kernel);
    assert!(laptop.peer_exists(), "it was to stay");
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_made() {
    let laptop = Laptop::new("cbad");
    let (key, _) = laptop.make_key("key");
    let no_key = laptop.directory.path().join("no-key");
    fs::write(&no_key, "not a key\n").expect("the directory can be written");
    let key = format!("--private-key={}", key.display());
    let no_key = format!("--private-key={}", no_key.display());
    let before = laptop.host_state();
    let cases: [(&[&str], &str); 12] = [
        (&["--allowed-ip=10.99.0.0/24"], "is a network"),
        (&["--allowed-ip=home"], "written like"),
        (&["--allowed-ips=home"], "--allowed-ips"),
        (&["--mtu=70"], "--mtu"),
        (&["--resync-period=0s"], "not zero"),
        (&["--persistent-keepalive=70000"], "--persistent-keepalive"),
        (&["--interface=much-too-long-a-name"], "not an interface name"),
        (&["My_Laptop"], "cannot be the name of a Peer"),
        (&["laptop", "--private-key=/nowhere"], "/nowhere"),
        (&["laptop", &no_key], "does not hold a WireGuard private key"),
        (&["laptop", "--kubeconfig=/nowhere"], "/nowhere"),
        (&["laptop", "--interface=lo"], "exists and is of kind"),
    ];
    for (arguments, wanted) in cases {
        laptop.fails(arguments, wanted);
    }
    let unprivileged = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"].map(String::from);
    laptop.refuses(&[unprivileged.to_vec(), laptop.command(&["laptop"])].concat(), "needs CAP_NET_ADMIN");
    assert!(!laptop.peer_exists(), "a Peer was made");
    // A Peer that is somebody else's.
    let (_, public) = laptop.make_key("other");
    let peer = json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": {"name": "laptop"},
        "spec": {"publicKey": public, "allowedIPs": ["10.99.0.7/32"]},
    });
    laptop.lab.api().apply(&peer).expect("the API takes it");
    laptop.fails(&["laptop"], "give its private key with --private-key");
    laptop.fails(&["laptop", &key], "give the right file");
    assert!(laptop.peer_exists(), "it is not ours to delete");
    // An API that refuses, one that is away, and a cluster that does not know Peers.
    laptop.lab.api().pause(Outage::Forbidding).expect("it does as it is told");
    laptop.fails(&["laptop"], "may not get peers.kilo.squat.ai");
    laptop.lab.api().pause(Outage::Refusing).expect("it does as it is told");
    laptop.fails(&["laptop"], "no connection to the API server");
    laptop.lab.api().resume().expect("it does as it is told");
    laptop.lab.api().delete("CustomResourceDefinition", "peers.kilo.squat.ai").expect("it is there");
    laptop.fails(&["laptop"], "manifests/crds.yaml");
    assert_eq!(laptop.host_state(), before, "something is left");
}

/// A host beside the API, outside of all sites.
struct Laptop {
    lab: Lab,
    directory: tempfile::TempDir,
    /// Unique on this machine: the sockets of embedded devices are in one directory.
    interface: String,
}

impl Laptop {
    fn new(theme: &str) -> Self {
        let lab = common::converged(common::with_agents(theme));
        let directory = tempfile::tempdir().expect("there is a place for temporary files");
        let interface = lab.spec().name.clone();
        Self { lab, directory, interface }
    }

    fn command(&self, arguments: &[&str]) -> Vec<String> {
        let kgctl = kilo_lab::programs::find("kgctl", None).expect("it is built").display().to_string();
        let interface = format!("--interface={}", self.interface);
        let liveness = format!("--liveness-timeout={}s", self.lab.spec().mesh.liveness_timeout);
        let mut command = vec![kgctl, "connect".to_owned(), liveness];
        if !arguments.iter().any(|argument| argument.starts_with("--interface")) {
            command.push(interface);
        }
        command.extend(arguments.iter().map(ToString::to_string));
        command
    }

    /// Starts a connection by the name of `laptop`.
    fn connect(&self, further: &[&str]) -> Running {
        self.start(&[&["laptop", ADDRESSES], further].concat())
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let place = self.lab.place("api").expect("every lab has it");
        place.start(&self.command(arguments), &self.log_file()).expect("it starts")
    }

    fn output(&self, command: &[String]) -> Output {
        self.lab.exec("api", command).expect("it starts")
    }

    fn fails(&self, arguments: &[&str], wanted: &str) {
        self.refuses(&self.command(arguments), wanted);
    }

    fn refuses(&self, command: &[String], wanted: &str) {
        let output = self.output(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(wanted), "{command:?}: not {wanted:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }

    fn ends_well(&self, process: &Running, signal: Signal) {
        process.signal(signal);
        let ended = process.wait(common::patiently(Duration::from_secs(15)));
        assert!(ended, "it does not end:\n{}", self.log());
        let log = self.log();
        assert!(
            log.contains("ending") && !log.contains("ERROR ~") && !log.contains("failed at the end"),
            "{log}"
        );
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A key in a file, and its public key.
    fn make_key(&self, name: &str) -> (PathBuf, String) {
        let file = self.directory.path().join(name);
        let path: &Path = &file;
        let public = self.run(&format!("umask 077; wg genkey | tee {0} | wg pubkey", path.display()));
        (file, public.trim().to_owned())
    }

    fn peer_exists(&self) -> bool {
        let found: Result<Value, _> = self.lab.api().get("/apis/kilo.squat.ai/v1alpha1/peers/laptop");
        match found {
            Ok(_) => true,
            Err(LabError::Api { status: 404, .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// How many WireGuard peers the interface has.
    fn tunnels(&self) -> usize {
        self.run(&format!("wg show {} peers", self.interface)).lines().count()
    }

    fn has_interface(&self) -> bool {
        self.run("ip -o link | cut -d: -f2").lines().any(|name| name.trim() == self.interface)
    }

    fn routes(&self) -> String {
        self.run("ip route show table all")
    }

    /// All of the host that a connection could change.
    fn host_state(&self) -> String {
        self.run("ip -o link | cut -d' ' -f2; ip -o address; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; nft list ruleset")
    }

    fn comes_to(&self, what: &str, mut look: impl FnMut(&Self) -> bool) {
        common::eventually(what, common::patiently(Duration::from_secs(45)), || {
            Ok((!look(self)).then(|| self.log()))
        });
    }

    fn reaches(&self, addresses: &[&str]) {
        for address in addresses {
            reaches(&self.lab, "api", address);
        }
    }

    /// Runs a line of shell; it has to succeed.
    fn run(&self, line: &str) -> String {
        let output = self.lab.exec("api", &["sh", "-c", line]).expect("there is a shell");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{line}: {}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }
}

/// Waits until a place gets an answer from an address.
fn reaches(lab: &Lab, from: &str, address: &str) {
    let what = format!("an answer of {address} to {from}");
    common::eventually(&what, common::patiently(Duration::from_secs(45)), || {
        let ping = lab.exec(from, &["ping", "-c1", "-W1", address])?;
        Ok((!ping.status.success()).then(|| String::from_utf8_lossy(&ping.stdout).into_owned()))
    });
}
