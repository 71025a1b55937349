//! When and from whom a message was first received, as rows store it.

use verify::SourceKind;

/// When and from whom a sum was first received. `peer` is a number of the peer table, or 0 if there
/// was no peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredFirstSeen {
    pub at_ns: u64,
    pub source: SourceKind,
    pub peer: u32,
}

/// Bits for the source in rows, log entries and arrivals: room for eight kinds.
pub(crate) const SOURCE_BITS: u32 = 3;
/// Bits for the source in rows and log entries of format 3 and earlier.
pub(crate) const SOURCE_BITS_BEFORE_4: u32 = 2;

// More kinds need more bits, and so a new format.
const _: () = assert!(SourceKind::ALL.len() <= 1 << SOURCE_BITS);

impl StoredFirstSeen {
    /// The earlier one of two. A sum that takes the place of another one keeps the time of both, so
    /// that no vote seems to have come later than it did.
    pub fn earlier(self, other: Self) -> Self {
        if other.at_ns < self.at_ns { other } else { self }
    }

    /// Peer and source as one number.
    pub fn packed(&self) -> u64 {
        u64::from(self.peer) << SOURCE_BITS | u64::from(source_number(self.source))
    }

    /// Takes such a number apart, in which the source has `bits` bits. `None` if it is not one.
    pub fn unpack(at_ns: u64, packed: u64, bits: u32) -> Option<Self> {
        let source = source_of((packed & ((1 << bits) - 1)) as u8)?;
        Some(Self { at_ns, source, peer: u32::try_from(packed >> bits).ok()? })
    }
}

/// The number that stands for a source in rows. It is part of the format.
pub(crate) const fn source_number(source: SourceKind) -> u8 {
    match source {
        SourceKind::Gossip => 0,
        SourceKind::Block => 1,
        SourceKind::SlashingOp => 2,
        SourceKind::Api => 3,
    }
}

/// The source with this number. `None` if there is none.
pub(crate) fn source_of(number: u8) -> Option<SourceKind> {
    SourceKind::ALL.into_iter().find(|source| source_number(*source) == number)
}
