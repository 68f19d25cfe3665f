//! Which dependencies the workspace may have: pure crates know no runtime, no Kubernetes and no kernel, and every
//! licence is a permissive one.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The crates that decide. What they depend on must not do input or output.
const PURE: [&str; 4] = ["mesh", "hostnet", "reconciler", "pace"];

/// What no pure crate depends on, however indirectly.
const EFFECTS: [&str; 14] = [
    "tokio",
    "mio",
    "kube",
    "hyper",
    "axum",
    "reqwest",
    "netlink-sys",
    "socket2",
    "rustix",
    "nix",
    "hickory-resolver",
    "tracing-subscriber",
    "tun-rs",
    "libc",
];

/// One of these has to be offered by every dependency.
const LICENSES: [&str; 13] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
];

/// Checks all of it; an error names every crate that offends.
pub fn check() -> Result<()> {
    let metadata = metadata()?;
    let packages: BTreeMap<&str, &Value> = list(&metadata["packages"]).map(|p| (text(&p["id"]), p)).collect();
    let graph: BTreeMap<&str, Vec<&str>> = list(&metadata["resolve"]["nodes"])
        .map(|node| {
            (
                text(&node["id"]),
                list(&node["deps"]).filter(|d| is_normal(d)).map(|d| text(&d["pkg"])).collect(),
            )
        })
        .collect();
    let mut offences = Vec::new();
    for pure in PURE {
        let root =
            packages.iter().find(|(_, package)| package["name"] == pure && package["source"].is_null());
        let (root, _) = root.with_context(|| format!("there is no crate {pure} in the workspace"))?;
        for id in reachable(&graph, root) {
            let name = text(&packages[id]["name"]);
            if EFFECTS.contains(&name) {
                offences.push(format!("{pure} is to be pure, but depends on {name}"));
            }
        }
    }
    let ours = list(&metadata["workspace_members"]).map(text);
    let used: BTreeSet<&str> = ours.flat_map(|root| reachable(&graph, root)).collect();
    for id in &used {
        let package = packages[id];
        let license = package["license"].as_str().unwrap_or("none");
        if !is_permissive(license) {
            offences.push(format!("{} has the licence {license}", text(&package["name"])));
        }
    }
    if !offences.is_empty() {
        bail!("dependencies that must not be:\n  {}", offences.join("\n  "));
    }
    println!("{} dependencies: pure crates are pure, licences are permissive", used.len());
    Ok(())
}

fn metadata() -> Result<Value> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(crate::workspace())
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Dependencies for tests and build scripts reach no user.
fn is_normal(dependency: &Value) -> bool {
    list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null())
}

fn reachable<'a>(graph: &BTreeMap<&'a str, Vec<&'a str>>, root: &'a str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::from([root]);
    let mut waiting = vec![root];
    while let Some(id) = waiting.pop() {
        for next in graph.get(id).into_iter().flatten() {
            if seen.insert(next) {
                waiting.push(next);
            }
        }
    }
    seen
}

/// SPDX without parentheses within parentheses: every part joined by AND has to offer a permissive licence.
fn is_permissive(expression: &str) -> bool {
    expression
        .replace(['(', ')'], "")
        .replace('/', " OR ")
        .split(" AND ")
        .all(|part| part.split(" OR ").any(|license| LICENSES.contains(&license.trim())))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences() {
        for permissive in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
        ] {
            assert!(is_permissive(permissive), "{permissive}");
        }
        for other in ["GPL-2.0", "none", "MIT AND GPL-2.0", "LGPL-2.1 OR MPL-2.0"] {
            assert!(!is_permissive(other), "{other}");
        }
    }
}
