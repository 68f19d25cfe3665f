//! Settings of the kernel in `/proc/sys`, above all whether the host forwards packets. They are those of the network namespace of
//! the thread that reads and writes them.

use std::{fs, io, path::Path};

use hostnet::state::Forwarding;

use crate::error::Error;

/// Where settings of the network are.
const OWN: &str = "/proc/sys/net";
/// Where the manifests mount them, writable.
const MOUNTED: &str = "/host/proc/sys/net";
const FORWARD_V4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Whether the host forwards packets. A kernel without IPv6 does not forward it.
pub fn forwarding() -> Forwarding {
    let on = |path| fs::read_to_string(path).is_ok_and(|text| !matches!(text.trim(), "" | "0"));
    Forwarding { v4: on(FORWARD_V4), v6: on(FORWARD_V6) }
}

/// Lets the host forward the families that are named.
///
/// A host that forwards IPv6 no longer listens to router advertisements, and forgets the default route that it learned
/// from one, unless `accept_ra` is 2 (`ip-sysctl` of the kernel's documentation). `advertised` are the interfaces with
/// such a default route; they get the 2, or the node would lose its way out.
///
/// # Errors
/// When a setting cannot be written.
pub fn enable(families: Forwarding, advertised: &[String]) -> Result<(), Error> {
    if families.v4 {
        write(FORWARD_V4)?;
    }
    if families.v6 {
        for interface in advertised {
            keep_advertisements(interface);
        }
        write(FORWARD_V6)?;
    }
    Ok(())
}

fn write(path: &'static str) -> Result<(), Error> {
    set(Path::new(path), "1").map_err(|source| Error::Setting { path, source })
}

/// A container without privileges sees `/proc/sys` read-only. Its manifest then mounts the host's `/proc/sys/net` at
/// [`MOUNTED`], which is a view of the same settings that can be written.
fn set(path: &Path, value: &str) -> io::Result<()> {
    match (fs::write(path, value), path.strip_prefix(OWN)) {
        (Err(error), Ok(rest)) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            fs::write(Path::new(MOUNTED).join(rest), value).map_err(|_| error)
        }
        (outcome, _) => outcome,
    }
}

/// Lets later addresses of a subnet outlive the first one (`promote_secondaries` in `ip-sysctl` of the kernel's
/// documentation). Where the setting cannot be written, they do not; the caller has to look.
pub fn keep_secondary_addresses(interface: &str) {
    let path = Path::new("/proc/sys/net/ipv4/conf").join(interface).join("promote_secondaries");
    if let Err(error) = set(&path, "1") {
        tracing::debug!(%interface, %error, "promote_secondaries cannot be set");
    }
}

/// Something else may handle advertisements (systemd-networkd, NetworkManager): then the kernel's setting is 0 and
/// stays so.
fn keep_advertisements(interface: &str) {
    let path = Path::new("/proc/sys/net/ipv6/conf").join(interface).join("accept_ra");
    if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1")
        && let Err(error) = set(&path, "2")
    {
        tracing::warn!(%interface, %error, "accept_ra stays 1: forwarding IPv6 will end the default route it learned");
    }
}
