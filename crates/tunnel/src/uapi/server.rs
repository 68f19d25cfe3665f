//! The control socket of a device: one thread that serves all connections.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::DeviceChange;
use crate::device::{Inner, spawn};
use crate::error::Error;
use crate::sys::{Bell, wait};

use super::{DIRECTORY, MAX_TEXT, decode_set, encode_state, socket_path};

/// Connections at the same time; more wait.
const MAX_CONNECTIONS: usize = 14;
/// A client that does not read its answer for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

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
            move |source| Error::Socket { attempt, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(DIRECTORY)
            .map_err(fail("make the directory of"))?;
        remove_stale(&path)?;
        let listener = UnixListener::bind(&path).map_err(fail("listen on"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(fail("protect"))?;
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

/// Removes the socket of a process that is gone; that of a living one stays.
fn remove_stale(path: &Path) -> Result<(), Error> {
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::SocketInUse { path: path.display().to_string() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let fail =
                |source| Error::Socket { attempt: "remove stale", path: path.display().to_string(), source };
            fs::remove_file(path).map_err(fail)
        }
        Err(_) => Ok(()),
    }
}

/// A client and what it has sent of its next request.
struct Connection {
    stream: UnixStream,
    text: Zeroizing<Vec<u8>>,
}

fn serve(listener: &UnixListener, stop: &Bell, device: &Inner) -> io::Result<()> {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        // Unused places are -1, which poll(2) skips.
        let mut fds = [-1; MAX_CONNECTIONS + 2];
        fds[0] = stop.as_raw_fd();
        if connections.len() < MAX_CONNECTIONS {
            fds[1] = listener.as_raw_fd();
        }
        for (fd, connection) in fds[2..].iter_mut().zip(&connections) {
            *fd = connection.stream.as_raw_fd();
        }
        let ready = wait(fds, None)?;
        if ready[0] {
            return Ok(());
        }
        let mut index = 0;
        connections.retain_mut(|connection| {
            index += 1;
            !ready[index + 1] || connection.read(device)
        });
        if ready[1] {
            match listener.accept() {
                Ok((stream, _)) => connections.extend(Connection::new(stream)),
                Err(error) => tracing::debug!(%error, "cannot accept a UAPI client"),
            }
        }
    }
}

impl Connection {
    fn new(stream: UnixStream) -> Option<Self> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT)).ok()?;
        Some(Self { stream, text: Zeroizing::default() })
    }

    /// Reads once, without waiting, as there is something; answers what is complete. False when it is over.
    fn read(&mut self, device: &Inner) -> bool {
        let mut chunk = Zeroizing::new([0; 16 << 10]);
        match self.stream.read(&mut chunk[..]) {
            Ok(0) => return false,
            Ok(length) => self.text.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
        // Only the new bytes can hold the end of a request.
        let mut from = self.text.len().saturating_sub(chunk.len() + 1);
        while let Some(at) = self.text[from..].windows(2).position(|pair| pair == b"\n\n") {
            let rest = Zeroizing::new(self.text.split_off(from + at + 2));
            let request = std::mem::replace(&mut self.text, rest);
            if self.stream.write_all(answer(&request, device).as_bytes()).is_err() {
                return false;
            }
            from = 0;
        }
        self.text.len() <= MAX_TEXT
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
        Error::Listen { source, .. } | Error::Fwmark { source, .. } | Error::Resource { source, .. } => {
            source.raw_os_error().unwrap_or(libc::EIO)
        }
        Error::InterfaceGone { .. } | Error::Closed => libc::ENODEV,
        _ => libc::EINVAL,
    }
}
