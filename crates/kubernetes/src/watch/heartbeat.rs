//! The watch of Nodes as metadata, in which nearly every line is a heartbeat.
//!
//! A line is first only glanced at: who it is about, and a digest of labels and annotations without the time that an agent
//! writes all 30 s. When the digest is that of the line before, the time is all there is to tell, and no object is made.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use futures::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, Stream, stream};
use kube::core::{Status, WatchEvent};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};

use crate::annotations::LAST_SEEN;

/// The longest line, in bytes: ten times the largest object that is stored. Whoever is between here and the API could
/// send one without an end.
const LONGEST_LINE: u64 = 16 << 20;

/// What a line of a watch tells.
#[derive(Debug)]
pub(super) enum Event<K> {
    /// An object, or something about the watch.
    Whole(WatchEvent<K>),
    /// An object of this watch is as it was; only its heartbeat may be new.
    Heartbeat {
        /// The name of the object.
        name: String,
        /// The position of the watch after this line.
        version: String,
        /// The heartbeat in Unix seconds; `None`: the same as before.
        last_seen: Option<i64>,
    },
}

/// The events of a watch of metadata. Those about the object of the given name are always whole.
pub(super) fn events<K: DeserializeOwned>(
    reader: impl AsyncBufRead + Unpin,
    whole: Option<String>,
) -> impl Stream<Item = kube::Result<Event<K>>> {
    let mut glances = Glances { known: HashMap::new(), whole };
    lines(reader, move |line| glances.read(line))
}

/// The events of a watch of whole objects, all of them whole.
pub(super) fn whole_events<K: DeserializeOwned>(
    reader: impl AsyncBufRead + Unpin,
) -> impl Stream<Item = kube::Result<Event<K>>> {
    lines(reader, whole)
}

/// What lines are read as. After an error of the connection, and after a line that is too long, nothing more comes.
fn lines<T>(
    reader: impl AsyncBufRead + Unpin,
    read: impl FnMut(&[u8]) -> kube::Result<T>,
) -> impl Stream<Item = kube::Result<T>> {
    let lines = Lines { reader, line: Vec::new(), read, is_over: false };
    stream::unfold(lines, |mut lines| async {
        let event = lines.next().await?;
        Some((event, lines))
    })
}

struct Lines<R, F> {
    reader: R,
    line: Vec<u8>,
    read: F,
    is_over: bool,
}

impl<R: AsyncBufRead + Unpin, F> Lines<R, F> {
    async fn next<T>(&mut self) -> Option<kube::Result<T>>
    where
        F: FnMut(&[u8]) -> kube::Result<T>,
    {
        while !self.is_over {
            self.line.clear();
            let mut limited = (&mut self.reader).take(LONGEST_LINE);
            match limited.read_until(b'\n', &mut self.line).await {
                Ok(_) if self.line.last() != Some(&b'\n') => {
                    self.is_over = true;
                    // A shorter line without its end is of a connection that broke.
                    return (limited.limit() == 0).then(|| Err(too_long()));
                }
                Ok(_) if self.line.trim_ascii().is_empty() => {}
                Ok(_) => return Some((self.read)(&self.line)),
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(kube::Error::ReadEvents(error)));
                }
            }
        }
        None
    }
}

fn too_long() -> kube::Error {
    let why = format!("a line of the watch has more than {LONGEST_LINE} bytes; is a proxy in between?");
    kube::Error::SerdeError(serde_json::Error::custom(why))
}

/// What a line says that is more than a heartbeat.
fn whole<K: DeserializeOwned>(line: &[u8]) -> kube::Result<Event<K>> {
    match serde_json::from_slice(line) {
        Ok(event) => Ok(Event::Whole(event)),
        Err(error) => Err(match serde_json::from_slice::<Status>(line) {
            Ok(status) => kube::Error::Api(status.boxed()),
            Err(_) => kube::Error::SerdeError(error),
        }),
    }
}

/// What the lines so far were about.
struct Glances {
    known: HashMap<String, Known>,
    whole: Option<String>,
}

struct Known {
    digest: u64,
    last_seen: i64,
}

impl Glances {
    fn read<K: DeserializeOwned>(&mut self, line: &[u8]) -> kube::Result<Event<K>> {
        // What cannot be glanced at may still be an error of the API, or an object that makes less sense than others.
        if let Ok(Line { kind: "MODIFIED", object: Glance { metadata } }) = serde_json::from_slice(line) {
            if let Some(heartbeat) = self.heartbeat(metadata) {
                return Ok(heartbeat);
            }
        } else {
            self.forget(line);
        }
        whole(line)
    }

