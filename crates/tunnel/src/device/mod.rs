//! The device: an engine with an interface, sockets and threads.
//!
//! Threads: one per queue of the interface (packets out), one per socket (packets in), one for handshakes and timers,
//! one for the UAPI. They are plain threads, so a device works inside any runtime or none.

mod control;
mod failures;
mod inbound;
mod outbound;
mod shared;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::config::{Config, DeviceState, Lack, PeerChange};
use crate::error::Error;
use crate::key::PrivateKey;
use crate::sync::lock;
use crate::sys;
use crate::sys::tun::Tun;

pub(crate) use shared::Shared;
use shared::Sockets;

/// Queues, and so threads for packets out, at most.
const MAX_QUEUES: usize = 4;
/// The threads use little stack: their buffers are on the heap.
const STACK_SIZE: usize = 256 << 10;

/// A WireGuard interface run by this process. Dropping it removes the interface and ends its threads.
pub struct Device {
    inner: Arc<Inner>,
    uapi: Option<crate::uapi::Server>,
}

/// What the UAPI server shares with the owner of the device.
pub(crate) struct Inner {
    shared: Arc<Shared>,
    /// Those that end with the device.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Those that end with the sockets.
    socket_threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Device {
    /// Creates the interface (down, without addresses) and the sockets in the network namespace of the calling
    /// thread, and starts.
    ///
    /// # Errors
    /// When the name, the MTU or the port cannot be used, or a right is missing; nothing is left behind then.
    pub fn create(config: Config) -> Result<Self, Error> {
        check_config(&config)?;
        let shared = Arc::new(Shared::create(&config)?);
        let inner = Arc::new(Inner { shared, threads: Mutex::default(), socket_threads: Mutex::default() });
        // From here on dropping `device` ends what was started.
        let mut device = Self { inner, uapi: None };
        device.inner.start()?;
        if config.uapi {
            device.uapi = Some(crate::uapi::Server::start(&config.name, device.inner.clone())?);
        }
        Ok(device)
    }

    /// Changes the private key: sessions end, endpoints stay. `None` makes the device silent.
    ///
    /// # Errors
    /// When the interface was removed.
    pub fn set_private_key(&self, key: Option<PrivateKey>) -> Result<(), Error> {
        self.inner.set_private_key(key)
    }

    /// Moves to another UDP port, 0 for any. Sessions go on: peers follow to the new port.
    ///
    /// # Errors
    /// When the port cannot be used; the old one stays in use then.
    pub fn set_listen_port(&self, port: u16) -> Result<(), Error> {
        self.inner.set_listen_port(port)
    }

    /// Marks outgoing datagrams; 0 is no mark.
    ///
    /// # Errors
    /// When a right is missing.
    pub fn set_fwmark(&self, mark: u32) -> Result<(), Error> {
        self.inner.set_fwmark(mark)
    }

    /// Changes peers, in order. Allowed IPs change for all packets at one moment; a prefix that moves belongs to
    /// exactly one peer at each moment. What is not named stays, above all sessions and learned endpoints.
    ///
    /// # Errors
    /// When the interface was removed.
    pub fn apply(&self, changes: &[PeerChange]) -> Result<(), Error> {
        self.inner.apply(changes)
    }

    /// The device as it is now.
    pub fn state(&self) -> DeviceState {
        self.inner.state()
    }

    /// The name the interface has now.
    ///
    /// # Errors
    /// When the interface was removed.
    pub fn name(&self) -> Result<String, Error> {
        self.inner.shared.name()
    }

    /// Whether the device still works.
    ///
    /// # Errors
    /// [`Error::InterfaceGone`] when somebody removed the interface.
    pub fn check(&self) -> Result<(), Error> {
        self.inner.shared.check()
    }

    /// Waits until the device breaks, at most so long; without an error the time is up.
    ///
    /// # Errors
    /// [`Error::InterfaceGone`] when somebody removed the interface.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<(), Error> {
        self.inner.shared.wait(timeout)
    }

    /// Waits until the device breaks, or something else is ready; without an error it is that.
    pub(crate) fn wait_beside(&self, other: &impl AsRawFd) -> Result<(), Error> {
        self.inner.shared.wait_beside(other.as_raw_fd())
    }

    /// Removes the interface and ends all threads.
    pub fn close(self) {}
}

impl Drop for Device {
    fn drop(&mut self) {
        drop(self.uapi.take());
        self.inner.stop();
    }
}

