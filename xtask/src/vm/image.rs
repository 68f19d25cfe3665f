//! The virtual machine's file system: what lies where, with the libraries that programs need.
//!
//! It has Debian's layout, with /bin, /sbin and /lib in /usr. Programs of this machine keep their paths, so that
//! what they refer to is found. The shell is dash: that of busybox prefers its own ip and ping to the real ones.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::linkage::{Linkage, linkage};

/// A file system to be.
#[derive(Default)]
pub struct Image {
    /// By absolute path; a directory sorts before what it contains.
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Directory,
    Symlink(String),
    Text { permissions: u32, content: String },
    Copy { permissions: u32, source: PathBuf },
}

/// Programs that open files which ldd does not show, and these.
const COMPANIONS: &[(&str, &str)] = &[
    ("ip", "/etc/iproute2"),
    ("iptables", "/usr/lib/x86_64-linux-gnu/xtables"),
    ("ip6tables", "/usr/lib/x86_64-linux-gnu/xtables"),
    ("dot", "/usr/lib/x86_64-linux-gnu/graphviz"),
    ("twopi", "/usr/lib/x86_64-linux-gnu/graphviz"),
];

/// Where Debian has the programs that scenarios use.
const PACKAGES: &[(&str, &str)] = &[
    ("bridge", "iproute2"),
    ("conntrack", "conntrack"),
    ("dot", "graphviz"),
    ("ip", "iproute2"),
    ("ip6tables", "iptables"),
    ("iperf3", "iperf3"),
    ("ipset", "ipset"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("sh", "dash"),
    ("ss", "iproute2"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("twopi", "graphviz"),
    ("wg", "wireguard-tools"),
];

impl Image {
    /// Debian's empty skeleton.
    pub fn new() -> Self {
        let mut image = Self::default();
        for name in ["bin", "lib", "lib64", "sbin"] {
            image.directory(&format!("/usr/{name}"));
            image.entries.insert(format!("/{name}"), Entry::Symlink(format!("usr/{name}")));
        }
        for path in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/lib", "/var/log", "/var/tmp"] {
            image.directory(path);
        }
        image.entries.insert("/var/run".to_owned(), Entry::Symlink("/run".to_owned()));
        image.text("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
        image.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
        image.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        image.text("/etc/group", "root:x:0:\n");
        image
    }

    /// A file with this text.
    pub fn text(&mut self, path: &str, content: &str) {
        self.insert(path, Entry::Text { permissions: 0o644, content: content.to_owned() });
    }

    /// An executable script.
    pub fn script(&mut self, path: &str, content: &str) {
        self.insert(path, Entry::Text { permissions: 0o755, content: content.to_owned() });
    }

    /// A copy of a file, with the libraries it needs when it is a program, or of a directory with all in it.
    pub fn copy(&mut self, source: &Path, path: &str) -> Result<()> {
        let metadata = fs::metadata(source).with_context(|| format!("read {}", source.display()))?;
        if metadata.is_dir() {
            self.directory(path);
            for entry in fs::read_dir(source).with_context(|| format!("list {}", source.display()))? {
                let entry = entry.with_context(|| format!("list {}", source.display()))?;
                let name = entry.file_name().into_string();
                let Ok(name) = name else { bail!("{} is not UTF-8", entry.path().display()) };
                self.copy(&entry.path(), &format!("{path}/{name}"))?;
            }
            return Ok(());
        }
        if !metadata.is_file() {
            bail!("{} is neither a file nor a directory", source.display());
        }
        if let Some(Linkage::Dynamic(libraries)) = linkage(source)? {
            for library in libraries {
                self.copy_plain(&library, &library.to_string_lossy())?;
            }
        }
        self.copy_plain(source, path)
    }

    /// A copy of one file and nothing else. Where the source is a symbolic link, what it points to is copied.
    pub fn copy_plain(&mut self, source: &Path, path: &str) -> Result<()> {
        let source = source.canonicalize().with_context(|| format!("read {}", source.display()))?;
        let metadata = fs::metadata(&source).with_context(|| format!("read {}", source.display()))?;
        let executable = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0;
        self.insert(path, Entry::Copy { permissions: if executable { 0o755 } else { 0o644 }, source });
        Ok(())
    }

    /// A program of this machine, by name or path, with all it needs.
    pub fn tool(&mut self, name: &str) -> Result<()> {
        let path = find_program(name)?;
        self.copy(&path, &path.to_string_lossy())?;
        let base = path.file_name().unwrap_or_default();
        for (_, companion) in COMPANIONS.iter().filter(|(program, _)| base == *program) {
            self.copy(Path::new(companion), companion)?;
        }
        Ok(())
    }

    /// Writes it as a cpio archive.
    pub fn write(&self, target: &Path) -> Result<()> {
        let file = File::create(target).with_context(|| format!("create {}", target.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory => archive.directory(path),
                Entry::Symlink(target) => archive.symlink(path, target),
                Entry::Text { permissions, content } => archive.bytes(path, *permissions, content.as_bytes()),
                Entry::Copy { permissions, source } => archive.file(path, *permissions, source),
            }
            .with_context(|| format!("write {path} to {}", target.display()))?;
        }
        archive.finish().with_context(|| format!("write {}", target.display()))?;
        Ok(())
    }

    fn directory(&mut self, path: &str) {
        self.insert(path, Entry::Directory);
    }

    /// Adds an entry and the directories above it.
    fn insert(&mut self, path: &str, entry: Entry) {
        let path = in_usr(path);
        let parents =
            path.match_indices('/').map(|(end, _)| &path[..end]).filter(|parent| !parent.is_empty());
        for parent in parents {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path, entry);
    }
}

/// The path of a program in this machine's search path, or where only root looks.
pub fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = places.map(|place| place.join(name)).find(|path| path.is_file());
    found.with_context(|| match PACKAGES.iter().find(|(program, _)| *program == name) {
        Some((_, package)) => {
            format!("the program {name} is missing; run `apt-get install {package}` as root")
        }
        None => format!("the program {name} is missing; install it, or give its path"),
    })
}

/// The path with /bin, /lib, /lib64 and /sbin led to where they point.
fn in_usr(path: &str) -> String {
    let first = path.split('/').nth(1).unwrap_or_default();
    let moved = ["bin", "lib", "lib64", "sbin"].contains(&first) && path.len() > first.len() + 1;
    if moved { format!("/usr{path}") } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_usr() {
        assert_eq!(in_usr("/lib64/ld-linux-x86-64.so.2"), "/usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(in_usr("/sbin/modprobe"), "/usr/sbin/modprobe");
        assert_eq!(in_usr("/bin"), "/bin");
        assert_eq!(in_usr("/library/x"), "/library/x");
        assert_eq!(in_usr("/usr/bin/x"), "/usr/bin/x");
    }

    #[test]
    fn a_tool_brings_its_libraries() {
        let mut image = Image::new();
        image.tool("sh").unwrap();
        let has =
            |end: &str| image.entries.keys().any(|path| path.starts_with("/usr/") && path.ends_with(end));
        assert!(has("/sh") && has("/libc.so.6") && has("/ld-linux-x86-64.so.2"));
    }

    #[test]
    fn directories_come_before_their_contents() {
        let mut image = Image::new();
        image.text("/srv/a/b", "");
        image.text("/srv/a.b", "");
        for path in image.entries.keys() {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            assert!(parent.is_empty() || image.entries.contains_key(parent), "{path} has no directory");
        }
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find_program("no-such-program").unwrap_err().to_string();
        assert!(error.contains("no-such-program is missing"), "{error}");
        assert!(PACKAGES.is_sorted(), "the table is kept in order");
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = Image::new().copy(Path::new("/no/such/file"), "/x").unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
