//! Looks at a message before anything is proven and decides what it would be if it were true. So
//! important messages are judged first, and known messages cost nothing. This takes microseconds.
//! Only the BLS equation decides whether a message is true, whatever is decided here.
//!
//! Since Electra a single vote has fixed offsets. Lengths are in bytes:
//!
//! ```text
//! SingleAttestation: committee_index 8, attester_index 8, data 128, signature 96
//! data: slot 8, index 8, head 32, source 8 + 32, target 8 + 32
//! ```

use crate::peer_reputation::PeerReputation;
use crate::{MessageKind, PeerBytes, RawMessage, Verifier};
use consensus::{AttestationData, Epoch, ForkName, Root, SignedBeaconBlockHeader, SingleAttestation, Slot, ValidatorIndex};
use std::collections::HashMap;

const DATA_LEN: usize = 128;
/// Offset of the source's epoch in `AttestationData`.
const DATA_SOURCE: usize = 48;
/// Offset of the target's epoch in `AttestationData`.
const DATA_TARGET: usize = 88;
/// Offset of the data in a `SingleAttestation`.
const SINGLE_DATA: usize = 16;
/// Offset of the data in a `SignedAggregateAndProof`, after: offset 4, signature 96, index 8,
/// offset 4, selection proof 96, offset 4.
const AGGREGATE_DATA: usize = 212;
/// Offset of the data in an `Attestation` by bits, after: offset 4.
const BITS_DATA: usize = 4;
/// Offset of the first side's data in an `AttesterSlashing`, after: two offsets of 4, and the first
/// side's own offset of 4.
const ACCUSED_DATA: usize = 12;
/// Offset of the proposer in a `SignedBeaconBlock`, after: offset 4, signature 96, slot 8.
const BLOCK_PROPOSER: usize = 108;
/// Offset of the proposer in a `BlobSidecar`, after: index 8, the blob, commitment and proof of 48
/// each, and the header's slot 8.
const BLOB_SIDECAR_PROPOSER: usize = 8 + 131_072 + 96 + 8;
/// Offset of the proposer in a `DataColumnSidecar`, after: index 8, three offsets of 4, and the
/// header's slot 8.
const COLUMN_SIDECAR_PROPOSER: usize = 28;
/// Offset of the slot in a `PayloadAttestationMessage`, after: index 8, block root 32.
const PAYLOAD_VOTE_SLOT: usize = 40;
/// Offset of the slot in a `SignedExecutionPayloadBid`, after: offset 4, signature 96, four roots,
/// fee recipient 20, gas limit 8, builder 8.
const PAYLOAD_BID_SLOT: usize = 4 + 96 + 4 * 32 + 36;
/// Offset of the validator in a `SignedInclusionList`, after: offset 4, signature 96, slot 8.
const INCLUSION_LIST_VALIDATOR: usize = 108;
/// The largest number of data roots in the cache. A slot needs only a few, and a flood must not
/// make the cache grow.
const MAX_ROOTS: usize = 4096;

/// What a message would be if it were true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Triage {
    /// Everything in the message is already proven. There is nothing to do, whoever sent it.
    Known,
    /// Whatever the message proves changes almost nothing ([`About`]): its signers cannot be
    /// slashed, or there is already enough evidence against them. Anybody can make any number of
    /// such messages without cost, so they wait until everything else is done. The value is the
    /// first of the signers.
    Settled(ValidatorIndex),
    /// The message contradicts something proven, or may contradict it. These are:
    ///
    /// - a single vote that contradicts its validator's history ([`HistoryCheck`]);
    /// - a vote about which the history gives no answer, or an aggregate, whose members are not
    ///   known yet: if hardly any other vote for its target has its source, or if its target is not
    ///   near the current epoch;
    /// - a slashing operation;
    /// - a block or header, if a different one of the same slot and proposer is proven.
    Contradiction,
    /// A block or a header. There are few of them, and other messages wait for them.
    Context,
    /// One of thousands of ordinary messages.
    Ordinary,
}

/// What a message is about, for a validator that it names. The caller uses it to decide whether the
/// message is [`Triage::Settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum About {
    Vote,
    /// A header. It is evidence and has no other use.
    Proposal,
    /// A whole block of this slot. Other messages may wait for it, if its proposer could have been
    /// the proposer of that slot.
    Block(Slot),
}

/// What a quick look at a validator's history says about a vote with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HistoryCheck {
    /// The vote is known, or contradicts nothing, or nothing is known of the validator.
    Fits,
    /// It contradicts a stored vote.
    Contradicts,
    /// The vote is older than the part of the history that a quick look covers.
    Unclear,
}

