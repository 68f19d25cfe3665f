//! JSON merge patch (RFC 7386).

use serde_json::Value;

/// Applies a patch; it always fits.
pub(crate) fn apply(current: &Value, patch: &Value) -> Value {
    let mut patched = current.clone();
    json_patch::merge(&mut patched, patch);
    patched
}
