//! What is stored: objects by resource, one counter of resource versions, and the latest changes of each
//! resource for watches. It knows nothing of validation, patches or HTTP.
//!
//! Objects are held as JSON text and parsed when one is read or written: ten thousand Nodes of 13 KB then cost
//! what their text costs, and lists and watches copy bytes instead of serialising trees.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use crate::events;
use crate::resource::{CollectionKey, Kind};

/// The first resource version of a fresh server; everything before it counts as compacted.
const FIRST_VERSION: u64 = 1000;

/// One stored object in one of its versions. Immutable.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) name: String,
    /// Empty for cluster-scoped kinds.
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) version: u64,
    /// The JSON object without `apiVersion` and `kind`.
    pub(crate) body: Bytes,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

/// A change as watches see it.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) change: Change,
    pub(crate) object: Arc<Object>,
    pub(crate) previous: Option<Arc<Object>>,
    line: OnceLock<(String, Bytes)>,
}

/// All objects of one resource, and its latest changes.
#[derive(Debug)]
pub(crate) struct Collection {
    pub(crate) objects: BTreeMap<String, Arc<Object>>,
    events: VecDeque<Arc<Event>>,
    /// Position of `events[0]` in the sequence of all changes.
    first: u64,
    /// Changes up to this version are no longer known.
    compacted: u64,
    changed: watch::Sender<u64>,
}

/// The whole content of a server.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) version: u64,
    pub(crate) kinds: Vec<Arc<Kind>>,
    collections: BTreeMap<CollectionKey, Collection>,
    history: usize,
}

/// A write found another version than the one it was computed from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Raced;

impl Object {
    /// An object as it is stored under a resource version.
    pub(crate) fn new(mut value: Value, version: u64) -> Object {
        strip(&mut value, version);
        Object::parse(&value, version)
    }

    /// Takes a stripped object apart.
    fn parse(value: &Value, version: u64) -> Object {
        let metadata = &value["metadata"];
        let labels = metadata["labels"]
            .as_object()
            .map(|map| map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect());
        Object {
            name: metadata["name"].as_str().unwrap_or_default().to_owned(),
            namespace: metadata["namespace"].as_str().unwrap_or_default().to_owned(),
            labels: labels.unwrap_or_default(),
            version,
            body: Bytes::from(value.to_string()),
        }
    }

    /// The object parsed, without `apiVersion` and `kind`.
    pub(crate) fn bare(&self) -> Value {
        serde_json::from_slice(&self.body).expect("invariant: bodies are written by serde_json")
    }

    /// The object parsed, with `apiVersion` and `kind`.
    pub(crate) fn value(&self, kind: &Kind) -> Value {
        let mut value = self.bare();
        value["apiVersion"] = kind.api_version().into();
        value["kind"] = kind.kind.as_str().into();
        value
    }

    /// The object's JSON text, with `apiVersion` and `kind`.
    pub(crate) fn json(&self, kind: &Kind) -> Vec<u8> {
        let mut text =
            format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", kind.kind, kind.api_version()).into_bytes();
        text.extend_from_slice(&self.body[1..]);
        text
    }

    /// The same content under another resource version.
    pub(crate) fn renumbered(&self, version: u64) -> Object {
        Object::new(self.bare(), version)
    }

    pub(crate) fn key(&self) -> String {
        object_key(&self.namespace, &self.name)
    }
}

/// The key of an object in its collection, in the order lists are given in.
pub(crate) fn object_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { format!("/{name}") } else { format!("/{namespace}/{name}") }
}

impl Change {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

impl Event {
    /// The event as a line of a watch in `kind`'s version; made once and shared by all watchers.
    pub(crate) fn line(&self, kind: &Kind) -> Bytes {
        let (version, line) =
            self.line.get_or_init(|| (kind.version.clone(), watch_line(self.change, &self.object, kind)));
        if *version == kind.version { line.clone() } else { watch_line(self.change, &self.object, kind) }
    }
}

/// `{"type": …, "object": …}` and a line break.
pub(crate) fn watch_line(change: Change, object: &Object, kind: &Kind) -> Bytes {
    let mut text = format!("{{\"type\":\"{}\",\"object\":", change.name()).into_bytes();
    text.reserve(object.body.len() + 96);
    text.extend_from_slice(&object.json(kind));
    text.extend_from_slice(b"}\n");
    Bytes::from(text)
}

impl Collection {
    fn new(version: u64) -> Collection {
        Collection {
            objects: BTreeMap::new(),
            events: VecDeque::new(),
            first: 0,
            compacted: version,
            changed: watch::Sender::new(0),
        }
    }

    /// The position behind the latest change.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The oldest version a watch may start after.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// The position of the first change after `version`; `None` if changes since then are forgotten.
    pub(crate) fn position_after(&self, version: u64) -> Option<u64> {
        if version < self.compacted {
            return None;
        }
        Some(self.first + self.events.partition_point(|event| event.object.version <= version) as u64)
    }

    /// The changes from `position` on; `None` if some of them are forgotten.
    pub(crate) fn since(&self, position: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let skip = position.checked_sub(self.first)?;
        Some(self.events.range((skip as usize).min(self.events.len())..))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The objects as they were at `version`; `None` if the changes since then are forgotten.
    pub(crate) fn at(&self, version: u64) -> Option<BTreeMap<String, Arc<Object>>> {
        let position = self.position_after(version)?;
        let mut objects = self.objects.clone();
        let later: Vec<_> = self.since(position)?.collect();
        for event in later.into_iter().rev() {
            match &event.previous {
                Some(previous) => objects.insert(previous.key(), previous.clone()),
                None => objects.remove(&event.object.key()),
            };
        }
        Some(objects)
    }

    fn push(&mut self, change: Change, object: Arc<Object>, previous: Option<Arc<Object>>, history: usize) {
        let key = object.key();
        if change == Change::Deleted {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, object.clone());
        }
        self.events.push_back(Arc::new(Event { change, object, previous, line: OnceLock::new() }));
        while self.events.len() > history {
            self.forget_first();
        }
        let end = self.end();
        self.changed.send_replace(end);
    }

