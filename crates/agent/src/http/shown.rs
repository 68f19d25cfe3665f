//! What is shown, handed over by the agent's loop to the thread that serves it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reconciler::View;

use crate::metrics::Metrics;

/// How long the loop may be busy without a pause. Configuring a host with tens of thousands of routes takes seconds.
const BUSY: Duration = Duration::from_secs(60);

/// What is shown, shared with the agent's loop.
pub struct Shown {
    /// The metrics.
    pub metrics: Metrics,
    view: Mutex<Arc<View>>,
    started: Instant,
    /// Since when the loop has been busy, in milliseconds after the start and 1; 0: it waits for something to do.
    busy: AtomicU64,
}

impl Shown {
    /// Nothing to show yet.
    pub fn new() -> Self {
        let view = View { unhealthy: vec!["the agent is starting".to_owned()], ..View::default() };
        let (view, started) = (Mutex::new(Arc::new(view)), Instant::now());
        Self { metrics: Metrics::new(), view, started, busy: AtomicU64::new(0) }
    }

    /// Shows something new.
    pub fn set(&self, view: View) {
        self.metrics.update(&view);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// What is shown.
    pub fn view(&self) -> Arc<View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The loop has something to do.
    pub fn busy(&self) {
        self.busy.store(self.milliseconds(Instant::now()).saturating_add(1), Ordering::Relaxed);
    }

    /// The loop has done all there is to do.
    pub fn waits(&self) {
        self.busy.store(0, Ordering::Relaxed);
    }

    /// Why the agent is not healthy; empty: it is.
    pub fn unhealthy(&self) -> Vec<String> {
        let mut unhealthy = self.view().unhealthy.clone();
        unhealthy.extend(self.stuck(Instant::now()));
        unhealthy
    }

    fn stuck(&self, now: Instant) -> Option<String> {
        let since = self.busy.load(Ordering::Relaxed).checked_sub(1)?;
        let busy = Duration::from_millis(self.milliseconds(now).saturating_sub(since));
        (busy > BUSY).then(|| {
            format!("the agent has been busy with one thing for {} s, and follows no changes", busy.as_secs())
        })
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_is_stuck_shows() {
        let shown = Shown::new();
        let later = Instant::now() + BUSY + Duration::from_secs(5);
        assert_eq!(shown.stuck(later), None);
        shown.busy();
        assert_eq!(shown.stuck(Instant::now()), None);
        assert!(shown.stuck(later).is_some_and(|reason| reason.contains("busy with one thing for 6")));
        shown.waits();
        assert_eq!(shown.stuck(later), None);
    }
}
