//! The error for bytes or JSON that cannot be decoded: the container, the field, the offset and the
//! reason.

use std::fmt;

/// Received bytes or JSON that are not a well-formed value of the expected container. The sender is
/// at fault, never this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Name of the outermost container, as in the specification.
    pub container: &'static str,
    /// Path of the field within the container, for example `body.attestations[3].data`. Empty if
    /// the error is about the container itself.
    pub field: String,
    /// Position of the field in the bytes. 0 for JSON.
    pub offset: usize,
    /// What is wrong with the field.
    pub reason: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.container)?;
        if !self.field.is_empty() {
            write!(f, " at {}", self.field)?;
        }
        write!(f, " (byte {}): {}; ask its sender for a correct one", self.offset, self.reason)
    }
}

impl std::error::Error for DecodeError {}

impl DecodeError {
    pub(crate) fn new(container: &'static str, field: impl Into<String>, offset: usize, reason: impl Into<String>) -> Self {
        Self { container, field: field.into(), offset, reason: reason.into() }
    }
}
