//! Counting what is thrown away, from many threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::config::Drops;

/// Why something was thrown away; see [`Drops`] for the meaning of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drop {
    NotIp,
    NoPeer,
    Looped,
    NoSession,
    NoEndpoint,
    Malformed,
    UnknownSession,
    Forged,
    Replayed,
    ForeignSource,
    BadPacket,
    Congestion,
    Handshake,
    TunWrite,
    UdpSend,
}

const REASONS: usize = Drop::UdpSend as usize + 1;

/// One counter per reason.
#[derive(Default)]
pub(crate) struct Counters([AtomicU64; REASONS]);

impl Counters {
    pub(crate) fn count(&self, reason: Drop) {
        self.add(reason, 1);
    }

    pub(crate) fn add(&self, reason: Drop, many: u64) {
        self.0[reason as usize].fetch_add(many, Relaxed);
    }

    pub(crate) fn read(&self) -> Drops {
        let get = |reason: Drop| self.0[reason as usize].load(Relaxed);
        Drops {
            not_ip: get(Drop::NotIp),
            no_peer: get(Drop::NoPeer),
            looped: get(Drop::Looped),
            no_session: get(Drop::NoSession),
            no_endpoint: get(Drop::NoEndpoint),
            malformed: get(Drop::Malformed),
            unknown_session: get(Drop::UnknownSession),
            forged: get(Drop::Forged),
            replayed: get(Drop::Replayed),
            foreign_source: get(Drop::ForeignSource),
            bad_packet: get(Drop::BadPacket),
            congestion: get(Drop::Congestion),
            handshake: get(Drop::Handshake),
            tun_write: get(Drop::TunWrite),
            udp_send: get(Drop::UdpSend),
        }
    }
}
