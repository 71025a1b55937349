//! A first look at a message, before anything is proven: what would it be, if it were true? So that what matters is judged first
//! and what is known costs nothing. Microseconds; whatever it says, only the equation decides.
//!
//! From Electra on a single vote stands at fixed offsets: `committee_index: 8 | attester_index: 8 | data: 128 | signature: 96`, and
//! `data` is `slot: 8 | index: 8 | head: 32 | source: 8 + 32 | target: 8 + 32`.

use crate::repute::Repute;
use crate::{MessageKind, PeerBytes, RawMessage, Verifier};
use consensus::{AttestationData, Epoch, ForkName, Root, SignedBeaconBlockHeader, SingleAttestation, Slot, ValidatorIndex};
use std::collections::HashMap;

const DATA_LEN: usize = 128;
/// The target's epoch in `AttestationData`.
const DATA_TARGET: usize = 88;
/// In a `SingleAttestation`.
const SINGLE_DATA: usize = 16;
/// In a `SignedAggregateAndProof`: offset 4, signature 96, index 8, offset 4, selection proof 96, offset 4.
const AGGREGATE_DATA: usize = 212;
/// In an `Attestation` by bits: offset 4.
const BITS_DATA: usize = 4;
/// In an `AttesterSlashing`: two offsets of 4, then the first side's own.
const ACCUSED_DATA: usize = 12;
/// In a `SignedBeaconBlock`: offset 4, signature 96, slot 8.
const BLOCK_PROPOSER: usize = 108;
/// In a `BlobSidecar`: index 8, blob, commitment and proof 48 each, then the header's slot 8.
const BLOB_SIDECAR_PROPOSER: usize = 8 + 131_072 + 96 + 8;
/// In a `DataColumnSidecar`: index 8, three offsets of 4, then the header's slot 8.
const COLUMN_SIDECAR_PROPOSER: usize = 28;
/// In a `PayloadAttestationMessage`: index 8, block root 32.
const PAYLOAD_VOTE_SLOT: usize = 40;
/// In a `SignedExecutionPayloadBid`: offset 4, signature 96, four roots, fee recipient 20, gas limit 8, builder 8.
const PAYLOAD_BID_SLOT: usize = 4 + 96 + 4 * 32 + 36;
/// In a `SignedInclusionList`: offset 4, signature 96, slot 8.
const INCLUSION_LIST_VALIDATOR: usize = 108;
/// Roots of data kept at hand: a slot has a few, and floods are not to grow it.
const MAX_ROOTS: usize = 4096;

/// What a message would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Triage {
    /// All it says is proven: nothing to do, whoever sent it.
    Known,
    /// Whatever it proves changes next to nothing ([`About`]): its signers cannot be punished, or enough is on record of them. Anyone can
    /// make any number of these for nothing, so they wait for everything else. With the first of the signers.
    Settled(ValidatorIndex),
    /// Contradicts something proven, or could. Of a single vote its validator's history decides ([`Glance`]); where that says nothing,
    /// and of aggregates, whose members are not known yet: a source that hardly any other vote for its target has, a target that is not
    /// about now. A slashing operation, and a block or header where another one of its slot and proposer is proven.
    Contradiction,
    /// A block or a header: few, and others wait for them.
    Context,
    /// One of thousands.
    Ordinary,
}

/// What a message says of a validator that it names, for whoever knows whether that is [`Triage::Settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum About {
    Vote,
    /// A header: it is evidence and nothing else.
    Proposal,
    /// A whole block that claims this slot: as long as its proposer could have had a turn then, others may wait for it.
    Block(Slot),
}

