//! The watch of one resource: first all objects, then every change, again and again.
//!
//! A watch that ends, as all do after some minutes, is resumed where it ended. Only when the API no longer knows
//! that point are all objects asked for again, and only once they are all there is known which are gone.
//!
//! Most events are heartbeats: a changed time in a Node of 10 KB and more. Where what matters besides an object's metadata
//! never changes any more, a watch that is resumed asks for metadata alone, a quarter of it. An object of which no more is
//! known ends that: the watch is resumed right before it, and brings whole objects for as long as it lasts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use futures::{AsyncBufRead, StreamExt as _, stream::BoxStream};
use http::{
    HeaderValue,
    header::{ACCEPT, ACCEPT_ENCODING},
};
use kube::{
    Api, Client,
    api::WatchParams,
    core::{Request, Resource as KubeResource, Status, WatchEvent},
};
use pace::{Backoff, Jitter};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::heartbeat::{self, Event};
use crate::{
    explain::{Explanation, Resource, explain},
    list::{Failed, page},
};

/// How long the API may take to begin a watch.
const BEGIN: Duration = Duration::from_secs(15);
/// How long a watch may be silent: bookmarks come about every minute. Then it is resumed over another connection.
const SILENCE: Duration = Duration::from_secs(90);
/// A resumed watch has caught up when nothing came for the first, or the second has passed since it was resumed. That
/// it cannot be resumed there is said right after the beginning.
const SETTLED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How long a streaming list may be silent before its end. Some versions of the API never send the end.
const LIST_SILENCE: Duration = Duration::from_secs(10);
/// The API ends a watch after this time. As long as `kube` and client-go ask for.
const DURATION_SECONDS: u32 = 290;
/// The first and the longest pause between attempts; the longest is that of client-go.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A watch that held for longer shows that the API is well.
const HELD: Duration = Duration::from_secs(5);
/// The annotation of the bookmark that ends a streaming list.
const LIST_END: &str = "k8s.io/initial-events-end";
/// Asks for metadata alone, but takes whole objects from who cannot give that.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// An object that can be followed.
pub(super) trait Followed:
    KubeResource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// What it has besides its metadata.
    type Rest: PartialEq + Send;

    /// What this object has besides its metadata, once that never changes any more.
    fn rest(&self) -> Option<Self::Rest>;

    /// Adds to an object that came as metadata alone what it had before.
    fn complete(&mut self, rest: &Self::Rest);
}

/// How much of each object a watch brings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Metadata,
}

/// What a follower tells.
#[derive(Debug)]
pub(super) enum Report<T> {
    /// An object means something else than before, or (`None`) is gone.
    Changed(String, Option<T>),
    /// An object means the same as before, but for its heartbeat in Unix seconds.
    Heartbeat(String, i64),
    /// All objects have been told and changes arrive; after the beginning and after `Broken`.
    Synced,
    /// Nothing arrives, and why.
    Broken(Explanation),
}

/// Follows one resource.
pub(super) struct Follower<K: Followed, T, D> {
    api: Api<K>,
    resource: Resource,
    decode: D,
    reports: mpsc::Sender<Report<T>>,
    /// The object of which every annotation matters.
    own: Option<String>,
    /// What the objects meant when they were last seen, but for heartbeats.
    known: BTreeMap<String, T>,
    /// What those had besides metadata of which it never changes any more.
    rests: BTreeMap<String, K::Rest>,
    /// How much the next watch is to bring, as far as what is known would do with metadata.
    extent: Extent,
    /// Whether the API gives a list as the beginning of a watch (Kubernetes 1.32, in general).
    streaming: bool,
    /// Whether the last of `Synced` and `Broken` was the former.
    synced: bool,
}

/// Why an attempt ended.
enum End {
    /// The watch ended, as watches do. It can be resumed here.
    Over(String),
    /// The API no longer knows, or never told, where to resume.
    Lost,
    /// It did not work. With a position it can be resumed there.
    Failed(Explanation, Option<String>),
    /// Nobody listens any more.
    Unheard,
}

/// The listener is gone.
struct Unheard;

impl From<Unheard> for End {
    fn from(_: Unheard) -> Self {
        End::Unheard
    }
}

type Events<K> = BoxStream<'static, kube::Result<Event<K>>>;

