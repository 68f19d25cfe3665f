//! The control socket of a device: one thread that serves all connections.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::config::DeviceChange;
use crate::device::{Inner, spawn};
use crate::error::Error;
use crate::sys::{Bell, Wanted, poll};

use super::{DIRECTORY, MAX_TEXT, Requests, decode_set, encode_state, socket_path};

/// Connections at the same time; more wait.
const MAX_CONNECTIONS: usize = 200;
/// A client that neither sends nor reads for so long is cut off when others wait.
const PATIENCE: Duration = Duration::from_secs(1);
/// The pause after a client could not be accepted, as without a free file descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until it is dropped, then removes the socket.
pub(crate) struct Server {
    path: PathBuf,
    stop: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Opens the socket of the interface.
    pub(crate) fn start(interface: &str, device: Arc<Inner>) -> Result<Self, Error> {
        let path = socket_path(interface);
        let fail = |attempt| {
            let path = path.display().to_string();
            move |reason| Error::Socket { attempt, path, reason }
        };
        // Whoever could write there could put another socket in place of this one, and be sent the private key.
        files::make_directory(Path::new(DIRECTORY), 0o755)?;
        remove_stale(&path)?;
        let listener = listen(&path).map_err(fail("listen on"))?;
        listener.set_nonblocking(true).map_err(fail("set up"))?;
        let stop = Arc::new(Bell::new().map_err(fail("set up"))?);
        let mut server = Self { path, stop: stop.clone(), thread: None };
        server.thread = Some(spawn("wg-uapi".into(), move || {
            if let Err(error) = serve(&listener, &stop, &device) {
                tracing::error!(%error, "the control socket of the WireGuard device failed");
            }
        })?);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.ring();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the control socket had panicked");
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

/// Listens on a socket that only root can use, from the first moment on: it gets its name when it is protected.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let unnamed = PathBuf::from(format!("{}.{}", path.display(), std::process::id()));
    if let Err(error) = fs::remove_file(&unnamed)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(&unnamed)?;
    let result = fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&unnamed, path));
    if result.is_err() {
        // What is reported is why it cannot be used.
        drop(fs::remove_file(&unnamed));
    }
    result.map(|()| listener)
}

/// Removes the socket of a process that is gone; that of a living one stays.
fn remove_stale(path: &Path) -> Result<(), Error> {
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::SocketInUse { path: path.display().to_string() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let fail =
                |reason| Error::Socket { attempt: "remove stale", path: path.display().to_string(), reason };
            fs::remove_file(path).map_err(fail)
        }
        Err(_) => Ok(()),
    }
}

