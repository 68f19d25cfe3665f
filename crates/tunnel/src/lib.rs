//! A WireGuard device in user space.