impl<K, T, D> Follower<K, T, D>
where
    K: Followed,
    T: Clone + PartialEq + Send,
    D: Fn(&K) -> T + Send,
{
    pub fn new(api: Api<K>, resource: Resource, decode: D, reports: mpsc::Sender<Report<T>>) -> Self {
        Self {
            api,
            resource,
            decode,
            reports,
            own: None,
            known: BTreeMap::new(),
            rests: BTreeMap::new(),
            extent: Extent::Metadata,
            streaming: true,
            synced: false,
        }
    }

    /// Of the object of this name no change is taken for a heartbeat.
    pub fn with_own(mut self, own: Option<String>) -> Self {
        self.own = own;
        self
    }

    /// Follows until nobody listens any more.
    pub async fn run(mut self) {
        // Many agents lose the API at the same moment; they are not to come back at the same moment.
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, Jitter::of(&rand::random::<[u8; 8]>()));
        let mut position = None;
        loop {
            let begun = Instant::now();
            let end = match position.take() {
                Some(position) => self.resume(position).await,
                None => self.begin().await,
            };
            // One that got nowhere for as long does not.
            if self.synced && begun.elapsed() > HELD {
                backoff.succeed();
            }
            let mut asked = None;
            let wait = match end {
                // Most often it is enough to connect again, and whether the API is away shows then.
                End::Over(at) => {
                    position = Some(at);
                    begun.elapsed() < PAUSE.0
                }
                End::Lost => begun.elapsed() < PAUSE.0,
                End::Failed(explanation, at) => {
                    position = at;
                    tracing::debug!(
                        resource = self.resource.name(),
                        why = explanation.message,
                        "watch failed"
                    );
                    self.synced = false;
                    asked = explanation.retry_after;
                    if self.reports.send(Report::Broken(explanation)).await.is_err() {
                        return;
                    }
                    true
                }
                End::Unheard => return,
            };
            if wait {
                sleep(backoff.pause_as_asked(asked, PAUSE.1)).await;
            }
        }
    }

    /// Asks for all objects and follows the changes from there.
    async fn begin(&mut self) -> End {
        if self.streaming {
            match self.begin_streaming().await {
                Ok(end) => return end,
                Err(why) => {
                    tracing::debug!(
                        resource = self.resource.name(),
                        why,
                        "no streaming list, listing instead"
                    );
                    self.streaming = false;
                }
            }
        }
        match self.list().await {
            Ok(position) => self.resume(position).await,
            Err(end) => end,
        }
    }

    /// Asks for all objects as the beginning of a watch. An error says why the API cannot do that.
    async fn begin_streaming(&mut self) -> Result<End, String> {
        let mut events = match self.open("", WatchParams::streaming_lists(), Extent::Whole).await {
            Ok(events) => events,
            Err(Failed { code: Some(400 | 405 | 422), explanation }) => return Err(explanation.message),
            Err(Failed { code: Some(410), .. }) => return Ok(End::Lost),
            Err(Failed { explanation, .. }) => return Ok(End::Failed(explanation, None)),
        };
        let mut seen = BTreeSet::new();
        loop {
            let Ok(event) = timeout(LIST_SILENCE, events.next()).await else {
                return Err(format!("its end did not come within {} s", LIST_SILENCE.as_secs()));
            };
            let told = match event {
                Some(Ok(Event::Whole(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                    seen.insert(name_of(&object).to_owned());
                    self.keep_rest(&object);
                    self.changed(&object).await
                }
                Some(Ok(Event::Whole(WatchEvent::Deleted(object)))) => {
                    seen.remove(name_of(&object));
                    self.gone(name_of(&object)).await
                }
                Some(Ok(Event::Whole(WatchEvent::Bookmark(bookmark))))
                    if bookmark.metadata.annotations.contains_key(LIST_END) =>
                {
                    return Ok(match self.complete(&seen).await {
                        Ok(()) if self.extent() == Extent::Metadata => {
                            drop(events);
                            self.resume(bookmark.metadata.resource_version).await
                        }
                        Ok(()) => {
                            self.follow(events, bookmark.metadata.resource_version, Extent::Whole).await
                        }
                        Err(Unheard) => End::Unheard,
                    });
                }
                Some(Ok(Event::Whole(WatchEvent::Bookmark(_)) | Event::Heartbeat { .. })) => Ok(()),
                Some(Ok(Event::Whole(WatchEvent::Error(status)))) if matches!(status.code, 400 | 422) => {
                    return Err(status.message);
                }
                Some(Ok(Event::Whole(WatchEvent::Error(status)))) => return Ok(self.error(status, None)),
                Some(Err(error)) => return Ok(End::Failed(explain(&error, "watch", self.resource), None)),
                None => return Ok(End::Failed(Explanation::of_early_end(), None)),
            };
            if told.is_err() {
                return Ok(End::Unheard);
            }
        }
    }

    /// Asks for all objects, page by page, and gives the position from which to watch.
    async fn list(&mut self) -> Result<String, End> {
        let mut seen = BTreeSet::new();
        let mut token = None;
        loop {
            let page = match page(&self.api, token, self.resource).await {
                Ok(page) => page,
                Err(Failed { code: Some(410), .. }) => return Err(End::Lost),
                Err(Failed { explanation, .. }) => return Err(End::Failed(explanation, None)),
            };
            for object in &page.items {
                seen.insert(name_of(object).to_owned());
                self.keep_rest(object);
                self.changed(object).await?;
            }
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                self.complete(&seen).await?;
                return page.metadata.resource_version.ok_or(End::Lost);
            }
        }
    }

    /// How much the next watch has to bring: metadata, where of every object all else is known.
    fn extent(&self) -> Extent {
        if self.known.is_empty() || self.rests.len() < self.known.len() { Extent::Whole } else { self.extent }
    }

    /// Follows the changes from a position.
    async fn resume(&mut self, position: String) -> End {
        let extent = self.extent();
        // Once this one ends, metadata may be enough again.
        self.extent = Extent::Metadata;
        match self.open(&position, WatchParams::default(), extent).await {
            Ok(events) => self.follow(events, position, extent).await,
            Err(Failed { code: Some(410), .. }) => End::Lost,
            Err(Failed { code, explanation }) => {
                // Any other answer may be about the position (as after a restore of the cluster's database, when
                // positions are ahead), but these are not.
                let keep = matches!(code, None | Some(401 | 403 | 429 | 500 | 502 | 503));
                End::Failed(explanation, keep.then_some(position))
            }
        }
    }

    async fn follow(&mut self, mut events: Events<K>, mut position: String, extent: Extent) -> End {
        let begun = Instant::now();
        loop {
            let wait = match self.synced {
                true => SILENCE,
                false => SETTLED.0.min(SETTLED.1.saturating_sub(begun.elapsed())),
            };
            let event = match timeout(wait, events.next()).await {
                Ok(Some(event)) => event,
                // Silence and broken connections are no failures yet: whether the API is away shows when the watch is
                // resumed.
                Ok(None) => return End::Over(position),
                Err(_) if self.synced => return End::Over(position),
                Err(_) => match self.tell_synced().await {
                    Ok(()) => continue,
                    Err(Unheard) => return End::Unheard,
                },
            };
            let told = match event {
                Ok(Event::Whole(WatchEvent::Added(mut object) | WatchEvent::Modified(mut object))) => {
                    if !self.complete_object(&mut object, extent) {
                        self.extent = Extent::Whole;
                        return End::Over(position);
                    }
                    keep_position(&object, &mut position);
                    self.changed(&object).await
                }
                Ok(Event::Whole(WatchEvent::Deleted(object))) => {
                    keep_position(&object, &mut position);
                    self.gone(name_of(&object)).await
                }
                Ok(Event::Heartbeat { name, version, last_seen }) => {
                    position = version;
                    match last_seen {
                        Some(last_seen) => self.tell(Report::Heartbeat(name, last_seen)).await,
                        None => Ok(()),
                    }
                }
                Ok(Event::Whole(WatchEvent::Bookmark(bookmark))) => {
                    position = bookmark.metadata.resource_version;
                    Ok(())
                }
                Ok(Event::Whole(WatchEvent::Error(status))) => return self.error(status, Some(position)),
                Err(error @ (kube::Error::SerdeError(_) | kube::Error::Api(_))) => {
                    return End::Failed(explain(&error, "watch", self.resource), Some(position));
                }
                Err(_) => return End::Over(position),
            };
            if told.is_err() {
                return End::Unheard;
            }
        }
    }

    /// What an error in the middle of a watch means.
    fn error(&self, status: Box<Status>, position: Option<String>) -> End {
        if status.code == 410 {
            return End::Lost;
        }
        let keep = matches!(status.code, 429 | 500 | 503);
        let explanation = explain(&kube::Error::Api(status), "watch", self.resource);
        End::Failed(explanation, position.filter(|_| keep))
    }

    async fn open(&self, position: &str, params: WatchParams, extent: Extent) -> Result<Events<K>, Failed> {
        let params = params.timeout(DURATION_SECONDS);
        let opened = async {
            match extent {
                Extent::Whole => self.watch_whole(&params, position).await,
                Extent::Metadata => self.watch_metadata(&params, position).await,
            }
        };
        match timeout(BEGIN, opened).await {
            Ok(Ok(events)) => Ok(events),
            Ok(Err(error)) => Err(Failed::new(&error, "watch", self.resource)),
            Err(_) => Err(Failed::of_silence(BEGIN)),
        }
    }

    /// As `Api::watch`, but with a bound for a line.
    async fn watch_whole(&self, params: &WatchParams, position: &str) -> kube::Result<Events<K>> {
        let mut request = Request::new(self.api.resource_url())
            .watch(params, position)
            .map_err(kube::Error::BuildRequest)?;
        request.extensions_mut().insert("watch");
        Ok(heartbeat::whole_events(lines(self.api.clone().into_client(), request).await?).boxed())
    }

    /// As `Api::watch_metadata`, but for objects of our own, which leave out most of the metadata as well, and heartbeats.
    async fn watch_metadata(&self, params: &WatchParams, position: &str) -> kube::Result<Events<K>> {
        let mut request = Request::new(self.api.resource_url())
            .watch_metadata(params, position)
            .map_err(kube::Error::BuildRequest)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA));
        request.extensions_mut().insert("watch_metadata");
        Ok(heartbeat::events(lines(self.api.clone().into_client(), request).await?, self.own.clone()).boxed())
    }

    /// Keeps what a whole object has besides its metadata.
    fn keep_rest(&mut self, object: &K) {
        let name = name_of(object);
        match object.rest() {
            Some(rest) if self.rests.get(name) == Some(&rest) => {}
            Some(rest) => drop(self.rests.insert(name.to_owned(), rest)),
            None => drop(self.rests.remove(name)),
        }
    }

    /// Makes a whole object of what a watch brought, if that is possible.
    fn complete_object(&mut self, object: &mut K, extent: Extent) -> bool {
        if extent == Extent::Metadata && object.rest().is_none() {
            let rest = self.rests.get(name_of(object));
            return rest.map(|rest| object.complete(rest)).is_some();
        }
        self.keep_rest(object);
        true
    }

    async fn changed(&mut self, object: &K) -> Result<(), Unheard> {
        let name = name_of(object);
        let meaning = (self.decode)(object);
        if self.known.get(name) == Some(&meaning) {
            return Ok(());
        }
        self.known.insert(name.to_owned(), meaning.clone());
        self.tell(Report::Changed(name.to_owned(), Some(meaning))).await
    }

    async fn gone(&mut self, name: &str) -> Result<(), Unheard> {
        self.rests.remove(name);
        match self.known.remove(name) {
            Some(_) => self.tell(Report::Changed(name.to_owned(), None)).await,
            None => Ok(()),
        }
    }

    /// All objects there are have been seen: the others are gone.
    async fn complete(&mut self, seen: &BTreeSet<String>) -> Result<(), Unheard> {
        let gone: Vec<String> = self.known.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        for name in gone {
            self.gone(&name).await?;
        }
        self.tell_synced().await
    }

    async fn tell_synced(&mut self) -> Result<(), Unheard> {
        if std::mem::replace(&mut self.synced, true) {
            return Ok(());
        }
        self.tell(Report::Synced).await
    }

    async fn tell(&self, report: Report<T>) -> Result<(), Unheard> {
        self.reports.send(report).await.map_err(|_| Unheard)
    }
}

/// What the API answers to a watch.
async fn lines(
    client: Client,
    mut request: http::Request<Vec<u8>>,
) -> kube::Result<impl AsyncBufRead + Unpin + Send + 'static> {
    // As `Api::watch`: Kubernetes 1.37 compresses every event by itself, which the client cannot read.
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(Box::pin(client.request_stream(request).await?))
}

fn name_of<K: KubeResource<DynamicType = ()>>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

fn keep_position<K: KubeResource<DynamicType = ()>>(object: &K, position: &mut String) {
    if let Some(version) = object.meta().resource_version.as_ref().filter(|version| !version.is_empty()) {
        position.clone_from(version);
    }
}
