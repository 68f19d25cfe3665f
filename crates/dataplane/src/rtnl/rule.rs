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
            Err(refusal) => return Err(Error::observing("policy rules")(refusal)),
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
pub fn add(socket: &mut Socket, rule: &Rule) -> Result<(), Refusal> {
    let result = socket
        .request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, |writer| encode(writer, rule, Some(ROUTE_PROTOCOL)));
    match result {
        Err(refusal) if refusal.errno() == libc::EEXIST => Ok(()),
        result => result,
    }
}

/// Removes a rule of ours.
pub fn remove(socket: &mut Socket, rule: &Rule) -> Result<(), Refusal> {
    socket.request(RTM_DELRULE, 0, |writer| encode(writer, rule, Some(ROUTE_PROTOCOL)))
}

/// Removes the first rule that looks like this one, whoever made it. A rule that was there before an equal one of
/// ours is the first.
pub fn remove_any(socket: &mut Socket, rule: &Rule) -> Result<(), Refusal> {
    socket.request(RTM_DELRULE, 0, |writer| encode(writer, rule, None))
}
