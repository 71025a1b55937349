//! Proves votes by bits. Who signed such a vote follows from the committees, and the committees
//! follow from the branch. A vote that fails with one shuffling is not called forged while another
//! shuffling can be the right one. It waits, and nobody is blamed.

use super::prover::Signers;
use super::{OutcomeCollector, Verifier};
use crate::batch::{BatchResult, ClaimRef, ClaimResult, ClaimSet, ClaimedSigners, SignatureClaim};
use crate::parking::{Job, Parking};
use crate::resolve::{self, CommitteeCandidate, ContextCache, Need, Resolution};
use crate::{MAX_UNPROVEN, NoRoom, Outcome, PeerBytes, Time, UnprovenVote, VerifyConfig, forward};
use base::BoundedMap;
use chain::Chain;
use consensus::{Attestation, Network, Root, ShufflingId, SignedAggregate, sha256};
use std::collections::{HashMap, VecDeque};

/// The number of recent slots without a block that are accepted as empty at once is an epoch's
/// length divided by this.
const EMPTY_SLOTS_TAKEN: u64 = 4;
/// Number of shufflings that are remembered as confirmed. It is more than the chain keeps.
const CONFIRMED: usize = 256;

/// Whether a vote whose committees are uncertain may still wait until more is known than the
/// present candidates.
#[derive(Clone, Copy)]
enum WaitPolicy {
    Waits(Time),
    Over(Time),
}

impl WaitPolicy {
    fn now(self) -> Time {
        match self {
            Self::Waits(now) | Self::Over(now) => now,
        }
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Over(_))
    }
}

/// A vote whose committees are certain, with the positions of its claims.
struct SubmittedVote {
    job: Job,
    shuffling: ShufflingId,
    vote: ClaimRef,
    /// The selection proof and the aggregator's signature.
    outer: Option<[ClaimRef; 2]>,
}

/// A vote with candidates that are not tried yet.
struct TrialVote {
    job: Job,
    candidates: VecDeque<CommitteeCandidate>,
}

/// What is kept of votes whose committees are not certain.
#[derive(Debug)]
pub(super) struct UncertainVotes {
    parking: Parking,
    /// Proven votes whose committees were not certain, by a hash of their content.
    proven: BoundedMap<Root, ()>,
    /// Shufflings for which most members of a committee were proven to have signed. Such a
    /// shuffling is right, however old the registry behind it is.
    confirmed: BoundedMap<ShufflingId, ()>,
    /// Number of tries in this slot, by peer.
    tries: HashMap<PeerBytes, usize>,
    /// The generation of the chain for which the parked votes were tried last.
    generation: u64,
}

impl UncertainVotes {
    pub(super) fn new(config: &VerifyConfig) -> Self {
        Self {
            parking: Parking::new(config.parking),
            proven: BoundedMap::new(config.remembered_roots),
            confirmed: BoundedMap::new(CONFIRMED),
            tries: HashMap::new(),
            generation: 0,
        }
    }

    pub(super) fn parking(&self) -> &Parking {
        &self.parking
    }

    /// Resets the limits per slot. Returns the votes that have waited since before `oldest`.
    pub(super) fn start_slot(&mut self, oldest: Time) -> Vec<Job> {
        self.tries.clear();
        self.parking.expire(oldest)
    }

    /// Removes and returns everything that waits.
    pub(super) fn take_all(&mut self) -> Vec<Job> {
        self.parking.take_if(|_| true)
    }
}

impl Verifier {
    /// Proves the new votes by bits of a batch, and the parked ones for which the chain has
    /// changed.
    pub(super) fn prove_by_bits(
        &mut self,
        chain: &mut Chain,
        fresh: Vec<Job>,
        new_slot: bool,
        now: Time,
        collector: &mut OutcomeCollector,
    ) {
        let mut cache = ContextCache::new(Need::Signers);
        let mut jobs = Vec::new();
        // A parked job is tried again only if the chain has a shuffling of its epoch with which it
        // was not tried.
        if chain.generation() != self.uncertain.generation || new_slot {
            self.uncertain.generation = chain.generation();
            let tries = self.config.parking.tries;
            jobs = self.uncertain.parking.take_if(|job| {
                job.tried.len() < tries
                    && resolve::has_untried(cache.of(chain, &job.vote.attestation().data, job.data_root, job.asker()), &job.tried)
            });
        }
        jobs.extend(fresh);
        let open = self.prove_certain(chain, &mut cache, jobs, WaitPolicy::Waits(now), collector);
        self.prove_candidates(chain, open, collector);
    }

