//! What a real agent serves, to whom, and whether it still does while others hold connections, ask for what is large and do
//! not read it. Needs root and /dev/net/tun.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;

use support::{LOOPBACK, NODE, OTHER, PATIENCE, STRANGER, with_agent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

#[test]
fn details_are_for_those_on_the_node() {
    with_agent(3, ":1107", async |agent| {
        let graph = agent.eventually("/graph?format=dot", |answer| answer.status == 200).await;
        assert!(graph.body.contains("digraph kilo {"), "{graph:?}");
        let health = agent.eventually("/health", |answer| answer.body.contains("OddLocation")).await;
        // What an object says is shown without what a terminal obeys.
        assert!(health.body.contains("node n0001: ") && !health.body.contains('\u{1b}'), "{health:?}");
        let health = agent.get(LOOPBACK, LOOPBACK, "/health?format=json").await;
        let document: serde_json::Value = serde_json::from_str(&health.body).unwrap();
        assert_eq!(document["problems"][0]["reason"], "OddLocation", "{document}");
        assert_eq!(agent.get(LOOPBACK, LOOPBACK, "/graph").await.status, 200);

        // From outside, and from the node by its address: whether it is well, and numbers.
        for from in [STRANGER, NODE] {
            let health = agent.get(from, NODE, "/health?format=json").await;
            let bare = health.body == "healthy\n" || health.body.starts_with("unhealthy: ");
            assert!(bare && health.body.lines().count() == 1 && !health.body.contains("n000"), "{health:?}");
            assert!(agent.get(from, NODE, "/metrics").await.body.contains("kilo_nodes"));
            let graph = agent.get(from, NODE, "/graph").await;
            assert!(
                graph.status == 403 && graph.body.contains("kubectl -n kube-system port-forward"),
                "{graph:?}"
            );
        }
        // One end is not enough, and neither is a name that a web page made resolve to it.
        assert_eq!(agent.get(STRANGER, LOOPBACK, "/graph").await.status, 403);
        assert_eq!(agent.get_as(LOOPBACK, LOOPBACK, "evil.example:1107", "/graph").await.status, 403);
        let health = agent.get_as(LOOPBACK, LOOPBACK, "evil.example", "/health").await;
        assert!(!health.body.contains("n000"), "{health:?}");
    });
}

#[test]
fn where_the_agent_listens_on_one_address_details_are_on_loopback() {
    with_agent(1, &format!("{NODE}:1234"), async |agent| {
        let health = agent.eventually("/health", |answer| answer.status != 0).await;
        assert!(health.body.lines().count() >= 1);
        assert_eq!(agent.get(STRANGER, NODE, "/graph").await.status, 403);
        assert_eq!(agent.get(STRANGER, NODE, "/metrics").await.status, 200);
        agent.eventually("/graph?format=dot", |answer| answer.status == 200).await;
    });
}

#[test]
fn requests_that_are_not_finished_lock_nobody_out() {
    with_agent(3, ":1107", async |agent| {
        agent.eventually("/graph?format=dot", |answer| answer.status == 200).await;
        let before = agent.memory();
        let mut held = Vec::new();
        for number in 0..1500 {
            let mut stream = agent.connect(STRANGER, NODE).await;
            // Some say nothing at all.
            if number % 3 != 0 {
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
            }
            held.push(stream);
            if number % 250 == 0 {
                agent.answers_probes().await;
            }
        }
        agent.answers_probes().await;
        let (files, grown) = (agent.open_files(), agent.memory().saturating_sub(before));
        assert!(files < 120 && grown <= 20, "{files} open files, {grown} MiB more");
        // The others are not kept either.
        let begin = Instant::now();
        for mut stream in held {
            let mut rest = Vec::new();
            let ended = timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "a connection is kept for {:?}", begin.elapsed());
        }
    });
}

#[test]
fn answers_that_nobody_reads_cost_little() {
    with_agent(1003, ":1107", async |agent| {
        let begun =
            |answer: &support::Answer| answer.status == 200 && answer.body.contains("kilo_segments 1003");
        agent.eventually("/metrics", begun).await;
        let picture = agent.get(LOOPBACK, LOOPBACK, "/graph").await;
        assert!(picture.status == 400 && picture.body.contains("1003 segments"), "{}", picture.body);
        let before = agent.memory();
        let mut held = Vec::new();
        for _ in 0..40 {
            let mut stream = agent.try_connect(LOOPBACK, LOOPBACK, Some(4096)).await.unwrap();
            stream.write_all(b"GET /graph?format=dot HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            held.push(stream);
        }
        for _ in 0..5 {
            agent.answers_probes().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let grown = agent.memory().saturating_sub(before);
        assert!(grown <= 60, "{grown} MiB more");
        drop(held);
        // Who reads it gets all of it.
        let graph = agent.get(LOOPBACK, LOOPBACK, "/graph?format=dot").await;
        let edges = graph.body.matches("[ dir=both ]").count();
        assert!(edges == 1003 * 1002 / 2 && graph.body.contains("cluster_peers"), "{edges}");
    });
}

#[test]
fn odd_clients_are_cut_off() {
    with_agent(3, ":1107", async |agent| {
        agent.eventually("/graph?format=dot", |answer| answer.status == 200).await;
        let begin = Instant::now();
        // A byte every now and then.
        let mut slow = agent.connect(STRANGER, NODE).await;
        let trickle = async {
            let mut pause = tokio::time::interval(Duration::from_millis(500));
            loop {
                pause.tick().await;
                let mut byte = [0];
                let ended = timeout(Duration::from_millis(1), slow.read(&mut byte)).await;
                if slow.write_all(b"G").await.is_err() || ended.is_ok() {
                    return begin.elapsed();
                }
            }
        };
        let others = async {
            let mut large = agent.connect(STRANGER, NODE).await;
            large.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Large: ").await.unwrap();
            // The agent may end it before all is written.
            let _ = large.write_all(&[b'a'; 1 << 20]).await;
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, large.read_to_end(&mut answer)).await.expect("it is cut off");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");

            // Many requests at once, of which nobody reads the answers.
            let before = agent.memory();
            let mut eager = agent.try_connect(STRANGER, NODE, Some(4096)).await.unwrap();
            let requests = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10_000);
            let _ = timeout(Duration::from_secs(2), eager.write_all(&requests)).await;
            agent.answers_probes().await;
            assert!(agent.memory().saturating_sub(before) <= 10);
            drop(eager);

            // And of which somebody does.
            let mut eager = agent.connect(OTHER, NODE).await;
            let requests = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
            eager.write_all(&requests).await.unwrap();
            eager.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answers = String::new();
            timeout(PATIENCE, eager.read_to_string(&mut answers)).await.expect("it ends").unwrap();
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 101);
        };
        let (cut, ()) = tokio::join!(timeout(PATIENCE, trickle), others);
        let cut = cut.expect("the slow client is cut off");
        assert!(cut < Duration::from_secs(15), "{cut:?}");
        // A HEAD is answered, and the connection goes on.
        let mut kept = agent.connect(STRANGER, NODE).await;
        for _ in 0..3 {
            kept.write_all(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 4096];
            let count = timeout(PATIENCE, kept.read(&mut answer)).await.unwrap().unwrap();
            assert!(answer[..count].starts_with(b"HTTP/1.1 200"));
        }
    });
}