/// What a validator's history says at a glance about a vote in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Glance {
    /// It is known, or contradicts nothing, or nothing is known of the validator.
    Fits,
    /// It contradicts a stored vote.
    Contradicts,
    /// Older than what can be looked at in no time.
    Unclear,
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
    /// What this message would be. `now`: by the clock that messages are told early and late by. `history`: what is stored of a
    /// validator, asked about a vote in its name for data with this root. `is_settled`: whether it matters what else is proven of a
    /// validator.
    pub fn triage(
        &mut self,
        message: &RawMessage,
        slots_per_epoch: u64,
        now: Slot,
        history: impl Fn(ValidatorIndex, &AttestationData, Root) -> Glance,
        is_settled: impl Fn(ValidatorIndex, About) -> bool,
    ) -> Triage {
        let epoch = Epoch::new(now.as_u64() / slots_per_epoch.max(1));
        match message.kind {
            MessageKind::Block
            | MessageKind::Header
            | MessageKind::BlobSidecar { .. }
            | MessageKind::DataColumnSidecar { .. } => {
                let named = greatest_index_named(message).map(ValidatorIndex::new).zip(slot_claimed(message));
                let Some((proposer, slot)) = named else { return Triage::Context };
                let is_block = message.kind == MessageKind::Block;
                if is_settled(proposer, if is_block { About::Block(slot) } else { About::Proposal }) {
                    Triage::Settled(proposer)
                } else if self.contradicts_a_block(message, slot, proposer) {
                    Triage::Contradiction
                } else {
                    Triage::Context
                }
            }
            MessageKind::ProposerSlashing => {
                let proposers =
                    [8, 8 + SignedBeaconBlockHeader::SSZ_LEN].map(|at| u64_at(&message.bytes, at).map(ValidatorIndex::new));
                match proposers {
                    [Some(one), Some(two)] if [one, two].iter().all(|index| is_settled(*index, About::Proposal)) => {
                        Triage::Settled(one)
                    }
                    _ => Triage::Contradiction,
                }
            }
            MessageKind::AttesterSlashing => {
                let mut named = indices_accused(&message.bytes).into_iter().flatten().map(ValidatorIndex::new).peekable();
                match named.peek().copied() {
                    Some(first) if named.all(|index| is_settled(index, About::Vote)) => Triage::Settled(first),
                    Some(_) | None => Triage::Contradiction,
                }
            }
            MessageKind::Attestation { .. } if is_single_vote(message) => {
                let Some(data) = data_bytes(&message.bytes, SINGLE_DATA) else { return Triage::Ordinary };
                let (root, data) = self.roots.of(data);
                let voter = ValidatorIndex::new(number(&message.bytes, 8));
                if self.votes.covers(root, &[voter]) {
                    return Triage::Known;
                }
                if is_settled(voter, About::Vote) {
                    return Triage::Settled(voter);
                }
                if self.votes.voted_otherwise(root, data.target.epoch, voter) {
                    return Triage::Contradiction;
                }
                match history(voter, &data, root) {
                    Glance::Fits => Triage::Ordinary,
                    Glance::Contradicts => Triage::Contradiction,
                    Glance::Unclear => self.triage_data(&data, epoch),
                }
            }
            MessageKind::Aggregate => match data_bytes(&message.bytes, AGGREGATE_DATA) {
                Some(data) => {
                    let (_, data) = self.roots.of(data);
                    self.triage_data(&data, epoch)
                }
                None => Triage::Ordinary,
            },
            MessageKind::Attestation { .. }
            | MessageKind::AttestationByBits
            | MessageKind::PayloadAttestation
            | MessageKind::PayloadBid
            | MessageKind::InclusionList => Triage::Ordinary,
        }
    }

    /// Whether a block of this slot and proposer is proven and a message is not about that one. Of a whole block that is not known
    /// before it is hashed.
    fn contradicts_a_block(&self, message: &RawMessage, slot: Slot, proposer: ValidatorIndex) -> bool {
        let Some(first) = self.first_blocks.get(&(slot, proposer)) else { return false };
        let at = match message.kind {
            MessageKind::Header => 0,
            MessageKind::BlobSidecar { .. } => BLOB_SIDECAR_PROPOSER - 8,
            MessageKind::DataColumnSidecar { .. } => COLUMN_SIDECAR_PROPOSER - 8,
            _ => return true,
        };
        let header = message
            .bytes
            .get(at..at + SignedBeaconBlockHeader::SSZ_LEN)
            .and_then(|bytes| SignedBeaconBlockHeader::from_ssz(bytes).ok());
        header.is_some_and(|header| header.message.root() != *first)
    }

    /// How this peer's messages are judged.
    pub fn repute(&self, peer: Option<&PeerBytes>) -> Repute {
        self.reputes.of(peer)
    }

    /// Of votes by nobody in particular.
    fn triage_data(&self, data: &AttestationData, now: Epoch) -> Triage {
        let target = data.target.epoch;
        let about_now = target <= now.saturating_add(1) && now <= target.saturating_add(1);
        if !about_now || self.votes.is_unusual_source(target, data.source.epoch) {
            return Triage::Contradiction;
        }
        Triage::Ordinary
    }
}

