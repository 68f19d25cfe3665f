//! Puts what is known of an answer's error into the `Status` in its body, where clients of the API look for it: the header
//! `Retry-After`, which is all that an API server that is overloaded, or a proxy before it, sets while the body is a line
//! of text; and what may be behind a refusal.

use http::{Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::{Body, Bytes};
use serde_json::{Map, Value, json};
use tower::BoxError;

/// The longest body that is read for this, in bytes; a `Status` has less than a kilobyte.
const LONGEST: usize = 64 << 10;

/// What may be behind an error; an extension of an answer.
#[derive(Debug, Clone)]
pub(super) struct Note(pub String);

/// The answer, with what is known of it in its body if that is an error.
pub(super) async fn complete<B>(answer: Response<B>) -> Result<Response<Either<B, Full<Bytes>>>, BoxError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let code = answer.status();
    let seconds: Option<u32> =
        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let note = answer.extensions().get::<Note>().cloned();
    let known = seconds.is_some() || note.is_some();
    if !known || !(code.is_client_error() || code.is_server_error()) {
        return Ok(answer.map(Either::Left));
    }
    let (mut head, body) = answer.into_parts();
    let bytes = Limited::new(body, LONGEST).collect().await?.to_bytes();
    let mut status = status(&bytes, code);
    if let Some(seconds) = seconds {
        add_seconds(&mut status, seconds);
    }
    if let Some(Note(note)) = note {
        let message = status["message"].as_str().unwrap_or_default();
        status["message"] = format!("{message}; {note}").into();
    }
    head.headers.remove(http::header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, Either::Right(Full::new(status.to_string().into()))))
}

fn status(body: &[u8], code: StatusCode) -> Value {
    let status = serde_json::from_slice(body).ok().filter(|value: &Value| value["kind"] == "Status");
    status.unwrap_or_else(|| {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
            "reason": code.canonical_reason().unwrap_or_default(),
            "message": String::from_utf8_lossy(body).trim(),
        })
    })
}

fn add_seconds(status: &mut Value, seconds: u32) {
    if !status["details"].is_object() {
        status["details"] = Value::Object(Map::new());
    }
    if status["details"]["retryAfterSeconds"].as_u64().is_none_or(|own| own == 0) {
        status["details"]["retryAfterSeconds"] = seconds.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_seconds(body: &[u8], code: StatusCode, seconds: u32) -> Value {
        let mut status = status(body, code);
        add_seconds(&mut status, seconds);
        status
    }

    #[test]
    fn the_header_becomes_part_of_the_status() {
        let too_many = StatusCode::TOO_MANY_REQUESTS;
        let plain = with_seconds(b"Too many requests, please try again later.\n", too_many, 7);
        assert_eq!((&plain["code"], &plain["details"]["retryAfterSeconds"]), (&json!(429), &json!(7)));
        assert_eq!(plain["message"], "Too many requests, please try again later.");
        let own =
            br#"{"kind":"Status","code":503,"message":"m","details":{"name":"a","retryAfterSeconds":3}}"#;
        let kept = with_seconds(own, StatusCode::SERVICE_UNAVAILABLE, 7);
        assert_eq!(kept, serde_json::from_slice::<Value>(own).unwrap());
    }
}
