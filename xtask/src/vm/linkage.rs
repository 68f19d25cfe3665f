//! What a program needs from the dynamic linker, as ldd(1) tells it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// How an ELF file gets its libraries.
#[derive(Debug, PartialEq, Eq)]
pub enum Linkage {
    /// It has all it needs inside.
    Static,
    /// It loads these, the dynamic linker included.
    Dynamic(Vec<PathBuf>),
}

/// Asks ldd; `None` for a file that is not in ELF format.
pub fn linkage(file: &Path) -> Result<Option<Linkage>> {
    let mut magic = Vec::new();
    let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
    opened.take(4).read_to_end(&mut magic).with_context(|| format!("read {}", file.display()))?;
    if magic != b"\x7fELF" {
        return Ok(None);
    }
    let output = Command::new("ldd").arg(file).env("LC_ALL", "C").output().context("run ldd")?;
    // ldd says "not a dynamic executable" on standard error and fails.
    let said = [output.stdout, output.stderr].concat();
    parse_ldd(&String::from_utf8_lossy(&said))
        .with_context(|| format!("libraries of {}", file.display()))
        .map(Some)
}

fn parse_ldd(said: &str) -> Result<Linkage> {
    let mut libraries = Vec::new();
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line == "statically linked" || line == "not a dynamic executable" {
            return Ok(Linkage::Static);
        }
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)", or
        // "linux-vdso.so.1 (0x…)", which the kernel provides.
        let (name, rest) = line.split_once(" => ").unwrap_or((line, line));
        if rest == "not found" {
            bail!("{name} is not installed");
        }
        let Some((path, _)) = rest.split_once(" (0x") else {
            bail!("ldd said {line:?}");
        };
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(Linkage::Dynamic(libraries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd2a5f2000)\n\
                    \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f1f5d0c8000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f1f5d2e5000)\n";
        let expected = ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(said).unwrap(), Linkage::Dynamic(expected.map(PathBuf::from).into()));
    }

    #[test]
    fn static_programs_are_recognised() {
        assert_eq!(parse_ldd("\tstatically linked\n").unwrap(), Linkage::Static);
        assert_eq!(parse_ldd("\tnot a dynamic executable\n").unwrap(), Linkage::Static);
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let error = parse_ldd("\tlibnftables.so.1 => not found\n").unwrap_err().to_string();
        assert!(error.contains("libnftables.so.1"), "{error}");
        assert!(parse_ldd("ldd: exited with unknown exit code (139)\n").is_err());
    }

    #[test]
    fn a_real_program_is_dynamic_and_a_text_is_nothing() {
        let Some(Linkage::Dynamic(libraries)) = linkage(Path::new("/bin/sh")).unwrap() else {
            panic!("/bin/sh needs no libraries");
        };
        assert!(libraries.iter().any(|path| path.ends_with("libc.so.6")), "{libraries:?}");
        assert_eq!(linkage(Path::new("/etc/passwd")).unwrap(), None);
    }
}
