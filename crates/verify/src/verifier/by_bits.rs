//! Proves votes by bits. Who signed such a vote follows from the committees, and the committees
//! follow from the branch. A vote that fails with one shuffling is not called forged while another
//! shuffling can be the right one. It waits, and nobody is blamed.

use super::{Signers, Verifier};
use crate::batch::{BatchResult, ClaimedSigners, Judgement, SignatureClaim};
use crate::claim_set::{ClaimRef, ClaimSet};
use crate::decode::{Aggregator, VoteMessage};
use crate::outcome_collector::OutcomeCollector;
use crate::parking::Job;
use crate::resolve::{self, CommitteeCandidate, ContextCache, Need, Resolution};
use crate::{NoRoom, Outcome, UnixNs, forward};
use chain::Chain;
use consensus::{Attestation, Network, Root, ShufflingId, sha256};
use std::collections::VecDeque;

/// The number of recent slots without a block that are accepted as empty at once is an epoch's
/// length divided by this.
const EMPTY_SLOTS_TAKEN: u64 = 4;

/// Whether a vote whose committees are uncertain may still wait until more is known than the
/// present candidates.
#[derive(Clone, Copy)]
enum WaitPolicy {
    Waits(UnixNs),
    Over(UnixNs),
}

impl WaitPolicy {
    fn now(self) -> UnixNs {
        match self {
            Self::Waits(now) | Self::Over(now) => now,
        }
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Over(_))
    }
}

/// A vote whose committees are certain. Its claims are in the docket.
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

impl Verifier {
    /// Proves the new votes by bits of a batch, and the parked ones for which the chain has
    /// changed.
    pub(super) fn prove_by_bits(
        &mut self,
        chain: &mut Chain,
        fresh: Vec<Job>,
        new_slot: bool,
        now: UnixNs,
        ledger: &mut OutcomeCollector,
    ) {
        let mut cache = ContextCache::new(Need::Signers);
        let mut jobs = Vec::new();
        // A parked job is tried again only if the chain has a shuffling of its epoch with which it
        // was not tried.
        if chain.generation() != self.generation || new_slot {
            self.generation = chain.generation();
            let tries = self.config.parking.tries;
            jobs = self.parking.take_if(|job| {
                job.tried.len() < tries
                    && resolve::has_news(cache.of(chain, job.ballot.data(), job.data_root, job.asker()), &job.tried)
            });
        }
        jobs.extend(fresh);
        let open = self.prove_certain(chain, &mut cache, jobs, WaitPolicy::Waits(now), ledger);
        self.prove_candidates(chain, open, ledger);
    }

    /// Tries, for the last time, every parked job for which there is a shuffling with which it was
    /// not tried.
    pub(super) fn prove_parked_at_last(&mut self, chain: &mut Chain, now: UnixNs, ledger: &mut OutcomeCollector) {
        let mut cache = ContextCache::new(Need::Signers);
        let jobs = self
            .parking
            .take_if(|job| resolve::has_news(cache.of(chain, job.ballot.data(), job.data_root, job.asker()), &job.tried));
        let open = self.prove_certain(chain, &mut cache, jobs, WaitPolicy::Over(now), ledger);
        self.prove_candidates(chain, open, ledger);
    }

