//! What the programs have in common where they meet the host: flags that Go understands, log lines, DNS, clocks and the
//! host's name. It decides nothing about the mesh.

pub mod clock;
pub mod flags;
pub mod log;
pub mod print;
pub mod problem_lines;
pub mod reference;
mod resolver;

use anyhow::{Context, Result, anyhow};

pub use resolver::Resolver;

/// The host's name in lower case, as the kubelet registers it.
pub fn host_name() -> Result<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().map_err(|_| anyhow!("it is not UTF-8"));
    Ok(name.context("cannot read the host's name")?.trim().to_lowercase())
}
