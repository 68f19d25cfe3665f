//! A whole agent whose client certificate is exchanged while it runs: in a network namespace of its own, so as root.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::json;

use crate::{
    renewal::Scene,
    server::Authority,
    webhook::{KEY, eventually, peer},
};

/// Set where the test is in its own namespace.
const INSIDE: &str = "KILO_TEST_INSIDE";

const KEYS: [&str; 3] =
    [KEY, "9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=", "X5iEdx2IJEvQ3kYRZ09X33bW1Q4IMvQiaL5X1LuCiqQ="];

const PAGES: &str = "127.0.0.1:1107";

/// Ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn page(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(PAGES).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {PAGES}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn start(scene: &Scene) -> Agent {
    let state = scene.file("state");
    std::fs::create_dir(&state).unwrap();
    let log = std::fs::File::create(scene.file("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kg"));
    command
        .arg(format!("--kubeconfig={}", scene.file("config").display()))
        .arg(format!("--state-dir={}", state.display()))
        .args(["--hostname=n1", "--cni=false", "--encapsulate=never", "--liveness-timeout=4s"])
        .arg(format!("--listen={PAGES}"))
        .env_remove("KUBECONFIG")
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log));
    Agent(command.spawn().unwrap())
}

fn run_inside(test: &str) {
    let own = std::env::current_exe().unwrap();
    let script = "ip link set lo up && exec \"$0\" --exact --nocapture \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script]).arg(own).arg(test).env(INSIDE, "1");
    let output = command.output().expect("there is unshare");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && text[0].contains("1 passed"), "{}", text.concat());
}

#[test]
fn an_agent_misses_nothing_while_its_certificate_is_exchanged() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("agent::an_agent_misses_nothing_while_its_certificate_is_exchanged");
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let scene = Scene::new().await;
        let patch = json!({ "metadata": { "annotations": {
            "kilo.squat.ai/force-endpoint": "192.0.2.1:51820", "kilo.squat.ai/force-internal-ip": "-",
            "kilo.squat.ai/last-seen": null,
        } } });
        scene.server.patch("nodes", "n1", &patch).unwrap();
        let mut last = scene.rotate(&scene.authority, "0.pem");
        let _agent = start(&scene);
        let log = || std::fs::read_to_string(scene.file("log")).unwrap_or_default();
        let is_healthy = async || page("/health").filter(|page| page.starts_with("HTTP/1.1 200")).map(drop);
        eventually("a healthy agent", log, is_healthy).await;

        for (number, authority) in
            [&scene.authority, &Authority::new(), &scene.authority].into_iter().enumerate()
        {
            let next = scene.rotate(authority, &format!("{}.pem", number + 1));
            scene.clients.refuse(&last.certificate);
            last = next;
            let seen = || {
                scene.server.get("nodes", "n1").unwrap()["metadata"]["annotations"]["kilo.squat.ai/last-seen"]
                    .clone()
            };
            let before = seen();
            // At once: what changes while the agent has no valid connection is not missed.
            let object = peer(&format!("p{number}"), KEYS[number], &format!("10.77.{number}.0/24"));
            scene.server.apply_object(object).unwrap();
            let line = format!("kilo_peers {}", number + 1);
            let is_taken_in = async || page("/metrics").filter(|page| page.contains(&line)).map(drop);
            eventually(&line, || format!("{}{:?}", log(), page("/metrics")), is_taken_in).await;
            eventually("a heartbeat", log, async || (seen() != before).then_some(())).await;
            eventually("a healthy agent", || format!("{}{:?}", log(), page("/health")), is_healthy).await;
        }
    });
}
