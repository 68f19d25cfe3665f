//! The firewall in nf_tables: one table `inet kilo` with fixed chains over named sets, and accept rules at the head of
//! the FORWARD chains of iptables-nft, where such chains exist.
//!
//! What is seen of it is compared with what we make ([`layout`]): a table that lacks a chain or a rule, has one more,
//! or has another hook counts as missing and is made anew. Element changes and remakes are single transactions.
//!
//! The older iptables (`iptables-legacy`) does not speak netlink: its rules can neither be seen nor changed here.

mod expression;
mod forward;
mod interval;
mod layout;
mod leftover;
mod message;
mod table;

pub use leftover::{remove as remove_leftovers, tables as tables_with_leftovers};
pub use table::Nft;
