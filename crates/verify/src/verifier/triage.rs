//! Looks at a message before anything is proven and decides what it would be if it were true. So
//! important messages are processed first, and known messages cost nothing. This takes
//! microseconds. Only the BLS equation decides whether a message is true, whatever is decided here.
//! Where the fields of a message are stands in the table of kinds ([`consensus::MessageKind`]).

use super::Verifier;
use crate::RawMessage;
use consensus::{AttestationData, Epoch, MessageFields, MessageKind, Root, SignedBeaconBlockHeader, Slot, ValidatorIndex};
use std::collections::HashMap;

const DATA_LEN: usize = AttestationData::SSZ_LEN;
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
    /// - a block or header, if a whole block of the same slot and proposer was proven since the
    ///   start. A repeat of that very block too. Where only the index has the first one, the second
    ///   is [`Triage::Context`].
    Contradiction,
    /// A block or a header that contradicts nothing known. Other messages may wait for a block. A
    /// header is only evidence, but there are few of them.
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
pub(super) struct DataRoots(HashMap<[u8; DATA_LEN], (Root, AttestationData)>);

impl DataRoots {
    fn of(&mut self, bytes: &[u8; DATA_LEN]) -> (Root, AttestationData) {
        if let Some(known) = self.0.get(bytes) {
            return *known;
        }
        if self.0.len() >= MAX_ROOTS {
            self.0.clear();
        }
        let data = AttestationData::from_ssz(bytes);
        let row = (data.root(), data);
        self.0.insert(*bytes, row);
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
        // Such a message proves nothing, whatever it would contradict.
        if message.has_unknown_fork() {
            return Triage::Ordinary;
        }
        let epoch = Epoch::new(now.as_u64() / slots_per_epoch.max(1));
        let fields = message.fields();
        match message.kind {
            MessageKind::Block
            | MessageKind::Header
            | MessageKind::BlobSidecar { .. }
            | MessageKind::DataColumnSidecar { .. } => {
                let Some((proposer, slot)) = fields.validator().zip(fields.slot()) else { return Triage::Context };
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
                let second = message.bytes.get(SignedBeaconBlockHeader::SSZ_LEN..);
                let second = second.and_then(|ssz| MessageFields::of(MessageKind::Header, None, ssz).validator());
                match [fields.validator(), second] {
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
            MessageKind::Attestation { .. } => {
                // A vote by bits names no validator.
                let Some((voter, data)) = fields.validator().zip(fields.data()) else { return Triage::Ordinary };
                let (root, data) = self.data_roots.of(data);
                if self.votes.contains_all(root, &[voter]) {
                    return Triage::Known;
                }
                if is_settled(voter, About::Vote) {
                    return Triage::Settled(voter);
                }
                if self.votes.has_other_vote(root, data.target.epoch, voter) {
                    return Triage::Contradiction;
                }
                match history(voter, &data, root) {
                    HistoryCheck::Fits => Triage::Ordinary,
                    HistoryCheck::Contradicts => Triage::Contradiction,
                    HistoryCheck::Unclear => self.triage_data(&data, epoch),
                }
            }
            MessageKind::Aggregate => match fields.data() {
                Some(data) => {
                    let (_, data) = self.data_roots.of(data);
                    self.triage_data(&data, epoch)
                }
                None => Triage::Ordinary,
            },
            MessageKind::AttestationByBits
            | MessageKind::PayloadAttestation
            | MessageKind::PayloadBid
            | MessageKind::InclusionList => Triage::Ordinary,
        }
    }

    /// Whether a block of this slot and proposer is proven, and this message is about a different
    /// one. A whole block is always taken for a different one, because its root is not known before
    /// it is hashed.
    fn contradicts_a_block(&self, message: &RawMessage, slot: Slot, proposer: ValidatorIndex) -> bool {
        let Some(first) = self.blocks.first_of(slot, proposer) else { return false };
        message.kind == MessageKind::Block || message.fields().header().is_some_and(|header| header.message.root() != *first)
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
    if message.kind == MessageKind::AttesterSlashing {
        return indices_accused(&message.bytes)?.max();
    }
    message.fields().validator().map(ValidatorIndex::as_u64)
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

/// For a single vote (since Electra): what it claims. `None` for other messages, and for votes of a
/// fork that is not known.
pub fn single_vote_claimed(message: &RawMessage) -> Option<SingleVoteClaim<'_>> {
    if message.has_unknown_fork() || !message.kind.is_single_attestation(message.origin.fork, message.bytes.len()) {
        return None;
    }
    let fields = message.fields();
    let (voter, data) = fields.validator().zip(fields.data())?;
    let AttestationData { source, target, .. } = AttestationData::from_ssz(data);
    Some(SingleVoteClaim { voter, source: source.epoch, target: target.epoch, data })
}

/// The slot that a message names. For a slashing operation it is the slot of the first side. `None`
/// if the message is too short. The message is not checked.
pub fn slot_claimed(message: &RawMessage) -> Option<Slot> {
    message.fields().slot()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MessageParts, Origin, SourceKind, Time};
    use consensus::{Checkpoint, CommitteeIndex, ForkName, SignatureBytes, SingleAttestation};

    fn message(kind: MessageKind, bytes: Vec<u8>) -> RawMessage {
        message_of(None, kind, bytes)
    }

    /// Only a node of our own may leave the fork away.
    fn message_of(fork: Option<ForkName>, kind: MessageKind, bytes: Vec<u8>) -> RawMessage {
        let source = if fork.is_some() { SourceKind::Gossip } else { SourceKind::Api };
        let origin = Origin { source, peer: None, fork, subscribed: None };
        RawMessage::new(MessageParts { origin, kind, received_at: Time(0), bytes, ticket: None }).unwrap()
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

    /// Messages of a fork that is not known are the last to be looked at, whatever they would
    /// contradict: nothing in them can be proven.
    #[test]
    fn what_cannot_be_proven_contradicts_nothing() {
        let mut verifier = Verifier::seeded(crate::VerifyConfig::default(), 1);
        let kinds = [MessageKind::Block, MessageKind::AttesterSlashing, MessageKind::Attestation { subnet: 0 }];
        for kind in kinds {
            let known = message_of(Some(ForkName::Heze), kind, vec![0; 240]);
            let unknown = known.changed(|parts| parts.origin.fork = None);
            let mut of = |message| verifier.triage(message, 32, Slot::new(7), |_, _, _| HistoryCheck::Contradicts, |_, _| false);
            assert_ne!(of(&known), Triage::Ordinary, "{kind:?}");
            assert_eq!(of(&unknown), Triage::Ordinary, "{kind:?}");
            assert_eq!(single_vote_claimed(&unknown), None);
        }
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
        let kind = MessageKind::Attestation { subnet: 0 };
        let whole = message(kind, ssz.clone());
        let bytes = whole.fields().data().unwrap();
        assert_eq!((AttestationData::from_ssz(bytes), whole.fields().validator()), (single.data, Some(ValidatorIndex::new(77))));
        let claim = SingleVoteClaim { voter: ValidatorIndex::new(77), source: Epoch::new(3), target: Epoch::new(6), data: bytes };
        assert_eq!(single_vote_claimed(&whole), Some(claim));
        assert_eq!(single_vote_claimed(&message(MessageKind::Attestation { subnet: 0 }, ssz[..239].to_vec())), None);
        assert_eq!(single_vote_claimed(&message(MessageKind::Aggregate, ssz.clone())), None);
        // Before Electra a vote by bits of a committee of 88 to 95 members has the same length.
        for (fork, is_single) in [(Some(ForkName::Deneb), false), (Some(ForkName::Electra), true), (None, true)] {
            let of_fork = message_of(fork, kind, ssz.clone());
            assert_eq!(single_vote_claimed(&of_fork).is_some(), is_single, "{fork:?}");
            assert_eq!(greatest_index_named(&of_fork), is_single.then_some(77), "{fork:?}");
        }
        let mut roots = DataRoots::default();
        assert_eq!(roots.of(bytes).0, single.data.root());
        assert_eq!(roots.of(bytes), (single.data.root(), single.data));
        assert!(message(MessageKind::Aggregate, ssz[..143].to_vec()).fields().data().is_none());
    }
}
