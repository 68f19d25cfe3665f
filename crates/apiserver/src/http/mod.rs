//! HTTP: from a request to the operation it asks for, and back. What operations do is decided elsewhere.

mod path;
mod read;
mod reply;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::Response;

use crate::Inner;
use crate::auth::Attempt;
use crate::discovery;
use crate::openapi;
use crate::resource::{Feature, Kind};
use crate::status::Status;
use crate::write::Part;

use path::{Place, Route};

/// The largest request body, in bytes (as in kube-apiserver).
const LARGEST_BODY: usize = 3 << 20;

/// All of HTTP behind one fallback: the paths depend on which kinds are registered.
pub(crate) fn router(server: Arc<Inner>) -> Router {
    Router::new().fallback(serve).with_state(server)
}

/// One request on objects, its path resolved and its user known.
struct Call {
    server: Arc<Inner>,
    kind: Arc<Kind>,
    place: Place,
    part: Part,
    query: Vec<(String, String)>,
    headers: HeaderMap,
}

impl Call {
    /// A query parameter; empty if it is absent.
    fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.query(name), "true" | "1")
    }

    fn header(&self, name: header::HeaderName) -> &str {
        text(&self.headers, name)
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

async fn serve(State(server): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let response = match path::parse(parts.uri.path()) {
        Route::Place(place) => match resolve(&server, place, &parts.method, &parts.uri, &parts.headers) {
            Ok(call) => dispatch(call, &parts.method, body).await,
            Err(refusal) => *refusal,
        },
        route => {
            server.counters.count("other");
            plain(&server, &route, &parts.headers)
        }
    };
    reply::counted(&server, response)
}

/// Everything that is not about objects.
fn plain(server: &Arc<Inner>, route: &Route, headers: &HeaderMap) -> Response {
    if let Err(status) =
        server.access().user(headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()))
    {
        return reply::failure(&status);
    }
    let accept = text(headers, header::ACCEPT);
    match route {
        Route::Health => reply::plain(200, "ok"),
        Route::Version => reply::json(200, &discovery::version()),
        Route::Core => match discovery::core(server, accept, text(headers, header::HOST)) {
            (document, Some(media)) => reply::json_as(200, &document, media),
            (document, None) => reply::json(200, &document),
        },
        Route::Groups => match discovery::groups(server, accept) {
            (document, Some(media)) => reply::json_as(200, &document, media),
            (document, None) => reply::json(200, &document),
        },
        Route::Group(group) => found(discovery::group(server, group)),
        Route::Resources(group, version) => found(discovery::resources(server, group, version)),
        Route::OpenApi2 => reply::json(200, &openapi::v2()),
        Route::OpenApi3 => reply::json(200, &openapi::index(server)),
        Route::OpenApi3Group(group, version) => found(openapi::v3(server, group, version)),
        Route::Place(_) | Route::Unknown => reply::page_not_found(),
    }
}

fn found(document: Option<serde_json::Value>) -> Response {
    document.map_or_else(reply::page_not_found, |document| reply::json(200, &document))
}

fn resolve(
    server: &Arc<Inner>,
    place: Place,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Call, Box<Response>> {
    let kind = server.state().kind(&place.group, &place.version, &place.resource);
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri).map(|Query(pairs)| pairs);
    let query = query.map_err(|error| Box::new(reply::failure(&Status::bad_request(error.body_text()))))?;
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let access = server.access();
    let user = access.user(authorization).map_err(|status| {
        server.counters.count("other");
        Box::new(reply::failure(&status))
    })?;
    let Some(kind) = kind else {
        server.counters.count("other");
        return Err(Box::new(reply::page_not_found()));
    };
    let watch = query.iter().any(|(key, value)| key == "watch" && matches!(value.as_str(), "true" | "1"));
    let verb = verb(method, &place, watch);
    server.counters.count(verb);
    let attempt = Attempt {
        user: &user,
        verb,
        kind: &kind,
        subresource: &place.subresource,
        namespace: &place.namespace,
        name: &place.name,
    };
    access.check(&attempt).map_err(|status| Box::new(reply::failure(&status)))?;
    drop(access);
    let part = match place.subresource.as_str() {
        "" => Part::Main,
        "status" if kind.has(Feature::Status) => Part::Status,
        _ => return Err(Box::new(reply::page_not_found())),
    };
    Ok(Call { server: server.clone(), kind, place, part, query, headers: headers.clone() })
}

fn verb(method: &Method, place: &Place, watch: bool) -> &'static str {
    let named = !place.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    }
}

async fn dispatch(call: Call, method: &Method, body: axum::body::Body) -> Response {
    let body = match axum::body::to_bytes(body, LARGEST_BODY).await {
        Ok(body) => body,
        Err(_) => return reply::failure(&Status::too_large(LARGEST_BODY)),
    };
    let outcome = match verb(method, &call.place, call.flag("watch")) {
        "get" => read::get(&call),
        "list" => read::list(&call),
        "watch" => read::watch(&call),
        "create" if call.place.name.is_empty() => write::create(&call, &body),
        "update" if !call.place.name.is_empty() => write::update(&call, &body),
        "patch" if !call.place.name.is_empty() => write::patch(&call, &body),
        "delete" => write::delete(&call, &body),
        "deletecollection" => write::delete_collection(&call),
        _ => Err(Status::method_not_allowed()),
    };
    outcome.unwrap_or_else(|status| reply::failure(&status))
}
