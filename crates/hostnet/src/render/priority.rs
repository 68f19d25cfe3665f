//! Where our policy rules stand among those of the host.
//!
//! They come before those of Tailscale (5210 to 5270) and the main table (32766), and after the table of the host's own
//! addresses (0; 100 where Cilium has moved it).

use mesh::prefix::Family;

use crate::{HostFacts, MarkBits, MarkMatch, Rule};

/// The rule by which packets find a table of mesh routes: all packets but those that carry the mesh, which would be
/// carried again, for ever.
pub(super) fn rule(priority: u32, table: u32, family: Family, marks: MarkBits) -> Rule {
    let unless = Some(MarkMatch { mark: marks.underlay(), mask: marks.mask() });
    Rule { unless, ..Rule::all(priority, table, family) }
}

/// The first of `rules` priorities in a row: `wanted`, or one before the host's own rules that all packets meet. `wg-quick`
/// makes such rules for a tunnel that takes everything, and they would take the mesh's packets, too; the kernel puts rules
/// that are made without a priority before those that are there.
///
/// # Errors
/// There is no room before the host's rule: a sentence about it.
pub(super) fn before_others(
    facts: &HostFacts,
    family: Family,
    wanted: u32,
    rules: u32,
) -> Result<u32, String> {
    let Some(other) = facts.first_rule[family as usize].filter(|other| *other < wanted + rules) else {
        return Ok(wanted);
    };
    other.checked_sub(rules).filter(|first| *first > 0).ok_or_else(|| {
        format!(
            "the policy rule of priority {other} on this host takes all packets, and there is no room for ours before \
             it; if its table has a way to pods, the mesh is not reached; give that rule a higher number (ip rule)"
        )
    })
}