    /// Tries, for the last time, every parked job for which there is a shuffling with which it was
    /// not tried.
    pub(super) fn prove_parked_at_last(&mut self, chain: &mut Chain, now: Time, collector: &mut OutcomeCollector) {
        let mut cache = ContextCache::new(Need::Signers);
        let jobs = self.uncertain.parking.take_if(|job| {
            resolve::has_untried(cache.of(chain, &job.vote.attestation().data, job.data_root, job.asker()), &job.tried)
        });
        let open = self.prove_certain(chain, &mut cache, jobs, WaitPolicy::Over(now), collector);
        self.prove_candidates(chain, open, collector);
    }

    /// Proves, in one equation, all votes whose committees are certain. Returns the votes whose
    /// committees are not certain.
    fn prove_certain(
        &mut self,
        chain: &mut Chain,
        cache: &mut ContextCache,
        jobs: Vec<Job>,
        wait: WaitPolicy,
        collector: &mut OutcomeCollector,
    ) -> Vec<TrialVote> {
        let now = wait.now();
        let network = chain.network().clone();
        // With an old registry a certain shuffling may be wrong, and honest peers would be blamed.
        // A shuffling is still right if most members of a committee were proven to have signed by
        // it.
        let up_to_date = !chain.needs_registry_refresh();
        let mut claims = ClaimSet::default();
        let mut pending: Vec<SubmittedVote> = Vec::new();
        let mut open: Vec<TrialVote> = Vec::new();
        for mut job in jobs {
            let attestation = job.vote.attestation();
            let aggregator = job.vote.aggregate().filter(|_| self.config.check_aggregators);
            let contexts = cache.of(chain, &attestation.data, job.data_root, job.asker());
            let confirmed = resolve::only_confirmed(contexts, |id| self.uncertain.confirmed.contains(id));
            let sure = up_to_date || confirmed.is_some();
            let contexts = confirmed.as_ref().unwrap_or(contexts);
            match resolve::by_bits(attestation, contexts, &mut job.tried, sure) {
                Resolution::Invalid(reason) => collector.record(job.item, Outcome::Malformed(reason.into())),
                Resolution::Later => self.park(job, collector),
                // A deposit in a block has added a validator, and no state has named its key yet.
                Resolution::Certain(only) if has_newcomer(chain, &only) => self.park(job, collector),
                Resolution::Certain(only) => {
                    let members = only.members.as_slice();
                    if self.votes.contains_all(job.data_root, members)
                        && !self.votes.is_earlier(job.data_root, members, job.heard.at)
                    {
                        collector.record(job.item, Outcome::Duplicate);
                        continue;
                    }
                    if self.forgeries.is_known(|| vote_hash(attestation, job.data_root)) {
                        collector.record(job.item, Outcome::BadSignature);
                        continue;
                    }
                    let shuffling = only.shuffling.id();
                    let outer = aggregator.map(|outer| outer_claims(&network, outer, &job).map(|claim| claims.add(claim)));
                    let vote = claims.add(vote_claim(&network, &job, only));
                    pending.push(SubmittedVote { job, shuffling, vote, outer });
                }
                Resolution::Candidates(mut candidates) => {
                    candidates.retain(|candidate| !has_newcomer(chain, candidate));
                    if chain.registry().has_related_keys() {
                        // Several related keys can have the same sum with a wrong shuffling, so a
                        // guess could accuse validators that did not sign.
                        candidates.retain(|candidate| matches!(candidate.members, ClaimedSigners::One(_)));
                    }
                    if self.uncertain.proven.contains(&vote_hash(attestation, job.data_root)) {
                        collector.record(job.item, Outcome::Duplicate);
                    } else if candidates.is_empty() {
                        self.park(job, collector);
                    } else if wait.is_over() || (!self.is_behind(chain, &job, now) && self.may_try(&job)) {
                        open.push(TrialVote { job, candidates: candidates.into() });
                    } else {
                        self.park(job, collector);
                    }
                }
            }
        }
        let proofs = self.prove_and_remember(chain, claims, Signers::Certain, collector);
        for SubmittedVote { job, shuffling, vote, outer } in pending {
            let result = proofs.of(vote.claim);
            self.note_confirmed(&job, shuffling, result);
            let outcome = match result {
                ClaimResult::Proven { .. } if !vote.first => Outcome::Duplicate,
                ClaimResult::Proven { alone } => {
                    Outcome::Proven { forwardable: alone && self.may_be_forwarded(chain, cache, &job, outer, &proofs, now) }
                }
                ClaimResult::Forged => {
                    self.forgeries.remember(vote_hash(job.vote.attestation(), job.data_root));
                    Outcome::BadSignature
                }
                ClaimResult::NoKey => Outcome::UnknownValidator,
                ClaimResult::NoVersion => Outcome::UnknownFork,
            };
            collector.record(job.item, outcome);
        }
        open
    }

