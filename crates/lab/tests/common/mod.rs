//! What the lab's tests share: descriptions, and looks at what is on this machine.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use kilo_lab::{
    Lab, LabError, NodeRef, Spec,
    topology::{self, Role},
    wait_until,
};

/// The program under test: where cargo built it, or in the search path where the tests were carried to
/// another machine.
pub fn kilo_lab() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_kilo-lab"));
    if built.is_file() { built } else { kilo_lab::programs::find("kilo-lab", None).expect("it is installed") }
}

/// A time that a correct mesh keeps on a real machine. On an emulated one everything takes longer: there, the
/// environment variable `KILO_LAB_PATIENCE` says how many times.
pub fn patiently(time: Duration) -> Duration {
    let times = std::env::var("KILO_LAB_PATIENCE").ok();
    let times = times.map_or(1.0, |times| times.parse::<f64>().expect("KILO_LAB_PATIENCE is a number"));
    time.mul_f64(times)
}

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
    spec.programs.lab = Some(kilo_lab());
    spec
}

/// Brings a lab up, or fails with the reason.
pub fn up(spec: Spec) -> Lab {
    Lab::up(spec).unwrap_or_else(|error| panic!("the lab does not come up: {error}"))
}

/// Brings a lab up and waits until its mesh has formed.
pub fn converged(spec: Spec) -> Lab {
    let lab = up(spec);
    assert_converges(&lab);
    lab
}

/// Waits until every pod reaches every other, in both families.
pub fn assert_converges(lab: &Lab) -> Duration {
    let within = patiently(Duration::from_secs(45));
    lab.wait_converged(within).unwrap_or_else(|error| panic!("the mesh does not form: {error}"))
}

/// What the agent changes on a node, as sorted lines: addresses, routes, rules and packet filter of its own
/// network, without what changes by itself.
pub fn host_state(node: NodeRef<'_>) -> Vec<String> {
    let commands: [&[&str]; 6] = [
        &["ip", "-o", "-4", "address", "show"],
        &["ip", "-o", "-6", "address", "show"],
        &["ip", "-4", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "all"],
        &["ip", "-4", "rule", "show"],
        &["ip", "-6", "rule", "show"],
    ];
    let mut lines: Vec<String> = Vec::new();
    for command in commands {
        let text = node.read(command).unwrap_or_else(|error| panic!("{error}"));
        let useful = text.lines().filter(|line| !line.contains("fe80:") && !line.contains("ff00::/8"));
        let title =
            command.iter().copied().filter(|word| !["ip", "-o", "show"].contains(word)).collect::<Vec<_>>();
        lines.extend(useful.map(|line| format!("{}: {}", title.join(" "), without_index(line))));
    }
    lines.extend(filter(node).lines().map(|line| format!("nft: {}", line.trim())));
    lines.sort();
    lines
}

/// The agent's table, without counters and handles; empty when there is none.
pub fn filter(node: NodeRef<'_>) -> String {
    let command = ["nft", "--stateless", "list", "table", "inet", "kilo"];
    let table = node.exec(&command).unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8_lossy(&table.stdout).into_owned()
}

/// What is in one list and not in the other, or more often, for a message.
pub fn difference(before: &[String], after: &[String]) -> String {
    let count = |list: &[String], line: &String| list.iter().filter(|other| *other == line).count();
    let lines: BTreeSet<&String> = before.iter().chain(after).collect();
    let change = |line: &&String| {
        let (old, new) = (count(before, line), count(after, line));
        (old != new).then(|| format!("{} {line} ({old} → {new})", if new > old { '+' } else { '-' }))
    };
    lines.iter().filter_map(change).collect::<Vec<_>>().join("\n")
}

/// Fails unless the host's state is the same as before; waits for it to settle.
pub fn assert_same_state(node: NodeRef<'_>, before: &[String], within: Duration) {
    eventually("the same state as before", within, || {
        let after = host_state(node);
        Ok((after != before).then(|| difference(before, &after)))
    });
}

/// Whether the node's WireGuard device is the kernel's.
pub fn has_kernel_wireguard(node: NodeRef<'_>) -> bool {
    node.read(&["ip", "-d", "link", "show", kilo_lab::INTERFACE]).is_ok_and(|text| text.contains("wireguard"))
}

/// Interface indices and lifetimes differ between two devices of the same name.
fn without_index(line: &str) -> String {
    let line = line.split(" valid_lft").next().unwrap_or(line);
    let numbered = line.split_once(": ").filter(|(index, _)| index.parse::<u32>().is_ok());
    let rest = numbered.map_or(line, |(_, rest)| rest);
    rest.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" ")
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

/// The mesh as it is published, once every node has published itself and it is `settled`. Just after a start it is not: each
/// node was alone before it knew the others, and said so.
pub fn published(lab: &Lab, what: &str, settled: impl Fn(&[topology::Row]) -> bool) -> Vec<topology::Row> {
    let mut rows = Vec::new();
    eventually(what, patiently(Duration::from_secs(20)), || {
        rows = topology::read(lab)?;
        let silent = rows.iter().any(|row| row.role == Role::Silent || row.key.is_empty());
        Ok((silent || !settled(&rows)).then(|| topology::render(&rows)))
    });
    rows
}

/// The mesh as it is published, once each location has exactly one leader.
pub fn led(lab: &Lab) -> Vec<topology::Row> {
    published(lab, "one leader of each location", topology::is_led)
}

/// The marked blocks of a page of the documents, without what they are indented by. Words are replaced by those of the mark,
/// `<!-- lab NAME=VALUE … -->`, and by further ones.
pub fn blocks(page: &str, further: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(words) = line.trim().strip_prefix("<!-- lab").and_then(|rest| rest.strip_suffix("-->"))
        else {
            continue;
        };
        let fence = lines.next().expect("a block follows the mark");
        let indent = fence.len() - fence.trim_start().len();
        assert!(fence.trim().starts_with("```"), "no block follows {line}");
        let body = lines.by_ref().take_while(|line| line.trim() != "```");
        let mut block =
            body.map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n");
        let marked = words.split_whitespace().filter_map(|word| word.split_once('='));
        for (name, value) in marked.chain(further.iter().copied()) {
            block = block.replace(name, value);
        }
        found.push(block);
    }
    found
}

/// A line of shell that puts `kgctl` and `kubectl` into the search path.
pub fn tools() -> String {
    // Where `make` has installed it; elsewhere it is in the search path.
    let kubectl = std::env::var("KUBECTL").ok().map(PathBuf::from);
    let kubectl = kubectl.as_deref().and_then(Path::parent).unwrap_or(Path::new("/usr/bin")).display();
    let kgctl = kilo_lab::programs::find("kgctl", None).expect("it is built");
    let kgctl = kgctl.parent().expect("it is in a directory").display();
    format!("PATH={kgctl}:{kubectl}:$PATH")
}

/// Waits for a condition, or fails with what was seen last.
pub fn eventually(what: &str, within: Duration, look: impl FnMut() -> Result<Option<String>, LabError>) {
    wait_until(what, within, look).unwrap_or_else(|error| panic!("{error}"));
}

fn inode(path: &PathBuf) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(fs::metadata(path).ok()?.ino())
}
