//! [`Verifier::process`] takes one batch through decode, resolve and check, in three steps of one
//! or more equations each:
//!
//! 1. Blocks, and headers from sidecars. Proven blocks extend the chain, so that the committees of
//!    the rest of the batch are known.
//! 2. Messages that name their validators: single votes since Electra, and slashing operations,
//!    including those inside the blocks.
//! 3. Votes by bits: aggregates, attestations inside blocks, single votes before Electra, and
//!    parked votes that the changes of the chain may help. First come the votes whose committees
//!    are certain, then the others, candidate by candidate.
//!
//! After these come messages that no rule punishes (Gloas, Heze). Each step is in a file of its
//! own, which also owns what the step remembers. The equation itself is in `prover.rs`.

mod blocks;
mod by_bits;
mod forgeries;
mod named;
mod outcome_collector;
mod prover;
mod statements;
mod triage;
mod unknown_validators;

pub(crate) use outcome_collector::PendingOutcome;
pub use triage::{About, HistoryCheck, SingleVoteClaim, Triage, greatest_index_named, single_vote_claimed, slot_claimed};

use crate::batch::{BatchResult, ClaimSet};
use crate::decode::{VoteByBits, decode, log_not_provable, may_be_of_other_draft};
use crate::parking::Job;
use crate::peer_reputation::PeerReputation;
use crate::resolve::ContextCache;
use crate::seen::SeenVotes;
use crate::{FirstSeen, MessageParts, NotProvable, Outcome, PeerBytes, RawMessage, Statement, Time, Verified, VerifyConfig};
use blocks::{BlockJob, HeaderJob, SeenBlocks};
use by_bits::UncertainVotes;
use chain::Chain;
use consensus::{DecodedMessage, ForkName, Network, Root, Slot, ValidatorIndex};
use forgeries::Forgeries;
use named::{NamedVoteJob, SeenOperations, SlashingJob};
use outcome_collector::OutcomeCollector;
use prover::{Prover, Signers};
use rand::SeedableRng as _;
use rand::rngs::{OsRng, StdRng};
use statements::{SeenStatements, StatementJob};
use triage::DataRoots;

const NO_SUCH_VALIDATOR: &str =
    "it names a validator that cannot exist yet, by the most deposits since our state; its sender is at fault";
/// What the operator is told if the network follows another draft of a fork.
pub const OTHER_DRAFT_NOTICE: &str = "this network follows another draft of its fork than this version of slashwatch: messages are seen \
     but cannot be proven, and offences are missed; update slashwatch";
/// Number of messages that one worker decodes at a time.
const DECODE_CHUNK: usize = 64;

/// Proves the claims in batches of messages. It has one owner. It contains what was proven before
/// and what waits.
#[derive(Debug)]
pub struct Verifier {
    config: VerifyConfig,
    prover: Prover,
    votes: SeenVotes,
    forgeries: Forgeries,
    blocks: SeenBlocks,
    operations: SeenOperations,
    uncertain: UncertainVotes,
    statements: SeenStatements,
    data_roots: DataRoots,
    draft: DraftBlocks,
    registry_version: u64,
    slot: Slot,
    next_number: u64,
}

/// Sizes for the metrics page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifierStats {
    /// Waiting messages. Waiting parts of blocks are not included.
    pub parked_messages: usize,
    /// Everything that waits, including parts of blocks.
    pub parked: usize,
    pub parked_bytes: usize,
    /// Number of remembered (validator, data) pairs. A repeated vote of such a pair costs nothing.
    pub remembered_votes: usize,
    /// Number of pairs that were removed to make room.
    pub forgotten_votes: u64,
    /// Number of forged messages that came again and cost nothing.
    pub repeated_forgeries: u64,
    /// Claims about a fork to come that were tried with a second version.
    pub tried_again: u64,
}

