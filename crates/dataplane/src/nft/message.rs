//! The framing of nf_tables messages (`struct nfgenmsg`) and of transactions.

use crate::netlink::{Batch, Writer, constants::*};

/// Bytes of `struct nfgenmsg`.
pub const HEADER: usize = 4;

/// `nlmsg_type` of an nf_tables message.
pub fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

/// `struct nfgenmsg`.
pub fn header(writer: &mut Writer<'_>, family: u8, resource: u16) {
    let [high, low] = resource.to_be_bytes();
    writer.header(&[family, 0, high, low]);
}

/// Changes that happen together or not at all.
pub struct Transaction {
    batch: Batch,
    set_ids: u32,
}

impl Transaction {
    /// An empty transaction.
    pub fn begin(mut batch: Batch) -> Self {
        batch.push(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, |writer| {
            header(writer, AF_UNSPEC, NFNL_SUBSYS_NFTABLES)
        });
        Self { batch, set_ids: 0 }
    }

    /// Adds a message.
    pub fn push(&mut self, message: u16, flags: u16, family: u8, body: impl FnOnce(&mut Writer<'_>)) {
        self.batch.push(kind(message), NLM_F_REQUEST | flags, |writer| {
            header(writer, family, 0);
            body(writer);
        });
    }

    /// A number for a new set that no other set of the transaction has.
    pub fn set_id(&mut self) -> u32 {
        self.set_ids += 1;
        self.set_ids
    }

    /// The messages, or `None` when there is nothing to do.
    pub fn end(mut self) -> Option<Batch> {
        self.batch.push(NFNL_MSG_BATCH_END, NLM_F_REQUEST, |writer| {
            header(writer, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
        });
        (self.batch.count() > 2).then_some(self.batch)
    }
}
