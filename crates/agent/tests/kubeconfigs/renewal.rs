//! Credentials that change under a client and under kg.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use kubernetes::{
    ApiAccess, Error, PodCidrSource, Update, WatchConfig,
    client::{Plugins, addresses, connect},
    list_nodes,
    watch::{Updates, watch},
};
use rcgen::IsCa;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    server::{Authority, Clients, Front, Pair, TOKEN, params},
    webhook::{Files, KEY, eventually, peer, review},
    world::cluster,
};

/// An API that takes client certificates, and a kubeconfig for it whose certificate and key are in one file behind a link,
/// as the kubelet's.
pub struct Scene {
    folder: TempDir,
    pub server: apiserver::Server,
    pub clients: Clients,
    pub authority: Authority,
    address: SocketAddr,
}

impl Scene {
    pub async fn new() -> Self {
        let (server, clients, authority) = (cluster(), Clients::default(), Authority::new());
        let own = authority.issue(&params(&["127.0.0.1"], IsCa::NoCa));
        let address = Front::new(own, &clients).serve(&server, "127.0.0.1").await;
        let scene = Self { folder: TempDir::new().unwrap(), server, clients, authority, address };
        scene.write(json!({ "client-certificate": "current.pem", "client-key": "current.pem" }));
        scene
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, user: Value) {
        let config = json!({
            "current-context": "x",
            "clusters": [{ "name": "c", "cluster": {
                "server": format!("https://{}", self.address), "certificate-authority": "ca.crt",
            } }],
            "users": [{ "name": "u", "user": user }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
        });
        fs::write(self.file("ca.crt"), &self.authority.pem).unwrap();
        replace(&self.file("config"), &config.to_string());
    }

    /// Lets the link lead to another certificate, of this authority.
    pub fn rotate(&self, authority: &Authority, name: &str) -> Pair {
        let pair = authority.issue(&params(&[], IsCa::NoCa));
        self.clients.admit(&pair.certificate);
        fs::write(self.file(name), format!("{}{}", pair.certificate, pair.key)).unwrap();
        symlink(name, self.file("new")).unwrap();
        fs::rename(self.file("new"), self.file("current.pem")).unwrap();
        pair
    }

    fn access(&self) -> ApiAccess {
        ApiAccess::from_flags(Some(self.file("config")), None, "kilo-test")
    }

    fn apply_peer(&self, name: &str) {
        self.server.apply_object(peer(name, KEY, "10.77.0.0/24")).unwrap();
    }

    fn log(&self) -> String {
        format!("{:#?}", self.clients.asked())
    }
}

fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(&new, path).unwrap();
}

fn follow(client: &kube::Client) -> Updates {
    let topology_label = "topology.kubernetes.io/region".to_owned();
    watch(client, WatchConfig { topology_label, own_node: None, pod_cidr_source: PodCidrSource::Node })
}

/// Waits for the Peer.
async fn arrives(updates: &mut Updates, name: &str, scene: &Scene) {
    let mut seen = Vec::new();
    let arrived = async {
        loop {
            match updates.next().await {
                Update::Peer(found, Some(_)) if found == name => return,
                Update::Broken(problem) => panic!("{problem:?}"),
                other => seen.push(other),
            }
        }
    };
    let arrived = tokio::time::timeout(crate::webhook::PATIENCE, arrived).await;
    arrived.unwrap_or_else(|_| panic!("{name} did not come: {seen:#?}\n{}", scene.log()));
}

async fn asks(client: &kube::Client) -> Result<usize, Error> {
    list_nodes(client, "l", None).await.map(|(nodes, _)| nodes.len())
}

/// The last request of this kind.
fn last(scene: &Scene) -> crate::server::Asked {
    scene.clients.asked().pop().unwrap()
}