/// A batch, sorted by what is done with its messages.
#[derive(Default)]
struct SortedBatch {
    blocks: Vec<BlockJob>,
    headers: Vec<HeaderJob>,
    slashings: Vec<SlashingJob>,
    named: Vec<NamedVoteJob>,
    by_bits: Vec<Job>,
    statements: Vec<StatementJob>,
}

/// What blocks tell about the draft of a fork's specification that the network follows.
///
/// Of a message that does not decode nobody can say whether it is junk or of another draft. Blocks
/// of our draft settle that if they fill more than half of the slots of an epoch's length, each
/// built in its proposer's turn: then the network follows our draft, and junk is junk. Fewer blocks
/// do not, because the owner of a few keys can sign blocks of any draft. Otherwise such an owner
/// could make us blame every peer that sends blocks of the network's own draft.
#[derive(Debug, Default)]
struct DraftBlocks {
    is_ours: bool,
    /// The slot in which the first message came that did not decode.
    unread_since: Option<Slot>,
    is_logged: bool,
}

impl DraftBlocks {
    fn may_be_other(&self, fork: ForkName) -> bool {
        fork.is_draft() && !self.is_ours
    }

    fn unread(&mut self, now: Slot) {
        self.unread_since.get_or_insert(now);
    }

    /// Looks at the blocks of the last slots before `now`.
    fn settle(&mut self, chain: &Chain, now: Slot) {
        let (spec, preset) = (&chain.network().spec, chain.network().preset());
        let is_of_draft = |slot: Slot| spec.fork_name_at(slot.epoch(preset)).is_draft();
        if self.is_ours || !is_of_draft(now) {
            return;
        }
        let since = now.saturating_sub(preset.slots_per_epoch);
        let (mut n_in_turn, mut next) = (0, Some(chain.backed_head().root));
        while let Some(root) = next
            && let Some(slot) = chain.block_slot(&root).filter(|slot| *slot >= since && is_of_draft(*slot))
        {
            n_in_turn += u64::from(slot < now && chain.is_in_turn(&root));
            next = chain.block_parent(&root);
        }
        if 2 * n_in_turn > preset.slots_per_epoch {
            (self.is_ours, self.unread_since) = (true, None);
        }
    }
}

impl Verifier {
    /// A verifier with unpredictable weights.
    pub fn new(config: VerifyConfig) -> Self {
        Self::with_rng(config, StdRng::try_from_rng(&mut OsRng).unwrap_or_else(|_| StdRng::from_rng(&mut rand::rng())))
    }

    /// A verifier with predictable weights, for tests only.
    #[cfg(feature = "test-support")]
    pub fn seeded(config: VerifyConfig, seed: u64) -> Self {
        Self::with_rng(config, StdRng::seed_from_u64(seed))
    }

    fn with_rng(config: VerifyConfig, rng: StdRng) -> Self {
        Self {
            prover: Prover::new(&config, rng),
            votes: SeenVotes::new(config.remembered_votes, config.remembered_data),
            forgeries: Forgeries::new(config.remembered_forgeries),
            blocks: SeenBlocks::new(config.remembered_roots),
            operations: SeenOperations::new(config.remembered_roots),
            uncertain: UncertainVotes::new(&config),
            statements: SeenStatements::new(config.remembered_roots),
            data_roots: DataRoots::default(),
            draft: DraftBlocks::default(),
            registry_version: 0,
            slot: Slot::new(0),
            next_number: 0,
            config,
        }
    }

    /// While more comes in than can be proven for forwarding, single votes are proven in sums, at a
    /// third of the cost.
    pub fn set_pressed(&mut self, pressed: bool) {
        self.prover.set_singles(if pressed { crate::SinglesProof::Sums } else { self.config.singles });
    }

