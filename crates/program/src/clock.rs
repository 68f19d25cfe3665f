//! Both clocks of the host, as the reconciler wants them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use reconciler::Now;

/// This moment.
pub fn now() -> Now {
    Now { instant: Instant::now(), unix: unix_seconds() }
}

/// Seconds since 1970; 0 on a host whose clock is before that.
pub fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Returns at a moment; without one never.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
