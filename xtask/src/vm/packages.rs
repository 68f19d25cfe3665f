//! Gets Debian packages without installing them: `apt-get download` and `dpkg-deb -x` into a cache below target/,
//! which needs no privileges. apt checks the signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// A kernel as Debian packages it, with complete module indices.
pub struct Kernel {
    /// The bootable image.
    pub image: PathBuf,
    /// What `uname -r` prints on it.
    pub release: String,
    /// The directory whose subdirectory `kernel` holds the modules.
    pub modules: PathBuf,
}

/// Unpacks the kernel of a package, or of the package that a metapackage stands for, indexes its modules, and
/// unpacks a static busybox, which is returned as well.
///
/// Machines that start at once wait for each other here: the first fills the cache.
pub fn fetch(cache: &Path, kernel_package: &str) -> Result<(Kernel, PathBuf)> {
    static FILLING: Mutex<()> = Mutex::new(());
    let _filling = FILLING.lock().unwrap_or_else(PoisonError::into_inner);
    let [kernel, busybox] = candidates([kernel_package, "busybox-static"])?;
    let busybox = self::busybox(&unpack(cache, &busybox, |_| Ok(()))?)?;
    let kernel = self::kernel(cache, kernel.kernel.as_deref().unwrap_or(&kernel), &busybox)?;
    Ok((kernel, busybox))
}

fn busybox(root: &Path) -> Result<PathBuf> {
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| root.join(place));
    let found = places.into_iter().find(|path| path.is_file());
    found.with_context(|| format!("there is no busybox in {}", root.display()))
}

fn kernel(cache: &Path, package: &Candidate, busybox: &Path) -> Result<Kernel> {
    let root = unpack(cache, package, |root| {
        let (base, release) = modules(root)?;
        decompress(&base, busybox)?;
        let mut depmod = Command::new(busybox);
        depmod.arg("depmod").arg("-b").arg(&base).arg(&release);
        succeed(&mut depmod, "index the kernel's modules")
    })?;
    let (base, release) = modules(&root)?;
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    if !image.is_file() {
        bail!("the package {} has no {}", package.name, image.display());
    }
    Ok(Kernel { image, modules: base.join("lib/modules").join(&release), release })
}

/// What apt would install.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    name: String,
    version: String,
    /// The kernel package on which it depends, when it is a metapackage.
    kernel: Option<Box<Candidate>>,
}

/// One call for both, as each reads apt's whole index.
fn candidates(packages: [&str; 2]) -> Result<[Candidate; 2]> {
    let mut show = Command::new("apt-cache");
    show.args(["show", "--no-all-versions"]).args(packages).env("LC_ALL", "C").stderr(Stdio::null());
    let output =
        show.output().context("run apt-cache: the kernel comes from Debian's archive, so this needs apt")?;
    let shown = String::from_utf8_lossy(&output.stdout);
    let mut found: Vec<_> = shown.split("\n\n").filter_map(parse_candidate).collect();
    let [first, second] = packages.map(|package| {
        let index = found.iter().position(|candidate| candidate.name == package);
        index.map(|index| found.swap_remove(index)).with_context(|| {
            format!("apt knows no package {package}; run `apt-get update` as root (it looks in Debian's main archive)")
        })
    });
    Ok([first?, second?])
}

fn parse_candidate(stanza: &str) -> Option<Candidate> {
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    // A metapackage names its kernel's exact version: "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)".
    let kernel = field("Depends").unwrap_or_default().split(", ").find_map(|dependency| {
        let (name, version) = dependency.split_once(" (= ")?;
        let (name, version) = (name.to_owned(), version.strip_suffix(')')?.to_owned());
        name.starts_with("linux-image-").then(|| Box::new(Candidate { name, version, kernel: None }))
    });
    Some(Candidate { name: field("Package")?.to_owned(), version: field("Version")?.to_owned(), kernel })
}

/// The unpacked package. `prepare` runs once, before the package appears in the cache.
fn unpack(cache: &Path, package: &Candidate, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let Candidate { name, version, .. } = package;
    let unpacked = cache.join(format!("{name}_{}", version.replace(':', "%3a")));
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    eprintln!("fetching {name} {version}");
    let work = cache.join(format!("{name}.{}", std::process::id()));
    let root = work.join("root");
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let result = download(&work, package).and_then(|archive| {
        let mut extract = Command::new("dpkg-deb");
        succeed(extract.arg("-x").arg(&archive).arg(&root), &format!("unpack {}", archive.display()))?;
        prepare(&root)?;
        match fs::rename(&root, &unpacked) {
            // Another run was faster.
            Err(_) if unpacked.is_dir() => Ok(()),
            result => result.with_context(|| format!("move {} to {}", root.display(), unpacked.display())),
        }
    });
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    result.map(|()| unpacked)
}

fn download(directory: &Path, package: &Candidate) -> Result<PathBuf> {
    let Candidate { name, version, .. } = package;
    let mut apt = Command::new("apt-get");
    // apt would otherwise warn that its own user cannot write here.
    apt.args(["-qq", "-o", "APT::Sandbox::User=root", "download", &format!("{name}={version}")]);
    let purpose = format!(
        "download {name} {version}; if the archive has replaced this version, run `apt-get update` as root"
    );
    succeed(apt.current_dir(directory), &purpose)?;
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let archive = paths.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    archive.with_context(|| format!("apt-get left no package in {}", directory.display()))
}

/// Where modules lie (the directory above lib/modules) and the kernel's release.
fn modules(root: &Path) -> Result<(PathBuf, String)> {
    for base in [root.to_owned(), root.join("usr")] {
        let Ok(entries) = fs::read_dir(base.join("lib/modules")) else { continue };
        let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        if let Some(release) = names.next() {
            return Ok((base, release));
        }
    }
    bail!(
        "{} has no lib/modules; name a package that holds a kernel, as linux-image-cloud-amd64",
        root.display()
    )
}

/// Debian compresses modules from version 13 on; in the virtual machine nothing could read them quickly.
fn decompress(base: &Path, busybox: &Path) -> Result<()> {
    let mut directories = vec![base.join("lib/modules")];
    let mut compressed = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "xz") {
                compressed.push(path);
            }
        }
    }
    if compressed.is_empty() {
        return Ok(());
    }
    succeed(Command::new(busybox).arg("unxz").args(compressed), "decompress the kernel's modules")
}

fn succeed(command: &mut Command, purpose: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("{purpose}: run {program}"))?;
    if !status.success() {
        bail!("cannot {purpose} ({program}: {status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metapackage_leads_to_its_kernel() {
        let stanza = "Package: linux-image-cloud-amd64\nSource: linux-signed-amd64 (6.1.192+2)\nVersion: 6.1.192-2\n\
                      Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\nSize: 1504\n";
        let candidate = |name: &str, kernel| {
            let (name, version) = (name.to_owned(), "6.1.192-2".to_owned());
            Candidate { name, version, kernel }
        };
        let kernel = candidate("linux-image-6.1.0-56-cloud-amd64", None);
        assert_eq!(
            parse_candidate(stanza),
            Some(candidate("linux-image-cloud-amd64", Some(Box::new(kernel))))
        );
    }

    #[test]
    fn a_kernel_stands_for_itself() {
        let stanza = "Package: linux-image-6.1.0-56-cloud-amd64\nVersion: 6.1.192-2\n\
                      Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool\n";
        assert_eq!(parse_candidate(stanza).unwrap().kernel, None);
        assert_eq!(parse_candidate(""), None);
        assert_eq!(parse_candidate("Package: a\nVersion: 1\n").unwrap().kernel, None);
    }
}
