//! How often: pauses between attempts that fail, and how many of a kind in a time.
//!
//! What is tried or limited is not known here. Time and randomness are arguments: there is no clock and no random number of
//! the system's, so whoever steps through hours in a test gets the same pauses every time.

mod backoff;
mod bucket;
mod jitter;

pub use backoff::Backoff;
pub use bucket::{Bucket, Filter};
pub use jitter::Jitter;
