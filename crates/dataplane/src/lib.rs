//! The Linux kernel: observe, apply and watch what `hostnet` describes.
//!
//! [`DataPlane`] is a handle; the work is done by one thread, which stays in the network namespace in which
//! [`DataPlane::open`] was called and owns all sockets, and the embedded WireGuard device when there is one. No process is
//! ever spawned: everything goes over netlink (rtnetlink, nf_tables, generic netlink), except for the settings that
//! only exist as files in `/proc/sys`, and WireGuard devices in user space.
//!
//! It decides nothing: which changes are needed is told by `hostnet::plan`. What it cannot see: rules of the older
//! iptables (`iptables-legacy`), which have no netlink interface; that includes chains that a Go agent left there.

mod apply;
mod error;
mod kernel;
mod legacy;
mod netlink;
mod nft;
mod observe;
mod rtnl;
mod setting;
mod watch;
mod wireguard;

use std::{fmt, thread::JoinHandle};

use hostnet::{Change, LinkKind, LinkName, Observation};
use tokio::sync::{mpsc, oneshot};

pub use error::{Error, Failure};
pub use kernel::Config;
pub use netlink::Refusal;
pub use watch::{Notice, Subject, Watch};
pub use wireguard::{Backend, WireguardChoice};

use kernel::Kernel;
use watch::Listeners;

/// Something that the thread does.
type Job = Box<dyn FnOnce(&mut Kernel) + Send>;

/// The host's network. Dropping it ends the embedded device, if there is one, and changes nothing else.
pub struct DataPlane {
    backend: Backend,
    interface: LinkName,
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl DataPlane {
    /// Opens the network namespace of the calling thread, and chooses who runs WireGuard.
    ///
    /// # Errors
    /// When a socket cannot be opened, or the WireGuard that `config` demands is not there.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let (opened, backend) = oneshot::channel();
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let interface = config.interface.clone();
        let work = move || {
            let mut kernel = match Kernel::open(config) {
                Ok(kernel) => kernel,
                Err(error) => return drop(opened.send(Err(error))),
            };
            // Whoever asked may have gone away; then the queue ends at once.
            let _ = opened.send(Ok(kernel.wireguard.backend()));
            while let Some(job) = queue.blocking_recv() {
                job(&mut kernel);
            }
        };
        let thread = std::thread::Builder::new()
            .name("dataplane".to_owned())
            .spawn(work)
            .map_err(|source| Error::Socket { what: "the thread that talks to the kernel", source })?;
        let backend = backend.await.map_err(|_| Error::Ended)??;
        Ok(Self { backend, interface, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Who runs WireGuard.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether interfaces of a kind can be made. Asking for a kind of encapsulation loads its module, with which the
    /// kernel's own device of that kind appears: ask only when it is wanted.
    ///
    /// # Errors
    /// When the kernel answers something else than yes or no.
    pub async fn supports(&mut self, kind: LinkKind) -> Result<bool, Error> {
        self.run(move |kernel| kernel.supports(kind)).await?
    }

    /// One look at the host.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn observe(&mut self) -> Result<Observation, Error> {
        self.run(Kernel::observe).await?
    }

    /// Carries out changes in their order; returns those that failed. Every change is tried.
    pub async fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let job_changes = changes.to_vec();
        match self.run(move |kernel| kernel.apply(&job_changes)).await {
            Ok(failures) => failures,
            Err(_) => {
                let failed = |change: &Change| Failure { change: change.clone(), error: Error::Ended };
                changes.iter().map(failed).collect()
            }
        }
    }

    /// Notices about changes from now on. Has to be called inside of a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub async fn watch(&self) -> Result<Watch, Error> {
        let listeners = self.run(|kernel| Listeners::open(kernel.ports())).await??;
        Watch::new(listeners, self.interface.clone())
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, result) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(Error::Ended)?;
        let job: Job = Box::new(move |kernel| drop(answer.send(job(kernel))));
        jobs.send(job).map_err(|_| Error::Ended)?;
        result.await.map_err(|_| Error::Ended)
    }
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane")
            .field("backend", &self.backend)
            .field("interface", &self.interface)
            .finish()
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        // The thread ends with its queue; when this returns, the embedded device is gone.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
