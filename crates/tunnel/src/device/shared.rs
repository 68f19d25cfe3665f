//! What the threads of a device share, and how it comes into being.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::config::{Config, Greeting, Lack};
use crate::ecn::Ecn;
use crate::engine::Engine;
use crate::error::Error;
use crate::peer::Endpoint;
use crate::sync::lock;
use crate::sys::tun::Tun;
use crate::sys::udp::{PortUse, UdpSocket};
use crate::sys::{self, Bell};

/// Something to be done in the network namespace of the device.
type Errand = Box<dyn FnOnce() + Send>;

/// How long an errand may take; binding sockets takes microseconds.
const ERRAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything the threads need.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) tun: Tun,
    pub(crate) sockets: ArcSwap<Sockets>,
    /// Rung when the control thread has something to do.
    pub(super) bell: std::sync::Arc<Bell>,
    /// Rung, and never silenced, when the threads have to end.
    pub(super) stop: Bell,
    pub(super) changing_sockets: Mutex<()>,
    /// What the control thread is to do because it lives in the network namespace of the device.
    errands: Mutex<VecDeque<Errand>>,
    name: String,
    pub(super) lacks: &'static [Lack],
    gone: AtomicBool,
    mark: AtomicU32,
}

/// The sockets of one port.
pub(crate) struct Sockets {
    /// For IPv4 and, where the system has it, IPv6; several of each where several threads can read.
    pub(super) list: Vec<UdpSocket>,
    pub(super) port: u16,
    stopped: AtomicBool,
}

impl Shared {
    pub(super) fn create(config: &Config) -> Result<Self, Error> {
        let resource = |reason| Error::Resource { attempt: "make an event descriptor", reason };
        let sockets = Sockets::bind(config.listen_port, config.fwmark, config.lacks)?;
        let tun = super::create_tun(config)?;
        let bell = std::sync::Arc::new(Bell::new().map_err(resource)?);
        let ringer = bell.clone();
        let engine =
            Engine::new(config.private_key.clone(), config.mtu as usize, Box::new(move || ringer.ring()));
        engine.set_greets(config.greeting == Greeting::AtOnce);
        engine.set_port(sockets.port);
        engine.set_running(false);
        if config.lacks.contains(&Lack::WideRegisters) {
            engine.be_portable();
        }
        Ok(Self {
            engine,
            tun,
            sockets: ArcSwap::from_pointee(sockets),
            bell,
            stop: Bell::new().map_err(resource)?,
            changing_sockets: Mutex::default(),
            errands: Mutex::default(),
            name: config.name.clone(),
            lacks: config.lacks,
            gone: AtomicBool::new(false),
            mark: AtomicU32::new(config.fwmark),
        })
    }

    pub(super) fn mark(&self) -> u32 {
        self.mark.load(Relaxed)
    }

    pub(super) fn set_mark(&self, mark: u32) {
        self.mark.store(mark, Relaxed);
    }

    pub(super) fn name(&self) -> Result<String, Error> {
        self.check()?;
        self.tun.name().map_err(|_| Error::InterfaceGone { name: self.name.clone() })
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.gone.load(Relaxed) { Err(Error::InterfaceGone { name: self.name.clone() }) } else { Ok(()) }
    }

    pub(super) fn wait(&self, timeout: Option<Duration>) -> Result<(), Error> {
        // An interrupted wait looks like the end of the time; callers ask again.
        sys::wait([self.stop.as_raw_fd()], timeout)
            .map_err(|reason| Error::Resource { attempt: "wait for the device", reason })?;
        self.check()
    }

    pub(super) fn wait_beside(&self, other: RawFd) -> Result<(), Error> {
        loop {
            let [is_over, is_ready] = sys::wait([self.stop.as_raw_fd(), other], None)
                .map_err(|reason| Error::Resource { attempt: "wait for the device", reason })?;
            if is_over || is_ready {
                return self.check();
            }
        }
    }

    /// The interface does not exist any more: end everything but the object.
    pub(super) fn interface_is_gone(&self) {
        if !self.gone.swap(true, Relaxed) {
            tracing::error!(interface = %self.name, "the WireGuard interface was removed");
        }
        self.stop.ring();
        self.sockets.load().stop();
    }