    /// `None`: more is new than a heartbeat, or may be.
    fn heartbeat<K>(&mut self, metadata: Metadata<'_>) -> Option<Event<K>> {
        let Metadata { name, resource_version, labels, annotations } = metadata;
        if self.whole.as_deref() == Some(&*name) {
            return None;
        }
        let Some(last_seen) = annotations.last_seen else {
            // An agent that leaves takes its annotations back, and may return with the same.
            self.known.remove(&*name);
            return None;
        };
        let mut hasher = DefaultHasher::new();
        (labels.digest, annotations.digest).hash(&mut hasher);
        let digest = hasher.finish();
        match self.known.get_mut(&*name) {
            Some(known) if known.digest == digest => {
                let before = std::mem::replace(&mut known.last_seen, last_seen);
                let last_seen = (before != last_seen).then_some(last_seen);
                Some(Event::Heartbeat {
                    name: name.into_owned(),
                    version: resource_version.into_owned(),
                    last_seen,
                })
            }
            _ => {
                self.known.insert(name.into_owned(), Known { digest, last_seen });
                None
            }
        }
    }

    /// Whatever this line says of an object, what is known of it does not hold any longer.
    fn forget(&mut self, line: &[u8]) {
        match serde_json::from_slice::<Line<'_, Named<'_>>>(line) {
            Ok(line) => drop(self.known.remove(&*line.object.metadata.name)),
            Err(_) => self.known.clear(),
        }
    }
}

#[derive(Deserialize)]
struct Line<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    object: T,
}

#[derive(Deserialize)]
struct Glance<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    #[serde(default)]
    labels: Texts,
    #[serde(default)]
    annotations: Texts,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    metadata: Name<'a>,
}