    /// Proves, in one equation, all votes whose committees are certain. Returns the votes whose
    /// committees are not certain.
    fn prove_certain(
        &mut self,
        chain: &mut Chain,
        cache: &mut ContextCache,
        jobs: Vec<Job>,
        patience: WaitPolicy,
        ledger: &mut OutcomeCollector,
    ) -> Vec<TrialVote> {
        let now = patience.now();
        let network = chain.network().clone();
        // With an old registry a certain shuffling may be wrong, and honest peers would be blamed.
        // A shuffling is still right if most members of a committee were proven to have signed by
        // it.
        let up_to_date = !chain.needs_registry_refresh();
        let mut docket = ClaimSet::default();
        let mut asked: Vec<SubmittedVote> = Vec::new();
        let mut open: Vec<TrialVote> = Vec::new();
        for mut job in jobs {
            let VoteMessage::ByBits { attestation, aggregator } = &job.ballot else { continue };
            let aggregator = aggregator.as_deref().filter(|_| self.config.check_aggregators);
            let contexts = cache.of(chain, &attestation.data, job.data_root, job.asker());
            let sure = up_to_date || resolve::only(contexts).is_some_and(|only| self.confirmed.contains(&only.id()));
            match resolve::by_bits(attestation, contexts, &mut job.tried, sure) {
                Resolution::Misfit(reason) => ledger.settle(job.item, Outcome::Malformed(reason.into())),
                Resolution::Later => self.park(job, ledger),
                Resolution::Certain(only) => {
                    let members = only.members.as_slice();
                    if self.votes.covers(job.data_root, members) && !self.votes.came_first(job.data_root, members, job.heard.at) {
                        ledger.settle(job.item, Outcome::Duplicate);
                        continue;
                    }
                    if self.is_known_forgery(|| said(attestation, job.data_root)) {
                        ledger.settle(job.item, Outcome::BadSignature);
                        continue;
                    }
                    let shuffling = only.shuffling.id();
                    let outer =
                        aggregator.map(|outer| outer_claims(&network, attestation, outer, &job).map(|claim| docket.add(claim)));
                    let vote = docket.add(vote_claim(&network, attestation, &job, only));
                    asked.push(SubmittedVote { job, shuffling, vote, outer });
                }
                Resolution::Candidates(mut candidates) => {
                    if chain.registry().has_related_keys() {
                        // Several related keys can have the same sum with a wrong shuffling, so a
                        // guess could accuse validators that did not sign.
                        candidates.retain(|candidate| matches!(candidate.members, ClaimedSigners::One(_)));
                    }
                    if self.ballots.contains(&said(attestation, job.data_root)) {
                        ledger.settle(job.item, Outcome::Duplicate);
                    } else if candidates.is_empty() {
                        self.park(job, ledger);
                    } else if patience.is_over() || (!self.is_behind(chain, &job, now) && self.may_try(&job)) {
                        open.push(TrialVote { job, candidates: candidates.into() });
                    } else {
                        self.park(job, ledger);
                    }
                }
            }
        }
        let judged = self.judge(chain, docket, Signers::Certain, ledger);
        for SubmittedVote { job, shuffling, vote, outer } in asked {
            let judgement = judged.judgement(vote.claim);
            self.note_confirmed(&job, shuffling, judgement);
            let outcome = match judgement {
                Judgement::Proven { .. } if !vote.first => Outcome::Duplicate,
                Judgement::Proven { alone } => {
                    Outcome::Proven { forwardable: alone && self.is_welcome(chain, cache, &job, outer, &judged, now) }
                }
                Judgement::Forged => {
                    if let VoteMessage::ByBits { attestation, .. } = &job.ballot {
                        self.forgeries.insert(said(attestation, job.data_root), ());
                    }
                    Outcome::BadSignature
                }
                Judgement::NoKey => Outcome::UnknownValidator,
                Judgement::NoVersion => Outcome::UnknownFork,
            };
            ledger.settle(job.item, outcome);
        }
        open
    }

