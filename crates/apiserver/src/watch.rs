//! One watch: initial objects, then changes as they happen, bookmarks, the end. A watcher holds a position in the
//! history of its resource, no queue of its own; one that falls behind the history is told 410.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use crate::Inner;
use crate::resource::Kind;
use crate::selector::Selector;
use crate::status::Status;
use crate::store::{Change, Event, Object, watch_line};
use crate::table::{self, RowObject};

/// How many changes are taken from the store at once.
const BATCH: usize = 256;

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Object,
    Metadata,
    Table(RowObject),
}

/// Where a watch begins.
pub(crate) enum Start {
    /// With the first change after a version.
    After(u64),
    /// With the objects there are.
    Objects,
    /// With the objects there are, then a bookmark that says so.
    ObjectsThenBookmark,
}

/// What a watch sees and for how long.
pub(crate) struct Request {
    pub(crate) kind: Arc<Kind>,
    /// Empty for all.
    pub(crate) namespace: String,
    pub(crate) selector: Selector,
    pub(crate) start: Start,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
    pub(crate) view: View,
}

struct Watcher {
    server: Arc<Inner>,
    request: Request,
    changed: Receiver<u64>,
    /// Position of the next change to look at.
    position: u64,
    initial: VecDeque<Arc<Object>>,
    initial_end: Option<u64>,
    ready: VecDeque<Bytes>,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
    /// A table's columns go out once.
    columns_sent: bool,
}

/// Starts a watch. The stream yields whole lines and ends at the timeout, or after an `ERROR` line.
pub(crate) fn open(
    server: &Arc<Inner>,
    request: Request,
) -> Result<impl Stream<Item = Bytes> + Send + use<>, Status> {
    let watcher = Watcher::new(server, request)?;
    Ok(futures::stream::unfold(watcher, |mut watcher| async move {
        let line = watcher.next().await?;
        Some((line, watcher))
    }))
}

/// The line that tells a watcher about a failure.
pub(crate) fn error_line(status: &Status) -> Bytes {
    line("ERROR", &status.to_value())
}

/// A line of a watch. The type comes first, as it does from a real API: who reads it knows what the object is.
fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

impl Watcher {
    fn new(server: &Arc<Inner>, request: Request) -> Result<Watcher, Status> {
        let state = server.state();
        let collection = state.collection(&request.kind).ok_or_else(Status::unknown_path)?;
        let now = Instant::now();
        let mut watcher = Watcher {
            server: server.clone(),
            changed: collection.subscribe(),
            position: collection.end(),
            initial: VecDeque::new(),
            initial_end: None,
            ready: VecDeque::new(),
            next_bookmark: now + server.bookmark_interval,
            deadline: now + request.timeout,
            ended: false,
            columns_sent: false,
            request,
        };
        match watcher.request.start {
            Start::After(version) => match collection.position_after(version) {
                Some(position) => watcher.position = position,
                None => {
                    let oldest = collection.compacted();
                    watcher.fail(&Status::expired(format!("too old resource version: {version} ({oldest})")));
                }
            },
            Start::Objects | Start::ObjectsThenBookmark => {
                watcher.initial =
                    collection.objects.values().filter(|object| watcher.selects(object)).cloned().collect();
                if matches!(watcher.request.start, Start::ObjectsThenBookmark) {
                    watcher.initial_end = Some(state.version);
                }
            }
        }
        drop(state);
        server.counters.watches_opened.fetch_add(1, Ordering::Relaxed);
        Ok(watcher)
    }

    fn selects(&self, object: &Object) -> bool {
        (self.request.namespace.is_empty() || self.request.namespace == object.namespace)
            && (self.request.selector.is_empty() || self.request.selector.matches(object))
    }

