//! Where the project's own binaries are. It knows no other programs; those are found by the search path.

use std::path::{Path, PathBuf};

use crate::LabError;

/// Finds a binary: at the given path, else beside the running executable, else one directory above it (where
/// cargo puts binaries when the executable is a test), else in the search path.
///
/// # Errors
/// [`LabError::MissingProgram`] when it is in none of these.
pub fn find(program: &str, given: Option<&Path>) -> Result<PathBuf, LabError> {
    let missing = |advice: String| LabError::MissingProgram { program: program.into(), advice };
    if let Some(path) = given {
        let absolute =
            path.canonicalize().map_err(|error| missing(format!("{}: {error}", path.display())))?;
        return Ok(absolute);
    }
    let own = std::env::current_exe().map_err(LabError::io("finding the running executable"))?;
    let mut tried: Vec<PathBuf> =
        own.ancestors().skip(1).take(2).map(|directory| directory.join(program)).collect();
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&search_path).map(|directory| directory.join(program));
    let found = tried.iter().cloned().chain(installed).find(|path| path.is_file());
    found.ok_or_else(|| {
        tried.dedup();
        let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
        missing(format!(
            "it is neither at {} nor in the search path; `cargo build -p {program}` builds it",
            tried.join(" or ")
        ))
    })
}

/// The search path of commands inside a lab: the project's own binaries come first.
pub(crate) fn search_path() -> String {
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.display().to_string()));
    let inherited = std::env::var("PATH")
        .unwrap_or_else(|_| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    own.map_or_else(|| inherited.clone(), |own| format!("{own}:{inherited}"))
}
