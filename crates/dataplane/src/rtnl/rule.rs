//! Policy rules.

use hostnet::{MarkMatch, ROUTE_PROTOCOL, Rule};
use mesh::prefix::Family;

use super::{family_number, octets, prefix};
use crate::{
    error::Error,
    netlink::{Received, Refusal, Socket, Writer, constants::*},
};

/// Bytes of `struct fib_rule_hdr`.
const HEADER: usize = 12;

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRule {
    pub rule: Rule,
    /// `FRA_PROTOCOL`: who made it.
    pub protocol: u8,
    /// Whether there is nothing more to it than `rule` says.
    pub plain: bool,
    /// Whether it is for all packets, or for all but a few.
    pub for_all: bool,
}

fn decode(message: &Received<'_>) -> Option<KernelRule> {
    let (number, to_length, from_length) = (message.byte(0), message.byte(1), message.byte(2));
    let family = if number == AF_INET6 { Family::V6 } else { Family::V4 };
    let action = message.byte(7);
    if matches!(action, FR_ACT_GOTO | FR_ACT_NOP) {
        return None;
    }
    let attributes = message.attributes(HEADER);
    let net = |kind, length| attributes.get(kind).and_then(|bytes| prefix(number, Some(bytes), length));
    let mark = attributes.u32(FRA_FWMARK).unwrap_or_default();
    let mask = attributes.u32(FRA_FWMASK).unwrap_or(if mark == 0 { 0 } else { u32::MAX });
    let inverted = message.word(8) & FIB_RULE_INVERT != 0;
    let rule = Rule {
        priority: attributes.u32(FRA_PRIORITY).unwrap_or_default(),
        from: net(FRA_SRC, from_length),
        to: net(FRA_DST, to_length),
        iif: attributes.text(FRA_IIFNAME).parse().ok(),
        unless: (inverted && mask != 0).then_some(MarkMatch { mark, mask }),
        table: attributes.u32(FRA_TABLE).unwrap_or(u32::from(message.byte(4))),
        family,
    };
    let alone = rule.from.is_none() && rule.to.is_none() && rule.iif.is_none();
    let special = message.byte(3) != 0
        || attributes.into_iter().any(|found| !PLAIN.contains(&found.0) && is_set(found));
    let suppresses = attributes.into_iter().any(|found| SUPPRESSES.contains(&found.0) && is_set(found));
    Some(KernelRule {
        protocol: attributes.u8(FRA_PROTOCOL).unwrap_or_default(),
        plain: action == FR_ACT_TO_TBL
            && !special
            && !suppresses
            && inverted == (mask != 0)
            && (!inverted || alone),
        for_all: !special && if inverted { mask != 0 || !alone } else { mask == 0 && alone },
        rule,
    })
}

/// The kernel writes -1 for some of the selectors that select nothing.
fn is_set((_, payload): (u16, &[u8])) -> bool {
    payload.iter().any(|byte| *byte != 0xff)
}

/// The attributes that say which routes of a table count.
const SUPPRESSES: [u16; 2] = [FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN];

/// The attributes of a rule that select no packets, or that [`Rule`] holds.
const PLAIN: [u16; 10] = [
    FRA_DST,
    FRA_SRC,
    FRA_IIFNAME,
    FRA_PRIORITY,
    FRA_FWMARK,
    FRA_SUPPRESS_IFGROUP,
    FRA_SUPPRESS_PREFIXLEN,
    FRA_TABLE,
    FRA_FWMASK,
    FRA_PROTOCOL,
];

/// All rules of both families that decide about packets, in the kernel's order.
pub fn all(socket: &mut Socket) -> Result<Vec<KernelRule>, Error> {
    list(socket).map_err(Error::observing("policy rules"))
}

