//! Large packets: cutting what the kernel hands over in one piece, and joining what belongs together before it goes back.
//!
//! The kernel moves a run of TCP or UDP packets as one, described by a virtio-net header (linux/virtio_net.h).
//! Nothing here does I/O; bytes may come from anywhere and are checked.

mod checksum;
mod coalesce;
mod header;
mod segment;
#[cfg(test)]
mod tests;

pub(crate) use checksum::{Sum, pseudo_header};
pub(crate) use coalesce::{Burst, Coalescer, Joins};
pub(crate) use header::{HEADER_SIZE, VirtioHeader};
pub(crate) use segment::Segments;
