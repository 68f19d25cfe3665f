//! Reviews as large as they may be, made to take much more memory than they have bytes.

use serde_json::json;

use crate::{
    crowds::answers_soon,
    support::{Answer, Files, KEY, Webhook, peer, post, review},
};

/// The largest request that is read.
const LARGEST: usize = 3 << 20;
/// How much the webhook may grow. The manifest lets it have eight times as much.
const MOST_GROWTH: usize = 64 << 20;
/// Stands where the hostile value comes.
const HERE: &str = "\"@here@\"";

/// Makes a JSON value of nearly a size, in bytes.
type OfSize = fn(usize) -> String;

/// JSON values that take much more memory than text, each with what it is.
fn values() -> Vec<(&'static str, OfSize)> {
    fn list(entry: &str, size: usize) -> String {
        format!("[{}0]", entry.repeat(size / entry.len()))
    }
    fn numbered(size: usize, entry: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        let mut number = 0;
        while text.len() + 32 < size {
            text.push_str(&entry(number));
            number += 1;
        }
        text.trim_end_matches(',').to_owned()
    }
    vec![
        ("small objects", |size| list("{\"\":0},", size)),
        ("empty lists", |size| list("[],", size)),
        ("empty texts", |size| format!("[{}\"\"]", "\"\",".repeat(size / 3 - 1))),
        ("nested lists", |size| format!("{}{}", "[".repeat(size / 2), "]".repeat(size / 2))),
        ("a text", |size| format!("\"{}\"", "x".repeat(size - 2))),
        ("a text that is shown escaped", |size| format!("\"{}\"", "\u{200b}".repeat((size - 2) / 3))),
        ("many fields", |size| format!("{{{}}}", numbered(size, |n| format!("\"{n:x}\":\"\",")))),
        ("ranges", |size| {
            let range = |n: usize| format!("\"1.{}.{}.{}/32\",", n >> 16, n >> 8 & 255, n & 255);
            format!("[{}]", numbered(size, range))
        }),
    ]
}

/// Reviews with [`HERE`] somewhere.
fn reviews() -> Vec<(&'static str, String)> {
    let good = review("CREATE", &peer("new", KEY, "10.5.9.9/32"));
    let with = |pointer: &str, field: &str| {
        let mut changed = good.clone();
        changed.pointer_mut(pointer).unwrap()[field] = json!("@here@");
        changed.to_string()
    };
    let mut update = review("UPDATE", &peer("new", KEY, "10.5.9.9/32"));
    update["request"]["oldObject"] = peer("new", KEY, "@here@");
    update["request"]["oldObject"]["spec"]["allowedIPs"] = json!("@here@");
    let mut other = good.clone();
    other["request"]["resource"]["resource"] = json!("others");
    other["request"]["object"] = json!("@here@");
    vec![
        ("the body", HERE.to_owned()),
        ("an unknown field", with("", "a")),
        ("request.uid", with("/request", "uid")),
        ("metadata.labels", with("/request/object/metadata", "labels")),
        ("metadata.managedFields", with("/request/object/metadata", "managedFields")),
        ("spec", with("/request/object", "spec")),
        ("spec.allowedIPs", with("/request/object/spec", "allowedIPs")),
        ("oldObject.spec.allowedIPs", update.to_string()),
        ("an object of another resource", other.to_string()),
    ]
}

async fn send(webhook: &Webhook, body: &str) -> Answer {
    webhook.send(post("application/json", body.to_owned())).await
}

#[tokio::test]
async fn no_review_takes_much_memory() {
    let files = Files::new();
    let webhook = files.start(&[]).await;
    answers_soon(&webhook).await;
    let before = webhook.memory("VmRSS");
    let mut worst = (0, String::new());
    for (place, review) in reviews() {
        for (shape, value) in values() {
            let body = review.replacen(HERE, &value(LARGEST - review.len()), 1);
            assert!((LARGEST - 4096..=LARGEST).contains(&body.len()), "{shape} as {place}: {}", body.len());
            webhook.forget_peak();
            // Of the two one waits for the other, and a small one does not wait.
            let (first, second, ()) =
                tokio::join!(send(&webhook, &body), send(&webhook, &body), answers_soon(&webhook));
            for answer in [first, second] {
                // On a machine that is busy the second one may wait for too long.
                assert!(matches!(answer.status, 200 | 400 | 503), "{shape} as {place}: {}", answer.status);
            }
            let grown = webhook.memory("VmHWM").saturating_sub(before);
            assert!(grown <= MOST_GROWTH, "{shape} as {place} take {} KB", grown >> 10);
            worst = worst.max((grown, format!("{shape} as {place}")));
        }
    }
    println!("{} took the most, {} KB", worst.1, worst.0 >> 10);
}

#[tokio::test]
async fn a_list_that_is_too_long_is_refused() {
    let files = Files::new();
    let webhook = files.start(&[]).await;
    let mut object = peer("new", KEY, "10.5.9.9/32");
    object["spec"]["allowedIPs"] = vec![""; 131_073].into();
    let response = webhook.review(&review("CREATE", &object)).await.review();
    let message = response["status"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("allowedIPs has more than 131072 entries: write at most 4096"), "{message}");
    // One less is read.
    object["spec"]["allowedIPs"].as_array_mut().unwrap().pop();
    let response = webhook.review(&review("CREATE", &object)).await.review();
    let message = response["status"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("and 131064 more"), "{message}");
}
