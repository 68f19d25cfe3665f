//! The demonstration: a mesh forms over three sites, loses a leader, and gets it back. Every claim it prints
//! is one it has checked; the first that does not hold ends it with an error and keeps the logs.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use kilo_lab::{
    Access, Family, Lab, LabError, Lifetime, Matrix, interrupt, programs,
    topology::{self, Row},
    wait_until,
};

use crate::{Described, Steps, describe, paint};

/// The demonstration's arguments.
#[derive(Args)]
pub struct Demo {
    #[command(flatten)]
    lab: Described,
    /// Where the picture of the mesh goes.
    #[arg(long, value_name = "FILE", default_value = "cluster.svg")]
    output: PathBuf,
    /// How many seconds the mesh may take to form.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    converge_within: u64,
    /// How many seconds another leader may take to take over.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    take_over_within: u64,
}

impl Demo {
    /// Runs it from the first namespace to the last.
    ///
    /// # Errors
    /// When something does not hold; the message says what, and where the logs are.
    pub fn run(&self) -> anyhow::Result<()> {
        interrupt::listen();
        let begin = Instant::now();
        let spec = self.lab.read()?;
        say!("Building a cluster on this machine, in network namespaces:\n");
        for site in &spec.sites {
            let names = site.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
            let access = match site.access {
                Access::Public => "with public addresses",
                Access::Nat => "behind NAT",
            };
            say!("  site {}: {names} {access}\n", site.name);
        }
        say!("\n");
        let mut steps = Steps::begin();
        let lab = Lab::bring_up(spec, Lifetime::Scoped, |what| steps.next(what))?;
        steps.end();
        say!("  {}\n\n", describe(&lab));
        match self.show(&lab) {
            Ok(()) => {}
            Err(error) if matches!(error.downcast_ref(), Some(LabError::Interrupted)) => {
                say!("\nInterrupted; tearing down.\n");
                return Err(error);
            }
            Err(error) => {
                let kept = lab.keep_logs()?;
                return Err(
                    error.context(format!("the demonstration failed; logs are kept in {}", kept.display()))
                );
            }
        }
        let mut steps = Steps::begin();
        steps.next("tearing down");
        drop(lab);
        steps.end();
        say!("\nAll held. The whole demonstration took {:.0} s.\n", begin.elapsed().as_secs_f32());
        Ok(())
    }

    fn show(&self, lab: &Lab) -> anyhow::Result<()> {
        say!("Waiting until every pod reaches every other, over IPv4 and IPv6:\n");
        let took = wait_with_progress(lab, &lab.pods(), Duration::from_secs(self.converge_within))?;
        say!("  converged {:.1} s after the agents were started\n\n", took.as_secs_f32());
        for family in [Family::V4, Family::V6] {
            let matrix = lab.matrix(family)?;
            say!("{}\n", matrix.render(paint()));
            ensure!(
                matrix.is_complete(),
                "{family} was complete and is no longer: {}",
                matrix.failures().join(", ")
            );
        }
        let rows = self.wait_published(lab)?;
        say!("{}\n", topology::render(&rows));
        draw(lab, &self.output)?;
        say!("  The mesh as a picture: {}\n\n", self.output.display());
        self.lose_a_leader(lab, &rows)
    }

