//! What a log line for people says: the message, and the fields as `name=value`. Whatever a terminal would obey is escaped,
//! line breaks too, so that nobody can forge a line.

use std::fmt;

use mesh::text::Plain;
use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// Writes message and fields.
pub struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, first: true, written: Ok(()) };
        fields.record(&mut line);
        line.written
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    first: bool,
    written: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::replace(&mut self.first, false) {
            self.writer.write_char(' ')?;
        }
        match name {
            "message" => {}
            // In italics, and the sign dim.
            name if self.writer.has_ansi_escapes() => {
                write!(self.writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
            }
            name => write!(self.writer, "{name}=")?,
        }
        write!(self.writer, "{}", Plain(value))
    }

    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Where a line of another logger was written is of no interest.
        if self.written.is_ok() && !field.name().starts_with("log.") {
            let name = field.name();
            self.written = self.write(name.strip_prefix("r#").unwrap_or(name), value);
        }
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.put(field, format_args!("{value}"));
        } else {
            self.put(field, format_args!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::log::{Format, tests::written};

    #[test]
    fn a_line_is_one_line() {
        let odd = "x\n2026-01-01T00:00:00Z  INFO forged \u{1b}[31m\u{202e}";
        let shown = "x\\n2026-01-01T00:00:00Z  INFO forged \\u{1b}[31m\\u{202e}";
        let text = written(Format::Text, || {
            let error = std::io::Error::other(odd);
            tracing::warn!(%error, node = "a1", changes = 3, "it did not work: {odd}");
        });
        let said = text.split_once("WARN ").unwrap().1;
        assert_eq!(said, format!("it did not work: {shown} error={shown} node=\"a1\" changes=3\n"));
    }
}