    fn fail(&mut self, status: &Status) {
        self.ready.push_back(error_line(status));
        self.ended = true;
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                self.server.counters.watch_events.fetch_add(1, Ordering::Relaxed);
                return Some(line);
            }
            if self.ended {
                return None;
            }
            if let Some(object) = self.initial.pop_front() {
                let line = self.line_of(Change::Added, &object);
                self.ready.push_back(line);
                continue;
            }
            if let Some(version) = self.initial_end.take() {
                let line = self.bookmark(version, true);
                self.ready.push_back(line);
                continue;
            }
            self.changed.borrow_and_update();
            self.take_changes();
            if self.ready.is_empty() && !self.ended {
                self.wait().await;
            }
        }
    }

    fn take_changes(&mut self) {
        let server = self.server.clone();
        let state = server.state();
        let Some(collection) = state.collection(&self.request.kind) else {
            self.ended = true;
            return;
        };
        let Some(changes) = collection.since(self.position) else {
            let message =
                format!("too old resource version: history before {} is gone", collection.compacted());
            self.fail(&Status::expired(message));
            return;
        };
        let changes: Vec<Arc<Event>> = changes.take(BATCH).cloned().collect();
        drop(state);
        self.position += changes.len() as u64;
        for event in &changes {
            if let Some(line) = self.translate(event) {
                self.ready.push_back(line);
            }
        }
        if self.ready.is_empty() && changes.len() == BATCH {
            // Nothing of a full batch was selected: there may be more, and nobody will wake us for it.
            self.changed.mark_changed();
        }
    }

    /// What this watcher is told about a change: an object that enters its selection is added, one that leaves
    /// it is deleted.
    fn translate(&mut self, event: &Event) -> Option<Bytes> {
        let now = event.change != Change::Deleted && self.selects(&event.object);
        let before = event.previous.as_ref().is_some_and(|object| self.selects(object));
        let change = match (before, now) {
            (false, false) => return None,
            (false, true) => Change::Added,
            (true, true) => Change::Modified,
            (true, false) => Change::Deleted,
        };
        if change == event.change && self.request.view == View::Object {
            return Some(event.line(&self.request.kind));
        }
        match &event.previous {
            Some(previous) if change == Change::Deleted && event.change == Change::Modified => {
                let left = previous.renumbered(event.object.version);
                Some(self.line_of(change, &left))
            }
            _ => Some(self.line_of(change, &event.object)),
        }
    }

    fn line_of(&mut self, change: Change, object: &Object) -> Bytes {
        let kind = &self.request.kind;
        let shown = match self.request.view {
            View::Object => return watch_line(change, object, kind),
            View::Metadata => table::metadata_only(&object.bare()),
            View::Table(row) => {
                let mut table = table::render(kind, &[object.value(kind)], row);
                table["metadata"]["resourceVersion"] = json!(object.version.to_string());
                if self.columns_sent {
                    table["columnDefinitions"] = Value::Null;
                }
                self.columns_sent = true;
                table
            }
        };
        line(change.name(), &shown)
    }

    fn bookmark(&self, version: u64, initial_end: bool) -> Bytes {
        let kind = &self.request.kind;
        let mut object = if kind.custom.is_some() { json!({ "metadata": {} }) } else { kind.empty() };
        match self.request.view {
            View::Object => {
                object["kind"] = json!(kind.kind);
                object["apiVersion"] = json!(kind.api_version());
            }
            View::Metadata => object = table::metadata_only(&object),
            View::Table(row) => object = table::render(kind, &[], row),
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if initial_end {
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        line("BOOKMARK", &object)
    }

    async fn wait(&mut self) {
        tokio::select! {
            changed = self.changed.changed() => {
                if changed.is_err() {
                    self.ended = true;
                }
            }
            () = tokio::time::sleep_until(self.deadline) => self.ended = true,
            () = tokio::time::sleep_until(self.next_bookmark), if self.request.bookmarks => {
                self.next_bookmark = Instant::now() + self.server.bookmark_interval;
                self.mark_progress();
            }
        }
    }

    /// A bookmark is only true if no change lies between our position and the version it names.
    fn mark_progress(&mut self) {
        let server = self.server.clone();
        let state = server.state();
        let current = state.collection(&self.request.kind).map(|c| c.end()) == Some(self.position);
        let version = state.version;
        drop(state);
        if current {
            let line = self.bookmark(version, false);
            self.ready.push_back(line);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.server.counters.watches_closed.fetch_add(1, Ordering::Relaxed);
    }
}
