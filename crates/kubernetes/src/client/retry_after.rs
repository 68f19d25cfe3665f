//! Carries the header `Retry-After` of an answer into the `Status` in its body, where clients of the API look for it. An API
//! server that is overloaded, and a proxy before it, only sets the header, and the body is a line of text.

use http::{Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::{Body, Bytes};
use serde_json::{Map, Value, json};
use tower::BoxError;

/// The longest body that is read for this, in bytes; a `Status` has less than a kilobyte.
const LONGEST: usize = 64 << 10;

/// The answer, with the header in its body if that is an error.
pub(super) async fn into_status<B>(answer: Response<B>) -> Result<Response<Either<B, Full<Bytes>>>, BoxError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let code = answer.status();
    let seconds =
        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let Some(seconds) = seconds.filter(|_| code.is_client_error() || code.is_server_error()) else {
        return Ok(answer.map(Either::Left));
    };
    let (mut head, body) = answer.into_parts();
    let bytes = Limited::new(body, LONGEST).collect().await?.to_bytes();
    let status = with_seconds(&bytes, code, seconds).to_string();
    head.headers.remove(http::header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, Either::Right(Full::new(status.into()))))
}

fn with_seconds(body: &[u8], code: StatusCode, seconds: u32) -> Value {
    let status = serde_json::from_slice(body).ok().filter(|value: &Value| value["kind"] == "Status");
    let mut status = status.unwrap_or_else(|| {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
            "reason": code.canonical_reason().unwrap_or_default(),
            "message": String::from_utf8_lossy(body).trim(),
        })
    });
    if !status["details"].is_object() {
        status["details"] = Value::Object(Map::new());
    }
    if status["details"]["retryAfterSeconds"].as_u64().is_none_or(|own| own == 0) {
        status["details"]["retryAfterSeconds"] = seconds.into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

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
