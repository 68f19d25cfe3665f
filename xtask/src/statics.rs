//! Builds the project's programs and tests without any shared library, so that they run on a machine that has none.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::vm::{Linkage, linkage};
use crate::{scenarios::Tests, workspace};

/// The packages with the project's binaries.
pub const BINARIES: [&str; 3] = ["kg", "kgctl", "kilo-lab"];

/// How to build.
pub struct StaticBuild {
    profile: String,
    /// The host's target triple. Naming it keeps the flags away from build scripts and procedural macros, which
    /// cannot be static.
    target: String,
}

/// One static executable.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// The binary's or test's name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

impl StaticBuild {
    /// Builds with this cargo profile, in a target directory of its own: the flags would make every other build
    /// start anew.
    pub fn new(profile: &str) -> Result<Self> {
        let output = Command::new("rustc").arg("-vV").output().context("run rustc -vV")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let target = said.lines().find_map(|line| line.strip_prefix("host: "));
        let target = target.with_context(|| format!("rustc -vV named no host: {said:?}"))?;
        Ok(Self { profile: profile.to_owned(), target: target.to_owned() })
    }

    /// The binaries of these packages.
    pub fn binaries(&self, packages: &[String]) -> Result<Vec<Program>> {
        let mut build = self.cargo(&["build", "--bins"]);
        for package in packages {
            build.args(["--package", package]);
        }
        self.programs(build, Kind::Binary, &format!("build {} statically", packages.join(", ")))
    }

    /// Integration tests of one package.
    pub fn tests(&self, tests: &Tests) -> Result<Vec<Program>> {
        let package = tests.package;
        let mut build = self.cargo(&["test", "--no-run", "--package", package]);
        for name in tests.names {
            build.args(["--test", name]);
        }
        if !tests.features.is_empty() {
            build.args(["--features", &tests.features.join(",")]);
        }
        self.programs(build, Kind::Test, &format!("build the integration tests of {package} statically"))
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        cargo.args(arguments).args(["--locked", "--message-format", "json-render-diagnostics"]);
        cargo.args(["--profile", &self.profile, "--target", &self.target]);
        cargo.arg("--target-dir").arg(workspace().join("target/static"));
        cargo.env("RUSTFLAGS", format!("{flags} -C target-feature=+crt-static").trim());
        cargo.current_dir(workspace()).stdin(Stdio::null()).stderr(Stdio::inherit());
        cargo
    }

    fn programs(&self, mut cargo: Command, kind: Kind, purpose: &str) -> Result<Vec<Program>> {
        let output = cargo.output().with_context(|| format!("{purpose}: run cargo"))?;
        if !output.status.success() {
            bail!("cannot {purpose} (cargo: {})", output.status);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let programs: Vec<_> = said.lines().filter_map(|line| executable(line, kind)).collect();
        if programs.is_empty() {
            bail!("cannot {purpose}: there are none");
        }
        programs.iter().try_for_each(|program| check_static(&program.path))?;
        Ok(programs)
    }
}

/// Cargo announces both when it builds tests: the binaries are there for the tests to start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Binary,
    Test,
}

/// The program that one of cargo's messages announces.
fn executable(message: &str, kind: Kind) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != (kind == Kind::Test) {
        return None;
    }
    let path = message["executable"].as_str()?;
    Some(Program { name: message["target"]["name"].as_str()?.to_owned(), path: path.into() })
}

/// An error unless the program needs no shared library.
pub fn check_static(program: &Path) -> Result<()> {
    match linkage(program)? {
        Some(Linkage::Static) => Ok(()),
        Some(Linkage::Dynamic(libraries)) => {
            bail!("{} is not static: it needs {libraries:?}", program.display())
        }
        None => bail!("{} is not an ELF program", program.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_messages_name_programs() {
        let artifact = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["bin"],"name":"kg"}},
                "profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let kg = Program { name: "kg".to_owned(), path: "/t/kg".into() };
        assert_eq!(executable(&artifact(false, r#""/t/kg""#), Kind::Binary), Some(kg));
        assert_eq!(executable(&artifact(false, r#""/t/kg""#), Kind::Test), None);
        assert_eq!(executable(&artifact(true, r#""/t/kg""#), Kind::Binary), None);
        assert_eq!(executable(&artifact(false, "null"), Kind::Binary), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#, Kind::Binary), None);
        assert_eq!(executable("not JSON", Kind::Binary), None);
    }

    #[test]
    fn a_dynamic_program_is_refused() {
        let error = check_static(Path::new("/bin/sh")).unwrap_err().to_string();
        assert!(error.contains("/bin/sh is not static"), "{error}");
        assert!(check_static(Path::new("/etc/passwd")).is_err());
    }
}
