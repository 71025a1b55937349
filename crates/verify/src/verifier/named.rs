//! Proves messages that name their validators: single votes since Electra, and both sides of
//! slashing operations. Only the registry is needed, so messages about branches that nobody follows
//! are proven like any other.

use super::blocks::PriorResult;
use super::prover::Signers;
use super::unknown_validators::UnknownValidators;
use super::{OutcomeCollector, PendingOutcome, SortedBatch, Verifier, contexts_near, without_key};
use crate::batch::{BatchResult, ClaimRef, ClaimResult, ClaimSet, ClaimedSigners, SignatureClaim};
use crate::resolve::{ContextCache, Need, shuffling_with_seats};
use crate::{FirstHandVote, FirstSeen, Inclusion, Outcome, PeerBytes, SlashingBody, SlashingOp, SourceKind, Time, forward};
use base::BoundedMap;
use chain::{Chain, Contexts, SignedWith};
use consensus::{
    AttesterSlashing, Epoch, ForkName, IndexedAttestation, Network, ProposerSlashing, Root, SingleAttestation, ValidatorIndex,
    is_double_proposal, is_slashable_attestation_data, sha256,
};
use std::collections::VecDeque;

const NOT_INDEXED: &str = "a side's indices are not ascending and unique, or there are none; ask its sender for the signed one";
const NO_CONTRADICTION: &str = "its two sides do not contradict each other, in this order; it proves nothing";

/// A vote that names its validator, before the equation.
pub(super) struct NamedVoteJob {
    pub(super) item: PendingOutcome,
    pub(super) heard: FirstSeen,
    pub(super) single: SingleAttestation,
    pub(super) data_root: Root,
}

/// A slashing operation before the equation.
#[derive(Debug)]
pub(super) struct SlashingJob {
    pub(super) item: PendingOutcome,
    heard: FirstSeen,
    body: SlashingBody,
    fork: ForkName,
    included_in: Option<Inclusion>,
    /// The hash of the operation's SSZ.
    hash: Root,
    /// The peer that is credited or blamed for the operation. This is the sender, if the operation
    /// came on its own topic.
    responsible_peer: Option<PeerBytes>,
}

impl SlashingJob {
    pub(super) fn attester(
        item: PendingOutcome,
        heard: FirstSeen,
        slashing: Box<AttesterSlashing>,
        fork: ForkName,
        included_in: Option<Inclusion>,
    ) -> Self {
        let hash = Root::from(sha256(&slashing.to_ssz()));
        let responsible_peer = responsible_peer(&heard);
        Self {
            item,
            heard: by_operation(heard),
            body: SlashingBody::Attester(slashing),
            fork,
            included_in,
            hash,
            responsible_peer,
        }
    }

    pub(super) fn proposer(
        item: PendingOutcome,
        heard: FirstSeen,
        slashing: Box<ProposerSlashing>,
        fork: ForkName,
        included_in: Option<Inclusion>,
    ) -> Self {
        let hash = Root::from(sha256(&slashing.to_ssz()));
        let responsible_peer = responsible_peer(&heard);
        Self {
            item,
            heard: by_operation(heard),
            body: SlashingBody::Proposer(slashing),
            fork,
            included_in,
            hash,
            responsible_peer,
        }
    }

    /// The number of validator indices in the operation.
    pub(super) fn n_members(&self) -> usize {
        match &self.body {
            SlashingBody::Attester(slashing) => {
                slashing.attestation_1.attesting_indices.len() + slashing.attestation_2.attesting_indices.len()
            }
            SlashingBody::Proposer(_) => 2,
        }
    }

    /// The greatest validator index in the operation.
    fn greatest_named(&self) -> ValidatorIndex {
        let named = match &self.body {
            // The indices are ascending. If they are not, the result is not used.
            SlashingBody::Attester(slashing) => [&slashing.attestation_1, &slashing.attestation_2]
                .into_iter()
                .filter_map(|side| side.attesting_indices.last().copied())
                .max(),
            SlashingBody::Proposer(slashing) => [&slashing.signed_header_1, &slashing.signed_header_2]
                .map(|header| header.message.proposer_index)
                .into_iter()
                .max(),
        };
        named.unwrap_or(ValidatorIndex::new(0))
    }

