//! A virtual machine that runs one command on Debian's stock kernel and ends.
//!
//! Kernel, modules and tools go into an initramfs; the machine has no disk and no network. What it runs, and on
//! which binaries, is for the caller to say.

mod console;
mod cpio;
mod image;
mod linkage;
mod modules;
mod packages;
mod qemu;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::console::Console;
use self::image::Image;
pub use self::linkage::{Linkage, linkage};
use self::modules::Index;
use self::packages::Kernel;

/// The metapackage of the kernel that Debian's cloud images run.
pub const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// Programs that are always there, besides those of busybox.
const TOOLS: &[&str] = &["sh", "ip", "nft", "wg", "ping"];

const INIT: &str = include_str!("../../guest/init.sh");

/// A machine and its one command.
pub struct Machine {
    /// The Debian package with the kernel, or a metapackage that depends on it.
    pub kernel_package: String,
    /// The memory, in QEMU's notation.
    pub memory: String,
    /// How long boot and command may take together.
    pub timeout: Duration,
    /// Files to bring along.
    pub uploads: Vec<Upload>,
    /// Programs of this machine to bring along, with their libraries.
    pub tools: Vec<String>,
    /// Patterns of further kernel modules to bring along.
    pub modules: Vec<String>,
    /// The command's additional environment.
    pub environment: Vec<(String, String)>,
    /// What of the kernel's messages is shown.
    pub console: ConsoleLevel,
    /// The command and its arguments; it runs as root in /root.
    pub command: Vec<String>,
}

/// A file or directory, and its absolute path in the machine.
pub struct Upload {
    /// Where it is.
    pub source: PathBuf,
    /// Where it will be.
    pub destination: String,
}

/// Which kernel messages appear between the command's output.
#[derive(Clone, Copy)]
pub enum ConsoleLevel {
    /// Errors and worse.
    Errors,
    /// All.
    Everything,
}

impl Machine {
    /// Boots, writes what the command prints, and returns its exit status.
    pub fn run(&self, output: &mut dyn Write) -> Result<u8> {
        if std::env::consts::ARCH != "x86_64" {
            bail!(
                "the virtual machine runs this machine's programs on an amd64 kernel; this is another architecture"
            );
        }
        let cache = crate::workspace().join("target/vm");
        fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
        let (kernel, busybox) = packages::fetch(&cache, &self.kernel_package)?;
        let token = token()?;
        let image = self.image(&kernel, &busybox, &token)?;
        let initramfs = Temporary::new(&cache)?;
        image.write(&initramfs.path)?;
        let level = match self.console {
            ConsoleLevel::Errors => "quiet",
            ConsoleLevel::Everything => "ignore_loglevel",
        };
        // A panic restarts at once, which ends QEMU. Emulation gains nothing from mitigations.
        let parameters = format!("console=ttyS0 {level} panic=-1 mitigations=off random.trust_cpu=on");
        let boot = qemu::Boot {
            kernel: &kernel.image,
            initramfs: &initramfs.path,
            parameters: &parameters,
            memory: &self.memory,
            timeout: self.timeout,
        };
        qemu::run(&boot, Console::new(&token), output)
    }

    fn image(&self, kernel: &Kernel, busybox: &Path, token: &str) -> Result<Image> {
        let mut image = Image::new();
        add_modules(&mut image, kernel, &self.modules)?;
        image.copy(busybox, "/usr/lib/busybox/busybox")?;
        for tool in TOOLS.iter().copied().chain(self.tools.iter().map(String::as_str)) {
            image.tool(tool).with_context(|| format!("bring {tool} along"))?;
        }
        for Upload { source, destination } in &self.uploads {
            image.copy(source, destination).with_context(|| format!("bring {} along", source.display()))?;
        }
        image.script("/init", INIT);
        image.text("/vm/token", token);
        image.script("/vm/command", &script(&self.environment, &self.command));
        Ok(image)
    }
}

fn add_modules(image: &mut Image, kernel: &Kernel, further: &[String]) -> Result<()> {
    let read = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let index = Index::parse(&read("modules.dep")?, &read("modules.builtin")?);
    let patterns = modules::MODULES.iter().copied().chain(further.iter().map(String::as_str));
    let selected = index.select(patterns).with_context(|| format!("kernel {}", kernel.release))?;
    let target = format!("/lib/modules/{}", kernel.release);
    image.text(&format!("{target}/modules.dep"), &index.dependencies_of(&selected));
    image.text(&format!("{target}/modules.alias"), &modules::aliases_of(&read("modules.alias")?, &selected));
    image.text(&format!("{target}/modules.builtin"), &read("modules.builtin")?);
    for module in &selected {
        image.copy_plain(&kernel.modules.join(module), &format!("{target}/{module}"))?;
    }
    Ok(())
}

/// A shell script that runs the command in this environment.
fn script(environment: &[(String, String)], command: &[String]) -> String {
    let exports: String =
        environment.iter().map(|(name, value)| format!("export {name}={}\n", quote(value))).collect();
    let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
    format!("{exports}exec {}\n", words.join(" "))
}

/// One word for the shell, whatever is in it.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn token() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let uuid = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(format!("status-{}:", uuid.trim()))
}

/// A file that goes with its owner.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// A path in the directory, another one each time. What runs that were killed left there is removed.
    fn new(directory: &Path) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        for entry in
            fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?.flatten()
        {
            let name = entry.file_name().into_string().unwrap_or_default();
            let process = name.strip_prefix("initramfs.").map(|rest| rest.split('.').next().unwrap_or(rest));
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                // Another run may have removed it.
                let _ = fs::remove_file(entry.path());
            }
        }
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        Ok(Self { path: directory.join(format!("initramfs.{process}.{number}")) })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // The next run tries again.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_word_survives_the_shell() {
        let words = ["a b", "it's", "$HOME \\ \"x\" `id`", "", "two\nlines", "*"];
        let command: Vec<_> = ["printf", "%s|"].into_iter().chain(words).map(str::to_owned).collect();
        let environment = [("A".to_owned(), "it's $HOME".to_owned())];
        let run = |script: String| {
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run(script(&environment, &command)), words.map(|word| format!("{word}|")).concat());
        let show = ["sh", "-c", "echo \"$A\""].map(str::to_owned);
        assert_eq!(run(script(&environment, &show)), "it's $HOME\n");
    }

    #[test]
    fn leftovers_of_ended_runs_are_removed() {
        let directory = std::env::temp_dir().join(format!("xtask-test-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        // No process has this number: it is above the kernel's limit of 2^22.
        let stale = directory.join("initramfs.99999999");
        fs::write(&stale, "").unwrap();
        let temporary = Temporary::new(&directory).unwrap();
        fs::write(&temporary.path, "").unwrap();
        assert!(!stale.exists() && temporary.path.exists());
        let path = temporary.path.clone();
        drop(temporary);
        assert!(!path.exists());
        fs::remove_dir_all(&directory).unwrap();
    }
}