/// The greatest validator index that a message names in the clear; `None` for votes by bits and for what is too short.
/// Nothing is checked here.
pub fn greatest_index_named(message: &RawMessage) -> Option<u64> {
    let at = match message.kind {
        MessageKind::Attestation { .. } if is_single_vote(message) => 8,
        MessageKind::Attestation { .. } | MessageKind::AttestationByBits | MessageKind::Aggregate => return None,
        MessageKind::AttesterSlashing => return indices_accused(&message.bytes)?.max(),
        // The slot, then the proposer.
        MessageKind::Header | MessageKind::ProposerSlashing => 8,
        MessageKind::Block => BLOCK_PROPOSER,
        MessageKind::BlobSidecar { .. } => BLOB_SIDECAR_PROPOSER,
        MessageKind::DataColumnSidecar { .. } => COLUMN_SIDECAR_PROPOSER,
        MessageKind::PayloadAttestation => 0,
        // Signed by a builder, whose index counts elsewhere.
        MessageKind::PayloadBid => return None,
        MessageKind::InclusionList => INCLUSION_LIST_VALIDATOR,
    };
    u64_at(&message.bytes, at)
}

/// Before Electra a vote by bits of a committee of 88 to 95 is as long, so the fork counts where it is known.
fn is_single_vote(message: &RawMessage) -> bool {
    matches!(message.kind, MessageKind::Attestation { .. })
        && message.bytes.len() == SingleAttestation::SSZ_LEN
        && message.origin.fork.is_none_or(ForkName::has_single_attestations)
}

/// Whose vote a single one would be (Electra on), for which target epoch, and all that it says; `None` for other messages. Nothing is checked here.
pub fn single_vote_claimed(message: &RawMessage) -> Option<(ValidatorIndex, Epoch, &[u8])> {
    let data = message.bytes.get(SINGLE_DATA..SINGLE_DATA + DATA_LEN).filter(|_| is_single_vote(message))?;
    Some((ValidatorIndex::new(number(&message.bytes, 8)), Epoch::new(number(data, DATA_TARGET)), data))
}

/// The slot that a message says it is about; of a slashing operation its first side's. `None` if it is too short to say.
/// Nothing is checked here.
pub fn slot_claimed(message: &RawMessage) -> Option<Slot> {
    let at = match message.kind {
        MessageKind::Attestation { .. } if is_single_vote(message) => SINGLE_DATA,
        MessageKind::Attestation { .. } | MessageKind::AttestationByBits => BITS_DATA,
        MessageKind::Aggregate => AGGREGATE_DATA,
        MessageKind::AttesterSlashing => ACCUSED_DATA,
        MessageKind::Header | MessageKind::ProposerSlashing => 0,
        MessageKind::Block => BLOCK_PROPOSER - 8,
        MessageKind::BlobSidecar { .. } => BLOB_SIDECAR_PROPOSER - 8,
        MessageKind::DataColumnSidecar { .. } => COLUMN_SIDECAR_PROPOSER - 8,
        MessageKind::PayloadAttestation => PAYLOAD_VOTE_SLOT,
        MessageKind::PayloadBid => PAYLOAD_BID_SLOT,
        MessageKind::InclusionList => INCLUSION_LIST_VALIDATOR - 8,
    };
    u64_at(&message.bytes, at).map(Slot::new)
}