    /// Whether the operation names a validator that is not in the registry and may be in a later
    /// state.
    fn names_unknown_validator(&self, chain: &Chain) -> bool {
        let greatest = self.greatest_named();
        chain.registry().record(greatest).is_none() && chain.may_exist(greatest, chain.network().slot_at(self.heard.at.0))
    }
}

/// The sender of an operation that came on its own topic. Every client checks such an operation
/// before it forwards it. The operations in a block are forwarded without this check, so they count
/// for nobody.
fn responsible_peer(heard: &FirstSeen) -> Option<PeerBytes> {
    heard.peer.clone().filter(|_| heard.source == SourceKind::Gossip)
}

/// Whatever way an operation came, the votes and headers in it have the source "slashing
/// operation".
fn by_operation(heard: FirstSeen) -> FirstSeen {
    FirstSeen { source: SourceKind::SlashingOp, ..heard }
}

/// The slashing operations that were proven before, and those that wait for a registry.
#[derive(Debug)]
pub(super) struct SeenOperations {
    /// By the hash of their SSZ.
    proven: BoundedMap<Root, ()>,
    /// Sides of attester slashings and other sums that were proven, by a hash of everything that
    /// the proof depends on.
    sides: BoundedMap<Root, ()>,
    /// Validators that a block slashed, on any branch. Our registry may not show this yet, so
    /// operations against them are not forwarded.
    slashed: BoundedMap<ValidatorIndex, ()>,
    /// Operations from blocks that name validators that the registry lacks.
    waiting: UnknownValidators,
}

impl SeenOperations {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            proven: BoundedMap::new(limit),
            sides: BoundedMap::new(limit),
            slashed: BoundedMap::new(limit),
            waiting: UnknownValidators::default(),
        }
    }

    pub(super) fn remember_side(&mut self, fingerprint: Root) {
        self.sides.insert(fingerprint, ());
    }

    /// Removes and returns the operations that wait for a registry.
    pub(super) fn take_waiting(&mut self) -> VecDeque<SlashingJob> {
        self.waiting.take()
    }
}

/// What is known about a slashing operation before the equation.
enum SlashingCheck {
    NotIndexed,
    Known,
    /// Exactly this operation was found forged before.
    Forged,
    Pending([PriorResult; 2]),
}

impl Verifier {
    /// Proves the single votes and slashing operations of a batch, all of them together.
    pub(super) fn prove_named(
        &mut self,
        chain: &mut Chain,
        sorted: &mut SortedBatch,
        now: Time,
        collector: &mut OutcomeCollector,
    ) {
        let mut cache = ContextCache::new(Need::Seats);
        let mut claims = ClaimSet::default();
        let mut votes: Vec<(PendingOutcome, SingleAttestation, Root, ClaimRef)> = Vec::new();
        for NamedVoteJob { item, heard, single, data_root } in std::mem::take(&mut sorted.named) {
            if chain.registry().pubkey(single.attester_index).is_none() {
                collector.record(item, without_key(chain, single.attester_index, &heard));
            } else if self.votes.contains_all(data_root, &[single.attester_index]) {
                collector.record(item, Outcome::Duplicate);
            } else {
                let claim = self.single_claim(chain, &mut cache, &single, data_root, heard);
                if self.forgeries.is_known(|| claim.fingerprint()) {
                    collector.record(item, Outcome::BadSignature);
                    continue;
                }
                let place = claims.add(claim);
                votes.push((item, single, data_root, place));
            }
        }
        let mut slashings = Vec::new();
        for job in std::mem::take(&mut sorted.slashings) {
            let sides = self.check_slashing(chain, &mut cache, &mut claims, &job);
            slashings.push((job, sides));
        }
        let proofs = self.prove_and_remember(chain, claims, Signers::Certain, collector);
        for (item, single, data_root, place) in votes {
            let outcome = match proofs.of(place.claim) {
                ClaimResult::Proven { .. } if !place.first => Outcome::Duplicate,
                ClaimResult::Proven { alone } => {
                    let (validator, epoch) = (single.attester_index, single.data.target.epoch);
                    let publisher = item.unsubscribed_sender();
                    let is_regular = (alone || publisher.is_some())
                        && !self.votes.is_second_vote(data_root, epoch, &[validator])
                        && forward::vote(chain, &single.data, now)
                        && forward::single(
                            cache.of(chain, &single.data, data_root, None),
                            &single.data,
                            validator,
                            single.committee_index,
                            item.subnet(),
                        );
                    if let Some(peer) = publisher.filter(|_| is_regular) {
                        let (slot, peer) = (single.data.slot, peer.clone());
                        collector.verified.first_hand.push(FirstHandVote { validator, slot, epoch, peer });
                    }
                    Outcome::Proven { forwardable: alone && is_regular }
                }
                ClaimResult::Forged => {
                    self.forgeries.remember(proofs.claim(place.claim).fingerprint());
                    Outcome::BadSignature
                }
                ClaimResult::NoKey => Outcome::UnknownValidator,
                ClaimResult::NoVersion => Outcome::UnknownFork,
            };
            collector.record(item, outcome);
        }
        let mut slashable = Vec::new();
        for (job, sides) in slashings {
            slashable.extend(self.record_slashing(chain, job, sides, &proofs, collector));
        }
        chain.note_slashable(&slashable);
    }

