//! The expressions that rules are made of, and reading the little of foreign rules that matters here.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::prefix::Family;

use crate::{
    netlink::{Attributes, Writer, constants::*, text},
    rtnl::octets,
};

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Its source.
    From,
    /// Its destination.
    To,
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Load the IP version of the packet and go on if it is this one.
    Family(Family),
    /// Load the transport protocol and go on if it is this one.
    Protocol(u8),
    /// Load the destination port of UDP or TCP and go on if it is this one.
    Port(u16),
    /// Load an address of the packet and go on if the set holds it.
    InSet(Family, Direction, &'static str),
    /// Load an address of the packet and go on if it lies in the prefix.
    InPrefix(Direction, IpNet),
    /// Count packets and bytes.
    Counter,
    /// Translate the source to the address of the outgoing interface.
    Masquerade,
    /// End here: accepted.
    Accept,
    /// End here: dropped.
    Drop,
}

/// Writes the expressions of a rule.
pub fn write(writer: &mut Writer<'_>, expressions: &[Expression]) {
    writer
        .nest(NFTA_RULE_EXPRESSIONS, |list| expressions.iter().for_each(|expression| one(list, expression)));
}

fn one(list: &mut Writer<'_>, expression: &Expression) {
    match expression {
        Expression::Family(family) => {
            meta(list, NFT_META_NFPROTO);
            equals(list, &[crate::rtnl::family_number(*family)]);
        }
        Expression::Protocol(number) => {
            meta(list, NFT_META_L4PROTO);
            equals(list, &[*number]);
        }
        Expression::Port(port) => {
            // The second field of both headers (RFC 768, RFC 9293).
            payload(list, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
            equals(list, &port.to_be_bytes());
        }
        Expression::InSet(family, direction, set) => {
            load(list, *family, *direction);
            element(list, "lookup", |data| {
                data.put_text(NFTA_LOOKUP_SET, set);
                data.put_be32(NFTA_LOOKUP_SREG, NFT_REG_1);
            });
        }
        Expression::InPrefix(direction, net) => {
            load(list, Family::of_prefix(net), *direction);
            if net.prefix_len() != net.max_prefix_len() {
                mask(list, net.netmask());
            }
            equals(list, &octets(net.network()));
        }
        Expression::Counter => element(list, "counter", |data| {
            data.put_be64(NFTA_COUNTER_BYTES, 0);
            data.put_be64(NFTA_COUNTER_PACKETS, 0);
        }),
        Expression::Masquerade => element(list, "masq", |_| {}),
        Expression::Accept => verdict(list, NF_ACCEPT),
        Expression::Drop => verdict(list, NF_DROP),
    }
}

fn element(list: &mut Writer<'_>, name: &str, data: impl FnOnce(&mut Writer<'_>)) {
    list.nest(NFTA_LIST_ELEM, |element| {
        element.put_text(NFTA_EXPR_NAME, name);
        element.nest(NFTA_EXPR_DATA, data);
    });
}

fn meta(list: &mut Writer<'_>, key: u32) {
    element(list, "meta", |data| {
        data.put_be32(NFTA_META_KEY, key);
        data.put_be32(NFTA_META_DREG, NFT_REG_1);
    });
}

fn equals(list: &mut Writer<'_>, value: &[u8]) {
    element(list, "cmp", |data| {
        data.put_be32(NFTA_CMP_SREG, NFT_REG_1);
        data.put_be32(NFTA_CMP_OP, NFT_CMP_EQ);
        data.nest(NFTA_CMP_DATA, |inner| inner.put(NFTA_DATA_VALUE, value));
    });
}

/// Loads an address from the IP header (RFC 791, RFC 8200) into the register.
fn load(list: &mut Writer<'_>, family: Family, direction: Direction) {
    let (offset, length) = match (family, direction) {
        (Family::V4, Direction::From) => (12, 4),
        (Family::V4, Direction::To) => (16, 4),
        (Family::V6, Direction::From) => (8, 16),
        (Family::V6, Direction::To) => (24, 16),
    };
    payload(list, NFT_PAYLOAD_NETWORK_HEADER, offset, length);
}

