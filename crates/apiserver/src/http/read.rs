//! Get, list and watch.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value, json};

use super::Call;
use super::reply;
use crate::selector::Selector;
use crate::status::{Cause, Status};
use crate::store::Object;
use crate::table;
use crate::watch::{self, Request, Start, View};

/// Base64 for URLs, as lenient as Go's.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// How long a watch lasts that names no timeout.
const WATCH_TIMEOUT: Duration = Duration::from_secs(30 * 60);

pub(super) fn get(call: &Call) -> Result<Response, Status> {
    let view = reply::view(call)?;
    let object = call.server.state().object(&call.kind, &call.place.namespace, &call.place.name).cloned();
    let object = object.ok_or_else(|| Status::not_found(&call.kind, &call.place.name))?;
    Ok(match view {
        View::Object => reply::json_text(200, object.json(&call.kind)),
        View::Metadata => reply::json(200, &table::metadata_only(&object.bare())),
        View::Table(row) => {
            let mut table = table::render(&call.kind, &[object.value(&call.kind)], row);
            table["metadata"]["resourceVersion"] = json!(object.version.to_string());
            reply::json(200, &table)
        }
    })
}

/// A page of a list.
struct Page {
    version: u64,
    objects: Vec<Arc<Object>>,
    token: Option<String>,
    remaining: Option<usize>,
}

pub(super) fn list(call: &Call) -> Result<Response, Status> {
    let view = reply::view(call)?;
    let page = page(call)?;
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), json!(page.version.to_string()));
    if page.token.is_some() || call.kind.custom.is_some() {
        metadata.insert("continue".to_owned(), json!(page.token.clone().unwrap_or_default()));
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".to_owned(), json!(remaining));
    }
    let metadata = Value::Object(metadata);
    Ok(match view {
        View::Object => reply::json_text(200, list_text(call, &metadata, &page.objects)),
        View::Metadata => {
            let items: Vec<Value> = page.objects.iter().map(|o| table::metadata_only(&o.bare())).collect();
            let list = json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items });
            reply::json(200, &list)
        }
        View::Table(row) => {
            let objects: Vec<Value> = page.objects.iter().map(|o| o.value(&call.kind)).collect();
            let mut table = table::render(&call.kind, &objects, row);
            table["metadata"] = without_empty(metadata);
            reply::json(200, &table)
        }
    })
}

fn without_empty(mut metadata: Value) -> Value {
    if let Some(map) = metadata.as_object_mut() {
        map.retain(|_, field| *field != json!(""));
    }
    metadata
}

/// The list as text, the stored bytes copied. Items of built-in kinds do not repeat their type.
fn list_text(call: &Call, metadata: &Value, objects: &[Arc<Object>]) -> Vec<u8> {
    let size: usize = objects.iter().map(|object| object.body.len() + 64).sum();
    let mut text = Vec::with_capacity(size + 256);
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        call.kind.list_kind,
        call.kind.api_version()
    );
    text.extend_from_slice(head.as_bytes());
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        if call.kind.custom.is_some() {
            text.extend_from_slice(&object.json(&call.kind));
        } else {
            text.extend_from_slice(&object.body);
        }
    }
    text.extend_from_slice(b"]}\n");
    text
}

/// Where a list goes on.
struct Continue {
    /// `None` to go on with what there is now.
    version: Option<u64>,
    start: String,
}

impl Continue {
    fn parse(token: &str) -> Result<Continue, Status> {
        let fail = |why: String| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let text = BASE64.decode(token).map_err(|error| fail(error.to_string()))?;
        let value: Value = serde_json::from_slice(&text).map_err(|_| match text.first() {
            Some(byte) if byte.is_ascii_graphic() => {
                fail(format!("invalid character '{}' looking for beginning of value", char::from(*byte)))
            }
            Some(byte) => fail(format!("invalid character '\\x{byte:02x}' looking for beginning of value")),
            None => fail("unexpected end of JSON input".to_owned()),
        })?;
        let start = value["start"].as_str().unwrap_or_default().to_owned();
        match (value["v"].as_str(), value["rv"].as_i64()) {
            (Some("meta.k8s.io/v1"), Some(-1)) => Ok(Continue { version: None, start }),
            (Some("meta.k8s.io/v1"), Some(version)) if version > 0 => {
                Ok(Continue { version: Some(version.unsigned_abs()), start })
            }
            (Some("meta.k8s.io/v1"), _) => Err(fail("incorrect encoded start resourceVersion".to_owned())),
            _ => Err(fail("server does not recognize this encoded version".to_owned())),
        }
    }

    fn token(version: i64, start: &str) -> String {
        let key = json!({ "v": "meta.k8s.io/v1", "rv": version, "start": start });
        BASE64.encode(key.to_string())
    }
}

