//! The peers of the agent's WireGuard interface: asked of the socket of a device in user space, or of `wg`.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use super::host::Host;
use crate::{INTERFACE, LabError};

/// Peers by their keys, with their endpoints as text.
pub type Peers = BTreeMap<[u8; 32], Option<String>>;

/// The peers as they are now; none when there is no interface yet.
///
/// # Errors
/// When the interface cannot be read.
pub fn peers(host: &Host) -> Result<Peers, LabError> {
    let socket = host.file("wireguard").join(format!("{INTERFACE}.sock"));
    match UnixStream::connect(&socket) {
        Ok(stream) => ask(stream).map_err(LabError::io(format!("reading {}", socket.display()))),
        Err(_) => of_kernel(host),
    }
}

/// The cross-platform protocol of WireGuard: keys as hexadecimal digits, an empty line at the end.
fn ask(mut stream: UnixStream) -> std::io::Result<Peers> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"get=1\n\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 64 << 10];
    while !answer.ends_with(b"\n\n") {
        match stream.read(&mut chunk)? {
            0 => break,
            length => answer.extend_from_slice(&chunk[..length]),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let mut peers = Peers::new();
    let mut last = None;
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match name {
            "public_key" => {
                last = key(value);
                peers.extend(last.map(|key| (key, None)));
            }
            "endpoint" => {
                if let Some(endpoint) = last.and_then(|key| peers.get_mut(&key)) {
                    *endpoint = Some(value.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(peers)
}

fn key(text: &str) -> Option<[u8; 32]> {
    let bytes: Option<Vec<u8>> =
        (0..32).map(|byte| u8::from_str_radix(text.get(2 * byte..2 * byte + 2)?, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn of_kernel(host: &Host) -> Result<Peers, LabError> {
    let output = host.place().output(&["wg", "show", INTERFACE, "endpoints"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let peers = text.lines().filter_map(|line| {
        let (key, endpoint) = line.split_once('\t')?;
        Some((super::cluster::from_base64(key)?, (endpoint != "(none)").then(|| endpoint.to_owned())))
    });
    Ok(peers.collect())
}