/// Hash-tree-roots of attestation data that was seen lately. The key is the data's bytes.
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
    /// What this message would be if it were true.
    ///
    /// `now` is the current slot, by the clock that decides which messages are early or late.
    /// `history` looks at what is stored of a validator, for a vote with its name and data of this
    /// root. `is_settled` says whether it makes no difference what else is proven about a
    /// validator.
    pub fn triage(
        &mut self,
        message: &RawMessage,
        slots_per_epoch: u64,
        now: Slot,
        history: impl Fn(ValidatorIndex, &AttestationData, Root) -> HistoryCheck,
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
                    HistoryCheck::Fits => Triage::Ordinary,
                    HistoryCheck::Contradicts => Triage::Contradiction,
                    HistoryCheck::Unclear => self.triage_data(&data, epoch),
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

    /// Whether a block of this slot and proposer is proven, and this message is about a different
    /// one. A whole block is always taken for a different one, because its root is not known before
    /// it is hashed.
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

    /// How the claims of this peer are judged.
    pub fn repute(&self, peer: Option<&PeerBytes>) -> PeerReputation {
        self.reputes.of(peer)
    }

    /// Decides about a vote for which there is no answer from a validator's history.
    fn triage_data(&self, data: &AttestationData, now: Epoch) -> Triage {
        let target = data.target.epoch;
        let about_now = target <= now.saturating_add(1) && now <= target.saturating_add(1);
        if !about_now || self.votes.is_unusual_source(target, data.source.epoch) {
            return Triage::Contradiction;
        }
        Triage::Ordinary
    }
}

/// The greatest validator index that can be read in a message. `None` for votes by bits, for
/// payload bids, and for a message that is too short. The message is not checked.
pub fn greatest_index_named(message: &RawMessage) -> Option<u64> {
    let at = match message.kind {
        MessageKind::Attestation { .. } if is_single_vote(message) => 8,
        MessageKind::Attestation { .. } | MessageKind::AttestationByBits | MessageKind::Aggregate => return None,
        MessageKind::AttesterSlashing => return indices_accused(&message.bytes)?.max(),
        // The slot comes first, then the proposer.
        MessageKind::Header | MessageKind::ProposerSlashing => 8,
        MessageKind::Block => BLOCK_PROPOSER,
        MessageKind::BlobSidecar { .. } => BLOB_SIDECAR_PROPOSER,
        MessageKind::DataColumnSidecar { .. } => COLUMN_SIDECAR_PROPOSER,
        MessageKind::PayloadAttestation => 0,
        // A builder signs a bid. Builder indices are not validator indices.
        MessageKind::PayloadBid => return None,
        MessageKind::InclusionList => INCLUSION_LIST_VALIDATOR,
    };
    u64_at(&message.bytes, at)
}

/// Whether this is a single vote. Before Electra a vote by bits of a committee of 88 to 95 members
/// has the same length, so the fork decides where it is known.
fn is_single_vote(message: &RawMessage) -> bool {
    matches!(message.kind, MessageKind::Attestation { .. })
        && message.bytes.len() == SingleAttestation::SSZ_LEN
        && message.origin.fork.is_none_or(ForkName::has_single_attestations)
}

/// What a single vote (since Electra) claims. Nothing of it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SingleVoteClaim<'a> {
    pub voter: ValidatorIndex,
    pub source: Epoch,
    pub target: Epoch,
    /// All bytes of the `AttestationData`.
    pub data: &'a [u8],
}

/// For a single vote (since Electra): what it claims. `None` for other messages.
pub fn single_vote_claimed(message: &RawMessage) -> Option<SingleVoteClaim<'_>> {
    let data = message.bytes.get(SINGLE_DATA..SINGLE_DATA + DATA_LEN).filter(|_| is_single_vote(message))?;
    Some(SingleVoteClaim {
        voter: ValidatorIndex::new(number(&message.bytes, 8)),
        source: Epoch::new(number(data, DATA_SOURCE)),
        target: Epoch::new(number(data, DATA_TARGET)),
        data,
    })
}

/// The slot that a message names. For a slashing operation it is the slot of the first side. `None`
/// if the message is too short. The message is not checked.
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

/// The indices in both sides of an attester slashing. Each side has them as a list of 8 bytes each,
/// after data and signature.
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
        source: checkpoint(DATA_SOURCE),
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
        // An inclusion list has its slot and signer where a block has its slot and proposer.
        assert_eq!(named(MessageKind::InclusionList, &block), Some(9));
        assert_eq!(about(MessageKind::InclusionList, &block), Some(8));
        let data = AttestationData { slot: Slot::new(6), ..AttestationData::default() };
        let side = IndexedAttestation { data, ..side(&[3]) };
        let slashing = AttesterSlashing { attestation_1: side.clone(), attestation_2: side }.to_ssz();
        assert_eq!(about(MessageKind::AttesterSlashing, &slashing), Some(6));
        assert_eq!(about(MessageKind::Header, &signed.to_ssz()), Some(0));
        // Nothing is read beyond the end of the bytes, whatever the offsets in them are.
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
        let claim =
            SingleVoteClaim { voter: ValidatorIndex::new(77), source: Epoch::new(3), target: Epoch::new(6), data: &bytes };
        assert_eq!(single_vote_claimed(&whole), Some(claim));
        assert_eq!(single_vote_claimed(&message(MessageKind::Attestation { subnet: 0 }, ssz[..239].to_vec())), None);
        assert_eq!(single_vote_claimed(&message(MessageKind::Aggregate, ssz.clone())), None);
        // Before Electra a vote by bits of a committee of 88 to 95 members has the same length.
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
