//! One line per event on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::cli::{LogFormat, LogLevel};

/// Starts to write log lines.
pub fn start(level: LogLevel, format: LogFormat) {
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
    let ours = ["kg", "dataplane", "hostnet", "kubernetes", "mesh", "reconciler", "tunnel"];
    let filter = tracing_subscriber::filter::Targets::new()
        .with_default(of_libraries)
        .with_targets(ours.map(|name| (name, own)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}
