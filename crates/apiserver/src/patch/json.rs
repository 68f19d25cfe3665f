//! JSON patch (RFC 6902).

use serde_json::Value;

use crate::status::Status;

/// How many operations one patch may have, as in kube-apiserver.
const MOST_OPERATIONS: usize = 10_000;

/// Applies a patch. One that is no patch is a 400; one that does not fit the object is a 422.
pub(crate) fn apply(current: &Value, patch: &Value) -> Result<Value, Status> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if operations.0.len() > MOST_OPERATIONS {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
            operations.0.len()
        );
        return Err(Status::new(413, "RequestEntityTooLarge", message));
    }
    let mut patched = current.clone();
    json_patch::patch(&mut patched, &operations).map_err(|_| Status::unprocessable_patch())?;
    Ok(patched)
}
