//! Accepting forwarded packets where they would be dropped: at the head of `FORWARD` in the `filter` tables of
//! iptables-nft. An accept in a table of our own could not undo that drop.
//!
//! The rules are written as iptables-nft would write them (address, counter, accept, one prefix and one direction
//! each), so that iptables can still list and save the chain. Their comment marks them as ours and says what they
//! are for.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use mesh::prefix::Family;

use super::{
    expression::{self, Direction, Expression},
    message::{HEADER, Transaction, header, kind},
};
use crate::{
    netlink::{Received, Refusal, Socket, Writer, constants::*},
    rtnl::family_number,
};

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const COMMENT: &str = "kilo forward ";

/// What a rule of ours accepts.
type Accepted = (IpNet, Direction);

/// The accept rules of ours in the chains of iptables-nft.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forward {
    /// The families that have such a chain.
    families: BTreeSet<Family>,
    /// The handles of our rules by what they accept; more than one handle for a rule that is there twice.
    rules: BTreeMap<Accepted, Vec<u64>>,
}

impl Forward {
    /// Reads the chains.
    pub fn observe(socket: &mut Socket) -> Result<Self, Refusal> {
        let mut forward = Self::default();
        for family in Family::ALL {
            if !has_chain(socket, family_number(family), TABLE, CHAIN)? {
                continue;
            }
            forward.families.insert(family);
            for (rule, handle) in rules(socket, family)? {
                forward.rules.entry(rule).or_default().push(handle);
            }
        }
        Ok(forward)
    }

    /// Whether none of our rules is anywhere.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// For which prefixes forwarding is really accepted, given those that our own table lists: where there is a
    /// chain of iptables, both directions have to be accepted there too; and what is accepted there counts although
    /// our table does not list it.
    pub fn effective(&self, listed: &BTreeSet<IpNet>) -> BTreeSet<IpNet> {
        let complete =
            |net: &IpNet| [Direction::From, Direction::To].iter().all(|way| self.has_once(*net, *way));
        let there = |net: &&IpNet| !self.families.contains(&Family::of_prefix(net)) || complete(net);
        let mut effective: BTreeSet<IpNet> = listed.iter().filter(there).copied().collect();
        effective.extend(self.rules.keys().map(|(net, _)| *net).filter(|net| !listed.contains(net)));
        effective
    }

    fn has_once(&self, net: IpNet, direction: Direction) -> bool {
        self.rules.get(&(net, direction)).is_some_and(|handles| handles.len() == 1)
    }

    /// Adds what leads from these rules to those for `wanted`.
    pub fn change(&self, wanted: &BTreeSet<IpNet>, transaction: &mut Transaction) {
        for ((net, _), handles) in &self.rules {
            let keep = usize::from(wanted.contains(net));
            for handle in handles.iter().skip(keep) {
                let family = family_number(Family::of_prefix(net));
                transaction.push(NFT_MSG_DELRULE, 0, family, |writer| {
                    writer.put_text(NFTA_RULE_TABLE, TABLE);
                    writer.put_text(NFTA_RULE_CHAIN, CHAIN);
                    writer.put_be64(NFTA_RULE_HANDLE, *handle);
                });
            }
        }
        for net in wanted.iter().filter(|net| self.families.contains(&Family::of_prefix(net))) {
            for direction in [Direction::From, Direction::To] {
                if !self.rules.contains_key(&(*net, direction)) {
                    insert(transaction, *net, direction);
                }
            }
        }
    }
}

/// A rule at the head of the chain: without `NLM_F_APPEND`.
fn insert(transaction: &mut Transaction, net: IpNet, direction: Direction) {
    let family = family_number(Family::of_prefix(&net));
    let way = match direction {
        Direction::From => "from",
        Direction::To => "to",
    };
    transaction.push(NFT_MSG_NEWRULE, NLM_F_CREATE, family, |writer| {
        writer.put_text(NFTA_RULE_TABLE, TABLE);
        writer.put_text(NFTA_RULE_CHAIN, CHAIN);
        let expressions = [Expression::InPrefix(direction, net), Expression::Counter, Expression::Accept];
        expression::write(writer, &expressions);
        expression::write_comment(writer, &format!("{COMMENT}{way} {net}"));
    });
}

fn parse(comment: &str) -> Option<Accepted> {
    let (way, net) = comment.strip_prefix(COMMENT)?.split_once(' ')?;
    let direction = match way {
        "from" => Direction::From,
        "to" => Direction::To,
        _ => return None,
    };
    Some((net.parse().ok()?, direction))
}

fn rules(socket: &mut Socket, family: Family) -> Result<Vec<(Accepted, u64)>, Refusal> {
    let ask = |writer: &mut Writer<'_>| {
        header(writer, family_number(family), 0);
        writer.put_text(NFTA_RULE_TABLE, TABLE);
        writer.put_text(NFTA_RULE_CHAIN, CHAIN);
    };
    socket.dump(kind(NFT_MSG_GETRULE), ask, |message: &Received<'_>| {
        let rule = message.attributes(HEADER);
        // Old kernels do not filter.
        if (rule.text(NFTA_RULE_TABLE), rule.text(NFTA_RULE_CHAIN)) != (TABLE, CHAIN) {
            return None;
        }
        Some((parse(expression::comment(rule))?, rule.be64(NFTA_RULE_HANDLE)?))
    })
}

/// Whether there is such a chain.
pub fn has_chain(socket: &mut Socket, family: u8, table: &str, chain: &str) -> Result<bool, Refusal> {
    let ask = |writer: &mut Writer<'_>| {
        header(writer, family, 0);
        writer.put_text(NFTA_CHAIN_TABLE, table);
        writer.put_text(NFTA_CHAIN_NAME, chain);
    };
    match socket.ask(kind(NFT_MSG_GETCHAIN), ask, |_| ()) {
        Ok(found) => Ok(found.is_some()),
        Err(refusal) if refusal.errno() == libc::ENOENT => Ok(false),
        Err(refusal) => Err(refusal),
    }
}
