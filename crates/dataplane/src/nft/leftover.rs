//! What a Go agent left in iptables-nft: its chains, and the rules that jump to them.

use super::{
    expression,
    forward::has_chain,
    message::{HEADER, Transaction, header, kind},
};
use crate::netlink::{Received, Refusal, Socket, Writer, constants::*};

/// A chain of a Go agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoChain {
    /// `ip` or `ip6`.
    pub family: &'static str,
    pub table: &'static str,
    pub chain: &'static str,
}

const CANDIDATES: [GoChain; 4] = [
    GoChain { family: "ip", table: "nat", chain: "KILO-NAT" },
    GoChain { family: "ip6", table: "nat", chain: "KILO-NAT" },
    GoChain { family: "ip", table: "filter", chain: "KILO-IPIP" },
    GoChain { family: "ip6", table: "filter", chain: "KILO-IPIP" },
];

fn number(family: &str) -> u8 {
    if family == "ip6" { NFPROTO_IPV6 } else { NFPROTO_IPV4 }
}

/// The chains that are there.
pub fn chains(socket: &mut Socket) -> Result<Vec<GoChain>, Refusal> {
    let mut found = Vec::new();
    for candidate in CANDIDATES {
        if has_chain(socket, number(candidate.family), candidate.table, candidate.chain)? {
            found.push(candidate);
        }
    }
    Ok(found)
}

/// Removes a chain with its rules and the rules that jump to it, in one transaction.
pub fn remove(socket: &mut Socket, family: &str, table: &str, chain: &str) -> Result<(), Refusal> {
    let family = number(family);
    let ask = |writer: &mut Writer<'_>| {
        header(writer, family, 0);
        writer.put_text(NFTA_RULE_TABLE, table);
    };
    let jumps = socket.dump(kind(NFT_MSG_GETRULE), ask, |message: &Received<'_>| {
        let rule = message.attributes(HEADER);
        let ours = rule.text(NFTA_RULE_TABLE) == table && expression::jump_target(rule) == Some(chain);
        ours.then(|| Some((rule.text(NFTA_RULE_CHAIN).to_owned(), rule.be64(NFTA_RULE_HANDLE)?))).flatten()
    })?;
    let mut transaction = Transaction::begin(socket.batch());
    for (from, handle) in &jumps {
        transaction.push(NFT_MSG_DELRULE, 0, family, |writer| {
            writer.put_text(NFTA_RULE_TABLE, table);
            writer.put_text(NFTA_RULE_CHAIN, from);
            writer.put_be64(NFTA_RULE_HANDLE, *handle);
        });
    }
    // Without a handle: all rules of the chain.
    transaction.push(NFT_MSG_DELRULE, 0, family, |writer| {
        writer.put_text(NFTA_RULE_TABLE, table);
        writer.put_text(NFTA_RULE_CHAIN, chain);
    });
    transaction.push(NFT_MSG_DELCHAIN, 0, family, |writer| {
        writer.put_text(NFTA_CHAIN_TABLE, table);
        writer.put_text(NFTA_CHAIN_NAME, chain);
    });
    match transaction.end() {
        Some(batch) => socket.transact(batch).map_err(|(_, refusal)| refusal),
        None => Ok(()),
    }
}