    /// Does something in the network namespace of the device, whichever one the caller lives in now.
    pub(super) fn in_namespace<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = mpsc::channel();
        // A caller that has given up does not wait for the result.
        lock(&self.errands).push_back(Box::new(move || drop(sender.send(body()))));
        self.bell.ring();
        receiver.recv_timeout(ERRAND_TIMEOUT).map_err(|_| match self.check() {
            Err(gone) => gone,
            Ok(()) => Error::Closed,
        })
    }

    /// Does what was asked for by [`Shared::in_namespace`].
    pub(super) fn do_errands(&self) {
        loop {
            // Not in the condition of the loop: the lock would be held while working.
            let errand = lock(&self.errands).pop_front();
            match errand {
                Some(errand) => errand(),
                None => return,
            }
        }
    }

    /// Sends one datagram, or a run of datagrams of `segment` bytes.
    pub(super) fn send(&self, to: &Endpoint, data: &[u8], segment: usize, ecn: Ecn) -> io::Result<()> {
        self.sockets.load().send(to, data, segment, ecn)
    }
}

impl Sockets {
    /// Binds IPv4 and IPv6 to the same port.
    pub(super) fn bind(port: u16, mark: u32, lacks: &'static [Lack]) -> Result<Self, Error> {
        let listen = |reason| Error::Listen { port, reason };
        // A port that is free for IPv4 may be taken for IPv6: when any port will do, try another.
        let attempts = if port == 0 { 16 } else { 1 };
        let mut last = None;
        for _ in 0..attempts {
            match Self::bind_both(port, lacks) {
                Ok((list, port)) => {
                    let sockets = Self { list, port, stopped: AtomicBool::new(false) };
                    if mark != 0 {
                        sockets.set_mark(mark)?;
                    }
                    return Ok(sockets);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(listen(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into())))
    }

    fn bind_both(port: u16, lacks: &[Lack]) -> io::Result<(Vec<UdpSocket>, u16)> {
        let mut list = Vec::new();
        bind_group(&mut list, false, port, lacks)?;
        let port = list[0].port()?;
        match bind_group(&mut list, true, port, lacks) {
            // IPv6 is not compiled in, or switched off.
            Err(error) if is_no_ipv6(&error) => {}
            result => result?,
        }
        Ok((list, port))
    }

    /// Whether the threads that read have to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Ends the threads that read.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
        self.list.iter().for_each(UdpSocket::stop_receiving);
    }

    pub(super) fn set_mark(&self, mark: u32) -> Result<(), Error> {
        self.list
            .iter()
            .try_for_each(|socket| socket.set_mark(mark))
            .map_err(|reason| Error::Fwmark { mark, reason })
    }

    fn send(&self, to: &Endpoint, data: &[u8], segment: usize, ecn: Ecn) -> io::Result<()> {
        let fits = |socket: &&UdpSocket| socket.is_v6() == to.address.is_ipv6();
        let socket = self.list.iter().find(fits).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let result = send_by(socket, to, data, segment, ecn);
        match result {
            // Our address is not ours any more: let the system choose.
            Err(error) if to.local.is_some() && is_bad_source(&error) => {
                send_by(socket, &Endpoint::from(to.address), data, segment, ecn)
            }
            result => result,
        }
    }
}

fn send_by(socket: &UdpSocket, to: &Endpoint, data: &[u8], segment: usize, ecn: Ecn) -> io::Result<()> {
    if data.len() <= segment {
        return socket.send(to, data, None, ecn);
    }
    if socket.can_segment()
        && let Ok(size) = u16::try_from(segment)
    {
        match socket.send(to, data, Some(size), ecn) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                // The network device cannot compute checksums, which cutting by the kernel needs.
                tracing::info!("this route cannot cut runs of datagrams: sending them one by one");
                socket.give_up_segments();
            }
            // Larger than the path MTU: alone, each of them is fragmented.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE)) => {}
            result => return result,
        }
    }
    let mut result = Ok(());
    for datagram in data.chunks(segment) {
        if let Err(error) = socket.send(to, datagram, None, ecn) {
            result = Err(error);
        }
    }
    result
}

/// Binds as many sockets as there are threads to read from them.
fn bind_group(list: &mut Vec<UdpSocket>, is_v6: bool, port: u16, lacks: &[Lack]) -> io::Result<()> {
    let first = UdpSocket::bind(is_v6, port, PortUse::Alone, lacks)?;
    let port = first.port()?;
    let many = super::queues(lacks);
    if many > 1 {
        first.share()?;
    }
    list.push(first);
    for _ in 1..many {
        list.push(UdpSocket::bind(is_v6, port, PortUse::Shared, lacks)?);
    }
    Ok(())
}

fn is_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn is_bad_source(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::ENODEV)
    )
}
