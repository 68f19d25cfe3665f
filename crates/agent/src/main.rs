//! `kg`: the agent that runs on every node.
//!
//! It composes: the Kubernetes watch feeds the reconciler, the reconciler's actions go to the data plane and back to
//! the API, and what it shows goes to HTTP, metrics and the log. Nothing is decided here.

mod cli;
mod cni;
mod http;
mod install_cni;
mod key;
#[cfg(test)]
mod manifests;
mod metrics;
mod names;
mod process;
mod report;
mod runtime;
mod serve;
mod setup;
mod surroundings;
mod webhook;

use std::process::ExitCode;

use clap::CommandFactory;
use cli::{Cli, Command};
use program::{log, print};

fn main() -> ExitCode {
    let cli = Cli::read();
    let command = if cli.version { Some(Command::Version) } else { cli.command };
    let outcome = match command {
        // Nothing but the version, as the Go agent prints it: scripts compare it.
        Some(Command::Version) => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Some(Command::Completion { shell }) => {
            clap_complete::generate(shell, &mut Cli::command(), "kg", &mut std::io::stdout());
            Ok(())
        }
        Some(Command::Reference) => {
            print!("{}", program::reference::markdown(Cli::command()));
            Ok(())
        }
        Some(Command::Tunnel { interface }) => {
            log::start("kg", cli.agent.log_level, cli.agent.log_format);
            tunnel::run_foreground(interface.as_str()).map_err(Into::into)
        }
        Some(Command::Webhook(flags)) => {
            log::start("kg", cli.agent.log_level, cli.agent.log_format);
            run_webhook(flags)
        }
        Some(Command::InstallCni(flags)) => {
            install_cni::run(&flags).map(|done| done.iter().for_each(|line| println!("{line}")))
        }
        None => {
            log::start("kg", cli.agent.log_level, cli.agent.log_format);
            run(cli.agent)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The last line is for whoever started the process; the log may be turned off.
            print::say(format_args!("kg: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// One thread, beside that of `http`: the agent mostly waits, and every thread more is memory on every node.
#[tokio::main(flavor = "current_thread")]
async fn run(agent: cli::Agent) -> anyhow::Result<()> {
    runtime::Runtime::start(setup::Setup::of(agent)?).await?.run().await
}

#[tokio::main(flavor = "current_thread")]
async fn run_webhook(flags: webhook::Flags) -> anyhow::Result<()> {
    webhook::run(flags).await
}
