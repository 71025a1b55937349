//! A first look at a message, before anything is proven: what would it be, if it were true? So that what matters is judged first
//! and what is known costs nothing. Microseconds; whatever it says, only the equation decides.
//!
//! From Electra on a single vote stands at fixed offsets: `committee_index: 8 | attester_index: 8 | data: 128 | signature: 96`, and
//! `data` is `slot: 8 | index: 8 | head: 32 | source: 8 + 32 | target: 8 + 32`.

use crate::repute::Repute;
use crate::{MessageKind, PeerBytes, RawMessage, Verifier};
use consensus::{AttestationData, Root, SingleAttestation, Slot, ValidatorIndex};
use std::collections::HashMap;

const DATA_LEN: usize = 128;
/// In a `SingleAttestation`.
const SINGLE_DATA: usize = 16;
/// In a `SignedAggregateAndProof`: offset 4, signature 96, index 8, offset 4, selection proof 96, offset 4.
const AGGREGATE_DATA: usize = 212;
/// Roots of data kept at hand: a slot has a few, and floods are not to grow it.
const MAX_ROOTS: usize = 4096;

/// What a message would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Triage {
    /// All it says is proven: nothing to do, whoever sent it.
    Known,
    /// Contradicts something proven, or could: another source than the others of its target, a target that is not about now.
    Contradiction,
    /// A block, a header, a slashing operation: few, and others wait for them.
    Context,
    /// One of thousands.
    Ordinary,
}

/// Hash-tree-roots of data met lately, by their bytes.
#[derive(Debug, Default)]
pub(crate) struct DataRoots(HashMap<[u8; DATA_LEN], (Root, AttestationData)>);

impl DataRoots {
    fn of(&mut self, bytes: [u8; DATA_LEN]) -> (Root, AttestationData) {
        if let Some(known) = self.0.get(&bytes) {
            return *known;
        }
        if self.0.len() >= MAX_ROOTS {
            self.0.clear();
        }
        let data = data_of(&bytes);
        let row = (data.root(), data);
        self.0.insert(bytes, row);
        row
    }
}

impl Verifier {
    /// What this message would be. `now`: by the clock that messages are told early and late by.
    pub fn triage(&mut self, message: &RawMessage, slots_per_epoch: u64, now: Slot) -> Triage {
        match message.kind {
            MessageKind::Block
            | MessageKind::Header
            | MessageKind::AttesterSlashing
            | MessageKind::ProposerSlashing
            | MessageKind::BlobSidecar { .. }
            | MessageKind::DataColumnSidecar { .. } => Triage::Context,
            MessageKind::Attestation { .. } if message.bytes.len() == SingleAttestation::SSZ_LEN => {
                let Some(data) = data_bytes(&message.bytes, SINGLE_DATA) else { return Triage::Ordinary };
                let (root, data) = self.roots.of(data);
                let voter = ValidatorIndex::new(number(&message.bytes, 8));
                self.triage_vote(root, &data, Some(voter), slots_per_epoch, now)
            }
            MessageKind::Aggregate => match data_bytes(&message.bytes, AGGREGATE_DATA) {
                Some(data) => {
                    let (root, data) = self.roots.of(data);
                    self.triage_vote(root, &data, None, slots_per_epoch, now)
                }
                None => Triage::Ordinary,
            },
            MessageKind::Attestation { .. }
            | MessageKind::AttestationByBits
            | MessageKind::PayloadAttestation
            | MessageKind::PayloadBid => Triage::Ordinary,
        }
    }

    /// How this peer's messages are judged.
    pub fn repute(&self, peer: Option<&PeerBytes>) -> Repute {
        self.reputes.of(peer)
    }

    fn triage_vote(
        &mut self,
        root: Root,
        data: &AttestationData,
        voter: Option<ValidatorIndex>,
        slots_per_epoch: u64,
        now: Slot,
    ) -> Triage {
        let target = data.target.epoch;
        if let Some(voter) = voter {
            if self.votes.covers(root, &[voter]) {
                return Triage::Known;
            }
            if self.votes.voted_otherwise(root, target, voter) {
                return Triage::Contradiction;
            }
        }
        let epoch = now.as_u64() / slots_per_epoch.max(1);
        let about_now = target.as_u64() <= epoch.saturating_add(1) && epoch <= target.as_u64().saturating_add(1);
        if !about_now || self.votes.is_unusual_source(target, data.source.epoch) {
            return Triage::Contradiction;
        }
        Triage::Ordinary
    }
}

fn data_bytes(bytes: &[u8], at: usize) -> Option<[u8; DATA_LEN]> {
    bytes.get(at..at + DATA_LEN)?.try_into().ok()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn root_at(bytes: &[u8], at: usize) -> Root {
    bytes.get(at..at + 32).map(Root::from_slice).unwrap_or_default()
}

fn data_of(bytes: &[u8; DATA_LEN]) -> AttestationData {
    let checkpoint = |at| consensus::Checkpoint { epoch: consensus::Epoch::new(number(bytes, at)), root: root_at(bytes, at + 8) };
    AttestationData {
        slot: Slot::new(number(bytes, 0)),
        index: consensus::CommitteeIndex::new(number(bytes, 8)),
        beacon_block_root: root_at(bytes, 16),
        source: checkpoint(48),
        target: checkpoint(88),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Checkpoint, CommitteeIndex, Epoch, SignatureBytes};

    #[test]
    fn data_is_read_where_it_stands() {
        let single = SingleAttestation {
            committee_index: CommitteeIndex::new(3),
            attester_index: ValidatorIndex::new(77),
            data: AttestationData {
                slot: Slot::new(5),
                index: CommitteeIndex::new(1),
                beacon_block_root: Root::repeat_byte(2),
                source: Checkpoint { epoch: Epoch::new(3), root: Root::repeat_byte(4) },
                target: Checkpoint { epoch: Epoch::new(6), root: Root::repeat_byte(7) },
            },
            signature: SignatureBytes::repeat_byte(8),
        };
        let ssz = single.to_ssz();
        let bytes = data_bytes(&ssz, SINGLE_DATA).unwrap();
        assert_eq!((data_of(&bytes), number(&ssz, 8)), (single.data, 77));
        let mut roots = DataRoots::default();
        assert_eq!(roots.of(bytes).0, single.data.root());
        assert_eq!(roots.of(bytes), (single.data.root(), single.data));
        assert!(data_bytes(&ssz[..143], SINGLE_DATA).is_none());
    }
}
