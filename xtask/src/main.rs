//! Development tasks that need more than a command line: static builds, and runs on a stock kernel in a virtual
//! machine.

mod dependencies;
mod documents;
mod image;
mod manifests;
mod scenarios;
mod statics;
mod test_kernel;
mod vm;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::vm::{ConsoleLevel, Machine, Upload};

#[derive(Parser)]
#[command(name = "xtask", about = "Development tasks", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build kg, kgctl and kilo-lab as static binaries and print where they are.
    Static {
        /// Packages to build; kg, kgctl and kilo-lab when nothing is named.
        #[arg(long = "package", short = 'p')]
        packages: Vec<String>,
        /// The cargo profile.
        #[arg(long, default_value = "release")]
        profile: String,
    },
    /// Build the container image from static programs, without a container daemon, and check that it runs.
    Image {
        /// The cargo profile.
        #[arg(long, default_value = "release")]
        profile: String,
    },
    /// Write the manifests.
    Manifests,
    /// Check that pure crates are pure, and that every dependency has a permissive licence.
    CheckDependencies,
    /// Write the reference pages docs/kg.md and docs/kgctl.md from the programs' command lines.
    Docs,
    /// Run one command on Debian's stock kernel in QEMU (software emulation) and exit with its status.
    Vm(VmArgs),
    /// Run the scenarios that need a stock kernel, each in a virtual machine of its own.
    TestKernel {
        /// Run only these scenarios.
        #[arg(long)]
        only: Vec<String>,
        /// How many machines run at once. What they print comes when they have ended; of a single one, as it is printed.
        #[arg(long, default_value = "1")]
        jobs: NonZeroUsize,
        /// Print the scenarios and run none.
        #[arg(long)]
        list: bool,
    },
}

#[derive(Args)]
struct VmArgs {
    /// The Debian package with the kernel, or a metapackage that depends on it.
    #[arg(long, default_value = vm::KERNEL_PACKAGE)]
    kernel_package: String,
    /// The machine's memory, in QEMU's notation.
    #[arg(long, default_value = "3G")]
    memory: String,
    /// How long boot and command may take together: a number with s, m or h.
    #[arg(long, default_value = "20m", value_parser = parse_duration)]
    timeout: Duration,
    /// A file or directory to bring along; without DEST it lands in the command's working directory, /root.
    #[arg(long = "file", value_name = "SRC[:DEST]")]
    files: Vec<String>,
    /// A program of this machine to bring along with its libraries (ip, nft, wg and ping always are).
    #[arg(long = "tool", value_name = "NAME")]
    tools: Vec<String>,
    /// A further kernel module to bring along; `*` matches any characters.
    #[arg(long = "module", value_name = "PATTERN")]
    modules: Vec<String>,
    /// An environment variable of the command.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Show all kernel messages, not just errors.
    #[arg(long)]
    kernel_log: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("invariant: xtask lies in the workspace")
}

fn run(task: Task) -> Result<u8> {
    match task {
        Task::Static { packages, profile } => {
            let all = packages.is_empty();
            let packages = if all { statics::BINARIES.map(str::to_owned).to_vec() } else { packages };
            for program in statics::StaticBuild::new(&profile)?.binaries(&packages)? {
                println!("{}", program.path.display());
            }
            Ok(0)
        }
        Task::Image { profile } => image::run(&profile).map(|()| 0),
        Task::Manifests => manifests::write(&workspace().join("manifests")).map(|()| 0),
        Task::CheckDependencies => dependencies::check().map(|()| 0),
        Task::Docs => documents::write().map(|()| 0),
        Task::Vm(args) => machine(args)?.run(&mut std::io::stdout()),
        Task::TestKernel { list: true, .. } => {
            test_kernel::list();
            Ok(0)
        }
        Task::TestKernel { only, jobs, list: false } => test_kernel::run(&only, jobs),
    }
}

fn machine(args: VmArgs) -> Result<Machine> {
    let uploads = args.files.iter().map(|file| parse_upload(file)).collect::<Result<_>>()?;
    let environment = args.environment.iter().map(|pair| parse_variable(pair)).collect::<Result<_>>()?;
    Ok(Machine {
        kernel_package: args.kernel_package,
        memory: args.memory,
        timeout: args.timeout,
        uploads,
        tools: args.tools,
        modules: args.modules,
        environment,
        console: if args.kernel_log { ConsoleLevel::Everything } else { ConsoleLevel::Errors },
        command: args.command,
    })
}

/// `SRC[:DEST]`.
fn parse_upload(text: &str) -> Result<Upload> {
    let (source, destination) = match text.rsplit_once(':') {
        Some((source, destination)) if destination.starts_with('/') => (source, Some(destination)),
        Some(_) => bail!("--file {text}: the destination must be an absolute path"),
        None => (text, None),
    };
    let source = PathBuf::from(source);
    let destination = match destination {
        Some(path) => path.to_owned(),
        None => {
            let name = source.file_name().with_context(|| format!("--file {text}: it has no file name"))?;
            format!("/root/{}", name.to_string_lossy())
        }
    };
    Ok(Upload { source, destination })
}

fn parse_variable(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').with_context(|| format!("--env {text}: expected NAME=VALUE"))?;
    let valid = |c: char| c == '_' || c.is_ascii_alphanumeric();
    if name.is_empty() || !name.chars().all(valid) || name.starts_with(|c: char| c.is_ascii_digit()) {
        bail!("--env {text}: {name:?} is not a variable's name");
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// A positive number with the unit s, m or h.
fn parse_duration(text: &str) -> Result<Duration> {
    let expected = || format!("{text:?} is not a duration; write for example 90s, 20m or 1h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).with_context(expected)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!(expected()),
    };
    let number: u32 = number.parse().with_context(expected)?;
    if number == 0 {
        bail!(expected());
    }
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("20m").unwrap(), Duration::from_secs(1200));
        assert_eq!(parse_duration("1h").unwrap(), Duration::from_secs(3600));
        for bad in ["", "5", "m", "0s", "-1s", "1d", "1é"] {
            assert!(parse_duration(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn uploads_name_their_destination() {
        let upload = parse_upload("target/x:/usr/bin/y").unwrap();
        assert_eq!((upload.source, upload.destination.as_str()), (PathBuf::from("target/x"), "/usr/bin/y"));
        assert_eq!(parse_upload("target/x").unwrap().destination, "/root/x");
        assert!(parse_upload("target/x:y").is_err());
        assert!(parse_upload("/").is_err());
    }

    #[test]
    fn variables_need_a_name() {
        assert_eq!(parse_variable("A_1=b=c").unwrap(), ("A_1".to_owned(), "b=c".to_owned()));
        for bad in ["A", "=x", "1A=x", "A B=x"] {
            assert!(parse_variable(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
