//! The thread for handshakes, timers and changes of the interface.

use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::drops::Drop;
use crate::ecn::Ecn;
use crate::sys;

use super::{Shared, outbound};

/// Runs until the device stops.
pub(super) fn run(shared: &Shared) {
    let mut out = Vec::new();
    limit_large_packets(shared, shared.engine.mtu());
    follow_link(shared);
    loop {
        shared.bell.quiet();
        shared.do_errands();
        let now = sys::now();
        let more = shared.engine.handle_jobs(now, &mut out);
        if shared.engine.timers_due() <= now.moment {
            shared.engine.handle_timers(now, &mut out);
        }
        for (to, datagram) in out.drain(..) {
            if let Err(error) = shared.send(&to, &datagram, datagram.len(), Ecn::NotCapable) {
                shared.engine.drops.count(Drop::UdpSend);
                tracing::debug!(endpoint = %to.address, %error, "cannot send");
            }
        }
        let sleep = if more { Duration::ZERO } else { shared.engine.timers_due().since(sys::moment()) };
        let fds = [shared.stop.as_raw_fd(), shared.bell.as_raw_fd(), shared.tun.link_events_fd()];
        match sys::wait(fds, Some(sleep)) {
            Ok([true, ..]) => return,
            Ok([_, _, true]) => {
                shared.tun.drain_link_events();
                follow_link(shared);
            }
            Ok(_) => {
                if shared.tun.link_events_fd() < 0 {
                    follow_link(shared);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the control thread of the WireGuard device cannot wait");
                shared.interface_is_gone();
                return;
            }
        }
    }
}

/// Adopts the state the interface has now, wherever it is.
fn follow_link(shared: &Shared) {
    match shared.tun.follow() {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!("the WireGuard interface is in another network namespace now");
            limit_large_packets(shared, shared.engine.mtu());
        }
        Err(error) => tracing::debug!(%error, "cannot follow the interface to another network namespace"),
    }
    match shared.tun.link_state() {
        Ok(state) => {
            if shared.engine.mtu() != state.mtu {
                shared.engine.set_mtu(state.mtu);
                limit_large_packets(shared, state.mtu);
            }
            shared.engine.set_running(state.is_up);
        }
        Err(error) => {
            tracing::debug!(%error, "cannot read the state of the interface");
            shared.interface_is_gone();
        }
    }
}

/// A matter of speed only: without it large packets become a run and a remainder.
fn limit_large_packets(shared: &Shared, mtu: usize) {
    if let Err(error) = shared.tun.limit_large_packets(outbound::largest_packet(mtu)) {
        tracing::debug!(%error, "cannot limit the large packets of the interface");
    }
}
