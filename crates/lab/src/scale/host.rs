//! Where the agent runs: a network namespace with a private and a public address, and a second one that swallows what
//! the agent sends to nodes that only exist on paper. Both are gone when the value ends.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use super::cluster::{node_name, private, public};
use crate::{
    LabError, netns,
    process::{self, Batch, Place, run_batches},
    state::{create_directory, write},
};

const PREFIX: &str = "kilo-scale-";
const ROOT: &str = "/run/kilo-scale";
/// The port of the API, on the loopback of the agent's namespace.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);

/// The agent's host.
#[derive(Debug)]
pub struct Host {
    namespace: String,
    outside: String,
    directory: PathBuf,
}

impl Host {
    /// Makes the namespaces and the directory of what the agent keeps in files.
    ///
    /// # Errors
    /// When this is not root, or `ip` is missing.
    pub fn create() -> Result<Self, LabError> {
        remove_leftovers()?;
        let namespace = claim_name()?;
        let directory = Path::new(ROOT).join(&namespace);
        let host = Self { outside: format!("{namespace}-out"), namespace, directory };
        for inner in ["wireguard", "kilo"] {
            create_directory(&host.directory.join(inner))?;
        }
        for mounted_over in ["/run/wireguard", "/var/run/wireguard", "/var/lib/kilo"] {
            create_directory(Path::new(mounted_over))?;
        }
        // As on most hosts, the name of its own needs no name server. Nothing answers there: other names do not matter.
        let hosts = format!("127.0.0.1 localhost\n{} {}\n", private(0), node_name(0));
        write(&host.directory.join("hosts"), &hosts)?;
        write(&host.directory.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        write(&host.kubeconfig(), &apiserver::Server::kubeconfig(&API.to_string()))?;
        host.wire()?;
        Ok(host)
    }

    fn wire(&self) -> Result<(), LabError> {
        let (inside, outside) = (&self.namespace, &self.outside);
        let all = format!(
            "netns add {inside}\nnetns add {outside}\n\
             link add name eth0 netns {inside} type veth peer name eth0 netns {outside}\n"
        );
        let (private, public) = (private(0), public(0));
        let ours = format!(
            "link set lo up\nlink set eth0 up\naddress add {private}/12 dev eth0\naddress add {public}/32 dev eth0\n\
             route add default via 198.19.255.254 dev eth0 onlink\n\
             neighbour add 198.19.255.254 lladdr 02:00:00:00:00:01 dev eth0\n"
        );
        let theirs = "link set lo up\nlink set eth0 address 02:00:00:00:00:01\nlink set eth0 up\n".to_owned();
        let ip = |namespace: Option<&String>, script| {
            let mut command = vec!["ip".to_owned()];
            command.extend(namespace.into_iter().flat_map(|name| ["-n".to_owned(), name.clone()]));
            command.extend(["-batch", "-"].map(String::from));
            Batch { command, script }
        };
        run_batches(&[ip(None, all)])?;
        run_batches(&[ip(Some(inside), ours), ip(Some(outside), theirs)])
    }

    /// The agent's network namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Where the agent's processes run: with their own key, their own resolver and their own WireGuard sockets.
    pub fn place(&self) -> Place {
        let mut place = Place::namespace(self.namespace.clone());
        for (seen, own) in [
            ("/var/run/wireguard", "wireguard"),
            ("/var/lib/kilo", "kilo"),
            ("/etc/hosts", "hosts"),
            ("/etc/resolv.conf", "resolv.conf"),
        ] {
            place.mounts.insert(seen.into(), self.directory.join(own));
        }
        place
    }

    /// A file of this host.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// How the agent reaches the API.
    pub fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    /// The socket of the API, in the agent's namespace.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn listen(&self) -> Result<TcpListener, LabError> {
        netns::inside(&self.namespace, || TcpListener::bind(API))?
            .map_err(LabError::io(format!("listening on {API}")))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for namespace in [&self.namespace, &self.outside] {
            // Whoever is killed before this point leaves it to the next.
            let _ = netns::delete(namespace);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A name that nobody else uses: a process may run several, one after the other or in parallel tests.
fn claim_name() -> Result<String, LabError> {
    create_directory(Path::new(ROOT))?;
    let mut number = 0;
    loop {
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let directory = Path::new(ROOT).join(&name);
        match fs::create_dir(&directory) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(LabError::io(format!("making {}", directory.display()))(error)),
        }
    }
}

/// Removes what processes have left that were killed.
fn remove_leftovers() -> Result<(), LabError> {
    let is_left = |namespace: &String| {
        let rest = namespace.strip_prefix(PREFIX).unwrap_or_default();
        let owner: Option<u32> = rest.split('-').next().and_then(|pid| pid.parse().ok());
        owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    let left: Vec<String> = netns::list(PREFIX)?.into_iter().filter(is_left).collect();
    let identities: Vec<_> = left.iter().filter_map(|namespace| netns::identity(namespace)).collect();
    for process in process::inhabitants(&identities) {
        process.signal(rustix::process::Signal::KILL);
    }
    for namespace in left {
        netns::delete(&namespace)?;
        let _ = fs::remove_dir_all(Path::new(ROOT).join(&namespace));
    }
    Ok(())
}
