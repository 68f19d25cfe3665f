//! The place of one connection: what its input and output show of the phase it is in, and its end when that takes too
//! long or the place is given to another.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::slots::{Admission, Ends, Id, Phase, Slots};

/// The connections of a listener, shared by them.
pub(super) type Shared = Arc<Mutex<Slots<Arc<Notify>>>>;

/// A connection's place. Dropped with the connection, it is free again.
pub(super) struct Place {
    id: Id,
    slots: Shared,
    /// The place is given to another connection.
    given_away: Arc<Notify>,
    /// The connection waits for something else.
    turned: Notify,
}

impl Place {
    /// A place for a new connection, at the cost of another one if need be; `None`: there is none.
    pub fn take(slots: &Shared, ends: Ends) -> Option<Arc<Self>> {
        let given_away = Arc::new(Notify::new());
        let admission = lock(slots).admit(ends, given_away.clone(), Instant::now());
        let id = match admission {
            Admission::Free(id) => id,
            Admission::InsteadOf(id, other) => {
                other.notify_one();
                id
            }
            Admission::Refused => return None,
        };
        Some(Arc::new(Self { id, slots: slots.clone(), given_away, turned: Notify::new() }))
    }

    /// Waits until the connection has to end.
    pub async fn over(&self) {
        loop {
            let deadline = lock(&self.slots).deadline(self.id);
            let Some(deadline) = deadline.filter(|deadline| *deadline > Instant::now()) else { return };
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => {}
                () = self.turned.notified() => {}
                () = self.given_away.notified() => return,
            }
        }
    }

    fn turn(&self, phase: Phase) {
        lock(&self.slots).turn(self.id, phase, Instant::now());
        self.turned.notify_one();
    }

    fn phase(&self) -> Option<Phase> {
        lock(&self.slots).phase(self.id)
    }

    /// A request has arrived, as far as its head.
    pub fn begin(&self, has_body: bool) {
        self.turn(if has_body { Phase::Body } else { Phase::Answering });
    }

    /// All of a request has arrived.
    fn arrived(&self) {
        if self.phase() == Some(Phase::Body) {
            self.turn(Phase::Answering);
        }
    }

    /// The answer goes out.
    pub fn answered(&self) {
        self.turn(Phase::Taking { from: Instant::now() });
    }

    /// Bytes have arrived.
    fn read(&self) {
        if self.phase() == Some(Phase::Idle) {
            self.turn(Phase::Head);
        }
    }

    /// The client has taken all there was for it.
    fn flushed(&self, more: bool) {
        if let Some(Phase::Taking { from }) = self.phase() {
            self.turn(if more { Phase::Taking { from } } else { Phase::Idle });
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.slots).remove(self.id);
    }
}

fn lock(slots: &Shared) -> MutexGuard<'_, Slots<Arc<Notify>>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a part of the last answer is still to be made. HTTP/1 answers in order, so there is one at a time.
#[derive(Clone, Default)]
pub(super) struct Pending(Arc<AtomicBool>);

impl Pending {
    fn set(&self, pending: bool) {
        self.0.store(pending, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream whose reads and writes show what its connection waits for.
pub(super) struct Watched<S> {
    pub stream: S,
    pub place: Arc<Place>,
    pub pending: Pending,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.place.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        if polled.is_ready() {
            self.place.flushed(self.pending.get());
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of a request or an answer, and what happens once it has ended, or nobody wants more of it.
struct Followed<B, F: FnMut()> {
    body: B,
    at_end: F,
}

impl<B: HttpBody, F: FnMut()> Followed<B, F> {
    fn of(body: B, mut at_end: F) -> Self {
        if body.is_end_stream() {
            at_end();
        }
        Self { body, at_end }
    }
}

impl<B, F: FnMut()> Drop for Followed<B, F> {
    fn drop(&mut self) {
        (self.at_end)();
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin, F: FnMut() + Unpin> HttpBody for Followed<B, F> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let ended = match &polled {
            Poll::Ready(None | Some(Err(_))) => true,
            Poll::Ready(Some(Ok(_))) => self.body.is_end_stream(),
            Poll::Pending => false,
        };
        if ended {
            (self.at_end)();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request; when all of it is there, the connection waits for us.
pub(super) fn arriving(body: Incoming, place: &Arc<Place>) -> Body {
    let place = place.clone();
    place.begin(!body.is_end_stream());
    Body::new(Followed::of(body, move || place.arrived()))
}

/// The body of an answer; when all of it is handed over, what is left of it is in buffers.
pub(super) fn leaving(body: Body, place: &Place, pending: &Pending) -> Body {
    place.answered();
    pending.set(true);
    let pending = pending.clone();
    Body::new(Followed::of(body, move || pending.set(false)))
}
