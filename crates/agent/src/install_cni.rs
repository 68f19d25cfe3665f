//! `kg install-cni`: puts the CNI plugins and the network configuration of the image onto the host.
//!
//! It does what the shell script in the init containers of the Go manifests does, and takes its input from the same
//! environment variables. Every file is written beside its place and renamed, so a container runtime never reads half
//! of one and never finds a plugin busy. What is in place already is not touched. It does not know the node's pod
//! subnets: the agent sets them later (`cni`), and those of an earlier run are kept.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::cni;

/// Other network configurations get this behind their names; container runtimes then pass them over.
const ASIDE: &str = "replaced-by-kilo";

/// What to install and where.
#[derive(Args, Debug)]
pub struct Flags {
    /// The network configuration list itself, as JSON.
    #[arg(long, env = "CNI_NETWORK_CONFIG", value_name = "JSON", hide_env_values = true)]
    pub network_config: String,
    /// The name of its file; container runtimes use the file whose name sorts first.
    #[arg(long, env = "CNI_CONF_NAME", default_value = "10-kilo.conflist", value_name = "NAME")]
    pub conf_name: String,
    /// The host's directory of network configurations. Others in it are renamed to NAME.replaced-by-kilo.
    #[arg(long, default_value = "/host/etc/cni/net.d", value_name = "DIR")]
    pub conf_dir: PathBuf,
    /// The host's directory of plugins.
    #[arg(long, default_value = "/host/opt/cni/bin", value_name = "DIR")]
    pub bin_dir: PathBuf,
    /// Where the plugins are taken from. When it is missing, the host has to have them.
    #[arg(long, default_value = "/opt/cni/bin", value_name = "DIR")]
    pub plugins_dir: PathBuf,
}

/// Installs the plugins, then the configuration that names them. Returns what was done, a line each.
///
/// # Errors
/// When the configuration is not a list of plugins (nothing is changed then), a plugin that it names is nowhere, or a
/// directory of the host is missing or cannot be written.
pub fn run(flags: &Flags) -> Result<Vec<String>> {
    let name = &flags.conf_name;
    if Path::new(name).file_name() != Some(name.as_ref()) {
        bail!("--conf-name {name:?} is not the name of a file; write a name such as 10-kilo.conflist");
    }
    let mut conflist: Value = serde_json::from_str(&flags.network_config)
        .context("CNI_NETWORK_CONFIG (--network-config) is not JSON; nothing was changed")?;
    let wanted = plugins(&conflist)
        .context("CNI_NETWORK_CONFIG (--network-config) is not a list of CNI plugins; nothing was changed")?;
    for directory in [&flags.bin_dir, &flags.conf_dir] {
        if !directory.is_dir() {
            bail!("{} is not a directory; mount the host's directory there", directory.display());
        }
    }
    let mut done = copy_plugins(flags)?;
    let missing: Vec<_> =
        wanted.iter().filter(|plugin| !flags.bin_dir.join(plugin).is_file()).map(String::as_str).collect();
    if !missing.is_empty() {
        bail!(
            "neither {} nor {} has the CNI plugins {}; install them on the host",
            flags.plugins_dir.display(),
            flags.bin_dir.display(),
            missing.join(", ")
        );
    }
    let path = flags.conf_dir.join(name);
    if let Some(ranges) = cni::ranges(&path) {
        cni::set_missing_ranges(&mut conflist, &ranges);
    }
    // The same document may be formatted differently: the agent writes it, too.
    let same = files::read_text(&path)
        .is_ok_and(|text| serde_json::from_str(&text).is_ok_and(|old: Value| old == conflist));
    if !same {
        let text = format!("{}\n", serde_json::to_string_pretty(&conflist)?);
        files::replace(&path, text.as_bytes(), 0o644)
            .with_context(|| format!("cannot write {}", path.display()))?;
        done.push(format!("wrote {}", path.display()));
    }
    done.extend(set_aside(&flags.conf_dir, name)?);
    Ok(done)
}

/// The names of the programs that a list needs, and of the one that container runtimes use besides.
fn plugins(list: &Value) -> Result<BTreeSet<String>> {
    let plugins = list.get("plugins").and_then(Value::as_array).context("it has no list \"plugins\"")?;
    let mut names = BTreeSet::from(["loopback".to_owned()]);
    for (index, plugin) in plugins.iter().enumerate() {
        let kind = plugin.get("type").and_then(Value::as_str);
        let kind = kind.with_context(|| format!("plugin {index} has no \"type\""))?;
        let ipam = plugin.pointer("/ipam/type").and_then(Value::as_str);
        for name in [Some(kind), ipam].into_iter().flatten() {
            if Path::new(name).file_name() != Some(name.as_ref()) {
                bail!("{name:?} is not the name of a plugin");
            }
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

fn copy_plugins(flags: &Flags) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for source in list(&flags.plugins_dir)? {
        let Some(name) = source.file_name() else { continue };
        let target = flags.bin_dir.join(name);
        let program = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
        if fs::read(&target).is_ok_and(|old| old == program) && cni::mode(&target) == Some(0o755) {
            continue;
        }
        files::replace(&target, &program, 0o755)
            .with_context(|| format!("cannot write {}", target.display()))?;
        done.push(format!("installed {}", target.display()));
    }
    Ok(done)
}

/// A container runtime uses the first configuration it finds. The Go script deletes the others; renamed, they can be
/// brought back.
fn set_aside(directory: &Path, own: &str) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for path in list(directory)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let configures = [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending));
        if name == own || !configures {
            continue;
        }
        let aside = directory.join(format!("{name}.{ASIDE}"));
        fs::rename(&path, &aside).with_context(|| format!("cannot rename {}", path.display()))?;
        done.push(format!("renamed {} to {}", path.display(), aside.display()));
    }
    Ok(done)
}

