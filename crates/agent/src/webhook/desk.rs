//! Where reviews are read and judged: beside the thread that serves, a few at a time, each within its time.
//!
//! Whoever reaches the webhook can send reviews, of any size. Their bodies are held in memory until they are judged,
//! so few may be large at once.

use std::{sync::Arc, time::Instant};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::StatusCode,
};
use futures::StreamExt;
use kubernetes::admission::{Request, Surroundings, Verdict, judge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest request, in bytes. An API server sends an object twice, and takes none of more than 3 MiB.
const LARGEST: usize = 8 << 20;
/// The largest request, in bytes, of which there may be any number: more than nearly every Peer needs.
const SMALL: usize = 128 << 10;
/// How many larger requests there may be at a time.
const MOST_LARGE: usize = 4;
/// How many requests are judged at a time. It takes a processor, and the memory for a parsed object.
const JUDGED: usize = 2;

/// What is answered instead of a verdict.
type Refusal = (StatusCode, String);

/// Takes in reviews and judges them.
pub struct Desk {
    large: Arc<Semaphore>,
    judged: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { large: Arc::new(Semaphore::new(MOST_LARGE)), judged: Arc::new(Semaphore::new(JUDGED)) }
    }
}

impl Desk {
    /// Reads a review and judges it by what is known then. Returns it with the verdict, and the answer as text.
    ///
    /// # Errors
    /// When it is too large, cannot be read, makes no sense, or is not judged by the deadline.
    pub async fn judge(
        &self,
        body: Body,
        surroundings: impl FnOnce() -> Arc<Surroundings> + Send + 'static,
        deadline: Instant,
    ) -> Result<(Request, Verdict, String), Refusal> {
        let judged = async {
            let (body, large) = self.receive(body).await?;
            let place = self.judged.clone().acquire_owned().await.map_err(|_| busy())?;
            let judging = tokio::task::spawn_blocking(move || {
                // What has begun cannot be stopped, so it keeps its place to its end.
                let _places = (place, large);
                let bad = |error: kubernetes::Error| (StatusCode::BAD_REQUEST, error.to_string());
                let review = Request::decode(&body).map_err(bad)?;
                let verdict = judge(&review, &surroundings()).map_err(bad)?;
                let answer = review.answer(&verdict).to_string();
                Ok((review, verdict, answer))
            });
            judging.await.map_err(|_| busy())?
        };
        tokio::time::timeout_at(deadline.into(), judged).await.unwrap_or_else(|_| Err(busy()))
    }

    /// The body of a request, with the permission to be large if it is.
    async fn receive(&self, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
        let mut stream = body.into_data_stream();
        let mut begin = Vec::new();
        while begin.len() <= SMALL {
            match stream.next().await {
                Some(part) => begin.extend_from_slice(&part.map_err(|error| unreadable(&error))?),
                None => return Ok((begin.into(), None)),
            }
        }
        let large = self.large.clone().acquire_owned().await.map_err(|_| busy())?;
        let rest = to_bytes(Body::from_stream(stream), LARGEST.saturating_sub(begin.len())).await;
        begin.extend_from_slice(&rest.map_err(|error| unreadable(&error))?);
        Ok((begin.into(), Some(large)))
    }
}

fn busy() -> Refusal {
    let text = "the webhook was not done with the request in time; is it asked too much, or by too many?";
    (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
}

fn too_large() -> Refusal {
    let text = format!("the request has more than {LARGEST} bytes, which no Peer needs");
    (StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// A body that is too large, or a connection that broke.
fn unreadable(error: &axum::Error) -> Refusal {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return too_large();
        }
        cause = error.source();
    }
    (StatusCode::BAD_REQUEST, format!("the request could not be read: {error}"))
}