    /// Runs one equation for the first candidate of every vote, one for the second, and so on. A
    /// vote that is proven with an earlier candidate is done.
    fn prove_candidates(&mut self, chain: &Chain, mut open: Vec<TrialVote>, collector: &mut OutcomeCollector) {
        let network = chain.network().clone();
        while !open.is_empty() {
            let mut claims = ClaimSet::default();
            let mut pending: Vec<(TrialVote, ClaimRef, ShufflingId)> = Vec::new();
            for mut trial in open.drain(..) {
                match trial.candidates.pop_front() {
                    Some(candidate) => {
                        let id = candidate.shuffling.id();
                        let place = claims.add(vote_claim(&network, &trial.job, candidate));
                        pending.push((trial, place, id));
                    }
                    None => self.park(trial.job, collector),
                }
            }
            let proofs = self.prove_and_remember(chain, claims, Signers::Guessed, collector);
            for (mut trial, place, id) in pending {
                let result = proofs.of(place.claim);
                self.note_confirmed(&trial.job, id, result);
                match result {
                    ClaimResult::Proven { .. } => {
                        self.uncertain.proven.insert(vote_hash(trial.job.vote.attestation(), trial.job.data_root), ());
                        let outcome = if place.first { Outcome::Proven { forwardable: false } } else { Outcome::Duplicate };
                        collector.record(trial.job.item, outcome);
                    }
                    ClaimResult::Forged | ClaimResult::NoKey | ClaimResult::NoVersion => {
                        // What was not tried is tried again when its sender has a new budget.
                        if !proofs.was_skipped(place.claim) {
                            trial.job.tried.push(id);
                        }
                        open.push(trial);
                    }
                }
            }
        }
    }

    /// Remembers a shuffling as confirmed if most members of a committee were proven to have signed
    /// by it.
    ///
    /// If a shuffling is computed from a wrong set of validators, every validator has another
    /// position, so no committee's sum is valid with it. The owner of a few keys that are in one
    /// committee by chance could fake a proof for these keys, but not for most of a committee.
    fn note_confirmed(&mut self, job: &Job, shuffling: ShufflingId, result: ClaimResult) {
        let ClaimResult::Proven { .. } = result else { return };
        let bits = &job.vote.attestation().aggregation_bits;
        let (n_signed, n_seats) = (bits.num_set_bits(), bits.len());
        if n_signed > 1 && 2 * n_signed > n_seats {
            self.uncertain.confirmed.insert(shuffling, ());
        }
    }

    /// Whether the chain ends well before the block that decides this vote's committees. The
    /// candidates would then be guesses about blocks that are still to come. If no block has come
    /// for an epoch, the guess that those slots are empty is right.
    fn is_behind(&self, chain: &Chain, job: &Job, now: Time) -> bool {
        let network = chain.network();
        let preset = network.preset();
        let decision = job.vote.attestation().data.target.epoch.saturating_sub(1).start_slot(preset).min(self.slot);
        let tolerance = preset.slots_per_epoch / EMPTY_SLOTS_TAKEN;
        let waited_ns = now.0.saturating_sub(job.since.0);
        let epoch_ns = network.spec.slot_duration.as_nanos() as u64 * preset.slots_per_epoch;
        chain.head_at(self.slot).slot.saturating_add(tolerance) < decision && waited_ns < epoch_ns
    }

    /// Whether the peer's budget for this slot allows one more try. A job without a peer has no
    /// limit, because we requested it ourselves.
    fn may_try(&mut self, job: &Job) -> bool {
        let Some(peer) = &job.heard.peer else { return true };
        let used = self.uncertain.tries.entry(peer.clone()).or_default();
        *used = used.saturating_add(1);
        *used <= self.config.uncertain_tries
    }

