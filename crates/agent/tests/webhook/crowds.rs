//! Many clients, and large requests: others are answered meanwhile.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{Files, KEY, Webhook, cluster, eventually, peer, review, serve};

/// How long a review may take while others keep the webhook busy.
const SOON: Duration = Duration::from_secs(1);

pub async fn answers_soon(webhook: &Webhook) {
    let begin = Instant::now();
    let response = webhook.review(&review("CREATE", &peer("new", KEY, "10.5.9.9/32"))).await.review();
    let took = begin.elapsed();
    assert!(response["allowed"] == true && took < SOON, "{took:?}: {response}");
    let begin = Instant::now();
    assert_eq!(webhook.get("/health").await.status, 200);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn clients_that_say_nothing_lock_nobody_out() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let files = Files::new();
    let webhook = files.start(&[]).await;
    let mut silent = Vec::new();
    for number in 0..300 {
        silent.push(TcpStream::connect(webhook.address).await.unwrap());
        if number % 100 == 99 {
            answers_soon(&webhook).await;
        }
    }
    // Clients that agreed on a key, and said no more than half a request.
    let mut halves = Vec::new();
    for _ in 0..70 {
        let mut stream = webhook.connect().await;
        let _ = stream.write_all(b"POST /validate HTTP/1.1\r\nContent-Length: 1000000\r\n").await;
        halves.push(stream);
    }
    answers_soon(&webhook).await;
    // And whole heads, without the body.
    let mut without_body = Vec::new();
    for _ in 0..70 {
        let mut stream = webhook.connect().await;
        let head = b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{";
        let _ = stream.write_all(head).await;
        without_body.push(stream);
    }
    answers_soon(&webhook).await;
    let begin = Instant::now();
    for mut stream in silent {
        let mut rest = Vec::new();
        let ended = timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a connection is kept for {:?}", begin.elapsed());
    }
}

/// A Peer with ranges below a /8: some inside of others, and all of them distinct.
fn wide(name: &str, key: &str, first: u8, count: usize) -> Value {
    let nets = (0..count).map(|number| match number {
        0..16 => format!("{first}.0.0.0/{}", 8 + number),
        _ => format!("{first}.{}.{}.{}/32", number >> 16 & 255, number >> 8 & 255, number & 255),
    });
    let mut object = peer(name, key, "192.0.2.0/32");
    object["spec"]["allowedIPs"] = nets.collect();
    object
}

#[tokio::test]
async fn a_large_review_is_answered_and_others_meanwhile() {
    let (server, files) = (cluster(), Files::new());
    server.apply_object(wide("stored", "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=", 11, 4_000)).unwrap();
    let (master, _serving) = serve(server).await;
    let webhook = files.start(&[&master]).await;
    let refused = async |first: u8| {
        let object = wide("new", KEY, first, 4_000);
        let response = webhook.review(&review("CREATE", &object)).await.review();
        response["status"]["message"].as_str().unwrap_or_default().to_owned()
    };
    let found = async || Some(refused(11).await).filter(|message| message.contains("of peer stored"));
    let message = eventually("a refusal because of the peer stored", || webhook.log(), found).await;
    // Few are named, and all are counted.
    assert!(
        message.len() < 2000 && message.contains("and ") && message.contains(" more of this kind"),
        "{message}"
    );
    let begin = Instant::now();
    let large = async { futures_of(4, || refused(11)).await };
    let small = async {
        for _ in 0..5 {
            let begin = Instant::now();
            assert_eq!(webhook.get("/health").await.status, 200);
            assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        }
    };
    let (messages, ()) = tokio::join!(large, small);
    assert!(messages.iter().all(|message| message.contains("of peer stored")), "{:?}", begin.elapsed());
}

async fn futures_of<T>(count: usize, one: impl AsyncFn() -> T) -> Vec<T> {
    futures::future::join_all((0..count).map(|_| one())).await
}
