//! A device alone in a process, configured over the UAPI, as `wireguard-go -f IFACE` is.

use crate::config::Config;
use crate::device::Device;
use crate::error::Error;
use crate::sys::signals::EndSignals;

/// Creates the interface, without key and peers, and serves `wg(8)` until the process is asked to end (SIGINT, SIGTERM,
/// SIGHUP) or the interface is removed. Nothing is left behind then.
///
/// Call it from the first thread, before there are others: signals are taken by this thread from then on.
///
/// # Errors
/// When the device cannot be created.
pub fn run_foreground(interface: &str) -> Result<(), Error> {
    let signals = EndSignals::block()
        .map_err(|reason| Error::Resource { attempt: "take the signals that end the process", reason })?;
    let device = Device::create(Config { uapi: true, ..Config::named(interface) })?;
    match device.wait_beside(&signals) {
        Ok(()) | Err(Error::InterfaceGone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
