//! `/health`: whether the agent is well, for probes; and on the node, what is wrong.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::{Query, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use mesh::text::Plain;
use reconciler::View;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shown, visitor::Insider};

/// How many problems are named. There may be one for every object.
const NAMED: usize = 1000;

#[derive(Deserialize)]
pub(super) struct HealthQuery {
    format: Option<String>,
}

/// 200 while the last reconcile succeeded and the watch is alive; else 503. On the node the body has the reasons, and the
/// objects that are left out; `?format=json` for programs.
pub(super) async fn health(
    State(shown): State<Arc<Shown>>,
    Query(query): Query<HealthQuery>,
    request: Request,
) -> Response {
    let unhealthy = shown.unhealthy();
    let status = if unhealthy.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if Insider::sent(&request.into_parts().0).is_none() {
        return (status, bare(&unhealthy)).into_response();
    }
    match query.format.as_deref().unwrap_or_default() {
        "" | "text" => (status, text(&unhealthy, &shown.view())).into_response(),
        "json" => {
            let body = document(&unhealthy, &shown.view()).to_string();
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        other => (StatusCode::BAD_REQUEST, format!("the format {other:?} is not one of text, json\n"))
            .into_response(),
    }
}

/// What anybody may know.
fn bare(unhealthy: &[String]) -> String {
    match unhealthy.len() {
        0 => "healthy\n".to_owned(),
        1 => "unhealthy: 1 reason\n".to_owned(),
        reasons => format!("unhealthy: {reasons} reasons\n"),
    }
}

/// For people.
pub(super) fn text(unhealthy: &[String], view: &View) -> String {
    let mut text = String::from(if unhealthy.is_empty() { "healthy\n" } else { "unhealthy\n" });
    // Writing to a String cannot fail.
    for reason in unhealthy {
        let _ = writeln!(text, "- {}", Plain(reason));
    }
    if !view.problems.is_empty() {
        text.push_str("objects that are left out, or parts of them:\n");
    }
    for problem in view.problems.iter().take(NAMED) {
        let _ = writeln!(text, "- {}", Plain(problem));
    }
    if let more @ 1.. = view.problems.len().saturating_sub(NAMED) {
        let _ = writeln!(text, "- and {more} more");
    }
    text
}

/// For programs.
pub(super) fn document(unhealthy: &[String], view: &View) -> Value {
    let problems = view.problems.iter().take(NAMED).map(|problem| {
        json!({
            "object": Plain(&problem.object).to_string(),
            "reason": problem.reason,
            "message": Plain(&problem.message).to_string(),
        })
    });
    json!({
        "healthy": unhealthy.is_empty(),
        "unhealthy": unhealthy.iter().map(|reason| Plain(reason).to_string()).collect::<Vec<_>>(),
        "problems": problems.collect::<Vec<_>>(),
        "moreProblems": view.problems.len().saturating_sub(NAMED),
    })
}

#[cfg(test)]
mod tests {
    use mesh::{Object, Problem};

    use super::*;

    #[test]
    fn only_the_first_of_many_problems_are_named() {
        let problem =
            |number| Problem::new(Object::Peer(format!("p{number:04}")), "Reason", "has a fault\nhealthy");
        let view = View { problems: (0..NAMED + 7).map(problem).collect(), ..View::default() };
        let text = text(&["a\u{1b}reason".to_owned()], &view);
        assert_eq!(text.lines().count(), 3 + NAMED + 1);
        assert!(
            text.starts_with("unhealthy\n- a\\u{1b}reason\n") && text.ends_with("- and 7 more\n"),
            "{text}"
        );
        let document = document(&[], &view);
        assert_eq!((&document["healthy"], &document["moreProblems"]), (&json!(true), &json!(7)));
        assert_eq!(
            document["problems"][0],
            json!({ "object": "peer p0000", "reason": "Reason", "message": "has a fault\\nhealthy" })
        );
    }

    #[test]
    fn outside_nothing_is_named() {
        assert_eq!(bare(&[]), "healthy\n");
        assert_eq!(bare(&["node a".to_owned()]), "unhealthy: 1 reason\n");
        assert_eq!(bare(&["a".to_owned(), "b".to_owned()]), "unhealthy: 2 reasons\n");
    }
}
