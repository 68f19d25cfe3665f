//! A body that ends when something happens, for watches on connections that are no longer to be used.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tower::BoxError;

use super::stack::AnswerBody;

/// The body, and what ends it.
pub(super) struct Ending {
    body: AnswerBody,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

impl Ending {
    pub fn new(body: AnswerBody, end: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { body, end: Box::pin(end), ended: false }
    }
}

impl Body for Ending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // What has arrived is not lost.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        self.end.as_mut().poll(context).map(|()| {
            self.ended = true;
            // Not the end of the body: it may be in the middle of a line.
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, "the credentials have changed");
            Some(Err(error.into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
