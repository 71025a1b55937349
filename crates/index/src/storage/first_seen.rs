//! When and from whom a message was first received, as rows store it.

use verify::SourceKind;

/// When and from whom a sum was first received. `peer` is a number of the peer table, or 0 if there
/// was no peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredFirstSeen {
    pub at_ns: u64,
    pub source: u8,
    pub peer: u32,
}

// Sums and arrivals on disk have two bits for the source. A fifth kind needs a new format first.
const _: () = assert!(SourceKind::ALL.len() <= 4);

/// The number that stands for a source in rows. It is part of the format.
pub(crate) fn source_number(source: SourceKind) -> u8 {
    match source {
        SourceKind::Gossip => 0,
        SourceKind::Block => 1,
        SourceKind::SlashingOp => 2,
        SourceKind::Api => 3,
    }
}
