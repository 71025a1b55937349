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
//! own.

mod blocks;
mod by_bits;
mod named;
mod statements;
mod strangers;

use crate::batch::{BatchResult, Judgement, Method, SignatureClaim, prove};
use crate::claim_set::ClaimSet;
use crate::decode::{Decoded, VoteMessage, decode};
use crate::outcome_collector::{OutcomeCollector, PendingOutcome};
use crate::parking::{Job, Parking};
use crate::peer_reputation::PeerReputations;
use crate::resolve::ContextCache;
use crate::seen::SeenVotes;
use crate::triage::DataRoots;
use crate::{FirstSeen, Outcome, PeerBytes, RawMessage, UnixNs, Verified, VerifyConfig, pool};
use base::BoundedMap;
use blocks::{BlockJob, HeaderJob};
use chain::Chain;
use consensus::{Network, Root, ShufflingId, SignatureBytes, Slot, ValidatorIndex};
use named::SlashingJob;
use rand::SeedableRng as _;
use rand::rngs::{OsRng, StdRng};
use statements::StatementJob;
use std::collections::HashMap;
use strangers::UnknownValidators;

/// Number of shufflings that are remembered as confirmed. It is more than the chain keeps.
const CONFIRMED: usize = 256;
const NO_SUCH_VALIDATOR: &str =
    "it names a validator that cannot exist yet, by the most deposits since our state; its sender is at fault";
/// How many claims of one peer about a fork that has not happened yet may fail with every possible
/// version in one slot. Nobody is blamed for such claims, so further ones are not tried.
const MAX_WITHOUT_VERSION: usize = 64;
/// At least this many claims are tried in one equation, if there are any left. So the bound may be
/// exceeded by one less.
const TRIED_TOGETHER: usize = 16;
/// Number of messages that one worker decodes at a time.
const DECODE_CHUNK: usize = 64;

/// Proves the claims in batches of messages. It has one owner. It contains what was proven before
/// and what waits.
#[derive(Debug)]
pub struct Verifier {
    config: VerifyConfig,
    method: Method,
    /// The weights must be unpredictable for the senders of signatures.
    rng: StdRng,
    pub(crate) votes: SeenVotes,
    /// Votes, headers, statements and slashing operations that were judged forged, by a hash of
    /// everything that the judgement depends on.
    forgeries: BoundedMap<Root, ()>,
    n_repeated_forgeries: u64,
    n_tried_again: u64,
    pub(crate) reputes: PeerReputations,
    pub(crate) roots: DataRoots,
    /// Proven headers by root, with their only valid signature.
    proposals: BoundedMap<Root, SignatureBytes>,
    blocks: BoundedMap<Root, ()>,
    /// The first proven block of each slot and proposer. A second one is not forwarded.
    pub(crate) first_blocks: BoundedMap<(Slot, ValidatorIndex), Root>,
    slashings: BoundedMap<Root, ()>,
    /// Validators that a block slashed, on any branch. Our registry may not show this yet, so
    /// operations against them are not forwarded.
    slashed: BoundedMap<ValidatorIndex, ()>,
    /// Sides of attester slashings and other sums that were proven, by a hash of everything that
    /// the proof depends on.
    sides: BoundedMap<Root, ()>,
    /// Proven statements by a hash of signer and content, with their only valid signature.
    statements: BoundedMap<Root, SignatureBytes>,
    /// Proven votes by bits whose committees were not certain, by a hash of their content.
    ballots: BoundedMap<Root, ()>,
    /// Shufflings for which most members of a committee were proven to have signed. Such a
    /// shuffling is right, however old the registry behind it is.
    confirmed: BoundedMap<ShufflingId, ()>,
    parking: Parking,
    /// Slashing operations from blocks that name validators that the registry lacks.
    strangers: UnknownValidators,
    registry_version: u64,
    /// Number of tries of uncertain votes in this slot, by peer.
    tries: HashMap<PeerBytes, usize>,
    /// Number of claims about a fork that has not happened yet that failed with every possible
    /// version in this slot, by peer.
    without_version: HashMap<PeerBytes, usize>,
    slot: Slot,
    generation: u64,
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

/// Whether the claimed signers are known for certain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signers {
    Certain,
    /// One of several committees that are possible.
    Guessed,
}

