//! Policy rules.

use hostnet::{ROUTE_PROTOCOL, Rule};
use mesh::prefix::Family;

use super::{family_number, octets, prefix};
use crate::{
    error::Error,
    netlink::{Received, Refusal, Socket, Writer, constants::*},
};

/// Bytes of `struct fib_rule_hdr`.
const HEADER: usize = 12;

/// A rule as the kernel has it, if it looks up a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRule {
    pub rule: Rule,
    /// `FRA_PROTOCOL`: who made it.
    pub protocol: u8,
}

fn decode(message: &Received<'_>) -> Option<KernelRule> {
    let (number, to_length, from_length) = (message.byte(0), message.byte(1), message.byte(2));
    let family = if number == AF_INET6 { Family::V6 } else { Family::V4 };
    if message.byte(7) != FR_ACT_TO_TBL {
        return None;
    }
    let attributes = message.attributes(HEADER);
    let net = |kind, length| attributes.get(kind).and_then(|bytes| prefix(number, Some(bytes), length));
    let rule = Rule {
        priority: attributes.u32(FRA_PRIORITY).unwrap_or_default(),
        from: net(FRA_SRC, from_length),
        to: net(FRA_DST, to_length),
        iif: attributes.text(FRA_IIFNAME).parse().ok(),
        table: attributes.u32(FRA_TABLE).unwrap_or(u32::from(message.byte(4))),
        family,
    };
    Some(KernelRule { rule, protocol: attributes.u8(FRA_PROTOCOL).unwrap_or_default() })
}

/// All rules of both families that look up a table, in the kernel's order.
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
    writer.header(&header);
    writer.put_u32(FRA_PRIORITY, rule.priority);
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
    let exists = list(socket)?.iter().any(|found| found.rule == *rule && found.protocol == protocol);
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
            && protocol.is_none_or(|protocol| found.protocol == protocol)
    };
    let meant = |found: &KernelRule| {
        found.rule == *rule && (found.protocol == ROUTE_PROTOCOL) == (made == Made::ByUs)
    };
    let fitting: Vec<KernelRule> = all(socket)?.into_iter().filter(fits).collect();
    let Some(position) = fitting.iter().position(meant) else { return Ok(()) };
    let refused = |refusal| Error::refused(format!("remove rule {rule}"))(refusal);
    for _ in 0..=position {
        socket.request(RTM_DELRULE, 0, |writer| encode(writer, rule, protocol)).map_err(refused)?;
    }
    for lost in &fitting[..position] {
        add_as(socket, &lost.rule, lost.protocol)
            .map_err(Error::refused(format!("keep rule {}", lost.rule)))?;
    }
    Ok(())
}