#[tokio::test]
async fn a_certificate_that_is_rotated_is_taken_up_and_nothing_is_missed() {
    let scene = Scene::new().await;
    let first = scene.rotate(&scene.authority, "1.pem");
    let client = connect(&scene.access()).await.unwrap();
    let mut updates = follow(&client);
    scene.apply_peer("before");
    arrives(&mut updates, "before", &scene).await;

    // By another authority, too: it is for the server to know.
    for (authority, name) in [(&scene.authority, "2.pem"), (&Authority::new(), "3.pem")] {
        let second = scene.rotate(authority, name);
        scene.clients.refuse(&first.certificate);
        // As the heartbeat of an agent.
        let works = async || {
            (asks(&client).await.is_ok() && scene.clients.watches(&second.certificate) >= 2).then_some(())
        };
        eventually("both watches with the new certificate", || scene.log(), works).await;
        scene.apply_peer(name);
        arrives(&mut updates, name, &scene).await;
        scene.clients.refuse(&second.certificate);
    }
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing() {
    let scene = Scene::new().await;
    scene.write(json!({ "client-certificate": "a.crt", "client-key": "a.key" }));
    let write = |certificate: &str, key: &str| {
        fs::write(scene.file("a.crt"), certificate).unwrap();
        fs::write(scene.file("a.key"), key).unwrap();
    };
    let [old, new] = [(); 2].map(|()| scene.authority.issue(&params(&[], IsCa::NoCa)));
    scene.clients.admit(&old.certificate);
    write(&old.certificate, &old.key);
    let client = connect(&scene.access()).await.unwrap();
    assert_eq!(asks(&client).await.unwrap(), 1);

    // Half written, and then refused.
    let half = new.certificate.split_at(100).0;
    for certificate in [half, &new.certificate] {
        write(certificate, &old.key);
        scene.clients.admit(&old.certificate);
        assert_eq!(asks(&client).await.unwrap(), 1);
        scene.clients.refuse(&old.certificate);
        let said = async || {
            let error = asks(&client).await.unwrap_err().to_string();
            error.contains("cannot be used").then_some(error)
        };
        let error = eventually("what is wrong with the files", || scene.log(), said).await;
        assert!(error.contains("a.crt"), "{error}");
    }
    // And whole.
    scene.clients.admit(&new.certificate);
    write(&new.certificate, &new.key);
    eventually("the new certificate", || scene.log(), async || asks(&client).await.ok()).await;
}

#[tokio::test]
async fn a_token_that_changes_goes_with_the_next_request_on_the_same_connections() {
    let scene = Scene::new().await;
    fs::write(scene.file("token"), format!("{TOKEN}\n")).unwrap();
    scene.write(json!({ "tokenFile": "token" }));
    let client = connect(&scene.access()).await.unwrap();
    let mut updates = follow(&client);
    scene.apply_peer("before");
    arrives(&mut updates, "before", &scene).await;
    let watches = || scene.clients.asked().iter().filter(|asked| asked.uri.contains("watch=true")).count();
    // Peers, whole Nodes, and then their metadata.
    eventually("all watches", || scene.log(), async || (watches() == 3).then_some(())).await;
    replace(&scene.file("token"), "another");
    let refused = async || {
        (asks(&client).await.is_err() && last(&scene).authorization == "Bearer another").then_some(())
    };
    eventually("the new token", || scene.log(), refused).await;
    replace(&scene.file("token"), TOKEN);
    eventually("the old token again", || scene.log(), async || asks(&client).await.ok()).await;
    scene.apply_peer("after");
    arrives(&mut updates, "after", &scene).await;
    assert_eq!(watches(), 3, "{}", scene.log());
}

#[tokio::test]
async fn a_kubeconfig_that_leads_elsewhere_is_followed() {
    let mut scene = Scene::new().await;
    scene.write(json!({ "token": TOKEN }));
    let client = connect(&scene.access()).await.unwrap();
    let mut updates = follow(&client);
    scene.apply_peer("here");
    arrives(&mut updates, "here", &scene).await;
    // Another address, another authority, the same cluster: as after a control plane was restored.
    let other = Authority::new();
    let pair = other.issue(&params(&["127.0.0.1"], IsCa::NoCa));
    let clients = Clients::default();
    scene.address = Front::new(pair, &clients).serve(&scene.server, "127.0.0.1").await;
    scene.authority = other;
    scene.write(json!({ "token": TOKEN }));
    let moved = async || {
        let watches = clients.asked().iter().filter(|asked| asked.uri.contains("watch=true")).count();
        (asks(&client).await.is_ok() && watches >= 2).then_some(())
    };
    eventually("the watches at the other address", || format!("{:#?}", clients.asked()), moved).await;
    scene.apply_peer("there");
    arrives(&mut updates, "there", &scene).await;
}

#[tokio::test]
async fn a_plugin_is_asked_again_when_its_credentials_end_or_are_refused() {
    let scene = Scene::new().await;
    let exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "interactiveMode": "Never",
    });
    scene.write(json!({ "exec": exec }));
    let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\" && echo >> runs && cat answer\n";
    fs::write(scene.file("plugin"), script).unwrap();
    fs::set_permissions(scene.file("plugin"), fs::Permissions::from_mode(0o755)).unwrap();
    let answer = |token: &str, until: &str| {
        let answer = json!({
            "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1",
            "status": { "token": token, "expirationTimestamp": until },
        });
        fs::write(scene.file("answer"), answer.to_string()).unwrap();
    };
    let runs = || fs::read_to_string(scene.file("runs")).unwrap_or_default().len();
    let client = connect(&ApiAccess { plugins: Plugins::Run, ..scene.access() }).await.unwrap();
    assert_eq!(runs(), 0);

    answer(TOKEN, "2001-01-01T00:00:00Z");
    assert_eq!((asks(&client).await.unwrap(), runs()), (1, 1));
    answer(TOKEN, "2090-01-01T00:00:00Z");
    for _ in 0..3 {
        assert_eq!((asks(&client).await.unwrap(), runs()), (1, 2));
    }
    // Another begins with what the plugin gives; a refusal has it asked again for the next request.
    answer("wrong", "2090-01-01T00:00:00Z");
    let client = connect(&ApiAccess { plugins: Plugins::Run, ..scene.access() }).await.unwrap();
    assert!(asks(&client).await.unwrap_err().to_string().contains("Unauthorized"));
    answer(TOKEN, "2090-01-01T00:00:00Z");
    assert_eq!((asks(&client).await.unwrap(), runs()), (1, 4));
    // What is no answer is said.
    fs::write(scene.file("answer"), "{}").unwrap();
    let client = connect(&ApiAccess { plugins: Plugins::Run, ..scene.access() }).await.unwrap();
    let error = asks(&client).await.unwrap_err().to_string();
    assert!(error.contains("and not an ExecCredential") && error.contains("/plugin"), "{error}");
    let refused = connect(&scene.access()).await.err().unwrap().to_string();
    assert!(refused.contains("starts no programs"), "{refused}");
}

