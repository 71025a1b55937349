//! Why bytes or JSON could not be read: the container, the field, the offset and the reason.

use std::fmt;

/// Foreign bytes that are not what they claim to be. The sender is at fault, never this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Name of the outermost container, as in the specification.
    pub container: &'static str,
    /// Path of the field within it, for example `body.attestations[3].data`; empty for the container itself.
    pub field: String,
    /// Where in the bytes the field begins; 0 for JSON.
    pub offset: usize,
    /// What is wrong there.
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