    /// Decodes, resolves and proves a batch. `now` is the time that decides which messages expire,
    /// and which ones are too early or too late for forwarding. In a replay it is the time of the
    /// latest message. Proven blocks extend `chain`. The result contains one outcome for each
    /// message of the batch, and one for each parked message whose waiting ended.
    pub fn process(&mut self, chain: &mut Chain, batch: Vec<RawMessage>, now: Time) -> Verified {
        let network = chain.network().clone();
        let mut collector = OutcomeCollector::default();
        self.votes.start_batch();
        let is_new_slot = self.start_slot(chain, now, &mut collector);
        let mut sorted = self.decode_and_sort(&network, batch, now, &mut collector);
        self.follow_registry(chain, &mut sorted);
        self.prove_blocks(chain, &mut sorted, now, &mut collector);
        self.prove_named(chain, &mut sorted, now, &mut collector);
        self.prove_by_bits(chain, sorted.by_bits, is_new_slot, now, &mut collector);
        self.prove_statements(chain, sorted.statements, &mut collector);
        chain.count_votes(collector.verified.votes.iter().map(|vote| (&vote.data, vote.indices.as_slice())));
        collector.into_verified()
    }

    /// Ends all waiting, at the end of a replay or of the program. Everything that can be tried is
    /// tried a last time. The limits and delays that are useful only while more may come do not
    /// apply. The rest expires. So the result of a replay does not depend on how it was cut into
    /// batches.
    pub fn finish(&mut self, chain: &mut Chain, now: Time) -> Verified {
        // The chain will not be asked again later, so everything must be computed now.
        chain.compute_at_once();
        let mut collector = OutcomeCollector::default();
        let mut sorted = SortedBatch::default();
        self.follow_registry(chain, &mut sorted);
        self.prove_named(chain, &mut sorted, now, &mut collector);
        self.prove_parked_at_last(chain, now, &mut collector);
        for job in self.uncertain.take_all() {
            collector.expire(job);
        }
        for job in self.operations.take_waiting() {
            collector.record(job.item, Outcome::UnknownValidator);
        }
        collector.into_verified()
    }

    /// The number of waiting messages: `received = final outcomes + parked`.
    pub fn parked(&self) -> usize {
        self.uncertain.parking().n_messages()
    }

    /// The arrival time of the message, or part of one, that has waited longest. A crash loses what
    /// waits. Looks at everything that is parked.
    pub fn parked_since(&self) -> Option<Time> {
        self.uncertain.parking().waits_since()
    }

    /// How the claims of this peer are proven: together with those of others, or each by itself.
    pub fn peer_reputation(&self, peer: Option<&PeerBytes>) -> PeerReputation {
        self.prover.reputation_of(peer)
    }

    /// Whether the network seems to follow another draft of its fork than this program: for two
    /// epochs messages have come that do not decode, and there were too few blocks of our draft.
    pub fn sees_other_draft(&self, slots_per_epoch: u64) -> bool {
        self.draft.unread_since.is_some_and(|since| self.slot >= since.saturating_add(2 * slots_per_epoch))
    }

    pub fn stats(&self) -> VerifierStats {
        let parking = self.uncertain.parking();
        VerifierStats {
            parked_messages: parking.n_messages(),
            parked: parking.len(),
            parked_bytes: parking.bytes(),
            remembered_votes: self.votes.len(),
            forgotten_votes: self.votes.n_forgotten(),
            repeated_forgeries: self.forgeries.n_repeated(),
            tried_again: self.prover.n_tried_again(),
        }
    }