    /// The key under which a forged operation is remembered. It is valid until the end of the
    /// epoch, because an operation that is forged with the fork versions of one epoch may be valid
    /// with those of another. For the same reason no forged operation from a block is remembered; a
    /// block is processed only once anyway.
    fn forgery_key(&self, chain: &Chain, hash: Root) -> Root {
        let mut bytes = hash.to_vec();
        bytes.extend_from_slice(&self.slot.epoch(chain.network().preset()).as_u64().to_le_bytes());
        Root::from(sha256(&bytes))
    }

    fn single_claim(
        &self,
        chain: &mut Chain,
        cache: &mut ContextCache,
        single: &SingleAttestation,
        data_root: Root,
        heard: FirstSeen,
    ) -> SignatureClaim {
        let network = chain.network().clone();
        let contexts = contexts_near(cache, chain, &single.data, data_root, self.slot);
        let shuffling = contexts.and_then(|contexts| shuffling_with_seats(contexts, &single.data, &[single.attester_index]));
        SignatureClaim::single(&network, single.data, data_root, single.attester_index, single.signature, shuffling, heard)
    }

    fn check_slashing(
        &mut self,
        chain: &mut Chain,
        cache: &mut ContextCache,
        claims: &mut ClaimSet,
        job: &SlashingJob,
    ) -> SlashingCheck {
        if self.operations.proven.contains(&job.hash) {
            return SlashingCheck::Known;
        }
        // The state of the block may use another fork version than ours.
        let forgery_key = self.forgery_key(chain, job.hash);
        if job.included_in.is_none() && self.forgeries.is_known(|| forgery_key) {
            return SlashingCheck::Forged;
        }
        let block_epoch = job.included_in.map(|block| block.slot.epoch(chain.network().preset()));
        match &job.body {
            SlashingBody::Proposer(slashing) => {
                let mut prior =
                    |header| self.prior_of_header(claims, chain, header, header.message.root(), &job.heard, block_epoch);
                SlashingCheck::Pending([prior(&slashing.signed_header_1), prior(&slashing.signed_header_2)])
            }
            SlashingBody::Attester(slashing) => {
                let first = self.side_claim(chain, cache, &slashing.attestation_1, &job.heard);
                let second = self.side_claim(chain, cache, &slashing.attestation_2, &job.heard);
                match (first, second) {
                    (Some(first), Some(second)) => {
                        let epochs = [&slashing.attestation_1, &slashing.attestation_2].map(|side| side.data.target.epoch);
                        let as_of = block_epoch.unwrap_or_else(|| chain.now().epoch(chain.network().preset()));
                        let certain = epochs.map(|epoch| !chain.network().spec.is_version_uncertain(epoch, as_of));
                        SlashingCheck::Pending([
                            self.prior_of_side(claims, first.in_block_of(block_epoch), certain[0]),
                            self.prior_of_side(claims, second.in_block_of(block_epoch), certain[1]),
                        ])
                    }
                    (None, _) | (_, None) => SlashingCheck::NotIndexed,
                }
            }
        }
    }

