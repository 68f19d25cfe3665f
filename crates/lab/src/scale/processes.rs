//! Which processes an agent starts, also those that end at once: the kernel tells of every fork (linux/cn_proc.h).

use std::{
    collections::BTreeSet,
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// `NETLINK_CONNECTOR`
const CONNECTOR: isize = 11;
/// `CN_IDX_PROC` and `CN_VAL_PROC`
const PROCESSES: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`
const LISTEN: u32 = 1;
/// `PROC_EVENT_FORK`
const FORK: u32 = 1;
/// Bytes of `struct nlmsghdr` and `struct cn_msg`.
const HEADERS: usize = 16 + 20;
/// Bytes of `struct proc_event` before what differs by kind.
const EVENT: usize = 16;

/// Who was started by whom since the beginning, as process ids.
#[derive(Default)]
struct Forks {
    pairs: Mutex<Vec<(u32, u32)>>,
    stop: AtomicBool,
    lost: AtomicBool,
}

/// Follows all forks of this machine until it is dropped.
pub struct Processes {
    forks: Arc<Forks>,
    thread: Option<JoinHandle<()>>,
}

impl Processes {
    /// Begins to follow.
    ///
    /// # Errors
    /// When the kernel does not tell, as inside of a container with process ids of its own.
    pub fn follow() -> io::Result<Self> {
        let mut socket = Socket::new(CONNECTOR)?;
        socket.bind(&SocketAddr::new(0, PROCESSES))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
        let words = [PROCESSES, PROCESSES, 0, 0, 4, LISTEN];
        let mut message = Vec::new();
        // struct nlmsghdr: length, NLMSG_DONE, no flags, sequence, port.
        message.extend((16 + 4 * words.len() as u32).to_ne_bytes());
        message.extend([3u16, 0].into_iter().flat_map(u16::to_ne_bytes));
        message.extend([0; 8]);
        message.extend(words.into_iter().flat_map(u32::to_ne_bytes));
        socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
        let forks = Arc::new(Forks::default());
        let following = forks.clone();
        let thread = thread::spawn(move || following.run(&socket));
        Ok(Self { forks, thread: Some(thread) })
    }

    /// How many processes a process and its descendants have started so far. `None`: the kernel told faster than we
    /// listened.
    pub fn started_by(&self, pid: u32) -> Option<usize> {
        if self.forks.lost.load(Ordering::Relaxed) {
            return None;
        }
        let mut family = BTreeSet::from([pid]);
        let pairs = self.forks.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        // A parent's own fork is told before those of its child.
        for (parent, child) in pairs.iter() {
            if family.contains(parent) {
                family.insert(*child);
            }
        }
        Some(family.len() - 1)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.forks.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Forks {
    fn run(&self, socket: &Socket) {
        let mut buffer: Vec<u8> = Vec::with_capacity(4096);
        let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !self.stop.load(Ordering::Relaxed) {
            let mut ready = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
            if !matches!(poll(&mut ready, Some(&patience)), Ok(1..)) {
                continue;
            }
            buffer.clear();
            match socket.recv_from(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {
                    if let Some(pair) = fork(&buffer) {
                        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).push(pair);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.lost.store(true, Ordering::Relaxed);
                }
                Err(_) => {}
            }
        }
    }
}

/// Parent and child of a new process; threads do not count.
fn fork(message: &[u8]) -> Option<(u32, u32)> {
    let event = message.get(HEADERS..)?;
    let word = |at: usize| Some(u32::from_ne_bytes(event.get(at..at + 4)?.try_into().ok()?));
    // parent_pid, parent_tgid, child_pid, child_tgid
    let (parent, thread, child) = (word(EVENT + 4)?, word(EVENT + 8)?, word(EVENT + 12)?);
    (word(0)? == FORK && thread == child).then_some((parent, child))
}
