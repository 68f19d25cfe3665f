//! Locking without poisoning: a thread that panicked must not stop the others.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; the data of every mutex here is valid after each single statement, so a poisoned one is used as it is.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