    /// Adds a claim for one side of an attester slashing, unless exactly this sum was decided
    /// about before.
    ///
    /// [`SeenVotes`](crate::seen::SeenVotes) is not enough here. The operation as a whole is
    /// evidence, so the signature in it must be valid for exactly its signers. If
    /// `version_is_certain` is false, a side that was found forged with the scheduled version may
    /// be valid with another one.
    fn prior_of_side(&mut self, claims: &mut ClaimSet, claim: SignatureClaim, version_is_certain: bool) -> PriorResult {
        let fingerprint = claim.fingerprint();
        if self.operations.sides.contains(&fingerprint) {
            return PriorResult::Known;
        }
        if version_is_certain && self.forgeries.is_known(|| fingerprint) {
            return PriorResult::Forged;
        }
        PriorResult::Pending(claims.add(claim))
    }

    fn side_claim(
        &self,
        chain: &mut Chain,
        cache: &mut ContextCache,
        side: &IndexedAttestation,
        heard: &FirstSeen,
    ) -> Option<SignatureClaim> {
        let data_root = side.data.root();
        let members = ClaimedSigners::from_sorted(side.attesting_indices.clone())?;
        let network = chain.network().clone();
        let known_members = members.as_slice().iter().all(|member| chain.registry().pubkey(*member).is_some());
        let contexts = known_members.then(|| contexts_near(cache, chain, &side.data, data_root, self.slot)).flatten();
        let shuffling = contexts.and_then(|contexts: &Contexts| shuffling_with_seats(contexts, &side.data, members.as_slice()));
        Some(SignatureClaim::aggregate(&network, side.data, data_root, members, side.signature, shuffling, heard.clone()))
    }

    /// Records the outcome of an operation, and returns the validators that it proves to be
    /// slashable.
    fn record_slashing(
        &mut self,
        chain: &Chain,
        job: SlashingJob,
        sides: SlashingCheck,
        proofs: &BatchResult,
        collector: &mut OutcomeCollector,
    ) -> Vec<ValidatorIndex> {
        let results = match sides {
            SlashingCheck::Pending(sides) => Some(sides.map(|side| {
                self.remember(side, proofs);
                side.result(proofs)
            })),
            SlashingCheck::NotIndexed | SlashingCheck::Known | SlashingCheck::Forged => None,
        };
        let lacks_key = matches!(results, Some([ClaimResult::NoKey, _] | [_, ClaimResult::NoKey]));
        if lacks_key && job.included_in.is_some() && job.names_unknown_validator(chain) {
            self.wait_for_registry(job, collector);
            return Vec::new();
        }
        let outcome = match (sides, results) {
            (SlashingCheck::NotIndexed, _) => Outcome::Malformed(NOT_INDEXED.into()),
            (SlashingCheck::Known, _) | (SlashingCheck::Pending(_), None) => Outcome::Duplicate,
            (SlashingCheck::Forged, _) => Outcome::BadSignature,
            (SlashingCheck::Pending(pending), Some(results)) => self.slashing_outcome(chain, &job, pending, results, proofs),
        };
        let SlashingJob { item, heard, body, fork, included_in, hash, responsible_peer } = job;
        let is_forged = outcome == Outcome::BadSignature;
        if is_forged && included_in.is_none() {
            let forgery_key = self.forgery_key(chain, hash);
            self.forgeries.remember(forgery_key);
        }
        if let Some(peer) = responsible_peer {
            if is_forged {
                self.prover.reputations_mut().forged(&peer);
            } else if matches!(outcome, Outcome::Proven { .. }) {
                self.prover.reputations_mut().proven(&peer);
            }
        }
        // A known operation inside a block is still reported, because the block now includes it.
        let given = match &outcome {
            Outcome::Proven { .. } => true,
            Outcome::Duplicate => included_in.is_some(),
            Outcome::Parked
            | Outcome::Expired
            | Outcome::Malformed(_)
            | Outcome::SeenNotProvable(_)
            | Outcome::UnknownFork
            | Outcome::UnknownValidator
            | Outcome::BadSignature
            | Outcome::Refused(_) => false,
        };
        let slashable = if matches!(outcome, Outcome::Proven { .. }) { subjects(&body) } else { Vec::new() };
        if given {
            collector.verified.slashings.push(SlashingOp { body, fork, heard, included_in });
        }
        collector.record(item, outcome);
        slashable
    }

