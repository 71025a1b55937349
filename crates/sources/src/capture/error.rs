//! Errors of a capture file: where the damage is, and what the user can do.

use super::{EntryType, HEADER_LEN};
use std::fmt;
use std::path::PathBuf;

/// A problem in a capture file. Everything that was delivered before it remains valid.
#[derive(Debug)]
pub struct CaptureError {
    /// The path of the file, if it is known.
    pub path: Option<PathBuf>,
    /// Offset in bytes of the entry that has the problem, or 0 if the problem is the file itself.
    pub offset: u64,
    pub damage: Damage,
}

/// What is wrong at an offset.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("the file is empty; record one with `slashwatch capture`")]
    Empty,
    #[error(
        "begins with {found:02x?}, an e2store file begins with [65, 32, 00, 00, 00, 00, 00, 00]; give a capture (.e2s) or an ERA file"
    )]
    NotE2store { found: Vec<u8> },
    #[error("the file ends inside an entry's header ({have} of {HEADER_LEN} bytes): a cut tail; everything before it was read")]
    CutHeader { have: u64 },
    #[error("the file ends inside entry {entry_type} ({have} of {wanted} bytes): a cut tail; everything before it was read")]
    CutEntry { entry_type: EntryType, wanted: u64, have: u64 },
    #[error("reserved bytes are {found:02x?}, not zero: a corrupt tail; everything before it was read")]
    Reserved { found: [u8; 2] },
    #[error(
        "entry {entry_type} claims {claimed} bytes, at most {limit} are allowed: a corrupt tail; everything before it was read"
    )]
    TooLong { entry_type: EntryType, claimed: u64, limit: u64 },
    #[error("entry {entry_type} is skipped: {reason}; the rest of the file is read")]
    BadEntry { entry_type: EntryType, reason: String },
    #[error("cannot be read: {0}; check the file and its permissions")]
    Io(#[from] std::io::Error),
}

impl CaptureError {
    /// Whether the reader continues after this entry.
    pub fn is_recoverable(&self) -> bool {
        match self.damage {
            Damage::BadEntry { .. } => true,
            Damage::Empty
            | Damage::NotE2store { .. }
            | Damage::CutHeader { .. }
            | Damage::CutEntry { .. }
            | Damage::Reserved { .. }
            | Damage::TooLong { .. }
            | Damage::Io(_) => false,
        }
    }
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}, offset {}: {}", path.display(), self.offset, self.damage),
            None => write!(f, "capture, offset {}: {}", self.offset, self.damage),
        }
    }
}

impl std::error::Error for CaptureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.damage {
            Damage::Io(error) => error.source(),
            _ => None,
        }
    }
}
