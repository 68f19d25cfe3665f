//! Netlink: messages, attributes, and a socket that asks the kernel and collects its answers. It knows the framing
//! (`linux/netlink.h`) and nothing of what is said in it.
//!
//! The messages of rtnetlink, nf_tables and WireGuard are written by one small encoder instead of a crate for each:
//! many messages go into one buffer and one `send`, attributes that the kernel adds tomorrow are skipped instead of
//! refused, and buffers that hold keys are known and can be overwritten.

mod attributes;
pub mod constants;
mod message;
mod socket;

pub use attributes::{Attributes, Writer, text};
pub use message::{Batch, Received};
pub use socket::{Protocol, Refusal, Socket};