/// The files of a directory, sorted; none when there is no such directory.
fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", directory.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"0.4.0","name":"kilo","plugins":[
        {"type":"bridge","ipam":{"type":"host-local"}},{"type":"portmap"}]}"#;

    struct Host {
        root: tempfile::TempDir,
        flags: Flags,
    }

    impl Host {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let directory = |name: &str| {
                let path = root.path().join(name);
                fs::create_dir(&path).unwrap();
                path
            };
            let flags = Flags {
                network_config: LIST.to_owned(),
                conf_name: "10-kilo.conflist".to_owned(),
                conf_dir: directory("conf"),
                bin_dir: directory("bin"),
                plugins_dir: directory("image"),
            };
            for plugin in ["bridge", "host-local", "loopback", "portmap"] {
                fs::write(flags.plugins_dir.join(plugin), format!("program {plugin}")).unwrap();
            }
            Self { root, flags }
        }

        fn run(&self) -> String {
            let root = format!("{}/", self.root.path().display());
            match run(&self.flags) {
                Ok(done) => done.join("; ").replace(&root, ""),
                Err(error) => format!("error: {error:#}").replace(&root, ""),
            }
        }

        fn conf(&self, name: &str) -> PathBuf {
            self.flags.conf_dir.join(name)
        }
    }

    #[test]
    fn plugins_and_configuration_are_installed_once() {
        let host = Host::new();
        fs::write(host.flags.bin_dir.join("bridge"), "an older one").unwrap();
        fs::write(host.conf("10-flannel.conflist"), "{}").unwrap();
        fs::write(host.conf("notes.txt"), "keep").unwrap();
        assert_eq!(
            host.run(),
            "installed bin/bridge; installed bin/host-local; installed bin/loopback; installed bin/portmap; wrote \
             conf/10-kilo.conflist; renamed conf/10-flannel.conflist to conf/10-flannel.conflist.replaced-by-kilo"
        );
        assert_eq!(host.run(), "");
        assert_eq!(fs::read_to_string(host.flags.bin_dir.join("bridge")).unwrap(), "program bridge");
        assert_eq!(cni::mode(&host.flags.bin_dir.join("bridge")), Some(0o755));
        assert_eq!(cni::mode(&host.conf("10-kilo.conflist")), Some(0o644));
        let names: Vec<_> = list(&host.flags.conf_dir).unwrap();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn the_subnets_that_the_agent_has_set_stay() {
        let host = Host::new();
        host.run();
        let path = host.conf("10-kilo.conflist");
        let subnets = ["10.42.1.0/24".parse().unwrap(), "fd42:1::/64".parse().unwrap()];
        assert_eq!(cni::set_subnets(&path, &subnets).unwrap(), Some(true));
        assert_eq!(host.run(), "");
        let changed = Flags { network_config: LIST.replace("0.4.0", "1.0.0"), ..host.flags };
        assert_eq!(run(&changed).unwrap().len(), 1);
        assert_eq!(cni::set_subnets(&path, &subnets).unwrap(), Some(false), "the subnets were lost");
    }

    #[test]
    fn a_broken_file_of_ours_is_replaced() {
        let host = Host::new();
        fs::write(host.conf("10-kilo.conflist"), "{").unwrap();
        assert!(host.run().contains("wrote conf/10-kilo.conflist"));
        assert_eq!(host.run(), "");
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_changes() {
        let check = |config: &str, expected: &str| {
            let mut host = Host::new();
            host.flags.network_config = config.to_owned();
            let said = host.run();
            assert!(said.starts_with("error: ") && said.contains(expected), "{said}");
            assert!(
                list(&host.flags.bin_dir).unwrap().is_empty()
                    && list(&host.flags.conf_dir).unwrap().is_empty()
            );
        };
        check("{\n \"plugins\": [", "is not JSON; nothing was changed: EOF while parsing a list at line 2");
        check("{}", "it has no list \"plugins\"");
        check(r#"{"plugins":[{"name":"x"}]}"#, "plugin 0 has no \"type\"");
        check(r#"{"plugins":[{"type":"../sh"}]}"#, "\"../sh\" is not the name of a plugin");
    }

    #[test]
    fn a_plugin_that_is_nowhere_and_a_mount_that_is_missing_are_named() {
        let mut host = Host::new();
        fs::remove_file(host.flags.plugins_dir.join("portmap")).unwrap();
        assert!(host.run().contains("neither image nor bin has the CNI plugins portmap"), "{}", host.run());
        // The host may have it.
        fs::write(host.flags.bin_dir.join("portmap"), "the host's").unwrap();
        assert!(host.run().contains("wrote conf/10-kilo.conflist"));
        host.flags.plugins_dir = "/nonexistent".into();
        assert_eq!(host.run(), "");
        host.flags.conf_dir = "/nonexistent".into();
        assert_eq!(host.run(), "error: /nonexistent is not a directory; mount the host's directory there");
    }
}
