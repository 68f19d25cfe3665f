//! `kilo-lab`: the command line of the lab. It reads arguments and prints; what a lab is and does is in the
//! library.

/// Prints as `print!` does. If the reader is gone, that is a wish to end, not a reason to panic: there may be
/// a lab to tear down.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::write(format_args!($($text)*))
    };
}

mod demo;
mod measure;

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
use kilo_lab::{Ending, Lab, Lifetime, Paint, Spec, interrupt, labs, server, topology};

#[derive(Parser)]
#[command(name = "kilo-lab", version, about = "A multi-site cluster in network namespaces of one machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring a lab up and leave it running.
    Up(Up),
    /// Show the reachability of all pods, the topology and the agents' health.
    Status(Named),
    /// Run a command on a node, in a pod, or in `api`, `wan` or `router-SITE`.
    Exec(Exec),
    /// Exchange the agent of a node: end the one that runs, and start another on what it leaves.
    Exchange(Exchange),
    /// Tear a lab down, whatever is left of it.
    Down(Down),
    /// Show a mesh forming over three sites and surviving the loss of a leader.
    Demo(demo::Demo),
    /// Measure one agent in a cluster of thousands of nodes that only exist on paper.
    Scale(measure::Scale),
    /// Serve the Kubernetes API of a lab.
    #[command(hide = true)]
    Apiserver(Apiserver),
}

#[derive(Args)]
struct Named {
    /// The lab's name.
    #[arg(long, default_value = "demo")]
    name: String,
}

/// What is brought up.
#[derive(Args)]
struct Up {
    #[command(flatten)]
    lab: Described,
    /// Only build the sites and the API; start no agents.
    #[arg(long)]
    no_agents: bool,
    /// Stay in the foreground, and tear the lab down on ctrl-C.
    #[arg(long)]
    foreground: bool,
}

/// A description and what the command line changes in it.
#[derive(Args)]
struct Described {
    /// The description of the lab, YAML or JSON [default: three sites, the third behind NAT].
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// The lab's name: lowercase letters and digits [default: the description's].
    #[arg(long)]
    name: Option<String>,
    /// The agent's binary [default: beside kilo-lab].
    #[arg(long, value_name = "PATH")]
    kg: Option<PathBuf>,
    /// `location` or `full` [default: the description's].
    #[arg(long, value_name = "GRANULARITY")]
    mesh_granularity: Option<String>,
    /// `never`, `crosssubnet` or `always` [default: the description's].
    #[arg(long, value_name = "WHEN")]
    encapsulate: Option<String>,
}

#[derive(Args)]
struct Exec {
    #[command(flatten)]
    lab: Named,
    /// A node, a pod, `api`, `wan` or `router-SITE`.
    member: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Args)]
struct Exchange {
    #[command(flatten)]
    lab: Named,
    /// The node.
    node: String,
    /// The program of a Go agent that is started [default: our agent].
    #[arg(long, value_name = "PATH")]
    go_agent: Option<PathBuf>,
    /// Kill the agent that runs: it can clean up nothing.
    #[arg(long)]
    kill: bool,
}

