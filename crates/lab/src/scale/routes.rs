//! The IPv4 routes of a namespace, followed by the kernel's notices (rtnetlink(7)), and the moment at which a wanted
//! set of them was complete.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    clock::Moment,
    cluster::{NextHop, Prefix},
};
use crate::{LabError, netns};

/// What a destination should have: a next hop, or (`None`) no route at all.
pub type Wanted = BTreeMap<Prefix, Option<NextHop>>;

/// Bytes of notices that may wait: a leader's routes come in one burst.
const WAITING: usize = 64 << 20;

// linux/rtnetlink.h, linux/netlink.h
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const NLM_F_REPLACE: u16 = 0x100;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const AF_INET: u8 = 2;
/// `RT_TABLE_LOCAL` and what the kernel adds by itself do not count.
const RTPROT_KERNEL: u8 = 2;
const RTN_UNICAST: u8 = 1;

/// Follows the routes of a namespace until it is dropped.
pub struct Routes {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    reached: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    table: HashMap<Prefix, BTreeSet<NextHop>>,
    goal: Option<Goal>,
    changes: u64,
    lost: bool,
}

struct Goal {
    wanted: HashMap<Prefix, Option<NextHop>>,
    unmet: BTreeSet<Prefix>,
    reached: Option<Moment>,
}

impl Routes {
    /// Begins to follow. Routes that are there already are not seen.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn follow(namespace: &str) -> Result<Self, LabError> {
        let open = || -> std::io::Result<netlink_sys::Socket> {
            let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
            socket.bind_auto()?;
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, WAITING)?;
            socket.add_membership(RTNLGRP_IPV4_ROUTE)?;
            Ok(socket)
        };
        let socket =
            netns::inside(namespace, open)?.map_err(LabError::io("listening to changes of routes"))?;
        let shared = Arc::new(Shared::default());
        let following = shared.clone();
        let thread = thread::spawn(move || following.run(&socket));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Names what is waited for next. What is so already counts as reached now.
    pub fn want(&self, wanted: &Wanted) {
        let mut state = self.shared.lock();
        let unmet = wanted.iter().filter(|(prefix, wanted)| !is_met(&state.table, prefix, wanted));
        let unmet: BTreeSet<Prefix> = unmet.map(|(prefix, _)| *prefix).collect();
        let reached = unmet.is_empty().then(Moment::now);
        let wanted = wanted.iter().map(|(prefix, wanted)| (*prefix, *wanted)).collect();
        state.goal = Some(Goal { wanted, unmet, reached });
    }

    /// How many routes have been set or removed so far.
    pub fn changes(&self) -> u64 {
        self.shared.lock().changes
    }

    /// Waits until everything that is wanted is so, and tells since when; else how many routes are missing or left.
    ///
    /// # Errors
    /// When notices were lost: then nothing is known.
    pub fn wait(&self, within: Duration) -> Result<Result<Moment, usize>, LabError> {
        let pending =
            |state: &mut State| !state.lost && state.goal.as_ref().is_some_and(|goal| goal.reached.is_none());
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .reached
            .wait_timeout_while(state, within, pending)
            .unwrap_or_else(PoisonError::into_inner);
        if state.lost {
            let lost = std::io::Error::from_raw_os_error(libc::ENOBUFS);
            return Err(LabError::io("following routes")(lost));
        }
        Ok(match &state.goal {
            Some(Goal { reached: Some(moment), .. }) => Ok(*moment),
            Some(goal) => Err(goal.unmet.len()),
            None => Ok(Moment::now()),
        })
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, socket: &netlink_sys::Socket) {
        let mut buffer: Vec<u8> = Vec::with_capacity(64 << 10);
        let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !self.stop.load(Ordering::Relaxed) {
            let mut ready = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
            if !matches!(poll(&mut ready, Some(&patience)), Ok(1..)) {
                continue;
            }
            buffer.clear();
            let received = socket.recv_from(&mut buffer, libc::MSG_DONTWAIT);
            let mut state = self.lock();
            match received {
                Ok(_) => messages(&buffer).for_each(|message| state.take(message)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => state.lost = true,
                Err(_) => continue,
            }
            if state.lost || state.goal.as_ref().is_some_and(|goal| goal.reached.is_some()) {
                self.reached.notify_all();
            }
        }
    }
}

impl State {
    fn take(&mut self, message: Message<'_>) {
        let Some((prefix, hop)) = message.route() else { return };
        self.changes += 1;
        let hops = self.table.entry(prefix).or_default();
        match message.kind {
            RTM_NEWROUTE => {
                if message.flags & NLM_F_REPLACE != 0 {
                    hops.clear();
                }
                hops.insert(hop);
            }
            _ => {
                hops.remove(&hop);
            }
        }
        let Some(goal) = self.goal.as_mut().filter(|goal| goal.reached.is_none()) else { return };
        let Some(wanted) = goal.wanted.get(&prefix) else { return };
        if is_met(&self.table, &prefix, wanted) {
            goal.unmet.remove(&prefix);
        } else {
            goal.unmet.insert(prefix);
        }
        goal.reached = goal.unmet.is_empty().then(Moment::now);
    }
}

fn is_met(table: &HashMap<Prefix, BTreeSet<NextHop>>, prefix: &Prefix, wanted: &Option<NextHop>) -> bool {
    let hops = table.get(prefix);
    match wanted {
        None => hops.is_none_or(BTreeSet::is_empty),
        Some(hop) => hops.is_some_and(|hops| hops.contains(hop)),
    }
}

/// A message of the kernel: `struct nlmsghdr` and what follows.
#[derive(Clone, Copy)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

impl Message<'_> {
    /// Destination and next hop of a unicast route that somebody has set (`struct rtmsg`, attributes).
    fn route(&self) -> Option<(Prefix, NextHop)> {
        let header = self.payload.get(..12)?;
        let wanted = matches!(self.kind, RTM_NEWROUTE | RTM_DELROUTE)
            && header[0] == AF_INET
            && header[5] != RTPROT_KERNEL
            && header[7] == RTN_UNICAST;
        if !wanted {
            return None;
        }
        let (mut destination, mut hop) = (Ipv4Addr::UNSPECIFIED, None);
        let mut rest = self.payload.get(12..)?;
        while let Some((length, kind)) = two_numbers(rest) {
            let value = rest.get(4..usize::from(length))?;
            let address = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
            match kind {
                RTA_DST => destination = address()?,
                RTA_GATEWAY => hop = address(),
                _ => {}
            }
            rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        }
        Some(((destination, header[1]), hop))
    }
}

fn two_numbers(bytes: &[u8]) -> Option<(u16, u16)> {
    let bytes: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some((u16::from_ne_bytes([bytes[0], bytes[1]]), u16::from_ne_bytes([bytes[2], bytes[3]])))
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let (kind, flags) = two_numbers(bytes.get(4..8)?)?;
        let payload = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, flags, payload })
    })
}
