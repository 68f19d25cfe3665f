//! A real agent in a network namespace of its own, with an API that it reads, and clients on the node and outside of it.

use std::{
    fs::{self, File},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a probe may take, whatever else is asked.
pub const PROBE: Duration = Duration::from_secs(1);
/// The node's address, and two of clients that the node takes for strangers: they are in its network.
pub const NODE: &str = "192.0.2.1";
pub const STRANGER: &str = "192.0.2.2";
pub const OTHER: &str = "192.0.2.3";
pub const LOOPBACK: &str = "127.0.0.1";

static NEXT: AtomicU32 = AtomicU32::new(0);

fn run(text: &str) {
    let mut words = text.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A network namespace that is removed with this value. Root is needed.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let name = format!("kp{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        let namespace = Self(name);
        let name = &namespace.0;
        run(&format!("ip -n {name} link set lo up"));
        run(&format!("ip -n {name} link add eth0 type veth peer name eth1"));
        for address in [NODE, STRANGER, OTHER] {
            run(&format!("ip -n {name} addr add {address}/24 dev eth0"));
        }
        run(&format!("ip -n {name} link set eth1 up"));
        run(&format!("ip -n {name} link set eth0 up"));
        namespace
    }

    fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&format!("ip netns del {}", self.0));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs a test with an agent in a namespace.
pub fn with_agent(nodes: usize, listen: &str, test: impl AsyncFnOnce(&Agent) + Send) {
    let namespace = Namespace::new();
    thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::channel();
        let namespace = &namespace;
        // The API has a thread of its own: its work is not to be measured.
        let server = cluster(nodes);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        scope.spawn(move || {
            namespace.enter();
            runtime().block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    served = server.serve(listener) => served.unwrap(),
                    _ = ended => {}
                }
            });
        });
        scope.spawn(move || {
            // Dropped at the end of the test, however it ends.
            let _end = end;
            namespace.enter();
            let agent = Agent::start(receive.recv().unwrap(), listen);
            runtime().block_on(test(&agent));
        });
    });
}

/// A process that is killed with this value.
pub struct Agent {
    child: Child,
    state: TempDir,
    port: u16,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    fn start(api: SocketAddr, listen: &str) -> Self {
        let state = TempDir::new().unwrap();
        let log = File::create(state.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kg"));
        command.arg(format!("--master=http://{api}")).arg(format!("--listen={listen}"));
        command.args(["--hostname=n0000", "--cni=false", "--wireguard=embedded", "--mesh-granularity=full"]);
        command.arg("--state-dir").arg(state.path());
        // Sockets of the embedded device are named after the interface, in a directory that all namespaces share.
        command.arg(format!(
            "--interface=kp{:x}",
            std::process::id() % 0x10000 * 16 + NEXT.load(Ordering::Relaxed) % 16
        ));
        command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBERNETES_SERVICE_PORT");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let port = listen.rsplit(':').next().unwrap().parse().unwrap();
        Self { child, state, port }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }

    /// Resident memory, in MiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// A connection from one address of the namespace to another.
    pub async fn connect(&self, from: &str, to: &str) -> TcpStream {
        self.try_connect(from, to, None).await.unwrap()
    }

    pub async fn try_connect(&self, from: &str, to: &str, buffer: Option<u32>) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(buffer) = buffer {
            socket.set_recv_buffer_size(buffer)?;
        }
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0))?;
        socket.connect(SocketAddr::new(to.parse().unwrap(), self.port)).await
    }

    /// Status and body of a page.
    pub async fn get(&self, from: &str, to: &str, path: &str) -> Answer {
        self.get_as(from, to, &format!("localhost:{}", self.port), path).await
    }

    pub async fn get_as(&self, from: &str, to: &str, host: &str, path: &str) -> Answer {
        let asked = async {
            let mut stream = self.try_connect(from, to, None).await.map_err(|error| error.to_string())?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.map_err(|error| error.to_string())?;
            Answer::parse(&answer).ok_or_else(|| String::from_utf8_lossy(&answer).into_owned())
        };
        let asked = timeout(PATIENCE, asked).await;
        asked
            .expect("no answer")
            .unwrap_or_else(|seen| panic!("{path} of {to} as {from}: {seen}; {}", self.log()))
    }

    /// Asks again and again until the answer is good.
    pub async fn eventually(&self, path: &str, good: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = match self.try_connect(LOOPBACK, LOOPBACK, None).await {
                Ok(_) => Some(self.get(LOOPBACK, LOOPBACK, path).await),
                Err(_) => None,
            };
            if let Some(answer) = seen.as_ref().filter(|answer| good(answer)) {
                return answer.clone();
            }
            assert!(Instant::now() < deadline, "{path}: {seen:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A kubelet and Prometheus ask, from the node and from outside.
    pub async fn answers_probes(&self) {
        for from in [NODE, OTHER] {
            for path in ["/health", "/metrics"] {
                let begin = Instant::now();
                let answer = self.get(from, NODE, path).await;
                let took = begin.elapsed();
                assert!(
                    took < PROBE && [200, 503].contains(&answer.status),
                    "{path} as {from}: {took:?} {answer:?}"
                );
            }
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Self { status: head.split(' ').nth(1)?.parse().ok()?, body: body.to_owned() })
    }
}

fn cluster(nodes: usize) -> apiserver::Server {
    let server = apiserver::Server::new();
    server.apply_object(kubernetes::peer::custom_resource_definition()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for number in 0..nodes {
        server.apply_object(node(number, now)).unwrap();
    }
    server
}

/// A node in a location of its own. The first one is the agent's.
fn node(number: usize, now: u64) -> Value {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let (high, low) = (number / 250, number % 250 + 1);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": format!("n{number:04}"), "annotations": {
            "kilo.squat.ai/location": if number == 1 { "odd\n\u{1b}[31m\u{202e}".to_owned() } else { format!("l{number:04}") },
            "kilo.squat.ai/endpoint": format!("198.51.{high}.{low}:51820"),
            "kilo.squat.ai/internal-ip": format!("10.1.{high}.{low}/32"),
            "kilo.squat.ai/key": mesh::PublicKey::from_bytes(bytes).unwrap().to_string(),
            "kilo.squat.ai/last-seen": now.to_string(),
        } },
        "spec": { "podCIDR": format!("10.42.{high}.{low}/32"), "podCIDRs": [format!("10.{}.{low}.0/24", 50 + high)] },
    })
}