/// Serves until `stop` rings.
fn serve(listener: &UnixListener, stop: &Bell, device: &Inner) -> io::Result<()> {
    let mut connections: Vec<Connection> = Vec::new();
    // When clients are accepted again, after that has failed.
    let mut accepting_from = None;
    loop {
        let now = Instant::now();
        accepting_from = accepting_from.filter(|at| *at > now);
        let is_full = connections.len() >= MAX_CONNECTIONS;
        let mut wanted = vec![Wanted::input(stop), Wanted::input(listener)];
        if is_full || accepting_from.is_some() {
            wanted[1].fd = -1;
        }
        wanted.extend(connections.iter().map(Connection::wanted));
        let oldest = connections.iter().map(|connection| connection.active).min().filter(|_| is_full);
        let deadline = accepting_from.into_iter().chain(oldest.map(|at| at + PATIENCE)).min();
        let ready = poll(&wanted, deadline.map(|at| at.saturating_duration_since(now)))?;
        if ready[0] {
            return Ok(());
        }
        let mut is_ready = ready[2..].iter();
        connections.retain_mut(|connection| {
            !is_ready.next().is_some_and(|ready| *ready) || connection.go_on(device)
        });
        keep_small(&mut connections);
        if is_full && connections.len() == MAX_CONNECTIONS {
            make_room(&mut connections);
        }
        if ready[1] {
            match listener.accept() {
                Ok((stream, _)) => connections.extend(Connection::new(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a UAPI client");
                    accepting_from = Some(Instant::now() + ACCEPT_AGAIN);
                }
            }
        }
    }
}

/// All clients together may not hold more than [`MAX_TEXT`]: who holds most is cut off.
fn keep_small(connections: &mut Vec<Connection>) {
    while connections.iter().map(Connection::size).sum::<usize>() > MAX_TEXT
        && let Some(largest) = (0..connections.len()).max_by_key(|at| connections[*at].size())
    {
        let size = connections.swap_remove(largest).size();
        tracing::warn!(
            bytes = size,
            "cut off a UAPI client: its request, or the answer it does not read, is too long"
        );
    }
}

/// Cuts off a client that has been silent for too long.
fn make_room(connections: &mut Vec<Connection>) {
    let oldest = (0..connections.len()).min_by_key(|at| connections[*at].active);
    if let Some(at) = oldest.filter(|at| connections[*at].active.elapsed() >= PATIENCE) {
        connections.swap_remove(at);
        tracing::warn!("cut off a UAPI client that was silent, because others wait");
    }
}

/// A client, what it has sent of its next request, and what it has not yet read of the last answer. Nothing here waits.
struct Connection {
    stream: UnixStream,
    requests: Requests,
    answer: Zeroizing<Vec<u8>>,
    sent: usize,
    /// When it last sent or read something.
    active: Instant,
}

impl Connection {
    fn new(stream: UnixStream) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        Some(Self {
            stream,
            requests: Requests::default(),
            answer: Zeroizing::default(),
            sent: 0,
            active: Instant::now(),
        })
    }

    /// An answer goes first: who does not read gets no more of them.
    fn wanted(&self) -> Wanted {
        if self.answer.is_empty() { Wanted::input(&self.stream) } else { Wanted::output(&self.stream) }
    }

    fn size(&self) -> usize {
        self.requests.size() + self.answer.len()
    }

    /// Reads or writes once, as there is something to read or room to write; answers what is complete. False when it is
    /// over.
    fn go_on(&mut self, device: &Inner) -> bool {
        let result = if self.answer.is_empty() { self.read() } else { self.write() };
        match result {
            Ok(0) => return false,
            Ok(_) => self.active = Instant::now(),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => return false,
        }
        while self.answer.is_empty()
            && let Some(request) = self.requests.next()
        {
            self.answer = Zeroizing::new(std::mem::take(&mut *answer(&request, device)).into_bytes());
            // Most answers fit at once.
            match self.write() {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return false,
                _ => {}
            }
        }
        true
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut chunk = Zeroizing::new([0; 16 << 10]);
        let length = self.stream.read(&mut chunk[..])?;
        self.requests.push(&chunk[..length]);
        Ok(length)
    }

    fn write(&mut self) -> io::Result<usize> {
        let length = self.stream.write(&self.answer[self.sent..])?;
        self.sent += length;
        if self.sent == self.answer.len() {
            self.answer = Zeroizing::default();
            self.sent = 0;
        }
        Ok(length)
    }
}

/// Does what a request asks.
fn answer(request: &[u8], device: &Inner) -> Zeroizing<String> {
    let result = match str::from_utf8(request).map(|text| text.split_once('\n')) {
        Ok(Some(("get=1", _))) => Ok(encode_state(&device.state())),
        Ok(Some(("set=1", lines))) => {
            decode_set(lines).and_then(|change| apply(device, change)).map(|()| Zeroizing::default())
        }
        _ => Err(Error::Protocol { line: String::new(), problem: "a request begins with get=1 or set=1" }),
    };
    match result {
        Ok(mut text) => {
            text.push_str("errno=0\n\n");
            text
        }
        Err(error) => {
            tracing::warn!(%error, "refused a UAPI request");
            // Negative, as wireguard-go does and wg(8) expects.
            Zeroizing::new(format!("errno=-{}\n\n", errno(&error)))
        }
    }
}

fn apply(device: &Inner, change: DeviceChange) -> Result<(), Error> {
    // What can fail comes first.
    if let Some(port) = change.listen_port {
        device.set_listen_port(port)?;
    }
    if let Some(mark) = change.fwmark {
        device.set_fwmark(mark)?;
    }
    if let Some(key) = change.private_key {
        device.set_private_key(key)?;
    }
    device.apply(&change.peers)
}

fn errno(error: &Error) -> i32 {
    match error {
        Error::Listen { reason, .. } | Error::Fwmark { reason, .. } | Error::Resource { reason, .. } => {
            reason.raw_os_error().unwrap_or(libc::EIO)
        }
        Error::InterfaceGone { .. } | Error::Closed => libc::ENODEV,
        _ => libc::EINVAL,
    }
}
