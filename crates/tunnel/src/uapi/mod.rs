//! The cross-platform control protocol of WireGuard (<https://www.wireguard.com/xplatform/>), both ways: a server so
//! that `wg(8)` works on our devices, and a client for devices of other programs.
//!
//! Texts are read and written by `decode` and `encode`, and cut apart by `requests`; sockets are handled by `server` and
//! `client`.

mod client;
mod decode;
mod encode;
mod requests;
mod server;

use std::path::PathBuf;

pub use client::Client;
pub use decode::{decode_set, decode_state};
pub use encode::{encode_set, encode_state};
pub(crate) use requests::Requests;
pub(crate) use server::Server;

/// Where the sockets are, one per interface.
pub const DIRECTORY: &str = "/var/run/wireguard";

/// The socket of an interface.
pub fn socket_path(interface: &str) -> PathBuf {
    PathBuf::from(format!("{DIRECTORY}/{interface}.sock"))
}

/// A request or an answer may not be longer; ten thousand peers need a few MiB.
const MAX_TEXT: usize = 64 << 20;
