//! A device alone in a process, configured over the UAPI, as `wireguard-go -f IFACE` is.

use crate::config::Config;
use crate::device::Device;
use crate::error::Error;

/// Creates the interface, without key and peers, and serves `wg(8)` until the interface is removed: that is how such
/// a device is ended, besides ending the process.
///
/// # Errors
/// When the device cannot be created.
pub fn run_foreground(interface: &str) -> Result<(), Error> {
    let device = Device::create(Config { uapi: true, ..Config::named(interface) })?;
    loop {
        match device.wait(None) {
            Ok(()) => {}
            Err(Error::InterfaceGone { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