fn payload(list: &mut Writer<'_>, base: u32, offset: u32, length: u32) {
    element(list, "payload", |data| {
        data.put_be32(NFTA_PAYLOAD_DREG, NFT_REG_1);
        data.put_be32(NFTA_PAYLOAD_BASE, base);
        data.put_be32(NFTA_PAYLOAD_OFFSET, offset);
        data.put_be32(NFTA_PAYLOAD_LEN, length);
    });
}

fn mask(list: &mut Writer<'_>, netmask: IpAddr) {
    let mask = octets(netmask);
    let length = if netmask.is_ipv4() { 4 } else { 16 };
    element(list, "bitwise", |data| {
        data.put_be32(NFTA_BITWISE_SREG, NFT_REG_1);
        data.put_be32(NFTA_BITWISE_DREG, NFT_REG_1);
        data.put_be32(NFTA_BITWISE_LEN, length);
        data.nest(NFTA_BITWISE_MASK, |inner| inner.put(NFTA_DATA_VALUE, &mask));
        data.nest(NFTA_BITWISE_XOR, |inner| inner.put(NFTA_DATA_VALUE, &vec![0; mask.len()]));
    });
}

fn verdict(list: &mut Writer<'_>, code: u32) {
    element(list, "immediate", |data| {
        data.put_be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
        data.nest(NFTA_IMMEDIATE_DATA, |inner| {
            inner.nest(NFTA_DATA_VERDICT, |verdict| verdict.put_be32(NFTA_VERDICT_CODE, code));
        });
    });
}

/// The chain that a rule jumps to, if it does. `rule` are the attributes of the rule.
pub fn jump_target(rule: Attributes<'_>) -> Option<&str> {
    rule.inside(NFTA_RULE_EXPRESSIONS).find_map(|(_, element)| {
        let element = Attributes::new(element);
        if element.text(NFTA_EXPR_NAME) != "immediate" {
            return None;
        }
        let data = element.inside(NFTA_EXPR_DATA).inside(NFTA_IMMEDIATE_DATA);
        let verdict = data.inside(NFTA_DATA_VERDICT);
        (verdict.be32(NFTA_VERDICT_CODE) == Some(NFT_JUMP)).then(|| verdict.text(NFTA_VERDICT_CHAIN))
    })
}

/// The comment that iptables-nft gave to a rule: a match of its own, called `comment`, which holds the text
/// (`struct xt_comment_info`).
pub fn iptables_comment(rule: Attributes<'_>) -> Option<&str> {
    rule.inside(NFTA_RULE_EXPRESSIONS).find_map(|(_, element)| {
        let element = Attributes::new(element);
        let data = element.inside(NFTA_EXPR_DATA);
        (element.text(NFTA_EXPR_NAME) == "match" && data.text(NFTA_MATCH_NAME) == "comment")
            .then(|| data.text(NFTA_MATCH_INFO))
    })
}

/// Writes a comment as `nft(8)` and iptables-nft do: user data of type 0, length, text with its zero
/// (`NFTNL_UDATA_RULE_COMMENT` of libnftnl).
pub fn write_comment(writer: &mut Writer<'_>, comment: &str) {
    let length = u8::try_from(comment.len() + 1).expect("invariant: our comments are shorter than 128 bytes");
    let mut bytes = vec![0, length];
    bytes.extend_from_slice(comment.as_bytes());
    bytes.push(0);
    writer.put(NFTA_RULE_USERDATA, &bytes);
}

/// The comment of a rule; empty when it has none.
pub fn comment(rule: Attributes<'_>) -> &str {
    let mut data = rule.get(NFTA_RULE_USERDATA).unwrap_or_default();
    while let [kind, length, rest @ ..] = data {
        let length = usize::from(*length).min(rest.len());
        if *kind == 0 {
            return text(&rest[..length]);
        }
        data = &rest[length..];
    }
    ""
}
