//! One line per event on standard error, as text or JSON.

mod json;

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Our crates that write log lines, besides the programs.
const OURS: [&str; 7] = ["dataplane", "hostnet", "kubernetes", "mesh", "reconciler", "tunnel", "underlay"];

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For machines: an object per line, with `ts`, `level` and `msg`.
    Json,
}

/// Which log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// All there are.
    All,
    /// What was decided and done.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What is wrong with objects.
    Warn,
    /// What does not work.
    Error,
    /// None.
    None,
}

/// Starts to write log lines of `program`, which is the name of its crate, and of the crates it is made of.
pub fn start(program: &str, level: Level, format: Format) {
    let own = match level {
        Level::All => LevelFilter::TRACE,
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
        Level::None => LevelFilter::OFF,
    };
    // Libraries speak of every connection they make, and of every one that fails. What matters of that we say ourselves, and
    // not each time.
    let of_libraries = match level {
        Level::All => LevelFilter::TRACE,
        Level::Debug => LevelFilter::WARN,
        Level::Info | Level::Warn | Level::Error | Level::None => LevelFilter::OFF,
    };
    let filter = Targets::new()
        .with_default(of_libraries)
        .with_target(program, own)
        .with_targets(OURS.map(|name| (name, own)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.event_format(json::Lines).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}
