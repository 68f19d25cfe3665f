//! A WireGuard device in user space, for Linux: the whole protocol, many peers, fast.
//!
//! [`Device`] is the interface with its threads. Inside, `engine` is the protocol without sockets, threads or clocks;
//! `device` runs it; `sys` holds the system calls; `offload` cuts and joins large packets. [`uapi`] speaks to `wg(8)`.

mod cipher;
mod clock;
mod config;
mod cookie;
mod crypto;
mod device;
mod drops;
mod ecn;
mod engine;
mod error;
mod foreground;
#[doc(hidden)]
pub mod fuzzing;
mod icmp;
mod ip;
mod key;
mod looping;
mod message;
mod noise;
mod offload;
mod peer;
mod replay;
mod routing;
mod session;
mod sync;
mod sys;
mod timers;
mod timestamp;
mod trie;
pub mod uapi;

#[doc(hidden)]
pub use config::Lack;
pub use config::{
    AllowedIpsChange, Config, DeviceChange, DeviceState, Drops, Greeting, PeerChange, PeerSettings,
    PeerState, WhenMissing,
};
pub use device::Device;
pub use error::Error;
pub use foreground::run_foreground;
pub use key::{PresharedKey, PrivateKey, PublicKey};
