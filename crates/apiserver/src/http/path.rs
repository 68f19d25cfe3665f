//! Paths of the API.

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Version,
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources(String, String),
    OpenApi2,
    OpenApi3,
    OpenApi3Group(String, String),
    Place(Place),
    Unknown,
}

/// A collection, an object, or a subresource of one; empty fields are absent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

pub(super) fn parse(path: &str) -> Route {
    let decoded: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let owned = |text: &str| text.to_owned();
    match parts.as_slice() {
        ["healthz" | "readyz" | "livez", ..] => Route::Health,
        ["version"] => Route::Version,
        ["openapi", "v2"] => Route::OpenApi2,
        ["openapi", "v3"] => Route::OpenApi3,
        ["openapi", "v3", "api", version] => Route::OpenApi3Group(String::new(), owned(version)),
        ["openapi", "v3", "apis", group, version] => Route::OpenApi3Group(owned(group), owned(version)),
        ["api"] => Route::Core,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group(owned(group)),
        ["api", version] => Route::Resources(String::new(), owned(version)),
        ["apis", group, version] => Route::Resources(owned(group), owned(version)),
        ["api", version, rest @ ..] => place("", version, rest),
        ["apis", group, version, rest @ ..] => place(group, version, rest),
        _ => Route::Unknown,
    }
}

fn place(group: &str, version: &str, rest: &[&str]) -> Route {
    let (namespace, rest) = match rest {
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] if group.is_empty() => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, "", ""),
        [resource, name] => (*resource, *name, ""),
        [resource, name, subresource] => (*resource, *name, *subresource),
        _ => return Route::Unknown,
    };
    Route::Place(Place {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

/// Percent decoding; a malformed escape stays as it is.
fn decode(part: &str) -> String {
    let bytes = part.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |path: &str, expect: &str| {
            let shown = match parse(path) {
                Route::Place(p) => {
                    [p.group, p.version, p.resource, p.namespace, p.name, p.subresource].join("|")
                }
                other => format!("{other:?}"),
            };
            assert_eq!(shown, expect, "{path}");
        };
        check("/api/v1/nodes", "|v1|nodes|||");
        check("/api/v1/nodes/n1/status", "|v1|nodes||n1|status");
        check("/api/v1/namespaces", "|v1|namespaces|||");
        check("/api/v1/namespaces/a", "|v1|namespaces||a|");
        check("/api/v1/namespaces/a/pods", "|v1|pods|a||");
        check("/api/v1/namespaces/a/status", "|v1|namespaces||a|status");
        check("/apis/g/v1/namespaces/a/leases/l%2Dx", "g|v1|leases|a|l-x|");
        check("/apis/g/v1", "Resources(\"g\", \"v1\")");
        check("/a/b", "Unknown");
    }
}
