//! One line per event on standard error, as text or JSON. What objects, servers and the kernel say is in many of them, so
//! whatever a terminal would obey is escaped, see [`mesh::text`].

mod json;
mod text;

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, filter::Targets, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan,
    util::SubscriberInitExt,
};

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
    let ansi = std::io::stderr().is_terminal();
    let lines = lines(format, ansi, std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

fn lines<S, W>(format: Format, ansi: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    match format {
        Format::Text => lines.fmt_fields(text::Fields).with_ansi(ansi).boxed(),
        Format::Json => lines.event_format(json::Lines).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use mesh::text::is_plain;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log lines that come of something.
    pub(super) fn written(format: Format, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::registry().with(lines(format, false, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn one_record_is_one_line_of_plain_text(message in any::<String>(), field in any::<String>()) {
            for format in [Format::Text, Format::Json] {
                let text = written(format, || tracing::warn!(shown = %field, quoted = field, "{message}"));
                prop_assert!(text.strip_suffix('\n').is_some_and(|line| line.chars().all(is_plain)), "{text:?}");
            }
        }
    }
}
