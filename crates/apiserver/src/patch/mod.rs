//! The four patch formats, as functions from an object and a patch to an object.

pub(crate) mod apply;
pub(crate) mod json;
pub(crate) mod merge;
pub(crate) mod strategic;