    /// Starts a new slot: resets the limits per slot, and lets messages expire that waited too
    /// long. Returns whether the slot is a new one.
    fn start_slot(&mut self, chain: &Chain, now: Time, collector: &mut OutcomeCollector) -> bool {
        let network = chain.network();
        let slot = network.slot_at(now.0);
        if slot == self.slot {
            return false;
        }
        self.draft.settle(chain, slot);
        if !self.draft.is_logged && self.sees_other_draft(network.preset().slots_per_epoch) {
            self.draft.is_logged = true;
            tracing::warn!("{OTHER_DRAFT_NOTICE}");
        }
        let is_new_epoch = slot.epoch(network.preset()) != self.slot.epoch(network.preset());
        self.slot = slot;
        self.prover.start_slot(is_new_epoch);
        let epoch_ns = network.spec.slot_duration.as_nanos() as u64 * network.preset().slots_per_epoch;
        let oldest = now.0.saturating_sub(self.config.parking.wait_epochs.saturating_mul(epoch_ns));
        for job in self.uncertain.start_slot(Time(oldest)) {
            collector.expire(job);
        }
        true
    }

    /// Prepares what has to be proven again after the registry has changed.
    fn follow_registry(&mut self, chain: &Chain, sorted: &mut SortedBatch) {
        if chain.registry().version() != self.registry_version {
            self.registry_version = chain.registry().version();
            // With the new registry, votes by bits may have other signers than before.
            self.forgeries.forget_all();
            sorted.slashings.extend(self.operations.take_waiting());
        }
    }

    fn decode_and_sort(
        &mut self,
        network: &Network,
        batch: Vec<RawMessage>,
        now: Time,
        collector: &mut OutcomeCollector,
    ) -> SortedBatch {
        let chunks: Vec<&[RawMessage]> = batch.chunks(DECODE_CHUNK).collect();
        let decoded = self.prover.workers().map(&chunks, |chunk| {
            let decoded = chunk.iter().map(|message| decode(network, message));
            decoded.map(|decoded| decoded.map(with_data_root)).collect::<Vec<_>>()
        });
        let mut sorted = SortedBatch::default();
        for (message, decoded) in batch.into_iter().zip(decoded.into_iter().flatten()) {
            let may_be_draft = decoded.is_err() && !self.draft.is_ours && may_be_of_other_draft(network, &message);
            let MessageParts { origin, kind, received_at, bytes, ticket } = message.into_parts();
            let heard = FirstSeen { at: received_at, source: origin.source, peer: origin.peer.clone() };
            let item = PendingOutcome::message(self.next_number, ticket, origin, kind);
            self.next_number += 1;
            if may_be_draft || matches!(decoded, Err(Outcome::SeenNotProvable(_))) {
                log_not_provable(kind, &bytes);
            }
            match decoded {
                Err(Outcome::Malformed(_)) if may_be_draft => {
                    collector.record(item, Outcome::SeenNotProvable(NotProvable::OtherDraft));
                    self.draft.unread(self.slot);
                }
                Err(outcome) => collector.record(item, outcome),
                Ok((decoded, fork, data_root)) => sorted.add(item, heard, decoded, fork, data_root, bytes, now),
            }
        }
        sorted
    }

    /// Proves the claims of a batch. Proven claims are returned and remembered. For a claim that is
    /// not proven, the failure is remembered for its sender, unless the signers were only guessed.
    fn prove_and_remember(
        &mut self,
        chain: &Chain,
        claims: ClaimSet,
        signers: Signers,
        collector: &mut OutcomeCollector,
    ) -> BatchResult {
        let (proofs, proven) = self.prover.prove_batch(chain, claims, signers);
        proven.into_iter().for_each(|proven| collector.add_proven(proven));
        for claim in proofs.proven() {
            if let Some((data_root, data)) = claim.vote() {
                self.votes.insert(data_root, data, claim.members(), claim.arrival());
            }
            // A signature that is valid with another version than the scheduled one must not make
            // the right signature a forgery after the fork.
            if let Some((root, signature)) = claim.proposal_root().filter(|_| claim.signed_with().is_none()) {
                self.blocks.remember_proposal(root, signature);
            }
        }
        proofs
    }
}