/// A batch, sorted by what is done with its messages.
#[derive(Default)]
struct SortedBatch {
    blocks: Vec<BlockJob>,
    headers: Vec<HeaderJob>,
    slashings: Vec<SlashingJob>,
    named: Vec<Job>,
    by_bits: Vec<Job>,
    statements: Vec<StatementJob>,
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
            config,
            method: Method { singles: config.singles, threads: pool::n_threads(config.threads) },
            rng,
            votes: SeenVotes::new(config.remembered_votes, config.remembered_data),
            forgeries: BoundedMap::new(config.remembered_forgeries),
            n_repeated_forgeries: 0,
            n_tried_again: 0,
            reputes: PeerReputations::new(config.remembered_peers),
            roots: DataRoots::default(),
            proposals: BoundedMap::new(config.remembered_roots),
            blocks: BoundedMap::new(config.remembered_roots),
            first_blocks: BoundedMap::new(config.remembered_roots),
            slashings: BoundedMap::new(config.remembered_roots),
            slashed: BoundedMap::new(config.remembered_roots),
            sides: BoundedMap::new(config.remembered_roots),
            statements: BoundedMap::new(config.remembered_roots),
            ballots: BoundedMap::new(config.remembered_roots),
            confirmed: BoundedMap::new(CONFIRMED),
            parking: Parking::new(config.parking),
            strangers: UnknownValidators::default(),
            registry_version: 0,
            tries: HashMap::new(),
            without_version: HashMap::new(),
            slot: Slot::new(0),
            generation: 0,
            next_number: 0,
        }
    }

    /// While more comes in than can be proven for forwarding, single votes are proven in sums, at a
    /// third of the cost.
    pub fn set_pressed(&mut self, pressed: bool) {
        self.method.singles = if pressed { crate::SinglesProof::Sums } else { self.config.singles };
    }

    /// Judges a batch. `now` is the time that decides which messages expire, and which ones are too
    /// early or too late for forwarding. In a replay it is the time of the latest message. Proven
    /// blocks extend `chain`. The result contains one outcome for each message of the batch, and
    /// one for each parked message whose waiting ended.
    pub fn process(&mut self, chain: &mut Chain, batch: Vec<RawMessage>, now: UnixNs) -> Verified {
        let network = chain.network().clone();
        let mut ledger = OutcomeCollector::default();
        self.votes.tick();
        let new_slot = self.turn_to(&network, now, &mut ledger);
        let mut intake = self.read(&network, batch, now, &mut ledger);
        self.read_registry(chain, &mut intake);
        self.prove_blocks(chain, &mut intake, now, &mut ledger);
        self.prove_named(chain, &mut intake, now, &mut ledger);
        self.prove_by_bits(chain, intake.by_bits, new_slot, now, &mut ledger);
        self.prove_statements(chain, intake.statements, &mut ledger);
        chain.count_votes(ledger.verified.votes.iter().map(|vote| (&vote.data, vote.indices.as_slice())));
        ledger.close()
    }

    /// Ends all waiting, at the end of a replay or of the program. Everything that can be tried is
    /// tried a last time. The limits and delays that are useful only while more may come do not
    /// apply. The rest expires. So the result of a replay does not depend on how it was cut into
    /// batches.
    pub fn finish(&mut self, chain: &mut Chain, now: UnixNs) -> Verified {
        // The chain will not be asked again later, so everything must be computed now.
        chain.compute_at_once();
        let mut ledger = OutcomeCollector::default();
        let mut intake = SortedBatch::default();
        self.read_registry(chain, &mut intake);
        self.prove_named(chain, &mut intake, now, &mut ledger);
        self.prove_parked_at_last(chain, now, &mut ledger);
        for job in self.parking.take_if(|_| true) {
            ledger.settle(job.item, Outcome::Expired);
        }
        for job in self.strangers.take() {
            ledger.settle(job.item, Outcome::UnknownValidator);
        }
        ledger.close()
    }

    /// The number of waiting messages: `received = final outcomes + parked`.
    pub fn parked(&self) -> usize {
        self.parking.n_messages()
    }

    /// The arrival time of the message, or part of one, that has waited longest. A crash loses what
    /// waits. Looks at everything that is parked.
    pub fn parked_since(&self) -> Option<UnixNs> {
        self.parking.waits_since()
    }

    pub fn stats(&self) -> VerifierStats {
        VerifierStats {
            parked_messages: self.parking.n_messages(),
            parked: self.parking.len(),
            parked_bytes: self.parking.bytes(),
            remembered_votes: self.votes.len(),
            forgotten_votes: self.votes.n_forgotten,
            repeated_forgeries: self.n_repeated_forgeries,
            tried_again: self.n_tried_again,
        }
    }

    /// Starts a new slot: resets the limits per slot, and lets messages expire that waited too
    /// long. Returns whether the slot is a new one.
    fn turn_to(&mut self, network: &Network, now: UnixNs, ledger: &mut OutcomeCollector) -> bool {
        let slot = network.slot_at(now.0);
        if slot == self.slot {
            return false;
        }
        if slot.epoch(network.preset()) != self.slot.epoch(network.preset()) {
            self.reputes.fade();
        }
        self.slot = slot;
        self.tries.clear();
        self.without_version.clear();
        let epoch_ns = network.spec.slot_duration.as_nanos() as u64 * network.preset().slots_per_epoch;
        let oldest = now.0.saturating_sub(self.config.parking.wait_epochs.saturating_mul(epoch_ns));
        for job in self.parking.expire(UnixNs(oldest)) {
            ledger.settle(job.item, Outcome::Expired);
        }
        true
    }

    /// Prepares what has to be judged again after the registry has changed.
    fn read_registry(&mut self, chain: &Chain, intake: &mut SortedBatch) {
        if chain.registry().version() != self.registry_version {
            self.registry_version = chain.registry().version();
            // With the new registry, votes by bits may have other signers than before.
            self.forgeries.clear();
            intake.slashings.extend(self.strangers.take());
        }
    }

    fn read(&mut self, network: &Network, batch: Vec<RawMessage>, now: UnixNs, ledger: &mut OutcomeCollector) -> SortedBatch {
        let chunks: Vec<&[RawMessage]> = batch.chunks(DECODE_CHUNK).collect();
        let decoded: Vec<Result<(Decoded, Root), Outcome>> = pool::map(self.method.threads, &chunks, |chunk| {
            let decoded = chunk.iter().map(|message| decode(network, message));
            decoded.map(|decoded| decoded.map(with_data_root)).collect::<Vec<_>>()
        })
        .into_iter()
        .flatten()
        .collect();
        let mut intake = SortedBatch::default();
        for (message, decoded) in batch.into_iter().zip(decoded) {
            let heard = FirstSeen { at: message.received_at, source: message.origin.source, peer: message.origin.peer.clone() };
            let item = PendingOutcome::message(self.next_number, message.ticket, message.origin.peer, message.kind);
            self.next_number += 1;
            let n_bytes = message.bytes.len();
            match decoded {
                Err(outcome) => ledger.settle(item, outcome),
                Ok((Decoded::Block(block, fork), _)) => intake.blocks.push(BlockJob { item, heard, block, fork, n_bytes }),
                Ok((Decoded::Header(header), _)) => intake.headers.push(HeaderJob { item, heard, header }),
                Ok((Decoded::AttesterSlashing(slashing, fork), _)) => {
                    intake.slashings.push(SlashingJob::attester(item, heard, slashing, fork, None));
                }
                Ok((Decoded::ProposerSlashing(slashing, fork), _)) => {
                    intake.slashings.push(SlashingJob::proposer(item, heard, slashing, fork, None));
                }
                Ok((Decoded::Statement(statement, signature), _)) => {
                    intake.statements.push(StatementJob { item, heard, statement, signature });
                }
                Ok((Decoded::Vote(ballot), data_root)) => intake.take_vote(item, heard, ballot, data_root, n_bytes, now),
            }
        }
        intake
    }

    /// Verifies the claims of a batch in one equation. Proven claims are returned and remembered.
    /// For a claim that is not proven, the failure is remembered for its sender, unless the signers
    /// were only guessed.
    ///
    /// A claim about a fork that has not happened yet may hold with no possible version. Nobody is
    /// blamed for such a claim, and it costs two equations. So a peer may have
    /// [`MAX_WITHOUT_VERSION`] such claims in a slot. Claims that hold do not use up this number.
    /// Therefore claims that may exceed it are postponed until the other claims have shown how much
    /// is left.
    fn judge(&mut self, chain: &Chain, docket: ClaimSet, signers: Signers, ledger: &mut OutcomeCollector) -> BatchResult {
        let now = chain.now().epoch(chain.network().preset());
        let mut claims = docket.claims;
        claims.iter_mut().for_each(|claim| claim.consider_versions(chain.network(), now));
        let mut put_off = self.put_off(&mut claims);
        let mut judged = self.prove_claims(chain, claims, signers, ledger);
        loop {
            let (places, mut claims): (Vec<usize>, Vec<SignatureClaim>) = put_off.into_iter().unzip();
            let later = self.put_off(&mut claims);
            if later.len() == claims.len() {
                return judged;
            }
            put_off = later.into_iter().map(|(nth, claim)| (places[nth], claim)).collect();
            judged.take_over(&places, &self.prove_claims(chain, claims, signers, ledger));
        }
    }

    /// Gives up those claims that may be more than what their senders have left, and gives them
    /// back as they were, with their places.
    fn put_off(&self, claims: &mut [SignatureClaim]) -> Vec<(usize, SignatureClaim)> {
        let mut left: HashMap<PeerBytes, usize> = HashMap::new();
        let mut put_off = Vec::new();
        for (place, claim) in claims.iter_mut().enumerate().filter(|(_, claim)| claim.is_version_in_doubt()) {
            let Some(peer) = claim.doubtful_sender() else { continue };
            let failed = self.without_version.get(peer).copied().unwrap_or(0);
            let left = left.entry(peer.clone()).or_insert_with(|| match MAX_WITHOUT_VERSION.saturating_sub(failed) {
                0 => 0,
                left => left.max(TRIED_TOGETHER),
            });
            if *left > 0 {
                *left -= 1;
                continue;
            }
            put_off.push((place, claim.clone()));
            claim.give_up();
        }
        put_off
    }

    /// The equation, and for what it does not prove the one with the other version that is
    /// possible.
    fn prove_claims(
        &mut self,
        chain: &Chain,
        claims: Vec<SignatureClaim>,
        signers: Signers,
        ledger: &mut OutcomeCollector,
    ) -> BatchResult {
        let mut judged = prove(claims, chain.registry(), self.method, &self.reputes, &mut self.rng);
        ledger.take(judged.harvest());
        let (places, again) = judged.in_doubt();
        if !again.is_empty() {
            self.n_tried_again += again.len() as u64;
            let other = prove(again, chain.registry(), self.method, &self.reputes, &mut self.rng);
            ledger.take(other.harvest());
            judged.take_over(&places, &other);
        }
        for (claim, judgement) in judged.all() {
            match (judgement, claim.answerable(), signers) {
                (Judgement::Proven { .. }, Some(peer), _) => self.reputes.proven(peer),
                (Judgement::Forged, Some(peer), Signers::Certain) => self.reputes.forged(peer),
                (Judgement::Proven { .. } | Judgement::Forged | Judgement::NoKey | Judgement::NoVersion, _, _) => {}
            }
            let tried_in_vain = judgement == Judgement::NoVersion && claim.is_version_in_doubt();
            if let Some(peer) = claim.doubtful_sender().filter(|_| tried_in_vain && signers == Signers::Certain) {
                *self.without_version.entry(peer.clone()).or_default() += 1;
            }
        }
        for claim in judged.proven() {
            if let Some((data_root, data)) = claim.vote() {
                self.votes.insert(data_root, data, claim.members(), claim.arrival());
            }
            // A signature that is valid with another version than the scheduled one must not make
            // the right signature a forgery after the fork.
            if let Some((root, signature)) = claim.proposal_root().filter(|_| claim.signed_with().is_none()) {
                self.proposals.insert(root, signature);
            }
        }
        judged
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

/// A vote with the root of its data. The root takes seven hashes, so it is computed together with
/// the decoding, on all threads.
fn with_data_root(decoded: Decoded) -> (Decoded, Root) {
    let root = match &decoded {
        Decoded::Vote(ballot) => ballot.data().root(),
        Decoded::Block(..)
        | Decoded::Header(_)
        | Decoded::AttesterSlashing(..)
        | Decoded::ProposerSlashing(..)
        | Decoded::Statement(..) => Root::ZERO,
    };
    (decoded, root)
}

impl SortedBatch {
    /// Adds a vote to the batch. `data_root` is the root of the ballot's data.
    fn take_vote(
        &mut self,
        item: PendingOutcome,
        heard: FirstSeen,
        ballot: VoteMessage,
        data_root: Root,
        n_bytes: usize,
        since: UnixNs,
    ) {
        let job = Job { item, heard, data_root, n_bytes, since, tried: Vec::new(), ballot };
        match &job.ballot {
            VoteMessage::Named(_) => self.named.push(job),
            VoteMessage::ByBits { .. } => self.by_bits.push(job),
        }
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
