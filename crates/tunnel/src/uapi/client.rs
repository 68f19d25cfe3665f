//! Talking to a device that serves the UAPI: ours in another process, wireguard-go, or any other.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::{DeviceChange, DeviceState};
use crate::error::Error;

use super::{MAX_TEXT, decode_state, encode_set, socket_path};

/// A device that is silent for so long is taken for dead.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A device behind a socket. Each call makes a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// The device of an interface, by the usual path.
    pub fn new(interface: &str) -> Self {
        Self::at(socket_path(interface))
    }

    /// The device behind this socket.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the device.
    ///
    /// # Errors
    /// When the device cannot be reached, refuses, or answers what is no UAPI.
    pub fn get(&self) -> Result<DeviceState, Error> {
        let answer = self.ask("get=1\n\n")?;
        decode_state(&answer)
    }

    /// Changes the device. What is not named stays as it is.
    ///
    /// # Errors
    /// When the device cannot be reached or refuses.
    pub fn set(&self, change: &DeviceChange) -> Result<(), Error> {
        self.ask(&encode_set(change)).map(drop)
    }

    /// Sends a request; returns the answer without its last line, once that has told success.
    fn ask(&self, request: &str) -> Result<Zeroizing<String>, Error> {
        let fail = |attempt| {
            let path = self.path.display().to_string();
            move |reason| Error::Socket { attempt, path, reason }
        };
        let mut stream = UnixStream::connect(&self.path).map_err(fail("connect to"))?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(fail("set up"))?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(fail("set up"))?;
        stream.write_all(request.as_bytes()).map_err(fail("write to"))?;
        let mut answer = Zeroizing::new(Vec::new());
        let mut chunk = Zeroizing::new([0; 16 << 10]);
        while !answer.ends_with(b"\n\n") {
            let length = match stream.read(&mut chunk[..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.map_err(fail("read from"))?,
            };
            if length == 0 || answer.len() > MAX_TEXT {
                return Err(protocol("the answer has no end"));
            }
            answer.extend_from_slice(&chunk[..length]);
        }
        let answer = str::from_utf8(&answer).map_err(|_| protocol("the answer is no text"))?;
        let (lines, status) = answer.trim_end().rsplit_once('\n').unwrap_or(("", answer.trim_end()));
        let errno = status.strip_prefix("errno=").and_then(|errno| errno.parse::<i32>().ok());
        match errno {
            Some(0) => Ok(Zeroizing::new(lines.to_owned())),
            // Implementations differ in the sign.
            Some(errno) => {
                Err(Error::Refused { path: self.path.display().to_string(), errno: errno.saturating_abs() })
            }
            None => Err(protocol("the answer does not end with errno")),
        }
    }
}

fn protocol(problem: &'static str) -> Error {
    Error::Protocol { line: String::new(), problem }
}
