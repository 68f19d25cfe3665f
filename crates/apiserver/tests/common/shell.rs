//! The real `kubectl` at the command line of a user.
//!
//! It is taken from `$KUBECTL`, else from the `PATH`; `scripts/install-kubectl` installs one.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use apiserver::Server;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Cluster;

/// How long one command may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster and a user at its command line.
pub struct Shell {
    pub cluster: Cluster,
    home: TempDir,
    kubectl: PathBuf,
}

/// What a command printed, if it succeeded.
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Shell {
    pub async fn new() -> Shell {
        let cluster = Cluster::start(Server::new()).await;
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = Server::kubeconfig(&cluster.address.to_string());
        std::fs::write(home.path().join("kubeconfig"), kubeconfig).unwrap();
        Shell { cluster, home, kubectl: find_kubectl() }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(arguments).kill_on_drop(true);
        command.env("HOME", self.home.path()).env("KUBECONFIG", self.home.path().join("kubeconfig"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command with `input` as standard input.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {arguments:?} did not end")).unwrap();
        Output {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must succeed without a warning; its standard output.
    pub async fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        assert!(output.success, "kubectl {arguments:?}: {}", output.stderr);
        assert!(!output.stderr.contains("Warning"), "kubectl {arguments:?}: {}", output.stderr);
        output.stdout
    }

    /// Runs a command that must fail; its standard error.
    pub async fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        assert!(!output.success, "kubectl {arguments:?} succeeded: {}", output.stdout);
        output.stderr
    }

    pub fn get(&self, resource: &str, name: &str) -> Value {
        let found = self.cluster.server.get(resource, name);
        (*found.unwrap_or_else(|| panic!("{resource} {name} is missing"))).clone()
    }
}

fn find_kubectl() -> PathBuf {
    if let Some(path) = std::env::var_os("KUBECTL").map(PathBuf::from) {
        assert!(path.is_file(), "KUBECTL is {}, which is no file", path.display());
        return path;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file());
    found.expect(
        "kubectl is neither in $KUBECTL nor on the PATH; run KUBECTL=$(scripts/install-kubectl) cargo test",
    )
}

/// Lines of a table, their columns separated by single spaces.
pub fn table(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
