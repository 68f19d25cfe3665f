//! Our table: reading it, comparing it with what we make, and the transactions that make and change it.

use std::collections::BTreeSet;

use hostnet::{Firewall, NFT_TABLE, Outer};
use ipnet::IpNet;

use super::{
    expression,
    forward::Forward,
    interval,
    layout::{self, Elements, SETS, Set},
    message::{HEADER, Transaction, header, kind},
};
use crate::netlink::{Received, Refusal, Socket, Writer, constants::*};

/// What `nft(8)` calls the types `ipv4_addr` and `ipv6_addr` (`enum datatypes` in nftables' `datatype.h`); the kernel
/// only keeps the number.
const TYPE_IPADDR: u32 = 7;
const TYPE_IP6ADDR: u32 = 8;

/// What is seen of our firewall.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The firewall, if all of it is there as we make it.
    pub firewall: Option<Firewall>,
    /// Something of ours is there, but not as we make it.
    pub damaged: bool,
}

/// A socket to nf_tables, and what is known of our sets.
pub struct Nft {
    /// The socket.
    pub socket: Socket,
    /// The elements as they were last seen or written; `None` when the table has to be made anew.
    known: Option<(Elements, Option<Outer>)>,
}

impl Nft {
    /// Speaks through this socket.
    pub fn new(socket: Socket) -> Self {
        Self { socket, known: None }
    }

