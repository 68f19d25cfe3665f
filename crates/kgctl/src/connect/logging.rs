//! What is told while a connection lasts: one line per event on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Which log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// All there are.
    All,
    /// Every change of the host too.
    Debug,
    /// What begins, ends and changes.
    Info,
    /// What is wrong with objects.
    Warn,
    /// What does not work.
    Error,
    /// None.
    None,
}

/// Starts to write log lines.
pub fn start(level: LogLevel) {
    let own = match level {
        LogLevel::All => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::None => LevelFilter::OFF,
    };
    // Libraries speak of every connection they make; that is for `all` only.
    let of_libraries = if level == LogLevel::All { LevelFilter::TRACE } else { own.min(LevelFilter::WARN) };
    let ours = ["kgctl", "dataplane", "hostnet", "kubernetes", "mesh", "reconciler", "tunnel"];
    let filter = Targets::new().with_default(of_libraries).with_targets(ours.map(|name| (name, own)));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines).with(filter).init();
}