    /// Whether this proven vote meets the conditions under which other clients accept it.
    fn may_be_forwarded(
        &self,
        chain: &mut Chain,
        cache: &mut ContextCache,
        job: &Job,
        outer: Option<[ClaimRef; 2]>,
        proofs: &BatchResult,
        now: Time,
    ) -> bool {
        let attestation = job.vote.attestation();
        if !forward::vote(chain, &attestation.data, now) {
            return false;
        }
        let contexts = cache.of(chain, &attestation.data, job.data_root, job.asker());
        let confirmed = resolve::only_confirmed(contexts, |id| self.uncertain.confirmed.contains(id));
        let contexts = confirmed.as_ref().unwrap_or(contexts);
        let Resolution::Certain(candidate) = resolve::by_bits(attestation, contexts, &mut Vec::new(), true) else { return false };
        if self.votes.is_second_vote(job.data_root, attestation.data.target.epoch, candidate.members.as_slice()) {
            return false;
        }
        match (job.vote.aggregate(), outer) {
            (Some(aggregator), Some(outer)) => {
                let signed = |place: ClaimRef| matches!(proofs.of(place.claim), ClaimResult::Proven { alone: true });
                outer.into_iter().all(signed) && forward::aggregate(contexts, aggregator)
            }
            (Some(_), None) => false,
            // A single vote before Electra has exactly one bit set.
            (None, _) => {
                let ClaimedSigners::One(signer) = candidate.members else { return false };
                forward::single(contexts, &attestation.data, signer, attestation.data.index, job.item.subnet())
            }
        }
    }

    fn park(&mut self, mut job: Job, collector: &mut OutcomeCollector) {
        let newly_parked = (!job.item.parked).then(|| job.item.clone());
        job.item.parked = true;
        let data = &job.vote.attestation().data;
        let unproven = UnprovenVote { block: data.beacon_block_root, slot: data.slot, heard: job.heard.clone() };
        let parked = self.uncertain.parking.park(job);
        match (parked.refused, newly_parked) {
            (Some((job, why)), _) => collector.record(job.item, Outcome::Refused(why.label())),
            (None, Some(item)) => {
                if collector.verified.unproven.len() < MAX_UNPROVEN {
                    collector.verified.unproven.push(unproven);
                }
                collector.record(item, Outcome::Parked);
            }
            // `Parked` was already reported for this job.
            (None, None) => {}
        }
        for job in parked.evicted {
            collector.record(job.item, Outcome::Refused(NoRoom::Evicted.label()));
        }
    }
}

/// Whether a member has no key because no state has named it yet.
fn has_newcomer(chain: &Chain, candidate: &CommitteeCandidate) -> bool {
    let n_known = chain.registry().len() as u64;
    candidate.members.as_slice().last().is_some_and(|index| index.as_u64() >= n_known)
}

fn vote_claim(network: &Network, job: &Job, signers: CommitteeCandidate) -> SignatureClaim {
    let CommitteeCandidate { members, shuffling } = signers;
    let Attestation { data, signature, .. } = *job.vote.attestation();
    let shuffling = Some(shuffling).filter(|shuffling| shuffling.epoch() == data.target.epoch);
    match members {
        ClaimedSigners::One(one) => {
            SignatureClaim::single(network, data, job.data_root, one, signature, shuffling, job.heard.clone())
        }
        many @ ClaimedSigners::Many(_) => {
            SignatureClaim::aggregate(network, data, job.data_root, many, signature, shuffling, job.heard.clone())
        }
    }
}

fn outer_claims(network: &Network, signed: &SignedAggregate, job: &Job) -> [SignatureClaim; 2] {
    let SignedAggregate { aggregator_index: aggregator, selection_proof, signature, message_root, .. } = *signed;
    let slot = signed.aggregate.data.slot;
    [
        SignatureClaim::selection_proof(network, aggregator, slot, selection_proof, job.heard.clone()),
        SignatureClaim::aggregate_and_proof(network, aggregator, slot, message_root, signature, job.heard.clone()),
    ]
}

/// A hash of the content of a vote by bits, without its aggregator.
fn vote_hash(attestation: &Attestation, data_root: Root) -> Root {
    let mut bytes = data_root.to_vec();
    bytes.extend_from_slice(attestation.signature.as_slice());
    bytes.extend_from_slice(&attestation.committee_bits.unwrap_or(u64::MAX).to_le_bytes());
    bytes.extend_from_slice(attestation.aggregation_bits.as_slice());
    Root::from(sha256(&bytes))
}
