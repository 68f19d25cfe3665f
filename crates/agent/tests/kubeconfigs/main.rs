//! Kubeconfigs of many kinds, each given to kubectl, kgctl and kg: all three have to make the same of it. And credentials
//! that change under programs that run.

#![allow(clippy::unwrap_used, reason = "a test")]

mod agent;
mod cases;
mod programs;
mod proxies;
mod renewal;
mod server;
#[allow(dead_code, reason = "not all of what the tests of the webhook use is used here")]
#[path = "../webhook/support.rs"]
mod webhook;
mod world;

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, sync::Arc};

use cases::{Case, Expected, Source};
use programs::{Outcome, Runs, kgctl, kubectl};
use tempfile::TempDir;
use tokio::{sync::Semaphore, task::JoinSet};
use world::World;

/// How many cases run at once.
const AT_ONCE: usize = 6;

/// What the three programs made of a case.
struct Row {
    case: Case,
    outcomes: [Option<Outcome>; 3],
}

impl Row {
    async fn new(case: Case) -> Self {
        let folder = TempDir::new().unwrap();
        for (name, content) in &case.files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            let mode = if content.starts_with("#!") { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = folder.path().join("config");
        let mut environment = case.environment.clone();
        if let Source::List(list) = case.source {
            environment.push(("KUBECONFIG".to_owned(), list.to_owned()));
        }
        let file = (case.source == Source::Flag).then_some(path.as_path());
        let runs = Runs { folder: folder.path(), environment: &environment, file };
        let (kubectl, kgctl) = (kubectl(), kgctl());
        let (kubectl, kgctl) = tokio::join!(runs.kubectl(&kubectl), runs.kgctl(&kgctl));
        // It has no list: its kubeconfig is always named.
        let kg = if case.source == Source::Flag { Some(runs.kg().await) } else { None };
        Self { case, outcomes: [Some(kubectl), Some(kgctl), kg] }
    }

    fn words(&self) -> [&'static str; 3] {
        self.outcomes.each_ref().map(|outcome| outcome.as_ref().map_or("-", Outcome::word))
    }

    /// What is not as it should be.
    fn faults(&self) -> Vec<String> {
        let expected = self.case.expected();
        let mut faults = Vec::new();
        for ((program, expected), outcome) in
            ["kubectl", "kgctl", "kg"].iter().zip(expected).zip(&self.outcomes)
        {
            match (expected, outcome) {
                (_, None) | (Expected::Works, Some(Outcome::Works)) => {}
                (Expected::Refused(_), Some(Outcome::Refused(_))) if *program == "kubectl" => {}
                (Expected::Refused(words), Some(Outcome::Refused(said))) if said.contains(words) => {}
                (expected, outcome) => faults
                    .push(format!("{}: {program}: expected {expected:?}, got {outcome:?}\n", self.case.name)),
            }
        }
        faults
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_kgctl_and_kg_agree_on_kubeconfigs() {
    let world = World::new().await;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (number, case) in cases::all(&world).into_iter().enumerate() {
        let room = room.clone();
        running.spawn(async move {
            let _permit = room.acquire_owned().await.unwrap();
            (number, Row::new(case).await)
        });
    }
    let mut rows = running.join_all().await;
    rows.sort_by_key(|(number, _)| *number);
    let mut table = format!("{:58} {:8} {:8} {:8}\n", "kubeconfig", "kubectl", "kgctl", "kg");
    for (_, row) in &rows {
        let [kubectl, kgctl, kg] = row.words();
        writeln!(table, "{:58} {kubectl:8} {kgctl:8} {kg:8} {}", row.case.name, row.case.exception).unwrap();
    }
    println!("{table}");
    let faults: Vec<String> = rows.iter().flat_map(|(_, row)| row.faults()).collect();
    assert!(faults.is_empty(), "{} of {} are wrong:\n{}", faults.len(), rows.len(), faults.join("\n"));
}
