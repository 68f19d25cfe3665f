//! Where reviews are read and judged: beside the thread that serves, a few at a time, each within its time.
//!
//! Whoever reaches the webhook can send reviews, of any size. Their bodies are held in memory until they are judged,
//! so few may be large at once.

use std::{sync::Arc, time::Instant};

use axum::{body::Body, http::StatusCode};
use futures::StreamExt;
use kubernetes::admission::{Request, Surroundings, Verdict, judge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest request, in bytes. etcd stores objects of up to 1.5 MiB, and an update sends two.
const LARGEST: usize = 3 << 20;
/// The largest request, in bytes, of which there may be any number: more than nearly every Peer needs.
const SMALL: usize = 128 << 10;
/// How many larger requests there may be at a time. Those that come slowly do not keep out all others.
const MOST_LARGE: usize = 4;
/// How many requests are judged at a time, of which one may be larger. It takes a processor, and the memory for what is
/// read of a request.
const JUDGED: usize = 2;

/// What is answered instead of a verdict.
type Refusal = (StatusCode, String);

/// Takes in reviews and judges them.
pub struct Desk {
    large: Arc<Semaphore>,
    judged: Arc<Semaphore>,
    large_judged: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { large: places(MOST_LARGE), judged: places(JUDGED), large_judged: places(1) }
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
            // First among the large ones: those that wait keep no place from the small ones.
            let large_place = match &large {
                Some(_) => Some(place(&self.large_judged).await?),
                None => None,
            };
            let judged_place = place(&self.judged).await?;
            let judging = tokio::task::spawn_blocking(move || {
                // What has begun cannot be stopped, so it keeps its place to its end.
                let _places = (judged_place, large_place, large);
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
    async fn receive(&self, body: Body) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refusal> {
        let mut stream = body.into_data_stream();
        let (mut text, mut large) = (Vec::new(), None);
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| unreadable(&error))?;
            let length = text.len() + part.len();
            if length > LARGEST {
                return Err(too_large());
            }
            if length > SMALL && large.is_none() {
                large = Some(place(&self.large).await?);
            }
            text.extend_from_slice(&part);
        }
        Ok((text, large))
    }
}

async fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    places.clone().acquire_owned().await.map_err(|_| busy())
}

fn busy() -> Refusal {
    let text = "the webhook was not done with the request in time; is it asked too much, or by too many?";
    (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
}

fn too_large() -> Refusal {
    let text = format!("the request has more than {LARGEST} bytes, which no Peer needs");
    (StatusCode::PAYLOAD_TOO_LARGE, text)
}

fn unreadable(error: &axum::Error) -> Refusal {
    (StatusCode::BAD_REQUEST, format!("the request could not be read: {error}"))
}