fn list(socket: &mut Socket) -> Result<Vec<KernelRule>, Refusal> {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let ask = |writer: &mut Writer<'_>| {
            let mut header = [0; HEADER];
            header[0] = family_number(family);
            writer.header(&header);
        };
        match socket.dump(RTM_GETRULE, ask, decode) {
            Ok(found) => rules.extend(found),
            // The kernel has no policy routing, or no IPv6.
            Err(refusal) if matches!(refusal.errno(), libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(rules)
}

fn encode(writer: &mut Writer<'_>, rule: &Rule, protocol: Option<u8>) {
    let mut header = [0; HEADER];
    header[0] = family_number(rule.family);
    header[1] = rule.to.map_or(0, |net| net.prefix_len());
    header[2] = rule.from.map_or(0, |net| net.prefix_len());
    header[4] = u8::try_from(rule.table).unwrap_or(RT_TABLE_COMPAT);
    header[7] = FR_ACT_TO_TBL;
    if rule.unless.is_some() {
        header[8..12].copy_from_slice(&FIB_RULE_INVERT.to_ne_bytes());
    }
    writer.header(&header);
    writer.put_u32(FRA_PRIORITY, rule.priority);
    if let Some(unless) = rule.unless {
        writer.put_u32(FRA_FWMARK, unless.mark);
        writer.put_u32(FRA_FWMASK, unless.mask);
    }
    writer.put_u32(FRA_TABLE, rule.table);
    if let Some(protocol) = protocol {
        writer.put_u8(FRA_PROTOCOL, protocol);
    }
    if let Some(to) = rule.to {
        writer.put(FRA_DST, &octets(to.network()));
    }
    if let Some(from) = rule.from {
        writer.put(FRA_SRC, &octets(from.network()));
    }
    if let Some(iif) = &rule.iif {
        writer.put_text(FRA_IIFNAME, iif.as_str());
    }
}

/// Adds a rule of ours. That it exists is no error.
pub fn add(socket: &mut Socket, rule: &Rule) -> Result<(), Error> {
    add_as(socket, rule, ROUTE_PROTOCOL).map_err(Error::refused(format!("add rule {rule}")))
}

/// To the kernel a more special rule of the same priority is "this rule" too, when it is asked not to add one twice. So
/// we look ourselves before we insist.
fn add_as(socket: &mut Socket, rule: &Rule, protocol: u8) -> Result<(), Refusal> {
    let body = |writer: &mut Writer<'_>| encode(writer, rule, Some(protocol));
    match socket.request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, body) {
        Err(refusal) if refusal.errno() == libc::EEXIST => {}
        result => return result,
    }
    let exists =
        list(socket)?.iter().any(|found| found.plain && found.rule == *rule && found.protocol == protocol);
    if exists { Ok(()) } else { socket.request(RTM_NEWRULE, NLM_F_CREATE, body) }
}

/// Which rules may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Those that we made.
    ByUs,
    /// Those that somebody else made.
    ByOthers,
}

/// Removes a rule, if it is there.
///
/// To the kernel a selector that is not named is a wildcard, and it removes the first rule that fits: when more special
/// rules come before the one that is meant, they go too, and are added again.
pub fn remove(socket: &mut Socket, rule: &Rule, made: Made) -> Result<(), Error> {
    let protocol = (made == Made::ByUs).then_some(ROUTE_PROTOCOL);
    let fits = |found: &KernelRule| {
        let other = &found.rule;
        (other.family, other.priority, other.table) == (rule.family, rule.priority, rule.table)
            && (rule.from.is_none() || rule.from == other.from)
            && (rule.to.is_none() || rule.to == other.to)
            && (rule.iif.is_none() || rule.iif == other.iif)
            && (rule.unless.is_none() || rule.unless == other.unless)
            && protocol.is_none_or(|protocol| found.protocol == protocol)
    };
    let meant = |found: &KernelRule| {
        found.plain && found.rule == *rule && (found.protocol == ROUTE_PROTOCOL) == (made == Made::ByUs)
    };
    let fitting: Vec<KernelRule> = all(socket)?.into_iter().filter(fits).collect();
    let Some(position) = fitting.iter().position(meant) else { return Ok(()) };
    let attempt = || format!("remove rule {rule}");
    if fitting[..position].iter().any(|other| !other.plain) {
        let reason = "another rule before it would go with it, and cannot be set again";
        return Err(Error::Invalid { attempt: attempt(), reason });
    }
    let refused = |refusal| Error::refused(attempt())(refusal);
    for _ in 0..=position {
        socket.request(RTM_DELRULE, 0, |writer| encode(writer, rule, protocol)).map_err(refused)?;
    }
    for lost in &fitting[..position] {
        add_as(socket, &lost.rule, lost.protocol)
            .map_err(Error::refused(format!("keep rule {}", lost.rule)))?;
    }
    Ok(())
}