    /// Reads the table and the rules in the chains of iptables.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn observe(&mut self) -> Result<Seen, Refusal> {
        let forward = Forward::observe(&mut self.socket)?;
        self.known = None;
        let there = self.table_flags()?;
        let intact = if there == Some(0) { self.intact()? } else { None };
        let Some(outer) = intact else {
            return Ok(Seen { firewall: None, damaged: there.is_some() || !forward.is_empty() });
        };
        let mut elements = Elements::new();
        for set in &SETS {
            elements.insert(set.name, self.elements(set)?);
        }
        let mut firewall = layout::firewall(&elements, outer);
        firewall.forward = forward.effective(&firewall.forward);
        self.known = Some((elements, outer));
        Ok(Seen { firewall: Some(firewall), damaged: false })
    }

    /// Makes the table anew, and the rules in the chains of iptables right.
    ///
    /// # Errors
    /// The kernel's refusal; nothing has changed then.
    pub fn set(&mut self, firewall: &Firewall) -> Result<(), Refusal> {
        let firewall = firewall.normalised();
        let (elements, outer) = (layout::elements(&firewall), outer(&firewall));
        let forward = Forward::observe(&mut self.socket)?;
        let mut transaction = Transaction::begin(self.socket.batch());
        remove_table(&mut transaction);
        add_table(&mut transaction);
        for set in &SETS {
            add_set(&mut transaction, set);
            write_elements(&mut transaction, NFT_MSG_NEWSETELEM, set, elements[set.name].iter());
        }
        add_chains_and_rules(&mut transaction, outer);
        forward.change(&firewall.forward, &mut transaction);
        self.commit(transaction)?;
        self.known = Some((elements, outer));
        Ok(())
    }

    /// Changes what differs from the elements that are known. A table that is not as it was taken to be is made anew.
    ///
    /// # Errors
    /// The kernel's refusal; nothing has changed then.
    pub fn update(&mut self, firewall: &Firewall) -> Result<(), Refusal> {
        let normalised = firewall.normalised();
        let wanted = (layout::elements(&normalised), outer(&normalised));
        match self.known.take() {
            Some((known, outer)) if outer == wanted.1 => {
                let forward = Forward::observe(&mut self.socket)?;
                let mut transaction = Transaction::begin(self.socket.batch());
                for set in &SETS {
                    let (old, new) = (&known[set.name], &wanted.0[set.name]);
                    write_elements(&mut transaction, NFT_MSG_DELSETELEM, set, old.difference(new));
                    write_elements(&mut transaction, NFT_MSG_NEWSETELEM, set, new.difference(old));
                }
                forward.change(&normalised.forward, &mut transaction);
                match self.commit(transaction) {
                    Ok(()) => {
                        self.known = Some(wanted);
                        Ok(())
                    }
                    Err(refusal) => {
                        tracing::debug!(%refusal, "the firewall's sets are not as they were: making the table anew");
                        self.set(firewall)
                    }
                }
            }
            _ => self.set(firewall),
        }
    }

    /// Removes the table, if there is one, and our rules in the chains of iptables.
    ///
    /// # Errors
    /// The kernel's refusal; nothing has changed then.
    pub fn remove(&mut self) -> Result<(), Refusal> {
        self.known = None;
        let forward = Forward::observe(&mut self.socket)?;
        let mut transaction = Transaction::begin(self.socket.batch());
        remove_table(&mut transaction);
        forward.change(&BTreeSet::new(), &mut transaction);
        self.commit(transaction)
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), Refusal> {
        match transaction.end() {
            Some(batch) => self.socket.transact(batch).map_err(|(_, refusal)| refusal),
            None => Ok(()),
        }
    }

    /// The flags of our table, if there is one.
    fn table_flags(&mut self) -> Result<Option<u32>, Refusal> {
        let ask = |writer: &mut Writer<'_>| {
            header(writer, NFPROTO_INET, 0);
            writer.put_text(NFTA_TABLE_NAME, NFT_TABLE);
        };
        let read =
            |message: &Received<'_>| message.attributes(HEADER).be32(NFTA_TABLE_FLAGS).unwrap_or_default();
        match self.socket.ask(kind(NFT_MSG_GETTABLE), ask, read) {
            Err(refusal) if refusal.errno() == libc::ENOENT => Ok(None),
            result => result,
        }
    }

    /// Whether chains, rules and sets are as we make them; if so, which encapsulated packets are filtered.
    fn intact(&mut self) -> Result<Option<Option<Outer>>, Refusal> {
        let (chains, rules, sets) = (self.chains()?, self.rules()?, self.sets()?);
        let possible = [None, Some(Outer::Ip), Some(Outer::Vxlan)];
        Ok(possible.into_iter().find(|outer| is_as_made(*outer, &chains, &rules, &sets)))
    }
    fn chains(&mut self) -> Result<BTreeSet<String>, Refusal> {
        let ask = |writer: &mut Writer<'_>| header(writer, NFPROTO_INET, 0);
        let read = |message: &Received<'_>| {
            let chain = message.attributes(HEADER);
            let hook = chain.inside(NFTA_CHAIN_HOOK);
            (chain.text(NFTA_CHAIN_TABLE) == NFT_TABLE).then(|| {
                format!(
                    "{} {} {} {} policy {}",
                    chain.text(NFTA_CHAIN_NAME),
                    chain.text(NFTA_CHAIN_TYPE),
                    hook.be32(NFTA_HOOK_HOOKNUM).unwrap_or_default(),
                    hook.be32(NFTA_HOOK_PRIORITY).unwrap_or_default().cast_signed(),
                    chain.be32(NFTA_CHAIN_POLICY).unwrap_or_default(),
                )
            })
        };
        Ok(self.socket.dump(kind(NFT_MSG_GETCHAIN), ask, read)?.into_iter().collect())
    }

    fn rules(&mut self) -> Result<Vec<(String, String)>, Refusal> {
        let ask = |writer: &mut Writer<'_>| {
            header(writer, NFPROTO_INET, 0);
            writer.put_text(NFTA_RULE_TABLE, NFT_TABLE);
        };
        self.socket.dump(kind(NFT_MSG_GETRULE), ask, |message: &Received<'_>| {
            let rule = message.attributes(HEADER);
            (rule.text(NFTA_RULE_TABLE) == NFT_TABLE)
                .then(|| (rule.text(NFTA_RULE_CHAIN).to_owned(), expression::comment(rule).to_owned()))
        })
    }

    fn sets(&mut self) -> Result<BTreeSet<String>, Refusal> {
        let ask = |writer: &mut Writer<'_>| {
            header(writer, NFPROTO_INET, 0);
            writer.put_text(NFTA_SET_TABLE, NFT_TABLE);
        };
        let read = |message: &Received<'_>| {
            let set = message.attributes(HEADER);
            let number = |kind| set.be32(kind).unwrap_or_default();
            (set.text(NFTA_SET_TABLE) == NFT_TABLE).then(|| {
                format!(
                    "{} {} {}",
                    set.text(NFTA_SET_NAME),
                    number(NFTA_SET_KEY_TYPE),
                    number(NFTA_SET_FLAGS)
                )
            })
        };
        Ok(self.socket.dump(kind(NFT_MSG_GETSET), ask, read)?.into_iter().collect())
    }

    fn elements(&mut self, set: &Set) -> Result<BTreeSet<IpNet>, Refusal> {
        let ask = |writer: &mut Writer<'_>| {
            header(writer, NFPROTO_INET, 0);
            writer.put_text(NFTA_SET_ELEM_LIST_TABLE, NFT_TABLE);
            writer.put_text(NFTA_SET_ELEM_LIST_SET, set.name);
        };
        let edges =
            self.socket.dump(kind(NFT_MSG_GETSETELEM), ask, |message| Some(interval::read(message)))?;
        Ok(interval::prefixes(edges.into_iter().flatten().collect(), set.family))
    }
}

/// Which encapsulated packets a firewall filters.
fn outer(firewall: &Firewall) -> Option<Outer> {
    firewall.encapsulation.as_ref().map(|filter| filter.outer)
}