    /// The annotations follow the mesh within moments: every location has one leader, or every node leads itself.
    fn wait_published(&self, lab: &Lab) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        wait_until("one published leader in every location", Duration::from_secs(30), || {
            rows = topology::read(lab)?;
            let led = match lab.spec().mesh.granularity.as_str() {
                "full" => rows.iter().all(|row| row.role == topology::Role::Leader),
                _ => topology::is_led(&rows),
            };
            Ok((!led).then(|| topology::render(&rows)))
        })?;
        Ok(rows)
    }

    fn lose_a_leader(&self, lab: &Lab, rows: &[Row]) -> anyhow::Result<()> {
        let Some(leader) =
            rows.iter().find(|row| row.role == topology::Role::Leader && partners(rows, row) > 0)
        else {
            bail!("no location has a second node that could take over");
        };
        let (location, lost) = (leader.location.as_str(), leader.node.as_str());
        let layout = lab.layout();
        let on_lost = |name: &&str| layout.pod(name).is_some_and(|pod| layout.nodes[pod.node].name == lost);
        let survivors: Vec<&str> = lab.pods().into_iter().filter(|name| !on_lost(name)).collect();
        let silence = lab.spec().mesh.liveness_timeout;
        say!(
            "Pulling the cable of {lost}, the leader of location {location} (its place is taken after {silence} s of silence):\n"
        );
        lab.node(lost)?.cut_link()?;
        let took = wait_with_progress(lab, &survivors, Duration::from_secs(self.take_over_within))?;
        let mut next = String::new();
        wait_until("a new leader publishing itself", Duration::from_secs(60), || {
            let rows = topology::read(lab)?;
            let found =
                topology::leaders(&rows, location).find(|row| row.node != lost).map(|row| row.node.clone());
            next = found.clone().unwrap_or_default();
            Ok(found.is_none().then(|| topology::render(&rows)))
        })?;
        say!(
            "  {next} leads location {location}; the other pods reach each other {:.1} s after the cut\n\n",
            took.as_secs_f32()
        );
        let everyone = lab.matrix(Family::V4)?;
        say!("{}\n", everyone.render(paint()));
        for name in lab.pods().into_iter().filter(on_lost) {
            let reached = survivors.iter().filter(|other| !is_lost(&everyone, name, other)).count();
            ensure!(reached == 0, "{name} still reaches {reached} pods, although the cable of {lost} is out");
        }
        say!("Plugging it in again:\n");
        lab.node(lost)?.restore_link()?;
        let took = wait_with_progress(lab, &lab.pods(), Duration::from_secs(self.take_over_within))?;
        say!("  every pod reaches every other again after {:.1} s\n\n", took.as_secs_f32());
        Ok(())
    }
}

fn partners(rows: &[Row], leader: &Row) -> usize {
    rows.iter().filter(|row| row.location == leader.location && row.node != leader.node).count()
}

fn is_lost(matrix: &Matrix, from: &str, to: &str) -> bool {
    matrix.outcome(from, to) == Some(kilo_lab::Outcome::Lost)
}

/// Waits, and shows how many pairs reach each other: on a terminal as a line that changes, elsewhere a line
/// per change.
fn wait_with_progress(lab: &Lab, names: &[&str], within: Duration) -> Result<Duration, LabError> {
    let begin = Instant::now();
    let terminal = std::io::stdout().is_terminal();
    let mut shown = String::new();
    let result = lab.wait_reachable(names, within, |matrices| {
        let scores: Vec<String> = matrices
            .iter()
            .map(|matrix| {
                let (good, total) = matrix.score();
                format!("{} {good:>3} of {total}", matrix.family)
            })
            .collect();
        let scores = scores.join("   ");
        if terminal {
            say!("\r  {:>5.1} s   {scores} pairs", begin.elapsed().as_secs_f32());
        } else if scores != shown {
            say!("  {:>5.1} s   {scores} pairs\n", begin.elapsed().as_secs_f32());
            shown = scores;
        }
    });
    if terminal {
        say!("\n");
    }
    result
}

/// Draws what `kgctl graph` prints with Graphviz.
fn draw(lab: &Lab, output: &Path) -> anyhow::Result<()> {
    let kgctl = programs::find("kgctl", lab.spec().programs.kgctl.as_deref())?.display().to_string();
    let graph = lab.exec("api", &[&kgctl, "graph"])?;
    ensure!(
        graph.status.success(),
        "`kgctl graph` failed: {}",
        String::from_utf8_lossy(&graph.stderr).trim()
    );
    let mut twopi = Command::new("twopi")
        .arg("-Tsvg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting twopi (Debian package graphviz; scripts/install-packages installs it)")?;
    if let Some(mut input) = twopi.stdin.take() {
        input.write_all(&graph.stdout).context("handing the graph to twopi")?;
    }
    let drawn = twopi.wait_with_output().context("waiting for twopi")?;
    ensure!(drawn.status.success(), "twopi failed: {}", String::from_utf8_lossy(&drawn.stderr).trim());
    ensure!(drawn.stdout.windows(4).any(|window| window == b"<svg"), "twopi drew no picture");
    fs::write(output, drawn.stdout).with_context(|| format!("writing {}", output.display()))
}
