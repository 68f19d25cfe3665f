//! The text of `/metrics`, which anybody may request at any rate. It is rendered at most ten times a second.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::body::Bytes;

use crate::metrics::classic;

/// How old the text may be.
const AGE: Duration = Duration::from_millis(100);

/// The text in both formats.
#[derive(Clone)]
pub struct Text {
    pub open_metrics: Bytes,
    pub classic: Bytes,
}

/// The last text.
#[derive(Default)]
pub struct Scrape(Mutex<Option<(Instant, Text)>>);

impl Scrape {
    /// The text, made by `encode` if the last one is too old.
    pub fn get(&self, now: Instant, encode: impl FnOnce() -> String) -> Text {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = last.as_ref().filter(|(made, _)| now < *made + AGE) {
            return text.clone();
        }
        let open_metrics = encode();
        let text = Text { classic: classic(&open_metrics).into(), open_metrics: open_metrics.into() };
        *last = Some((now, text.clone()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_made_again_when_it_is_old() {
        let scrape = Scrape::default();
        let begin = Instant::now();
        let get = |at, text: &str| scrape.get(at, || text.to_owned()).open_metrics;
        assert_eq!(get(begin, "a"), "a");
        assert_eq!(get(begin + AGE / 2, "b"), "a");
        assert_eq!(get(begin + AGE, "c"), "c");
    }
}
