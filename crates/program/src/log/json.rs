//! Log lines as JSON objects with the keys that the Go programs use: `ts`, `level` and `msg`. Whatever else a line tells
//! are further keys. Who reads the lines of a Go agent by these reads ours.

use std::fmt::{self, Write};

use mesh::text::is_plain;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// One object per line.
pub struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        writeln!(writer, "{}", escaped(&line(time, event).to_string()))
    }
}

/// JSON escapes C0 only. Outside of its strings there is nothing to escape.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if is_plain(character) {
            out.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

fn line(time: String, event: &Event<'_>) -> Value {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    fields.0.insert("ts".to_owned(), time.into());
    fields.0.insert("level".to_owned(), event.metadata().level().as_str().to_lowercase().into());
    Value::Object(fields.0)
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tests::written;

    #[test]
    fn a_line_has_the_keys_of_a_go_agents() {
        let text = written(super::super::Format::Json, || {
            let error = std::io::Error::other("a \"reason\"");
            tracing::warn!(%error, node = "a1", changes = 3, last = ?Some(1), "it did not {}", "work");
        });
        let mut line: Value = serde_json::from_str(&text).unwrap();
        let time = line["ts"].take();
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z') && time.len() > 20), "{text}");
        let expected = serde_json::json!({
            "ts": null, "level": "warn", "msg": "it did not work",
            "error": "a \"reason\"", "node": "a1", "changes": 3, "last": "Some(1)",
        });
        assert_eq!(line, expected);
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_line_says_what_was_said() {
        let odd = "a\n\u{1b}[31m\u{202e}\u{e0041}\u{7f}";
        let text = written(super::super::Format::Json, || tracing::warn!(odd, "{odd}"));
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["msg"], &line["odd"]), (&odd.into(), &odd.into()));
    }
}
