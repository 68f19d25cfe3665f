//! What the lab's tests share: descriptions, and looks at what is on this machine.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use kilo_lab::{Lab, LabError, Spec, wait_until};

/// The program under test.
pub const KILO_LAB: &str = env!("CARGO_BIN_EXE_kilo-lab");

/// A name that no other test run on this machine uses at the same time: at most 12 characters.
pub fn unique(theme: &str) -> String {
    assert!(theme.len() <= 5, "{theme} leaves no room for a process id");
    format!("{theme}{}", std::process::id() % 10_000_000)
}

/// A lab of the built-in sites, without agents.
pub fn without_agents(theme: &str) -> Spec {
    let mut spec = with_agents(theme);
    spec.mesh.agents = false;
    spec
}

/// A lab of the built-in sites.
pub fn with_agents(theme: &str) -> Spec {
    let mut spec = Spec::demo().named(unique(theme));
    spec.programs.lab = Some(PathBuf::from(KILO_LAB));
    spec
}

/// Brings a lab up, or fails with the reason.
pub fn up(spec: Spec) -> Lab {
    Lab::up(spec).unwrap_or_else(|error| panic!("the lab does not come up: {error}"))
}

/// Brings a lab up and waits until its mesh has formed.
pub fn converged(spec: Spec) -> Lab {
    let lab = up(spec);
    lab.wait_converged(Duration::from_secs(60))
        .unwrap_or_else(|error| panic!("the mesh does not form: {error}"));
    lab
}

/// The names of a lab's namespaces that exist.
pub fn namespaces(lab: &str) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return BTreeSet::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("kl-{lab}-"))).collect()
}

/// The processes that have the lab's directory in their command line or live in one of its namespaces.
pub fn processes(lab: &str) -> Vec<String> {
    let directory = format!("/run/kilo-lab/{lab}/");
    let own: BTreeSet<PathBuf> =
        namespaces(lab).iter().map(|name| PathBuf::from("/run/netns").join(name)).collect();
    let inodes: BTreeSet<u64> = own.iter().filter_map(inode).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let inside =
            inode(&PathBuf::from(format!("/proc/{pid}/ns/net"))).is_some_and(|inode| inodes.contains(&inode));
        (inside || line.contains(&directory)).then(|| format!("{pid} {line}"))
    })
    .collect()
}

/// Waits until nothing of a lab is left: no namespace, no process, no file.
pub fn assert_gone(lab: &str) {
    let directory = PathBuf::from("/run/kilo-lab").join(lab);
    let look = || {
        let left: Vec<String> = namespaces(lab).into_iter().chain(processes(lab)).collect();
        let left =
            if directory.exists() { [left, vec![directory.display().to_string()]].concat() } else { left };
        Ok((!left.is_empty()).then(|| left.join(", ")))
    };
    wait_until("the end of everything in the lab", Duration::from_secs(10), look)
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Waits for a condition, or fails with what was seen last.
pub fn eventually(what: &str, within: Duration, look: impl FnMut() -> Result<Option<String>, LabError>) {
    wait_until(what, within, look).unwrap_or_else(|error| panic!("{error}"));
}

fn inode(path: &PathBuf) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(fs::metadata(path).ok()?.ino())
}
