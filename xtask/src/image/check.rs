//! Runs what is in the image, as a pod of the manifests would: a root that cannot be written, no capability but
//! `CAP_NET_ADMIN`, and `/proc/sys` read-only. Needs root for the namespaces.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::archive;
use crate::workspace;

/// In namespaces of its own; `$1` is the root of the image, `$2` the host's side of the mounts.
/// `chroot` is what needs `CAP_SYS_CHROOT`; a container runtime changes the root before it drops capabilities.
const SCRIPT: &str = include_str!("../../guest/image-check.sh");

/// Unpacks the image and runs the script in it.
pub fn run(layout: &Path) -> Result<()> {
    let work = workspace().join(format!("target/image-check.{}", std::process::id()));
    let outcome = check(layout, &work);
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    outcome
}

fn check(layout: &Path, work: &Path) -> Result<()> {
    let (root, host) = (work.join("root"), work.join("host"));
    for directory in ["bin", "conf", "state", "sys"] {
        fs::create_dir_all(host.join(directory)).with_context(|| format!("create {}", host.display()))?;
    }
    archive::unpack(layout, &root)?;
    // Where a container runtime mounts, it makes directories in the image's root first.
    for directory in
        ["proc", "dev", "var/lib/kilo", "host/opt/cni/bin", "host/etc/cni/net.d", "host/proc/sys/net"]
    {
        fs::create_dir_all(root.join(directory)).with_context(|| format!("create {directory}"))?;
    }
    let mut command = Command::new(workspace().join("scripts/as-root"));
    command.args(["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-euc", SCRIPT, "image-check"]);
    let status = command.arg(&root).arg(&host).stdin(Stdio::null()).status().context("run unshare")?;
    if !status.success() {
        bail!("what is in the image does not run ({status}); see above");
    }
    Ok(())
}