    /// Runs one equation for the first candidate of every vote, one for the second, and so on. A
    /// vote that is proven with an earlier candidate is done.
    fn prove_candidates(&mut self, chain: &Chain, mut open: Vec<TrialVote>, ledger: &mut OutcomeCollector) {
        let network = chain.network().clone();
        while !open.is_empty() {
            let mut docket = ClaimSet::default();
            let mut asked: Vec<(TrialVote, ClaimRef, ShufflingId)> = Vec::new();
            for mut trial in open.drain(..) {
                match (trial.candidates.pop_front(), &trial.job.ballot) {
                    (Some(candidate), VoteMessage::ByBits { attestation, .. }) => {
                        let id = candidate.shuffling.id();
                        let place = docket.add(vote_claim(&network, attestation, &trial.job, candidate));
                        asked.push((trial, place, id));
                    }
                    (None, _) | (Some(_), VoteMessage::Named(_)) => self.park(trial.job, ledger),
                }
            }
            let judged = self.judge(chain, docket, Signers::Guessed, ledger);
            for (mut trial, place, id) in asked {
                let judgement = judged.judgement(place.claim);
                self.note_confirmed(&trial.job, id, judgement);
                match judgement {
                    Judgement::Proven { .. } => {
                        if let VoteMessage::ByBits { attestation, .. } = &trial.job.ballot {
                            self.ballots.insert(said(attestation, trial.job.data_root), ());
                        }
                        let outcome = if place.first { Outcome::Proven { forwardable: false } } else { Outcome::Duplicate };
                        ledger.settle(trial.job.item, outcome);
                    }
                    Judgement::Forged | Judgement::NoKey | Judgement::NoVersion => {
                        // What was not tried is tried again when its sender has a new budget.
                        if !judged.is_given_up(place.claim) {
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
    fn note_confirmed(&mut self, job: &Job, shuffling: ShufflingId, judgement: Judgement) {
        let (Judgement::Proven { .. }, VoteMessage::ByBits { attestation, .. }) = (judgement, &job.ballot) else { return };
        let (n_signed, n_seats) = (attestation.aggregation_bits.num_set_bits(), attestation.aggregation_bits.len());
        if n_signed > 1 && 2 * n_signed > n_seats {
            self.confirmed.insert(shuffling, ());
        }
    }

    /// Whether the chain ends well before the block that decides this vote's committees. The
    /// candidates would then be guesses about blocks that are still to come. If no block has come
    /// for an epoch, the guess that those slots are empty is right.
    fn is_behind(&self, chain: &Chain, job: &Job, now: UnixNs) -> bool {
        let network = chain.network();
        let preset = network.preset();
        let decision = job.ballot.data().target.epoch.saturating_sub(1).start_slot(preset).min(self.slot);
        let tolerance = preset.slots_per_epoch / EMPTY_SLOTS_TAKEN;
        let waited_ns = now.0.saturating_sub(job.since.0);
        let epoch_ns = network.spec.slot_duration.as_nanos() as u64 * preset.slots_per_epoch;
        chain.head_at(self.slot).slot.saturating_add(tolerance) < decision && waited_ns < epoch_ns
    }

    /// Whether the peer's budget for this slot allows one more try. A job without a peer has no
    /// limit, because we requested it ourselves.
    fn may_try(&mut self, job: &Job) -> bool {
        let Some(peer) = &job.heard.peer else { return true };
        let used = self.tries.entry(peer.clone()).or_default();
        *used = used.saturating_add(1);
        *used <= self.config.uncertain_tries
    }

    /// Whether this proven vote meets the conditions under which other clients accept it.
    fn is_welcome(
        &self,
        chain: &mut Chain,
        cache: &mut ContextCache,
        job: &Job,
        outer: Option<[ClaimRef; 2]>,
        judged: &BatchResult,
        now: UnixNs,
    ) -> bool {
        let VoteMessage::ByBits { attestation, aggregator } = &job.ballot else { return false };
        if !forward::vote(chain, &attestation.data, now) {
            return false;
        }
        let contexts = cache.of(chain, &attestation.data, job.data_root, job.asker());
        let Resolution::Certain(candidate) = resolve::by_bits(attestation, contexts, &mut Vec::new(), true) else { return false };
        if self.votes.votes_twice(job.data_root, attestation.data.target.epoch, candidate.members.as_slice()) {
            return false;
        }
        match (aggregator, outer) {
            (Some(aggregator), Some(outer)) => {
                let signed = |place: ClaimRef| matches!(judged.judgement(place.claim), Judgement::Proven { alone: true });
                outer.into_iter().all(signed)
                    && forward::aggregate(contexts, attestation, aggregator.index, &aggregator.selection_proof)
            }
            (Some(_), None) => false,
            // A single vote before Electra has exactly one bit set.
            (None, _) => {
                let ClaimedSigners::One(signer) = candidate.members else { return false };
                forward::single(contexts, &attestation.data, signer, attestation.data.index, job.item.subnet())
            }
        }
    }

    fn park(&mut self, mut job: Job, ledger: &mut OutcomeCollector) {
        let newcomer = (!job.item.parked).then(|| job.item.clone());
        job.item.parked = true;
        let parked = self.parking.park(job);
        match (parked.refused, newcomer) {
            (Some((job, why)), _) => ledger.settle(job.item, Outcome::Refused(why.label())),
            (None, Some(item)) => ledger.settle(item, Outcome::Parked),
            // `Parked` was already reported for this job.
            (None, None) => {}
        }
        for job in parked.evicted {
            ledger.settle(job.item, Outcome::Refused(NoRoom::Evicted.label()));
        }
    }
}

fn vote_claim(network: &Network, attestation: &Attestation, job: &Job, signers: CommitteeCandidate) -> SignatureClaim {
    let CommitteeCandidate { members, shuffling } = signers;
    let data = attestation.data;
    let shuffling = Some(shuffling).filter(|shuffling| shuffling.epoch() == data.target.epoch);
    match members {
        ClaimedSigners::One(one) => {
            SignatureClaim::single(network, data, job.data_root, one, attestation.signature, shuffling, job.heard.clone())
        }
        many @ ClaimedSigners::Many(_) => {
            SignatureClaim::aggregate(network, data, job.data_root, many, attestation.signature, shuffling, job.heard.clone())
        }
    }
}

fn outer_claims(network: &Network, attestation: &Attestation, outer: &Aggregator, job: &Job) -> [SignatureClaim; 2] {
    let slot = attestation.data.slot;
    [
        SignatureClaim::selection_proof(network, outer.index, slot, outer.selection_proof, job.heard.clone()),
        SignatureClaim::aggregate_and_proof(network, outer.index, slot, outer.message_root, outer.signature, job.heard.clone()),
    ]
}

/// A hash of the content of a vote by bits, without its aggregator.
fn said(attestation: &Attestation, data_root: Root) -> Root {
    let mut bytes = data_root.to_vec();
    bytes.extend_from_slice(attestation.signature.as_slice());
    bytes.extend_from_slice(&attestation.committee_bits.unwrap_or(u64::MAX).to_le_bytes());
    bytes.extend_from_slice(attestation.aggregation_bits.as_slice());
    Root::from(sha256(&bytes))
}