fn selector(call: &Call) -> Result<Selector, Status> {
    Selector::parse(&call.kind, call.query("labelSelector"), call.query("fieldSelector"))
}

fn page(call: &Call) -> Result<Page, Status> {
    let selector = selector(call)?;
    let version = version(call)?;
    let limit = match call.query("limit").parse::<usize>() {
        // A list from the cache is never cut.
        Ok(limit) if limit > 0 && !(version == Some(0) && call.query("continue").is_empty()) => limit,
        _ => usize::MAX,
    };
    let from = match call.query("continue") {
        "" => None,
        _ if version.is_some_and(|version| version > 0) => {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        token => Some(Continue::parse(token)?),
    };
    let state = call.server.state();
    let collection = state.collection(&call.kind).ok_or_else(Status::unknown_path)?;
    let exact = match &from {
        Some(from) => from.version,
        None if call.query("resourceVersionMatch") == "Exact" => version,
        None => None,
    };
    if let Some(wanted) = exact.or(version).filter(|wanted| *wanted > state.version) {
        return Err(too_new(wanted, state.version));
    }
    let past = match exact.filter(|wanted| *wanted != state.version) {
        Some(wanted) => Some(collection.at(wanted).ok_or_else(|| gone(from.as_ref(), wanted))?),
        None => None,
    };
    let objects = past.as_ref().unwrap_or(&collection.objects);
    let start = from.as_ref().map_or("", |from| from.start.as_str());
    let prefix =
        if call.place.namespace.is_empty() { "/".to_owned() } else { format!("/{}/", call.place.namespace) };
    let lower = if start > prefix.as_str() { start } else { prefix.as_str() };
    let mut rest = objects
        .range::<str, _>((Bound::Included(lower), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(&prefix))
        .filter(|(_, object)| selector.is_empty() || selector.matches(object));
    let found: Vec<Arc<Object>> = rest.by_ref().take(limit).map(|(_, object)| object.clone()).collect();
    let more = rest.count();
    let version = exact.unwrap_or(state.version);
    let token = found.last().filter(|_| more > 0).map(|last| {
        let from = format!("{}\0", last.key());
        Continue::token(i64::try_from(version).unwrap_or(-1), &from)
    });
    let remaining = (more > 0 && selector.is_empty()).then_some(more);
    Ok(Page { version, objects: found, token, remaining })
}

fn version(call: &Call) -> Result<Option<u64>, Status> {
    match call.query("resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            let cause = Cause::invalid("resourceVersion", &format!("{text:?}"), &why);
            Status::invalid("meta.k8s.io", "ListOptions", "", &[cause])
        }),
    }
}

fn too_new(wanted: u64, current: u64) -> Status {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    let mut status = Status::new(504, "Timeout", message);
    status.details = Some(json!({
        "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
        "retryAfterSeconds": 1,
    }));
    status
}

fn gone(from: Option<&Continue>, wanted: u64) -> Status {
    let Some(from) = from else {
        return Status::expired(format!("The resourceVersion for the provided list is too old: {wanted}"));
    };
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of \
         the results. Continuing with the provided token results in an inconsistent list - objects that were \
         created, modified, or deleted between the time the first chunk was returned and now may show up in the \
         list.",
    );
    status.continue_token = Some(Continue::token(-1, &from.start));
    status
}

pub(super) fn watch(call: &Call) -> Result<Response, Status> {
    check_watch_options(call)?;
    let version = version(call)?.unwrap_or(0);
    let start = match (call.flag("sendInitialEvents"), version) {
        (true, _) if call.flag("allowWatchBookmarks") => Start::ObjectsThenBookmark,
        (true, _) => Start::Objects,
        (false, 0) if call.query("sendInitialEvents") == "false" => Start::After(call.server.state().version),
        (false, 0) => Start::Objects,
        (false, version) => Start::After(version),
    };
    let timeout = match call.query("timeoutSeconds").parse::<u64>() {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => WATCH_TIMEOUT,
    };
    let request = Request {
        kind: call.kind.clone(),
        namespace: call.place.namespace.clone(),
        selector: selector(call)?,
        start,
        bookmarks: call.flag("allowWatchBookmarks"),
        timeout,
        view: reply::view(call)?,
    };
    Ok(reply::stream(watch::open(&call.server, request)?))
}

fn check_watch_options(call: &Call) -> Result<(), Status> {
    let matching = call.query("resourceVersionMatch");
    let why = if !call.query("sendInitialEvents").is_empty() && matching != "NotOlderThan" {
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
    } else if call.query("sendInitialEvents").is_empty() && !matching.is_empty() {
        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
    } else {
        return Ok(());
    };
    let cause = Cause::forbidden("resourceVersionMatch", why);
    Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[cause]))
}
