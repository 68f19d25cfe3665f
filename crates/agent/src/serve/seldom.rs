//! What anybody outside can cause again and again is said once in a while, with how often it happened.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long nothing more is said.
const PAUSE: Duration = Duration::from_secs(10);

/// Says something at most once in ten seconds.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: usize,
}

impl Seldom {
    /// Says it, with a text that tells how often it was not said since the last time, or counts it.
    pub fn tell(&self, say: impl FnOnce(&str)) {
        if let Some(unsaid) = self.due(Instant::now()) {
            let more =
                if unsaid == 0 { String::new() } else { format!(" (and {unsaid} more like this before)") };
            say(&more);
        }
    }

    fn due(&self, now: Instant) -> Option<usize> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| now < last + PAUSE) {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_counted() {
        let seldom = Seldom::default();
        let begin = Instant::now();
        assert_eq!(seldom.due(begin), Some(0));
        assert_eq!(seldom.due(begin + PAUSE / 2), None);
        assert_eq!(seldom.due(begin + PAUSE / 2), None);
        assert_eq!(seldom.due(begin + PAUSE), Some(2));
        assert_eq!(seldom.due(begin + PAUSE), None);
    }
}