/// The outcome of a message with a validator whose key is not known. Our registry may not contain
/// the validator yet, or the validator cannot exist.
fn without_key(chain: &Chain, named: ValidatorIndex, heard: &FirstSeen) -> Outcome {
    if chain.may_exist(named, chain.network().slot_at(heard.at.0)) {
        Outcome::UnknownValidator
    } else {
        Outcome::Malformed(NO_SUCH_VALIDATOR.into())
    }
}

/// Adds the root of a vote's data. It takes seven hashes, so it is computed together with the
/// decoding, on all threads. It is zero for other messages.
fn with_data_root((message, fork): (DecodedMessage, ForkName)) -> (DecodedMessage, ForkName, Root) {
    let root = match &message {
        DecodedMessage::SingleAttestation(single) => single.data.root(),
        DecodedMessage::Attestation(attestation) => attestation.data.root(),
        DecodedMessage::Aggregate(signed) => signed.aggregate.data.root(),
        DecodedMessage::Block(_)
        | DecodedMessage::Header(_)
        | DecodedMessage::AttesterSlashing(_)
        | DecodedMessage::ProposerSlashing(_)
        | DecodedMessage::PayloadAttestation(_)
        | DecodedMessage::PayloadBid(_)
        | DecodedMessage::InclusionList(_) => Root::ZERO,
    };
    (message, fork, root)
}

impl SortedBatch {
    /// Adds a message. `data_root` is the root of its data if it is a vote.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one message")]
    fn add(
        &mut self,
        item: PendingOutcome,
        heard: FirstSeen,
        message: DecodedMessage,
        fork: ForkName,
        data_root: Root,
        bytes: Vec<u8>,
        now: Time,
    ) {
        let n_bytes = bytes.len();
        let vote = match message {
            DecodedMessage::Block(block) => return self.blocks.push(BlockJob { item, heard, block, fork, ssz: bytes }),
            DecodedMessage::Header(header) => return self.headers.push(HeaderJob { item, heard, header }),
            DecodedMessage::AttesterSlashing(slashing) => {
                return self.slashings.push(SlashingJob::attester(item, heard, slashing, fork, None));
            }
            DecodedMessage::ProposerSlashing(slashing) => {
                return self.slashings.push(SlashingJob::proposer(item, heard, slashing, fork, None));
            }
            DecodedMessage::PayloadAttestation(vote) => {
                let statement = Statement::PayloadVote { validator: vote.validator_index, data: vote.data, root: vote.data_root };
                return self.statements.push(StatementJob { item, heard, statement, signature: vote.signature });
            }
            DecodedMessage::PayloadBid(bid) => {
                let statement = Statement::Bid { bid: bid.message, root: bid.root };
                return self.statements.push(StatementJob { item, heard, statement, signature: bid.signature });
            }
            DecodedMessage::InclusionList(signed) => {
                let statement = Statement::InclusionList { list: signed.message, root: signed.root };
                return self.statements.push(StatementJob { item, heard, statement, signature: signed.signature });
            }
            DecodedMessage::SingleAttestation(single) => {
                return self.named.push(NamedVoteJob { item, heard, single, data_root });
            }
            DecodedMessage::Attestation(attestation) => VoteByBits::Alone(attestation),
            DecodedMessage::Aggregate(signed) => VoteByBits::Aggregate(signed),
        };
        self.by_bits.push(Job { item, heard, vote, data_root, n_bytes, since: now, tried: Vec::new() });
    }
}

/// The chain's answer for a vote that is near the current epoch, which is cheap. `None` for other
/// votes: only aggregates need the committees of other epochs.
fn contexts_near<'a>(
    cache: &'a mut ContextCache,
    chain: &mut Chain,
    job: &consensus::AttestationData,
    data_root: Root,
    now: Slot,
) -> Option<&'a chain::Contexts> {
    let epoch = now.epoch(chain.network().preset());
    let near = job.target.epoch <= epoch.saturating_add(1) && epoch <= job.target.epoch.saturating_add(2);
    near.then(|| cache.of(chain, job, data_root, None))
}