    /// The outcome of an operation whose sides have these results. A proven one is remembered.
    fn slashing_outcome(
        &mut self,
        chain: &Chain,
        job: &SlashingJob,
        pending: [PriorResult; 2],
        results: [ClaimResult; 2],
        proofs: &BatchResult,
    ) -> Outcome {
        match results {
            [ClaimResult::NoKey, _] | [_, ClaimResult::NoKey] => without_key(chain, job.greatest_named(), &job.heard),
            [ClaimResult::Forged, _] | [_, ClaimResult::Forged] => Outcome::BadSignature,
            [ClaimResult::NoVersion, _] | [_, ClaimResult::NoVersion] => Outcome::UnknownFork,
            [ClaimResult::Proven { .. }, ClaimResult::Proven { .. }] if !contradicts(&job.body) => {
                Outcome::Malformed(NO_CONTRADICTION.into())
            }
            // The same operation was proven earlier in this batch.
            [ClaimResult::Proven { .. }, ClaimResult::Proven { .. }] if self.operations.proven.contains(&job.hash) => {
                Outcome::Duplicate
            }
            [ClaimResult::Proven { alone: first }, ClaimResult::Proven { alone: second }] => {
                self.operations.proven.insert(job.hash, ());
                let subjects = subjects(&job.body);
                let fits = match self.signed_with(chain, &job.body, pending, proofs) {
                    Some(signed) if first && second => {
                        let free = subjects.iter().filter(|subject| !self.operations.slashed.contains(*subject));
                        forward::slashing(chain, free.copied(), signed)
                    }
                    Some(_) | None => false,
                };
                if job.included_in.is_some_and(|block| chain.is_in_turn(&block.block)) {
                    subjects.iter().for_each(|subject| self.operations.slashed.insert(*subject, ()));
                }
                Outcome::Proven { forwardable: fits }
            }
        }
    }

    /// The versions that both sides are signed with. `None` if they are not certain.
    fn signed_with(
        &self,
        chain: &Chain,
        body: &SlashingBody,
        sides: [PriorResult; 2],
        proofs: &BatchResult,
    ) -> Option<[SignedWith; 2]> {
        let network = chain.network();
        let now = chain.now().epoch(network.preset());
        let of = |epoch: Epoch, side: PriorResult| match side {
            PriorResult::Pending(place) => {
                let other = proofs.claim(place.claim).signed_with();
                Some(
                    other.map_or_else(|| SignedWith::scheduled(network, epoch), |fork| SignedWith::of_fork(network, epoch, fork)),
                )
            }
            PriorResult::Known => {
                Some(SignedWith::scheduled(network, epoch)).filter(|_| !network.spec.is_version_uncertain(epoch, now))
            }
            PriorResult::Forged => None,
        };
        let [first, second] = epochs_of(body, network);
        Some([of(first, sides[0])?, of(second, sides[1])?])
    }

    fn wait_for_registry(&mut self, mut job: SlashingJob, collector: &mut OutcomeCollector) {
        if !job.item.parked {
            collector.record(job.item.clone(), Outcome::Parked);
            job.item.parked = true;
        }
        for evicted in self.operations.waiting.keep(job) {
            collector.record(evicted.item, Outcome::UnknownValidator);
        }
    }
}

/// The specification's predicate. The order of the sides of an attester slashing matters.
fn contradicts(body: &SlashingBody) -> bool {
    match body {
        SlashingBody::Attester(slashing) => {
            is_slashable_attestation_data(&slashing.attestation_1.data, &slashing.attestation_2.data)
        }
        SlashingBody::Proposer(slashing) => {
            is_double_proposal(&slashing.signed_header_1.message, &slashing.signed_header_2.message)
        }
    }
}

/// The epochs of the two sides, which select their domains.
fn epochs_of(body: &SlashingBody, network: &Network) -> [Epoch; 2] {
    match body {
        SlashingBody::Attester(slashing) => [slashing.attestation_1.data.target.epoch, slashing.attestation_2.data.target.epoch],
        SlashingBody::Proposer(slashing) => {
            [&slashing.signed_header_1, &slashing.signed_header_2].map(|header| header.message.slot.epoch(network.preset()))
        }
    }
}

/// The accused validators: those that signed both sides.
fn subjects(body: &SlashingBody) -> Vec<ValidatorIndex> {
    match body {
        SlashingBody::Attester(slashing) => {
            let second = &slashing.attestation_2.attesting_indices;
            let both = |index: &&ValidatorIndex| second.binary_search(index).is_ok();
            slashing.attestation_1.attesting_indices.iter().filter(both).copied().collect()
        }
        SlashingBody::Proposer(slashing) => vec![slashing.signed_header_1.message.proposer_index],
    }
}