/// Of both sides of an attester slashing: lists of 8 bytes each behind data and signature.
fn indices_accused(bytes: &[u8]) -> Option<impl Iterator<Item = u64>> {
    const INDICES: usize = 4 + DATA_LEN + 96;
    let offset = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let (first, second) = (offset(0)?, offset(4)?);
    let sides = [bytes.get(first..second)?, bytes.get(second..)?];
    let indices = sides.into_iter().filter_map(|side| side.get(INDICES..)).flat_map(|list| list.as_chunks::<8>().0);
    Some(indices.map(|index| u64::from_le_bytes(*index)))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
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
    let checkpoint = |at| consensus::Checkpoint { epoch: Epoch::new(number(bytes, at)), root: root_at(bytes, at + 8) };
    AttestationData {
        slot: Slot::new(number(bytes, 0)),
        index: consensus::CommitteeIndex::new(number(bytes, 8)),
        beacon_block_root: root_at(bytes, 16),
        source: checkpoint(48),
        target: checkpoint(DATA_TARGET),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Checkpoint, CommitteeIndex, SignatureBytes};

    fn message(kind: MessageKind, bytes: Vec<u8>) -> RawMessage {
        let origin = crate::Origin { source: crate::SourceKind::Gossip, peer: None, fork: None };
        RawMessage { origin, kind, received_at: crate::UnixNs(0), bytes, ticket: None }
    }

    #[test]
    fn who_is_named_is_read_where_it_stands() {
        use consensus::{AttesterSlashing, BeaconBlockHeader, IndexedAttestation, ProposerSlashing};
        let named = |kind, bytes: &[u8]| greatest_index_named(&message(kind, bytes.to_vec()));
        let side = |indices: &[u64]| IndexedAttestation {
            attesting_indices: indices.iter().copied().map(ValidatorIndex::new).collect(),
            data: AttestationData::default(),
            signature: SignatureBytes::ZERO,
        };
        let slashing = AttesterSlashing { attestation_1: side(&[3, 900]), attestation_2: side(&[3, 5]) }.to_ssz();
        assert_eq!(named(MessageKind::AttesterSlashing, &slashing), Some(900));
        let header = BeaconBlockHeader { proposer_index: ValidatorIndex::new(77), ..BeaconBlockHeader::default() };
        let signed = SignedBeaconBlockHeader { message: header, signature: SignatureBytes::ZERO };
        let operation = ProposerSlashing { signed_header_1: signed, signed_header_2: signed }.to_ssz();
        assert_eq!(named(MessageKind::ProposerSlashing, &operation), Some(77));
        assert_eq!(named(MessageKind::Header, &signed.to_ssz()), Some(77));
        let mut block = vec![0u8; 400];
        block[108] = 9;
        block[100] = 8;
        assert_eq!(named(MessageKind::Block, &block), Some(9));
        let about = |kind, bytes: &[u8]| slot_claimed(&message(kind, bytes.to_vec())).map(Slot::as_u64);
        assert_eq!(about(MessageKind::Block, &block), Some(8));
        // An inclusion list has slot and signer where a block has slot and proposer.
        assert_eq!(named(MessageKind::InclusionList, &block), Some(9));
        assert_eq!(about(MessageKind::InclusionList, &block), Some(8));
        let data = AttestationData { slot: Slot::new(6), ..AttestationData::default() };
        let side = IndexedAttestation { data, ..side(&[3]) };
        let slashing = AttesterSlashing { attestation_1: side.clone(), attestation_2: side }.to_ssz();
        assert_eq!(about(MessageKind::AttesterSlashing, &slashing), Some(6));
        assert_eq!(about(MessageKind::Header, &signed.to_ssz()), Some(0));
        // Nothing is read beyond the end, whatever the offsets say.
        let kinds = [
            MessageKind::AttesterSlashing,
            MessageKind::Block,
            MessageKind::Header,
            MessageKind::Aggregate,
            MessageKind::InclusionList,
        ];
        for kind in kinds.into_iter().chain([MessageKind::BlobSidecar { index: 0 }, MessageKind::DataColumnSidecar { index: 0 }])
        {
            for length in [0, 7, 15] {
                assert_eq!(named(kind, &vec![0xff; length]), None);
                assert!(length > 8 || about(kind, &vec![0xff; length]).is_none());
            }
        }
        assert_eq!(named(MessageKind::AttesterSlashing, &[0xff; 500]), None);
    }

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
        let whole = message(MessageKind::Attestation { subnet: 0 }, ssz.clone());
        assert_eq!(single_vote_claimed(&whole), Some((ValidatorIndex::new(77), Epoch::new(6), &bytes[..])));
        assert_eq!(single_vote_claimed(&message(MessageKind::Attestation { subnet: 0 }, ssz[..239].to_vec())), None);
        assert_eq!(single_vote_claimed(&message(MessageKind::Aggregate, ssz.clone())), None);
        // Before Electra a vote by bits of a committee of 88 to 95 has the same length.
        for (fork, is_single) in [(Some(ForkName::Deneb), false), (Some(ForkName::Electra), true), (None, true)] {
            let of_fork = RawMessage { origin: crate::Origin { fork, ..whole.origin.clone() }, ..whole.clone() };
            assert_eq!(single_vote_claimed(&of_fork).is_some(), is_single, "{fork:?}");
            assert_eq!(greatest_index_named(&of_fork), is_single.then_some(77), "{fork:?}");
        }
        let mut roots = DataRoots::default();
        assert_eq!(roots.of(bytes).0, single.data.root());
        assert_eq!(roots.of(bytes), (single.data.root(), single.data));
        assert!(data_bytes(&ssz[..143], SINGLE_DATA).is_none());
    }
}
