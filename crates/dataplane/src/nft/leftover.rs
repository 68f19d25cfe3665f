//! What a Go agent left in iptables-nft: its chains, the rules that jump to them, and its rules in the chains of others.
//!
//! Its rules are told by their comments, letter for letter: an operator's rule may speak of Kilo too. All of a table goes
//! in one transaction, because the chain accepts what the rule behind its jump drops.

use super::{
    expression,
    forward::has_chain,
    message::{HEADER, Transaction, header, kind},
};
use crate::netlink::{Attributes, Received, Refusal, Socket, Writer, constants::*};

/// A table of iptables in which Go agents have a chain, and rules in other chains.
struct Table {
    name: &'static str,
    /// The chain that belongs to them.
    own: &'static str,
    /// The chains in which they have rules.
    others: &'static [&'static str],
}

const TABLES: [Table; 2] = [
    Table { name: "nat", own: "KILO-NAT", others: &["POSTROUTING"] },
    Table { name: "filter", own: "KILO-IPIP", others: &["INPUT", "FORWARD"] },
];

const FAMILIES: [(&str, u8); 2] = [("ip", NFPROTO_IPV4), ("ip6", NFPROTO_IPV6)];

/// The comments of rules of Go Kilo, 0.1 to 0.7, that do not jump to its chains.
const COMMENTS: [&str; 9] = [
    "Kilo: reject other IPIP traffic",
    "Kilo: forward packets from the pod subnet",
    "Kilo: forward packets to the pod subnet",
    "Kilo: forward packets from the node's pod subnet",
    "Kilo: forward packets to the node's pod subnet",
    "Kilo: forward packets from allowed location IPs",
    "Kilo: forward packets to allowed location IPs",
    "Kilo: forward packets from private IPs",
    "Kilo: forward packets to private IPs",
];

/// A rule in a chain that is not a Go agent's.
struct Rule {
    chain: &'static str,
    handle: u64,
}

/// The tables in which a Go agent left something: the family (`ip` or `ip6`) and the name.
pub fn tables(socket: &mut Socket) -> Result<Vec<(&'static str, &'static str)>, Refusal> {
    let mut found = Vec::new();
    for (family, number) in FAMILIES {
        for table in &TABLES {
            if has_chain(socket, number, table.name, table.own)? || !rules(socket, number, table)?.is_empty()
            {
                found.push((family, table.name));
            }
        }
    }
    Ok(found)
}

/// Removes what a Go agent left in a table.
pub fn remove(socket: &mut Socket, family: &str, table: &str) -> Result<(), Refusal> {
    let family = FAMILIES.iter().find(|(name, _)| *name == family).map(|(_, number)| *number);
    let (Some(family), Some(table)) = (family, TABLES.iter().find(|known| known.name == table)) else {
        return Ok(());
    };
    let rules = rules(socket, family, table)?;
    let chain = has_chain(socket, family, table.name, table.own)?;
    let mut transaction = Transaction::begin(socket.batch());
    for rule in &rules {
        transaction.push(NFT_MSG_DELRULE, 0, family, |writer| {
            writer.put_text(NFTA_RULE_TABLE, table.name);
            writer.put_text(NFTA_RULE_CHAIN, rule.chain);
            writer.put_be64(NFTA_RULE_HANDLE, rule.handle);
        });
    }
    if chain {
        // Without a handle: all rules of the chain.
        transaction.push(NFT_MSG_DELRULE, 0, family, |writer| {
            writer.put_text(NFTA_RULE_TABLE, table.name);
            writer.put_text(NFTA_RULE_CHAIN, table.own);
        });
        transaction.push(NFT_MSG_DELCHAIN, 0, family, |writer| {
            writer.put_text(NFTA_CHAIN_TABLE, table.name);
            writer.put_text(NFTA_CHAIN_NAME, table.own);
        });
    }
    match transaction.end() {
        Some(batch) => socket.transact(batch).map_err(|(_, refusal)| refusal),
        None => Ok(()),
    }
}

/// A Go agent's rules in the chains of others.
fn rules(socket: &mut Socket, family: u8, table: &Table) -> Result<Vec<Rule>, Refusal> {
    let mut found = Vec::new();
    for chain in table.others {
        let ask = |writer: &mut Writer<'_>| {
            header(writer, family, 0);
            writer.put_text(NFTA_RULE_TABLE, table.name);
            writer.put_text(NFTA_RULE_CHAIN, chain);
        };
        let read = |message: &Received<'_>| {
            let rule = message.attributes(HEADER);
            // Old kernels do not filter.
            let here = (rule.text(NFTA_RULE_TABLE), rule.text(NFTA_RULE_CHAIN)) == (table.name, *chain);
            (here && is_of_go(rule, table))
                .then(|| Some(Rule { chain, handle: rule.be64(NFTA_RULE_HANDLE)? }))?
        };
        found.extend(socket.dump(kind(NFT_MSG_GETRULE), ask, read)?);
    }
    Ok(found)
}

fn is_of_go(rule: Attributes<'_>, table: &Table) -> bool {
    expression::jump_target(rule) == Some(table.own)
        || expression::iptables_comment(rule).is_some_and(|comment| COMMENTS.contains(&comment))
}
