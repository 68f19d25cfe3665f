//! What kubectl, kgctl and kg make of a kubeconfig.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a program read the Nodes, and what it said if not.
#[derive(Debug, Clone)]
pub enum Outcome {
    Works,
    Refused(String),
}

impl Outcome {
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Works => "works",
            Outcome::Refused(_) => "refused",
        }
    }
}

/// A program and where it runs.
pub struct Runs<'a> {
    pub folder: &'a Path,
    pub environment: &'a [(String, String)],
    /// The kubeconfig that is named by a flag.
    pub file: Option<&'a Path>,
}

impl Runs<'_> {
    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir(self.folder);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder);
        // Some cases are about names that nobody knows.
        command.env("RES_OPTIONS", "timeout:1 attempts:1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(file) = self.file {
            command.arg("--kubeconfig").arg(file);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn finish(&self, program: &Path, arguments: &[&str], shows: &str) -> Outcome {
        let output = tokio::time::timeout(PATIENCE, self.command(program, arguments).output()).await;
        let Ok(output) = output else { return Outcome::Refused(format!("no end within {PATIENCE:?}")) };
        let output = output.unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && stdout.contains(shows) {
            return Outcome::Works;
        }
        Outcome::Refused(format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))
    }

    pub async fn kubectl(&self, kubectl: &Path) -> Outcome {
        let cache = self.folder.join("cache").display().to_string();
        self.finish(kubectl, &["get", "nodes", "--cache-dir", &cache], "n1").await
    }

    pub async fn kgctl(&self, kgctl: &Path) -> Outcome {
        self.finish(kgctl, &["graph"], "n1").await
    }

    /// It ends by itself when it has read the Nodes, or cannot use the kubeconfig. When the API refuses it, it says so and
    /// tries again.
    pub async fn kg(&self) -> Outcome {
        let mut child = self
            .command(Path::new(env!("CARGO_BIN_EXE_kg")), &["--dry-run", "--hostname=n1"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let read = async {
            let mut said = String::new();
            while let Ok(Some(line)) = lines.next_line().await {
                said = format!("{said}{line}\n");
                let reasons = ["Unreachable", "Unauthorized", "Forbidden", "ApiError", "Unreadable"];
                if reasons.iter().any(|reason| line.contains(&format!("reason=\"{reason}\""))) {
                    return Outcome::Refused(said);
                }
            }
            match child.wait().await.unwrap().success() {
                true => Outcome::Works,
                false => Outcome::Refused(said),
            }
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or(Outcome::Refused("no end".to_owned()))
    }
}

/// `$KUBECTL`, else what is on the `PATH`.
pub fn kubectl() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file());
    std::env::var_os("KUBECTL").map(PathBuf::from).or(installed).expect(
        "kubectl is neither in $KUBECTL nor on the PATH; run KUBECTL=$(scripts/install-kubectl) cargo test",
    )
}

/// It is built beside kg.
pub fn kgctl() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_kg")).with_file_name("kgctl");
    assert!(path.is_file(), "{} is missing; cargo build -p kgctl", path.display());
    path
}