/// As `kgctl --kubeconfig <(…)`: what has been read is gone.
#[tokio::test]
async fn a_kubeconfig_may_be_a_pipe() {
    let scene = Scene::new().await;
    scene.write(json!({ "token": TOKEN }));
    let content = fs::read_to_string(scene.file("config")).unwrap();
    let pipe = scene.file("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from(0o600)).unwrap();
    let writer = tokio::task::spawn_blocking({
        let pipe = pipe.clone();
        move || fs::write(pipe, content)
    });
    let client = connect(&ApiAccess::from_flags(Some(pipe), None, "kilo-test")).await.unwrap();
    writer.await.unwrap().unwrap();
    assert_eq!(asks(&client).await.unwrap(), 1);
    let other = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n2" } });
    scene.server.apply_object(other).unwrap();
    eventually("another answer", || scene.log(), async || (asks(&client).await.ok()? == 2).then_some(()))
        .await;
}

/// Whoever may write where credentials are could put a pipe there that nobody ever writes to.
#[tokio::test]
async fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    let scene = Scene::new().await;
    scene.write(json!({ "tokenFile": "token" }));
    fs::write(scene.file("token"), TOKEN).unwrap();
    let client = connect(&scene.access()).await.unwrap();
    assert_eq!(asks(&client).await.unwrap(), 1);
    for name in ["token", "ca.crt", "config"] {
        let (path, kept) = (scene.file(name), scene.file("kept"));
        fs::rename(&path, &kept).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from(0o600)).unwrap();
        let known = addresses(&scene.access()).await;
        let error = known.err().unwrap_or_else(|| panic!("{name} was not missed")).to_string();
        assert!(error.contains("regular file") && error.contains(name), "{error}");
        assert_eq!(asks(&client).await.unwrap(), 1);
        fs::rename(&kept, &path).unwrap();
    }
    replace(&scene.file("token"), "another");
    let renewed = async || {
        (asks(&client).await.is_err() && last(&scene).authorization == "Bearer another").then_some(())
    };
    eventually("the new token", || scene.log(), renewed).await;
}

/// Nothing but watches: nobody asks for anything meanwhile.
#[tokio::test]
async fn kg_that_only_watches_takes_up_a_rotated_certificate() {
    let scene = Scene::new().await;
    let first = scene.rotate(&scene.authority, "1.pem");
    let files = Files::new();
    // It does not listen before it knows the cluster.
    let webhook = files.start(&[&format!("--kubeconfig={}", scene.file("config").display())]).await;
    // Peers, whole Nodes, and then their metadata: from now on it asks for nothing.
    let idle = async || (scene.clients.watches(&first.certificate) == 3).then_some(());
    eventually("all watches", || format!("{}\n{}", scene.log(), webhook.log()), idle).await;

    let second = scene.rotate(&scene.authority, "2.pem");
    scene.clients.refuse(&first.certificate);
    let moved = async || (scene.clients.watches(&second.certificate) >= 2).then_some(());
    eventually("watches with the new certificate", || format!("{}\n{}", scene.log(), webhook.log()), moved)
        .await;
    scene.apply_peer("after");
    let refused = async || {
        let object = peer("another", "9V/xb2b0M2Ama5Xbb4/sAddgMQVDBq5KSzgFmPbP0RQ=", "10.77.0.1/32");
        let response = webhook.review(&review("CREATE", &object)).await.review();
        (response["allowed"] == false).then_some(())
    };
    eventually("a refusal because of the Peer", || webhook.log(), refused).await;
}
