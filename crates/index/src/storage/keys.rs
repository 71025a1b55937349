//! The keys of the column families. They are big-endian and of fixed width, so that RocksDB's byte
//! order is the order of epochs and slots.
//!
//! | column family | key | order of the rows, and who scans them |
//! |---|---|---|
//! | `votes` | see below, 23 bytes | by epoch: prune, reopen; by slot: the rows of a seat |
//! | `data` | target epoch 8, handle 4 | by epoch: prune, the epoch's data by root |
//! | `shufflings` | epoch 8, shuffling id 8 | by epoch: prune, all branches of an epoch |
//! | `summary` | level 1, block of epochs 8, chunk of validators 4 | by level, block: prune, load |
//! | `proposals` | slot 8, proposer 8, block root 32 | by slot: prune; by both: contradictions |
//! | `heads` | validator 4 | all rows, when opening |
//! | `offenders` | validator 4 | all keys, when opening |
//! | `actives` | content id 8 | no scan; rows are read by id |
//! | `peers` | number 4, or number 4 and the byte 1 | all rows, when opening |
//! | `log` | sequence 8 | all rows, when opening |
//!
//! All widths are in bytes. A key of `votes` consists of:
//!
//! 1. target epoch, 8;
//! 2. sort, 1: 0 for a set with listed members, 1 for a set with seats;
//! 3. shuffling id, 8;
//! 4. slot within the epoch, 2. For listed members it is 0, or 1 + the number of the fork whose
//!    version the votes are signed with, if that is not the scheduled fork;
//! 5. data handle, 4.

use consensus::{Epoch, ForkName, ShufflingId, Slot, ValidatorIndex};

/// The key of one row of `votes`: all sums over one attestation data, with members as seats of one
/// shuffling or as an explicit list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SetKey {
    pub epoch: Epoch,
    /// `None` if the members are listed by validator index.
    pub shuffling: Option<ShufflingId>,
    /// Slot within the epoch. For listed members it is 0, or a number for the fork whose version
    /// the votes are signed with ([`Self::listed_of`]).
    pub slot: u16,
    pub handle: u32,
}

impl SetKey {
    /// Length of the key in bytes.
    pub const LEN: usize = 23;

    /// The key of votes with listed members that are signed with the scheduled version.
    pub fn listed(epoch: Epoch, handle: u32) -> Self {
        Self { epoch, shuffling: None, slot: 0, handle }
    }

    /// The key of votes that are signed with the version of `fork` instead of the version of the
    /// fork that is scheduled at the target. They have a row of their own, because a sum of
    /// signatures with different versions proves nothing.
    pub fn listed_of(epoch: Epoch, handle: u32, fork: Option<ForkName>) -> Self {
        Self { slot: fork.map_or(0, |fork| fork as u16 + 1), ..Self::listed(epoch, handle) }
    }

    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.epoch.as_u64().to_be_bytes());
        if let Some(id) = self.shuffling {
            bytes[8] = 1;
            bytes[9..17].copy_from_slice(&id.0);
        }
        bytes[17..19].copy_from_slice(&self.slot.to_be_bytes());
        bytes[19..].copy_from_slice(&self.handle.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let shuffling = match bytes[8] {
            0 => None,
            1 => Some(ShufflingId(bytes[9..17].try_into().ok()?)),
            _ => return None,
        };
        Some(Self {
            epoch: Epoch::new(u64::from_be_bytes(bytes[..8].try_into().ok()?)),
            shuffling,
            slot: u16::from_be_bytes(bytes[17..19].try_into().ok()?),
            handle: u32::from_be_bytes(bytes[19..].try_into().ok()?),
        })
    }

    /// First and last key of all sets that can contain a validator with this seat, or a listed
    /// validator if there is no seat.
    pub fn seat_range(epoch: Epoch, seat: Option<(ShufflingId, u16)>) -> (Self, Self) {
        let (shuffling, first, last) = seat.map_or((None, 0, u16::MAX), |(id, slot)| (Some(id), slot, slot));
        let key = |slot, handle| Self { epoch, shuffling, slot, handle };
        (key(first, 0), key(last, u32::MAX))
    }
}

/// A key that is not less than any key of an epoch's sets.
pub(crate) fn last_of_epoch(epoch: Epoch) -> [u8; SetKey::LEN] {
    let mut key = [0xff; SetKey::LEN];
    key[..8].copy_from_slice(&epoch.as_u64().to_be_bytes());
    key
}

/// The key of a row of `data`: epoch and handle.
pub(crate) fn data_key(epoch: Epoch, handle: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&epoch.as_u64().to_be_bytes());
    key[8..].copy_from_slice(&handle.to_be_bytes());
    key
}

/// The key of a row of `shufflings`.
pub(crate) fn shuffling_key(epoch: Epoch, id: ShufflingId) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&epoch.as_u64().to_be_bytes());
    key[8..].copy_from_slice(&id.0);
    key
}

/// The key of a row of `summary`.
pub(crate) fn summary_key(level: u8, block: u64, chunk: u32) -> [u8; 13] {
    let mut key = [0; 13];
    key[0] = level;
    key[1..9].copy_from_slice(&block.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// Whether votes of this validator can be stored. No registry has an index of 2^32 - 1 or more.
pub(crate) fn is_storable(validator: ValidatorIndex) -> bool {
    validator.as_u64() < u64::from(u32::MAX)
}

/// The key of a row of `heads` or `offenders`, for a validator that [`is_storable`].
pub(crate) fn validator_key(validator: ValidatorIndex) -> [u8; 4] {
    (validator.as_u64() as u32).to_be_bytes()
}

/// The validator of such a key. `None` if the key has the wrong length.
pub(crate) fn validator_of(key: &[u8]) -> Option<ValidatorIndex> {
    Some(ValidatorIndex::new(u64::from(u32::from_be_bytes(key.try_into().ok()?))))
}

/// The part of a key of `proposals` that all headers of one slot and proposer share.
pub(crate) fn proposal_prefix(slot: Slot, proposer: ValidatorIndex) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&slot.as_u64().to_be_bytes());
    key[8..].copy_from_slice(&proposer.as_u64().to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = SetKey> {
        (any::<u64>(), any::<Option<[u8; 8]>>(), any::<u16>(), any::<u32>()).prop_map(|(epoch, id, slot, handle)| SetKey {
            epoch: Epoch::new(epoch),
            shuffling: id.map(ShufflingId),
            slot,
            handle,
        })
    }

    proptest! {
        #[test]
        fn bytes_sort_as_the_keys_do(a in any_key(), b in any_key()) {
            prop_assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(&b));
            prop_assert_eq!(SetKey::from_bytes(&a.to_bytes()), Some(a));
        }
    }

    #[test]
    fn boundary_values_at_which_little_endian_keys_sort_wrongly() {
        for edge in [255u64, 256, 65_535, 65_536, u64::from(u32::MAX), u64::from(u32::MAX) + 1] {
            let (epoch, next) = (Epoch::new(edge), Epoch::new(edge + 1));
            let proposer = ValidatorIndex::new;
            assert!(SetKey::listed(epoch, 1).to_bytes() < SetKey::listed(next, 0).to_bytes());
            assert!(summary_key(1, edge, 9) < summary_key(1, edge + 1, 0));
            assert!(proposal_prefix(Slot::new(edge), proposer(9)) < proposal_prefix(Slot::new(edge + 1), proposer(0)));
            assert!(data_key(epoch, 9) < data_key(next, 0));
        }
    }
}