#[derive(Deserialize)]
struct Name<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Labels or annotations of which no copy is kept.
///
/// The digest is of all but the heartbeat, in the order of the text, which the API sorts. It has no secret: who makes two
/// sets of annotations with one digest hides from others what the own Node says.
#[derive(Default)]
struct Texts {
    digest: u64,
    last_seen: Option<i64>,
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let (mut hasher, mut last_seen) = (DefaultHasher::new(), None);
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    if key == LAST_SEEN {
                        last_seen = value.parse().ok();
                    } else {
                        (key, value).hash(&mut hasher);
                    }
                }
                Ok(Texts { digest: hasher.finish(), last_seen })
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::StreamExt as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::NodeObject;

    fn line(kind: &str, annotations: Value) -> String {
        let metadata = json!({
            "name": "a", "resourceVersion": "7", "labels": { "x": "y" }, "annotations": annotations,
            "managedFields": [{ "manager": "kubelet" }],
        });
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata });
        format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
    }

    fn seen(last_seen: &str) -> Value {
        json!({ "kilo.squat.ai/last-seen": last_seen, "kilo.squat.ai/key": "k", "other": "\"\u{e9}\n" })
    }

    /// What the lines tell: `whole`, `same`, a heartbeat, or an error.
    fn told(lines: &[String], whole: Option<&str>) -> Vec<String> {
        let text = lines.concat();
        let events = events::<NodeObject>(text.as_bytes(), whole.map(str::to_owned));
        let told = events.map(|event| match event {
            Ok(Event::Whole(WatchEvent::Deleted(_))) => "deleted".to_owned(),
            Ok(Event::Whole(_)) => "whole".to_owned(),
            Ok(Event::Heartbeat { name, version, last_seen: None }) => format!("{name} same at {version}"),
            Ok(Event::Heartbeat { name, version, last_seen: Some(time) }) => {
                format!("{name} {time} at {version}")
            }
            Err(error) => format!("{error:?}").chars().take_while(char::is_ascii_alphabetic).collect(),
        });
        futures::executor::block_on(told.collect())
    }

    #[test]
    fn only_heartbeats_are_told_of_an_object_that_is_as_it_was() {
        let lines = [
            line("MODIFIED", seen("100")),
            line("MODIFIED", seen("100")),
            line("MODIFIED", seen("130")),
            line("MODIFIED", seen("130")),
        ];
        assert_eq!(told(&lines, None), ["whole", "a same at 7", "a 130 at 7", "a same at 7"]);
        assert_eq!(told(&lines, Some("a")), ["whole"; 4]);
        assert_eq!(told(&lines, Some("b"))[1], "a same at 7");
    }

    #[test]
    fn any_other_change_is_told_whole() {
        let mut other = seen("100");
        other["other"] = json!("");
        let mut one_less = seen("100");
        one_less.as_object_mut().unwrap().remove("other");
        let labels = line("MODIFIED", seen("100")).replace("\"y\"", "\"z\"");
        for changed in [line("MODIFIED", other), line("MODIFIED", one_less), labels] {
            let lines = [line("MODIFIED", seen("100")), changed.clone(), changed];
            assert_eq!(told(&lines, None), ["whole", "whole", "a same at 7"]);
        }
    }

    #[test]
    fn what_was_known_of_an_object_ends_with_it() {
        let lines = [
            line("MODIFIED", seen("1")),
            line("DELETED", seen("1")),
            line("ADDED", seen("1")),
            line("MODIFIED", seen("1")),
            line("MODIFIED", seen("1")),
        ];
        assert_eq!(told(&lines, None), ["whole", "deleted", "whole", "whole", "a same at 7"]);
    }

    #[test]
    fn an_agent_that_leaves_and_returns_is_told_whole() {
        let lines = [
            line("MODIFIED", seen("1")),
            line("MODIFIED", json!({ "other": "\"\u{e9}\n" })),
            line("MODIFIED", seen("1")),
        ];
        assert_eq!(told(&lines, None), ["whole"; 3]);
    }

    proptest::proptest! {
        /// Whoever follows what is told knows after each line what the line says.
        #[test]
        fn nothing_is_missed(steps in proptest::collection::vec((0..3usize, 0..6usize, 0..4usize), 1..40)) {
            let annotations = |keys: usize, last_seen: usize| {
                let mut annotations = match keys {
                    0 => json!({}),
                    1 => json!({ "kilo.squat.ai/key": "k" }),
                    2 => json!({ "kilo.squat.ai/key": "l" }),
                    _ => json!({ "kilo.squat.ai/key": "k", "kilo.squat.ai/leader": "" }),
                };
                if let Some(time) = [None, Some("100"), Some("130"), Some("soon")][last_seen] {
                    annotations["kilo.squat.ai/last-seen"] = json!(time);
                }
                annotations
            };
            let mut glances = Glances { known: HashMap::new(), whole: None };
            let mut known: Option<BTreeMap<String, String>> = None;
            for (kind, keys, last_seen) in steps {
                let truth = annotations(keys, last_seen);
                let kind = ["MODIFIED", "MODIFIED", "DELETED"][kind];
                let kind = if known.is_none() { "ADDED" } else { kind };
                match glances.read::<NodeObject>(line(kind, truth.clone()).as_bytes()).unwrap() {
                    Event::Whole(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                        known = Some(object.metadata.annotations.unwrap_or_default());
                    }
                    Event::Whole(WatchEvent::Deleted(_)) => known = None,
                    Event::Heartbeat { last_seen: Some(time), .. } => {
                        known.as_mut().unwrap().insert(LAST_SEEN.to_owned(), time.to_string());
                    }
                    Event::Heartbeat { last_seen: None, .. } => {}
                    other => panic!("{other:?}"),
                }
                let truth: BTreeMap<String, String> = serde_json::from_value(truth).unwrap();
                proptest::prop_assert_eq!(&known, &(kind != "DELETED").then_some(truth));
            }
        }
    }

    /// A Node without an agent, or with a heartbeat that is none: what is to be said of it is said elsewhere.
    #[test]
    fn without_a_heartbeat_everything_is_whole() {
        for annotations in [json!({}), seen("soon")] {
            let lines = [line("MODIFIED", annotations.clone()), line("MODIFIED", annotations)];
            assert_eq!(told(&lines, None), ["whole", "whole"]);
        }
    }

    #[test]
    fn errors_are_those_of_any_watch() {
        let status = r#"{"kind":"Status","status":"Failure","message":"m","reason":"R","code":500}"#;
        let expired = format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n");
        let bookmark = "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Node\",\"apiVersion\":\"v1\",\"metadata\":\
                        {\"resourceVersion\":\"9\"}}}\n";
        let lines = [expired, bookmark.to_owned(), "\n".to_owned(), format!("{status}\n"), "7\n".to_owned()];
        assert_eq!(told(&lines, None), ["whole", "whole", "Api", "SerdeError"]);
        let broken_off = [line("MODIFIED", seen("1")), line("MODIFIED", seen("1")).trim_end().to_owned()];
        assert_eq!(told(&broken_off, None), ["whole"]);
    }

    #[test]
    fn a_line_without_an_end_is_not_read_on() {
        let longest = usize::try_from(LONGEST_LINE).unwrap();
        let good = line("ADDED", seen("1"));
        let padded = format!("{}{good}", " ".repeat(longest - good.len()));
        assert_eq!(told(&[padded.clone(), good.clone()], None), ["whole", "whole"]);
        assert_eq!(told(&[good.clone(), format!(" {padded}"), good.clone()], None), ["whole", "SerdeError"]);

        // One that never ends, watched as metadata and as whole objects.
        let endless = || futures::io::BufReader::new(futures::io::repeat(b'x'));
        let metadata = events::<NodeObject>(endless(), None).collect::<Vec<_>>();
        let objects = whole_events::<NodeObject>(endless()).collect::<Vec<_>>();
        let (metadata, objects) = futures::executor::block_on(futures::future::join(metadata, objects));
        for events in [metadata, objects] {
            assert!(matches!(events[..], [Err(kube::Error::SerdeError(_))]), "{events:?}");
            let message = format!("{:?}", events[0]);
            assert!(message.contains("more than 16777216 bytes"), "{message}");
        }
    }
}