    fn forget_first(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.first += 1;
            self.compacted = event.object.version;
        }
    }
}

impl State {
    /// `history`: how many changes are kept per resource.
    pub(crate) fn new(kinds: Vec<Arc<Kind>>, history: usize) -> State {
        let mut state =
            State { version: FIRST_VERSION, kinds: Vec::new(), collections: BTreeMap::new(), history };
        for kind in kinds {
            state.register(kind);
        }
        state
    }

    /// Adds a kind, or replaces it in the same version.
    pub(crate) fn register(&mut self, kind: Arc<Kind>) {
        let version = self.version;
        self.collections.entry(kind.collection()).or_insert_with(|| Collection::new(version));
        let same =
            |k: &Arc<Kind>| k.group == kind.group && k.version == kind.version && k.plural == kind.plural;
        match self.kinds.iter().position(same) {
            Some(at) => self.kinds[at] = kind,
            None => self.kinds.push(kind),
        }
    }

    /// Removes all versions of a kind and all its objects; watches of it end.
    pub(crate) fn unregister(&mut self, group: &str, plural: &str) {
        self.kinds.retain(|k| k.group != group || k.plural != plural);
        self.collections.remove(&(group.to_owned(), plural.to_owned()));
    }

    /// Drops the versions of a kind that are not among `kinds`.
    pub(crate) fn retain_versions(&mut self, group: &str, plural: &str, kinds: &[Arc<Kind>]) {
        self.kinds.retain(|k| {
            k.group != group || k.plural != plural || kinds.iter().any(|other| other.version == k.version)
        });
    }

    /// Removes every object of a namespace.
    pub(crate) fn empty_namespace(&mut self, namespace: &str) {
        let kinds: Vec<Arc<Kind>> = self.kinds.iter().filter(|kind| kind.namespaced()).cloned().collect();
        for kind in kinds {
            let Some(collection) = self.collection(&kind) else { continue };
            let inside: Vec<Arc<Object>> =
                collection.objects.values().filter(|object| object.namespace == namespace).cloned().collect();
            for object in inside {
                // An event is gone already when its twin was removed.
                let _gone = self.remove(&kind, namespace, &object.name, object.version);
            }
        }
    }

    pub(crate) fn kind(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.kinds.iter().find(|k| k.group == group && k.version == version && k.plural == plural).cloned()
    }

    pub(crate) fn collection(&self, kind: &Kind) -> Option<&Collection> {
        self.collections.get(&kind.collection())
    }

    pub(crate) fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.collection(kind)?.objects.get(&object_key(namespace, name))
    }

    /// Forgets all changes: watches and list continuations from before now are answered with 410.
    pub(crate) fn compact(&mut self) {
        let version = self.version;
        for collection in self.collections.values_mut() {
            while !collection.events.is_empty() {
                collection.forget_first();
            }
            collection.compacted = version;
        }
    }

    /// Stores `value` in place of the version `replaces` (`None`: the object must not exist).
    pub(crate) fn put(
        &mut self,
        kind: &Kind,
        value: Value,
        replaces: Option<u64>,
    ) -> Result<Arc<Object>, Raced> {
        let key = object_key(
            value["metadata"]["namespace"].as_str().unwrap_or_default(),
            value["metadata"]["name"].as_str().unwrap_or_default(),
        );
        let previous = self.collection(kind).ok_or(Raced)?.objects.get(&key).cloned();
        if previous.as_ref().map(|p| p.version) != replaces {
            return Err(Raced);
        }
        self.version += 1;
        let object = Arc::new(Object::new(value, self.version));
        let change = if previous.is_some() { Change::Modified } else { Change::Added };
        self.record(kind, change, &object, previous);
        Ok(object)
    }

    /// Removes the version `replaces` of an object; the result carries the version of the removal.
    pub(crate) fn remove(
        &mut self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        replaces: u64,
    ) -> Result<Arc<Object>, Raced> {
        let previous = self.object(kind, namespace, name).cloned().ok_or(Raced)?;
        if previous.version != replaces {
            return Err(Raced);
        }
        self.version += 1;
        let object = Arc::new(previous.renumbered(self.version));
        self.record(kind, Change::Deleted, &object, Some(previous));
        Ok(object)
    }

    fn record(&mut self, kind: &Kind, change: Change, object: &Arc<Object>, previous: Option<Arc<Object>>) {
        let history = self.history;
        if let Some((twin, convert)) = events::twin(kind)
            && let Some(collection) = self.collections.get_mut(&twin)
        {
            let converted = Arc::new(Object::new(convert(object.bare()), object.version));
            let before = collection.objects.get(&object.key()).cloned();
            collection.push(change, converted, before, history);
        }
        if let Some(collection) = self.collections.get_mut(&kind.collection()) {
            collection.push(change, object.clone(), previous, history);
        }
    }
}

fn strip(value: &mut Value, version: u64) {
    if let Some(map) = value.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    value["metadata"]["resourceVersion"] = version.to_string().into();
}