impl Inner {
    fn start(&self) -> Result<(), Error> {
        let mut threads = lock(&self.threads);
        for queue in 0..self.shared.tun.queues.len() {
            let shared = self.shared.clone();
            threads.push(spawn(format!("wg-out-{queue}"), move || outbound::run(&shared, queue))?);
        }
        let shared = self.shared.clone();
        threads.push(spawn("wg-control".into(), move || control::run(&shared))?);
        drop(threads);
        *lock(&self.socket_threads) = self.start_sockets(&self.shared.sockets.load_full())?;
        Ok(())
    }

    /// Starts the threads that read from these sockets; none of them stays when one cannot be started.
    fn start_sockets(&self, sockets: &Arc<Sockets>) -> Result<Vec<JoinHandle<()>>, Error> {
        let start = |index| {
            let (shared, sockets) = (self.shared.clone(), sockets.clone());
            spawn(format!("wg-in-{index}"), move || inbound::run(&shared, &sockets, index))
        };
        (0..sockets.list.len()).map(start).collect::<Result<_, _>>().inspect_err(|_| sockets.stop())
    }

    fn stop(&self) {
        self.shared.stop.ring();
        self.shared.sockets.load().stop();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let socket_threads = std::mem::take(&mut *lock(&self.socket_threads));
        for thread in threads.into_iter().chain(socket_threads) {
            if thread.join().is_err() {
                tracing::error!("a thread of the WireGuard device had panicked");
            }
        }
    }

    pub(crate) fn set_private_key(&self, key: Option<PrivateKey>) -> Result<(), Error> {
        self.shared.check()?;
        self.shared.engine.set_private_key(key);
        Ok(())
    }

    pub(crate) fn set_listen_port(&self, port: u16) -> Result<(), Error> {
        self.shared.check()?;
        let _serial = lock(&self.shared.changing_sockets);
        let old = self.shared.sockets.load_full();
        if port == old.port {
            return Ok(());
        }
        let (mark, lacks) = (self.shared.mark(), self.shared.lacks);
        let new = Arc::new(self.shared.in_namespace(move || Sockets::bind(port, mark, lacks))??);
        let threads = self.start_sockets(&new)?;
        self.shared.engine.set_port(new.port);
        self.shared.sockets.store(new);
        let old_threads = std::mem::replace(&mut *lock(&self.socket_threads), threads);
        old.stop();
        for thread in old_threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the WireGuard device had panicked");
            }
        }
        // The interface may have gone before the new sockets were in place.
        self.shared.check().inspect_err(|_| self.shared.sockets.load().stop())
    }

    pub(crate) fn set_fwmark(&self, mark: u32) -> Result<(), Error> {
        self.shared.check()?;
        let _serial = lock(&self.shared.changing_sockets);
        self.shared.sockets.load().set_mark(mark)?;
        self.shared.set_mark(mark);
        Ok(())
    }

    pub(crate) fn apply(&self, changes: &[PeerChange]) -> Result<(), Error> {
        self.shared.check()?;
        self.shared.engine.apply(changes, sys::moment());
        Ok(())
    }

    pub(crate) fn state(&self) -> DeviceState {
        let engine = &self.shared.engine;
        DeviceState {
            private_key: engine.private_key(),
            listen_port: self.shared.sockets.load().port,
            fwmark: self.shared.mark(),
            peers: engine.peers(),
            drops: engine.drops.read(),
        }
    }
}

/// As many queues as are of use here.
fn queues(lacks: &[Lack]) -> usize {
    if lacks.contains(&Lack::SeveralQueues) {
        return 1;
    }
    thread::available_parallelism().map_or(1, usize::from).min(MAX_QUEUES)
}

/// Starts a thread.
pub(crate) fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let builder = thread::Builder::new().name(name).stack_size(STACK_SIZE);
    builder.spawn(body).map_err(|reason| Error::Resource { attempt: "start a thread", reason })
}

fn check_config(config: &Config) -> Result<(), Error> {
    let name = &config.name;
    let fits = (1..libc::IFNAMSIZ).contains(&name.len()) && name != "." && name != "..";
    if !fits || name.bytes().any(|byte| byte == b'/' || byte == b'%' || byte <= b' ' || byte == 0x7f) {
        return Err(Error::BadName { name: name.clone() });
    }
    if !(576..=65_455).contains(&config.mtu) {
        return Err(Error::BadMtu { name: name.clone(), mtu: config.mtu });
    }
    Ok(())
}

/// Makes the interface.
fn create_tun(config: &Config) -> Result<Tun, Error> {
    let fail = |attempt| {
        let name = config.name.clone();
        move |reason: io::Error| Error::Tun { attempt, name, reason }
    };
    let tun =
        Tun::create(&config.name, queues(config.lacks), config.lacks).map_err(fail("create a TUN device"))?;
    tun.set_mtu(config.mtu).map_err(fail("set the MTU"))?;
    Ok(tun)
}