#[derive(Args)]
struct Down {
    #[command(flatten)]
    lab: Named,
    /// All labs of this machine.
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

#[derive(Args)]
struct Apiserver {
    /// The objects to begin with, a JSON array.
    #[arg(long)]
    objects: PathBuf,
    /// The address that is always served.
    #[arg(long)]
    local: SocketAddr,
    /// An address for the nodes; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Up(up) => self::up(up),
        Command::Status(named) => status(&named.name),
        Command::Exec(exec) => self::exec(exec),
        Command::Exchange(exchange) => self::exchange(exchange),
        Command::Down(down) => self::down(down),
        Command::Demo(demo) => demo.run(),
        Command::Scale(scale) => scale.run(),
        Command::Apiserver(apiserver) => serve(apiserver),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kilo-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Described {
    fn read(&self) -> anyhow::Result<Spec> {
        let mut spec = self.spec.as_deref().map_or_else(|| Ok(Spec::demo()), Spec::read)?;
        if let Some(name) = &self.name {
            spec.name.clone_from(name);
        }
        if let Some(granularity) = &self.mesh_granularity {
            spec.mesh.granularity.clone_from(granularity);
        }
        if let Some(encapsulate) = &self.encapsulate {
            spec.mesh.encapsulate.clone_from(encapsulate);
        }
        spec.programs.kg = self.kg.clone().or(spec.programs.kg);
        Ok(spec)
    }
}

fn up(up: &Up) -> anyhow::Result<()> {
    interrupt::listen();
    let mut spec = up.lab.read()?;
    spec.mesh.agents &= !up.no_agents;
    let mut steps = Steps::begin();
    let lifetime = if up.foreground { Lifetime::Scoped } else { Lifetime::Detached };
    let lab = Lab::bring_up(spec, lifetime, |what| steps.next(what))?;
    steps.end();
    let (name, layout) = (&lab.spec().name, lab.layout());
    say!("lab {name} is up: {}\n", describe(&lab));
    say!("  kilo-lab status --name {name}\n");
    say!("  kilo-lab exec --name {name} {} -- ip route show table 1108\n", layout.nodes[0].name);
    say!("  kilo-lab exec --name {name} api -- kubectl get nodes\n");
    if !up.foreground {
        say!("  kilo-lab down --name {name}\n");
        return Ok(());
    }
    say!("  ctrl-C tears it down\n");
    while interrupt::check().is_ok() {
        thread::sleep(Duration::from_millis(100));
    }
    say!("\ntearing down\n");
    Ok(())
}

fn status(name: &str) -> anyhow::Result<()> {
    let lab = Lab::open(name)?;
    say!("lab {name}: {}\n", describe(&lab));
    for family in lab.spec().families() {
        say!("\n{}", lab.matrix(*family)?.render(paint()));
    }
    say!("\n{}\n", topology::render(&topology::read(&lab)?));
    for line in lab.health() {
        say!("  {line}\n");
    }
    say!("  logs: {}\n", lab.state().directory().join("logs").display());
    Ok(())
}

fn exec(exec: &Exec) -> anyhow::Result<()> {
    let lab = Lab::open(&exec.lab.name)?;
    // Takes the place of this process, so that the terminal, signals and the exit code are the command's own.
    let error = lab.place(&exec.member)?.command(&exec.command)?.exec();
    Err(anyhow::Error::new(error).context(format!("running {} in {}", exec.command[0], exec.member)))
}

fn exchange(exchange: &Exchange) -> anyhow::Result<()> {
    let mut lab = Lab::open(&exchange.lab.name)?;
    let ending = if exchange.kill { Ending::Kill } else { Ending::Ask };
    lab.exchange(&exchange.node, exchange.go_agent.clone(), ending)?;
    say!("{} on node {}\n", lab.node(&exchange.node)?.agent_command()?[0], exchange.node);
    Ok(())
}

fn down(down: &Down) -> anyhow::Result<()> {
    let names = if down.all { labs() } else { vec![down.lab.name.clone()] };
    for name in names {
        Lab::down(&name)?;
        say!("lab {name} is down\n");
    }
    Ok(())
}

fn serve(apiserver: &Apiserver) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server::run(&apiserver.objects, apiserver.local, &apiserver.listen))
}

/// Writes to standard output at once.
fn write(text: std::fmt::Arguments<'_>) {
    let mut output = std::io::stdout();
    if output.write_fmt(text).and_then(|()| output.flush()).is_err() {
        interrupt::want();
    }
}

/// What the lab consists of, in one line.
fn describe(lab: &Lab) -> String {
    let layout = lab.layout();
    format!("{} sites, {} nodes, {} pods", layout.sites.len(), layout.nodes.len(), layout.pods.len())
}

/// Colours are for terminals, and for those who want them (<https://no-color.org>).
fn paint() -> Paint {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::io::stdout().is_terminal() && !unwanted { Paint::Colour } else { Paint::Plain }
}

/// Prints what is being done, and how long it took once it is.
struct Steps {
    begin: Option<Instant>,
}

impl Steps {
    fn begin() -> Self {
        Self { begin: None }
    }

    fn next(&mut self, what: &str) {
        self.end();
        say!("  {what:<32}");
        self.begin = Some(Instant::now());
    }

    fn end(&mut self) {
        if let Some(begin) = self.begin.take() {
            say!("{:>7.2} s\n", begin.elapsed().as_secs_f32());
        }
    }
}
