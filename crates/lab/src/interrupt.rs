//! Whether the user wants an end. A signal only sets a flag; whatever waits asks for it and returns, so that
//! a lab is torn down on the ordinary way out.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::LabError;

static WANTED: AtomicBool = AtomicBool::new(false);

/// From now on, ctrl-C, SIGTERM and SIGHUP set the flag and do not end the process. Processes that are
/// started later are not affected: handlers do not survive exec(2).
pub fn listen() {
    let handler: extern "C" fn(libc::c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores into an atomic, which signal-safety(7) allows; the old handler is not
        // needed.
        unsafe {
            libc::signal(signal, handler as libc::sighandler_t);
        }
    }
}

/// Fails once an end is wanted.
///
/// # Errors
/// [`LabError::Interrupted`].
pub fn check() -> Result<(), LabError> {
    if WANTED.load(Ordering::Relaxed) { Err(LabError::Interrupted) } else { Ok(()) }
}

/// Wants an end, as ctrl-C does.
pub fn want() {
    WANTED.store(true, Ordering::Relaxed);
}

extern "C" fn note(_signal: libc::c_int) {
    WANTED.store(true, Ordering::Relaxed);
}