/// Whether these are the chains, rules and sets that we make.
fn is_as_made(
    outer: Option<Outer>,
    chains: &BTreeSet<String>,
    rules: &[(String, String)],
    sets: &BTreeSet<String>,
) -> bool {
    let wanted_chains: BTreeSet<String> = layout::chains(outer)
        .iter()
        .map(|chain| {
            format!("{} {} {} {} policy {NF_ACCEPT}", chain.name, chain.kind, chain.hook, chain.priority)
        })
        .collect();
    let wanted_sets: BTreeSet<String> =
        SETS.iter().map(|set| format!("{} {} {NFT_SET_INTERVAL}", set.name, key_type(set))).collect();
    // The order of rules counts within a chain, the order of chains does not; the sort is stable.
    let sorted = |mut rules: Vec<(String, String)>| {
        rules.sort_by(|a, b| a.0.cmp(&b.0));
        rules
    };
    let wanted_rules = layout::rules(outer).into_iter().map(|rule| (rule.chain.to_owned(), rule.comment));
    *chains == wanted_chains
        && *sets == wanted_sets
        && sorted(rules.to_vec()) == sorted(wanted_rules.collect())
}

fn key_type(set: &Set) -> u32 {
    match set.family {
        mesh::prefix::Family::V4 => TYPE_IPADDR,
        mesh::prefix::Family::V6 => TYPE_IP6ADDR,
    }
}

fn add_table(transaction: &mut Transaction) {
    transaction.push(NFT_MSG_NEWTABLE, NLM_F_CREATE, NFPROTO_INET, |writer| {
        writer.put_text(NFTA_TABLE_NAME, NFT_TABLE);
    });
}

/// Removing what does not exist is an error, adding what exists is not: so it is added first.
fn remove_table(transaction: &mut Transaction) {
    add_table(transaction);
    transaction.push(NFT_MSG_DELTABLE, 0, NFPROTO_INET, |writer| writer.put_text(NFTA_TABLE_NAME, NFT_TABLE));
}

fn add_set(transaction: &mut Transaction, set: &Set) {
    let id = transaction.set_id();
    let length = if set.family == mesh::prefix::Family::V4 { 4 } else { 16 };
    transaction.push(NFT_MSG_NEWSET, NLM_F_CREATE, NFPROTO_INET, |writer| {
        writer.put_text(NFTA_SET_TABLE, NFT_TABLE);
        writer.put_text(NFTA_SET_NAME, set.name);
        writer.put_be32(NFTA_SET_FLAGS, NFT_SET_INTERVAL);
        writer.put_be32(NFTA_SET_KEY_TYPE, key_type(set));
        writer.put_be32(NFTA_SET_KEY_LEN, length);
        writer.put_be32(NFTA_SET_ID, id);
    });
}

fn add_chains_and_rules(transaction: &mut Transaction, outer: Option<Outer>) {
    for chain in layout::chains(outer) {
        transaction.push(NFT_MSG_NEWCHAIN, NLM_F_CREATE, NFPROTO_INET, |writer| {
            writer.put_text(NFTA_CHAIN_TABLE, NFT_TABLE);
            writer.put_text(NFTA_CHAIN_NAME, chain.name);
            writer.nest(NFTA_CHAIN_HOOK, |hook| {
                hook.put_be32(NFTA_HOOK_HOOKNUM, chain.hook);
                hook.put_be32(NFTA_HOOK_PRIORITY, chain.priority.cast_unsigned());
            });
            writer.put_be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
            writer.put_text(NFTA_CHAIN_TYPE, chain.kind);
        });
    }
    for rule in layout::rules(outer) {
        transaction.push(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, NFPROTO_INET, |writer| {
            writer.put_text(NFTA_RULE_TABLE, NFT_TABLE);
            writer.put_text(NFTA_RULE_CHAIN, rule.chain);
            expression::write(writer, &rule.expressions);
            expression::write_comment(writer, &rule.comment);
        });
    }
}

fn write_elements<'a>(
    transaction: &mut Transaction,
    message: u16,
    set: &Set,
    nets: impl Iterator<Item = &'a IpNet>,
) {
    let nets: Vec<&IpNet> = nets.collect();
    let flags = if message == NFT_MSG_NEWSETELEM { NLM_F_CREATE } else { 0 };
    for chunk in nets.chunks(interval::PER_MESSAGE) {
        transaction.push(message, flags, NFPROTO_INET, |writer| {
            writer.put_text(NFTA_SET_ELEM_LIST_TABLE, NFT_TABLE);
            writer.put_text(NFTA_SET_ELEM_LIST_SET, set.name);
            writer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                chunk.iter().for_each(|net| interval::write(list, net))
            });
        });
    }
}
