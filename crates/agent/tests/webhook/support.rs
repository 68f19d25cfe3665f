//! A webhook as a process, certificates, and an API server that asks it.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
const HOST: &str = "peer-validation.kilo.svc";

/// Waits until something is there; prints `seen` when it does not come.
pub async fn eventually<T>(
    what: &str,
    seen: impl Fn() -> String,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {PATIENCE:?}: {}", seen());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub enum Validity {
    Now,
    Past,
    Future,
}

/// A certificate and its key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// An authority, and the files of a webhook.
pub struct Files {
    pub directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
}

impl Files {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertificateDer::from(params.self_signed(&key).unwrap().der().to_vec());
        let files = Self { directory: TempDir::new().unwrap(), issuer: Issuer::new(params, key), authority };
        files.write(&files.issue(Validity::Now));
        files
    }

    pub fn issue(&self, validity: Validity) -> Pair {
        let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let (from, to) = match validity {
            Validity::Now => (2000, 2090),
            Validity::Past => (2000, 2001),
            Validity::Future => (2090, 2091),
        };
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("tls.crt")
    }

    pub fn key(&self) -> PathBuf {
        self.directory.path().join("tls.key")
    }

    pub fn write(&self, pair: &Pair) {
        fs::write(self.certificate(), &pair.certificate).unwrap();
        fs::write(self.key(), &pair.key).unwrap();
    }

    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kg"));
        command.arg("webhook").args(["--listen=127.0.0.1:0", "--listen-metrics=127.0.0.1:0"]);
        command.arg("--cert-file").arg(self.certificate()).arg("--key-file").arg(self.key()).args(more);
        // The machine that runs the tests may be a pod.
        command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("KUBERNETES_SERVICE_PORT");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// A start that has to fail; what is printed.
    pub async fn fails_to_start(&self, more: &[&str]) -> String {
        let output =
            tokio::time::timeout(PATIENCE, self.command(more).output()).await.expect("it runs on").unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}");
        text
    }

    pub async fn start(&self, more: &[&str]) -> Webhook {
        let mut child = self.command(more).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                written.lock().unwrap().push(line);
            }
        });
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut webhook = Webhook { child, log, tls, address: unknown, metrics: unknown };
        let line = webhook.logged("the webhook listens").await;
        let field = |name: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.unwrap_or_else(|| panic!("no {name} in {line:?}")).parse().unwrap()
        };
        (webhook.address, webhook.metrics) = (field("address="), field("metrics="));
        webhook
    }
}

/// An answer: its status, and its body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn review(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        let review: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!((&review["kind"], &review["response"]["uid"]), (&json!("AdmissionReview"), &json!("u-1")));
        review["response"].clone()
    }
}

/// The process.
pub struct Webhook {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    tls: TlsConnector,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
}

impl Webhook {
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits for a line of the log that has not been asked for before.
    pub async fn logged(&self, text: &str) -> String {
        let take = || {
            let mut log = self.log.lock().unwrap();
            let at = log.iter().position(|line| line.contains(text))?;
            Some(log.drain(..=at).next_back().unwrap())
        };
        eventually(&format!("{text:?} in the log"), || self.log(), async || take()).await
    }

    pub async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.tls.connect(HOST.try_into().unwrap(), stream).await.unwrap()
    }

    /// The certificate that is shown, in PEM without line ends.
    pub async fn shown(&self) -> Vec<u8> {
        let stream = self.connect().await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Sends a request over TLS.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        send(self.connect().await, request).await
    }

    /// Sends an AdmissionReview.
    pub async fn review(&self, review: &Value) -> Answer {
        self.send(post("application/json", review.to_string())).await
    }

    /// Asks without TLS.
    pub async fn get(&self, path: &str) -> Answer {
        let stream = TcpStream::connect(self.metrics).await.unwrap();
        send(stream, Request::get(path).header("host", HOST).body(Full::default()).unwrap()).await
    }

    /// A field of proc_pid_status(5) that is in kB, in bytes.
    pub fn memory(&self, field: &str) -> usize {
        let status = fs::read_to_string(self.process_file("status")).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap().trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }

    /// Lets the peak of the memory, `VmHWM`, begin where the memory is now.
    pub fn forget_peak(&self) {
        fs::write(self.process_file("clear_refs"), "5").unwrap();
    }

    fn process_file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id().unwrap()))
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it runs on: {}", self.log())).unwrap()
    }
}

pub fn post(content_type: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request =
        Request::post("/validate?timeout=5s").header("host", HOST).header("content-type", content_type);
    request.body(Full::new(body.into())).unwrap()
}

pub async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Answer
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response =
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("no answer").unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, body: String::from_utf8(body.to_vec()).unwrap() }
}

pub const KEY: &str = "rEzswSMXSD5vdP615McU88sC0C8vm29cjELTG+RKVK4=";
const OTHER_KEY: &str = "9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=";

pub fn peer(name: &str, key: &str, allowed_ip: &str) -> Value {
    json!({
        "apiVersion": "kilo.squat.ai/v1alpha1", "kind": "Peer", "metadata": { "name": name },
        "spec": { "allowedIPs": [allowed_ip], "publicKey": key },
    })
}

pub fn review(operation: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "operation": operation, "object": object,
            "kind": { "group": "kilo.squat.ai", "version": "v1alpha1", "kind": "Peer" },
            "resource": { "group": "kilo.squat.ai", "version": "v1alpha1", "resource": "peers" },
        },
    })
}

/// A cluster with the node `a` and the Peer `p`.
pub fn cluster() -> apiserver::Server {
    let server = apiserver::Server::new();
    server.apply_object(kubernetes::peer::custom_resource_definition()).unwrap();
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "a", "annotations": {
            "kilo.squat.ai/internal-ip": "10.1.0.1/16", "kilo.squat.ai/wireguard-ip": "10.4.0.1/16",
        } },
        "spec": { "podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24"] },
    });
    server.apply_object(node).unwrap();
    server.apply_object(peer("p", OTHER_KEY, "10.5.0.1/32")).unwrap();
    server
}

/// Serves an API until the task is aborted; where it is.
pub async fn serve(server: apiserver::Server) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--master=http://{}", listener.local_addr().unwrap());
    (url, tokio::spawn(async move { server.serve(listener).await.unwrap() }))
}
