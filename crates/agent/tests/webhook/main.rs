//! The real `kg webhook` over real TLS: what it answers, certificates that come and go, and its end.

#![allow(clippy::unwrap_used, reason = "a test")]

mod crowds;
mod hostile;
mod support;

use std::{fs, os::unix::fs::symlink};

use hyper::{Request, body::Bytes};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use support::{Files, KEY, Pair, Validity, Webhook, cluster, eventually, peer, post, review, send, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn peers_are_judged_by_the_cluster() {
    let (server, files) = (cluster(), Files::new());
    let (master, _serving) = serve(server.clone()).await;
    // It does not listen before it knows the cluster.
    let webhook = files.start(&[&master]).await;

    let created = async |object: &Value| webhook.review(&review("CREATE", object)).await.review();
    assert_eq!(created(&peer("new", KEY, "10.5.0.2/32")).await["allowed"], true);
    for (allowed_ip, named) in [
        ("10.5.0.2", "write 10.5.0.2/32"),
        ("10.42.1.7/32", "the pod subnet 10.42.1.0/24 of node a"),
        ("10.1.0.1/32", "the internal address 10.1.0.1/32 of node a"),
        ("10.4.9.9/32", "the WireGuard subnet 10.4.0.0/16 of node a"),
        ("10.5.0.0/24", "the allowed IP 10.5.0.1/32 of peer p"),
    ] {
        let response = created(&peer("new", KEY, allowed_ip)).await;
        let message = response["status"]["message"].as_str().unwrap_or_default();
        assert!(response["allowed"] == false && message.contains(named), "{allowed_ip}: {response}");
    }
    assert_eq!(webhook.review(&review("DELETE", &Value::Null)).await.review()["allowed"], true);

    // What changes in the cluster changes the answers.
    let overlapping = peer("new", KEY, "10.77.0.1/32");
    assert_eq!(created(&overlapping).await["allowed"], true);
    server.apply_object(peer("q", "WJU+zTmzCKYVdXYNn9qRjJqHMaHWQqL3tOBnVJG5t3Q=", "10.77.0.0/24")).unwrap();
    let refusing = async || (created(&overlapping).await["allowed"] == false).then_some(());
    eventually("a refusal because of peer q", || webhook.log(), refusing).await;

    let metrics = webhook.get("/metrics").await.body;
    for line in [
        "admission_requests_total{operation=\"CREATE\",response=\"denied\"} 6",
        "admission_requests_total{operation=\"DELETE\",response=\"allowed\"} 1",
        "http_requests_total{handler=\"/validate\",method=\"POST\"}",
        "errors_total 0",
        "kilo_webhook_overlaps_checked 1",
        "kilo_webhook_certificate_not_after_seconds 3786912000",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn without_the_api_the_shape_of_peers_is_judged() {
    let files = Files::new();
    let warned = async |webhook: &Webhook, named: &str| {
        let response = webhook.review(&review("CREATE", &peer("new", KEY, "10.42.1.7/32"))).await.review();
        let warning = response["warnings"][0].as_str().unwrap_or_default();
        (response["allowed"] == true && warning.contains("not checked") && warning.contains(named))
            .then_some(())
    };
    let webhook = files.start(&[]).await;
    warned(&webhook, "this is no pod of a cluster").await.unwrap();
    let response = webhook.review(&review("CREATE", &peer("new", "short", "10.42.1.7/32"))).await.review();
    assert_eq!(response["allowed"], false);
    let health = webhook.get("/health").await;
    assert!(
        health.status == 200 && health.body.contains("overlaps with nodes and other Peers are not checked"),
        "{health:?}"
    );

    let (master, serving) = serve(cluster()).await;
    let webhook = files.start(&[&master]).await;
    assert!(warned(&webhook, "").await.is_none());
    serving.abort();
    eventually(
        "a warning",
        || webhook.log(),
        async || warned(&webhook, "no connection to the API server").await,
    )
    .await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_told_so() {
    let files = Files::new();
    let webhook = files.start(&[]).await;
    let good = review("CREATE", &peer("new", KEY, "10.5.0.2/32"));
    let mut v1beta1 = good.clone();
    v1beta1["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let json = "application/json";
    for (content_type, body, status, named) in [
        (json, String::new(), 400, "it has no body"),
        (json, "peers: []".to_owned(), 400, "its body is not JSON"),
        (json, "7".to_owned(), 400, "only admission.k8s.io/v1 AdmissionReview is supported"),
        (json, v1beta1.to_string(), 400, "admission.k8s.io/v1beta1"),
        (json, review("CREATE", &Value::Null).to_string(), 400, "request.object is missing"),
        (json, " ".repeat((3 << 20) + 1), 413, "more than 3145728 bytes"),
        ("text/plain", good.to_string(), 400, "received Content-Type=text/plain, expected application/json"),
        ("application/json; charset=utf-8", good.to_string(), 200, "\"allowed\":true"),
    ] {
        let answer = webhook.send(post(content_type, body)).await;
        assert!(answer.status == status && answer.body.contains(named), "{named:?}: {answer:?}");
    }
    let get = |path: &str| {
        Request::get(path).header("host", "x").body(http_body_util::Full::<Bytes>::default()).unwrap()
    };
    assert_eq!(webhook.send(get("/validate")).await.status, 405);
    assert_eq!(webhook.send(get("/elsewhere")).await.status, 404);
    assert_eq!(webhook.send(get("/health")).await.status, 200);

    let mut other = good;
    other["request"]["resource"] = json!({ "group": "", "version": "v1", "resource": "pods" });
    let response = webhook.review(&other).await.review();
    let warning = response["warnings"][0].as_str().unwrap_or_default();
    assert!(response["allowed"] == true && warning.contains("not pods"), "{response}");

    // One that does not speak TLS gets no answer, and others still do.
    let mut plain = tokio::net::TcpStream::connect(webhook.address).await.unwrap();
    plain.write_all(b"POST /validate HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    assert_eq!(webhook.send(get("/health")).await.status, 200);
    let metrics = webhook.get("/metrics").await.body;
    assert!(metrics.contains("errors_total 8"), "{metrics}");
}

fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap().to_vec()
}

async fn serves(webhook: &Webhook, pair: &Pair) {
    let wanted = der(pair);
    let look = async || (webhook.shown().await == wanted).then_some(());
    eventually("the new certificate", || webhook.log(), look).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart() {
    let files = Files::new();
    let webhook = files.start(&[]).await;
    // A connection that is there goes on.
    let mut old = webhook.connect().await;

    let renewed = files.issue(Validity::Now);
    files.write(&renewed);
    serves(&webhook, &renewed).await;

    // What cannot be used is said, and the last good one stays.
    for (pair, said) in [
        (files.issue(Validity::Past), "has expired: it was valid until 2001-01-01T00:00:00Z; renew it"),
        (files.issue(Validity::Future), "is valid only from 2090-01-01T00:00:00Z"),
        (Pair { certificate: "nonsense".to_owned(), key: renewed.key.clone() }, "holds no certificate"),
        (
            Pair { certificate: renewed.certificate.clone(), key: "nonsense".to_owned() },
            "holds no private key in PEM",
        ),
        (
            Pair { certificate: renewed.certificate.clone(), key: files.issue(Validity::Now).key },
            "does not belong to the certificate",
        ),
    ] {
        files.write(&pair);
        let line = webhook.logged(said).await;
        assert!(
            line.contains("ERROR") && line.contains("the old one is, valid until 2090-01-01T00:00:00Z"),
            "{line}"
        );
        assert_eq!(webhook.shown().await, der(&renewed), "{said}");
    }
    fs::remove_file(files.key()).unwrap();
    webhook.logged("cannot read the key").await;
    assert_eq!(webhook.get("/health").await.status, 200);

    // As a kubelet does it: both files are links into a directory that is exchanged at once.
    let path = files.directory.path();
    let publish = |name: &str, pair: &Pair| {
        fs::create_dir(path.join(name)).unwrap();
        fs::write(path.join(name).join("tls.crt"), &pair.certificate).unwrap();
        fs::write(path.join(name).join("tls.key"), &pair.key).unwrap();
        symlink(name, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    };
    let first = files.issue(Validity::Now);
    publish("..1", &first);
    fs::remove_file(files.certificate()).unwrap();
    symlink("..data/tls.crt", files.certificate()).unwrap();
    symlink("..data/tls.key", files.key()).unwrap();
    serves(&webhook, &first).await;
    let second = files.issue(Validity::Now);
    publish("..2", &second);
    serves(&webhook, &second).await;

    old.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why() {
    let files = Files::new();
    let good = files.issue(Validity::Now);
    for (pair, said) in [
        (
            files.issue(Validity::Past),
            "tls.crt has expired: it was valid until 2001-01-01T00:00:00Z; renew it",
        ),
        (Pair { certificate: String::new(), key: good.key.clone() }, "tls.crt holds no certificate"),
        (Pair { certificate: good.certificate.clone(), key: String::new() }, "tls.key holds no private key"),
        (
            Pair { certificate: good.certificate.clone(), key: files.issue(Validity::Now).key },
            "does not belong to the certificate",
        ),
    ] {
        files.write(&pair);
        let text = files.fails_to_start(&[]).await;
        assert!(text.contains(said), "{said:?} is not in {text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
    files.write(&good);
    let text = files.fails_to_start(&["--kubeconfig=/nowhere/kubeconfig"]).await;
    assert!(text.contains("/nowhere/kubeconfig"), "{text}");
    let text = files.fails_to_start(&["--listen=nowhere"]).await;
    assert!(text.contains("--listen") && text.contains("ADDRESS:PORT"), "{text}");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = files.fails_to_start(&[&format!("--listen={}", taken.local_addr().unwrap())]).await;
    assert!(text.contains("cannot listen on") && text.contains("see --listen"), "{text}");
    fs::remove_file(files.certificate()).unwrap();
    let text = files.fails_to_start(&[]).await;
    assert!(text.contains("cannot read the certificate"), "{text}");
}

#[tokio::test]
async fn a_certificate_of_tomorrow_is_served_with_a_warning() {
    let files = Files::new();
    files.write(&files.issue(Validity::Future));
    let webhook = files.start(&[]).await;
    let health = webhook.get("/health").await;
    assert!(health.status == 503 && health.body.contains("is valid only from 2090"), "{health:?}");
    webhook.logged("API servers refuse the connection now").await;
}

#[tokio::test]
async fn the_end_waits_for_what_is_being_answered() {
    let files = Files::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut webhook = files.start(&[]).await;
        let body = review("CREATE", &peer("new", KEY, "10.5.0.2/32")).to_string();
        let (begin, rest) = body.split_at(body.len() / 2);
        let mut stream = webhook.connect().await;
        let head = format!(
            "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{begin}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // An idle connection does not delay the end.
        let _idle = webhook.connect().await;
        // The server has the beginning once it has answered another request.
        let idle = Request::get("/health").header("host", "x").body(http_body_util::Full::default()).unwrap();
        assert_eq!(send(webhook.connect().await, idle).await.status, 200);
        webhook.signal(signal);
        webhook.logged("ending").await;
        stream.write_all(rest.as_bytes()).await.unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        assert!(text.contains("200 OK") && text.contains("\"allowed\":true"), "{text}");
        assert!(webhook.ended().await.success(), "{}", webhook.log());
    }
}
