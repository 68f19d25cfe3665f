//! What programs write to standard output and standard error besides log lines. It may hold texts of objects, so whatever a
//! terminal would obey is escaped, see [`mesh::text`].

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

use mesh::text::{Plain, PlainLines};

/// Writes a document to standard output. A reader that has gone away (`kgctl graph | head`) is not an error.
///
/// # Errors
/// When standard output cannot be written.
pub fn out(text: impl Display) -> io::Result<()> {
    match write!(io::stdout().lock(), "{}", PlainLines(text)) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to standard error. That nobody can read it is nothing to tell anybody.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", Plain(text));
}
