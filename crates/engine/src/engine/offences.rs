//! Finds the offences of a batch: stages its messages in the index, asks the quota, has each pair
//! proven a second time, and follows which offences were punished.

use super::Engine;
use crate::EngineError;
use consensus::{Epoch, Offence, Root, ValidatorIndex};
use detect::offences::{ListedFindings, QuotaAnswer, SeenIn};
use detect::{Candidate, ProvenConflict, Unproven};
use evidence::{Finding, Included, Kind, Punishable, Query, StoreError, Time};
use index::PairRules;
use std::collections::HashMap;
use verify::Verified;

/// Number of findings that are read from the store at once.
const PAGE: usize = 256;

/// The source of a contradiction.
#[expect(clippy::large_enum_variant, reason = "a batch has few of them, for as long as it is judged")]
enum ConflictCase {
    Conflict(index::Conflict),
    /// A slashing operation, given as its position in the batch.
    Operation(usize),
}

/// For each validator and offence: the number of pairs of this batch that cannot be punished and
/// for which no `Conflict` was built.
type WorthlessPairs = HashMap<(ValidatorIndex, Offence), u64>;

impl Engine {
    /// Finds the offences that slashing operations show, and the contradictions of this batch's
    /// messages with each other and with the index. The quota limits both. Pairs ask for room in an
    /// order that depends only on the messages. So the choice of listed findings does not depend on
    /// how messages were batched.
    pub(super) fn find_offences(&mut self, verified: &Verified) -> Result<[Vec<ProvenConflict>; 2], EngineError> {
        let (mut conflicts, counted_only) = self.stage_votes(verified)?;
        conflicts.extend(self.index.stage_proposals(&verified.proposals)?);
        let mut cases: Vec<(Candidate, ConflictCase)> = conflicts
            .into_iter()
            .map(|conflict| (Candidate::of(&conflict, &self.chain), ConflictCase::Conflict(conflict)))
            .collect();
        for (nth, operation) in verified.slashings.iter().enumerate() {
            cases.extend(
                detect::accused(operation, &self.chain).into_iter().map(|candidate| (candidate, ConflictCase::Operation(nth))),
            );
        }
        cases.sort_by_cached_key(|(candidate, _)| candidate.order());
        let mut of_index = Vec::new();
        let mut listed: Vec<Vec<ValidatorIndex>> = vec![Vec::new(); verified.slashings.len()];
        for (candidate, case) in &cases {
            let worthless = self.is_worthless(candidate);
            let seen = match case {
                ConflictCase::Operation(nth) if verified.slashings[*nth].included_in.is_some() => SeenIn::InBlock,
                ConflictCase::Operation(_) | ConflictCase::Conflict(_) => SeenIn::Messages,
            };
            match (self.ask_quota(candidate, worthless, seen)?, case) {
                (QuotaAnswer::Listed, ConflictCase::Conflict(conflict)) => {
                    let proven = detect::prove_conflict(conflict, &self.chain, &mut self.proofs);
                    self.keep(proven.map(|one| vec![one]), &mut of_index);
                }
                (QuotaAnswer::Listed, ConflictCase::Operation(nth)) => listed[*nth].push(candidate.validator),
                (QuotaAnswer::Counted(stands_for), ConflictCase::Conflict(_)) => {
                    self.metrics.not_listed.inc();
                    stands_for.into_iter().for_each(|id| self.quota.count(id, 1));
                }
                // Both sides of an operation are also given as messages, and they are counted
                // there.
                (QuotaAnswer::Counted(_), ConflictCase::Operation(_)) => self.metrics.not_listed.inc(),
            }
        }
        // This happens last because the finding that stands for these pairs may be one of this
        // batch.
        for ((validator, offence), n) in counted_only {
            if let Some(id) = self.quota.stands_for(validator, offence) {
                self.quota.count(id, n);
            }
        }
        let mut of_operations = Vec::new();
        for (operation, mut validators) in verified.slashings.iter().zip(listed) {
            validators.sort_unstable();
            let first = of_operations.len();
            let proven = detect::prove_operation(operation, &validators, &self.chain, &mut self.proofs);
            self.keep(proven, &mut of_operations);
            if let Some(inclusion) = operation.included_in {
                let included = Included { slot: inclusion.slot, block_root: inclusion.block };
                for ProvenConflict { finding, .. } in &of_operations[first..] {
                    // A validator that cannot be punished was not punished by this block. If it is
                    // already slashed, this very block may be the one that slashed it.
                    let is_claim = finding.punishable.is_some_and(|one| one.is_possible() || one == Punishable::AlreadySlashed);
                    if is_claim {
                        self.inclusions.claim(finding.id, included, &self.chain);
                    }
                }
            }
        }
        self.proofs.end_batch();
        Ok([of_operations, of_index])
    }

    /// Stages the votes in the index and returns their contradictions. If a validator has no room
    /// for more findings, further pairs are only counted and no `Conflict` is built. Pairs that can
    /// be punished have room of their own, so pairs that cannot be punished never hide them. The
    /// second value is the number of pairs that cannot be punished and were only counted.
    fn stage_votes(&mut self, verified: &Verified) -> Result<(Vec<index::Conflict>, WorthlessPairs), EngineError> {
        let Self { chain, index, quota, metrics, .. } = self;
        let mut rooms = HashMap::new();
        let mut counted_only = WorthlessPairs::new();
        let can_be_punished = |validator, targets: [Epoch; 2]| detect::punishable(chain, validator, targets).is_possible();
        let mut wants = |validator, offence, targets: [Epoch; 2]| {
            let worthless = !can_be_punished(validator, targets);
            let recent = quota.recent(targets);
            let room = rooms
                .entry((validator, offence, worthless, recent))
                .or_insert_with(|| quota.room(validator, offence, worthless, recent));
            let wants = *room > 0;
            *room = room.saturating_sub(1);
            if !wants {
                metrics.not_listed.inc();
            }
            if !wants && worthless {
                *counted_only.entry((validator, offence)).or_default() += 1;
            }
            wants
        };
        let rules = PairRules { wants: &mut wants, can_be_punished: &can_be_punished };
        let conflicts = index.stage_votes_if(&verified.votes, rules)?;
        Ok((conflicts, counted_only))
    }

    /// Returns whether nobody can be punished for this pair. Watched keys are no exception. Whoever
    /// holds such a key can sign without end, and one finding a day is enough to report that.
    fn is_worthless(&self, candidate: &Candidate) -> bool {
        match detect::punishable(&self.chain, candidate.validator, candidate.epochs) {
            Punishable::Yes => {
                let [one, two] = candidate.arrivals;
                let (id, seen) = (candidate.id(self.store.genesis_validators_root()), one.at.max(two.at));
                self.punished.is_settled(candidate.validator, id, seen.0, self.chain.network())
            }
            other => !other.is_possible(),
        }
    }

    /// Asks the quota about a pair. A pair that is stored already has its place.
    fn ask_quota(&mut self, candidate: &Candidate, worthless: bool, seen: SeenIn) -> Result<QuotaAnswer, StoreError> {
        let id = candidate.id(self.store.genesis_validators_root());
        if self.quota.is_admitted(id) || self.store.is_known(id)? {
            return Ok(QuotaAnswer::Listed);
        }
        let Candidate { validator, offence, .. } = *candidate;
        if let Some(mut listed) = self.quota.missing_count(validator, offence) {
            self.count_stored(validator, offence, &mut listed)?;
            self.quota.set_listed(validator, offence, listed);
        }
        Ok(self.quota.ask(candidate, id, worthless, seen))
    }

    /// Counts the findings of a validator and kind that are stored.
    fn count_stored(&self, validator: ValidatorIndex, offence: Offence, listed: &mut ListedFindings) -> Result<(), StoreError> {
        let mut query = Query { validator: Some(validator), kind: Some(Kind::Offence(offence)), ..Query::default() };
        loop {
            let page = self.store.find(&query, PAGE)?;
            page.findings.iter().for_each(|(_, finding)| listed.add_stored(finding, self.chain.network()));
            match page.next {
                Some(next) if !listed.is_complete() => query.after = next,
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Returns these findings as not included, because the chain has left the block that included
    /// them.
    pub(super) fn reopened(&mut self, ids: &[Root]) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for id in ids {
            findings.extend(self.store.finding(*id)?.map(|(_, finding)| Finding { included: None, ..finding }));
        }
        for finding in &findings {
            self.punished.reopen(finding);
            self.punished_offences.reopen(finding);
        }
        Ok(findings)
    }

    /// Notes who was punished. `now` are the findings from this batch's operations, which are not
    /// stored yet and will be recorded at `recorded_at`.
    pub(super) fn note_punished(
        &mut self,
        included: &[(Root, Included)],
        now: &[ProvenConflict],
        recorded_at: Time,
    ) -> Result<(), StoreError> {
        let now: HashMap<Root, &Finding> = now.iter().map(|one| (one.finding.id, &one.finding)).collect();
        for (id, included) in included {
            let stored = self.store.finding(*id)?;
            let finding = stored.as_ref().map(|(_, finding)| finding).or_else(|| now.get(id).copied());
            let Some((finding, subject)) = finding.and_then(|finding| Some((finding, finding.validator.as_ref()?))) else {
                continue;
            };
            self.punished.note(subject.index, *id, *included);
            let recorded_at = stored.as_ref().map_or(recorded_at, |(_, finding)| finding.recorded_at);
            self.punished_offences.note_punished(finding, *included, recorded_at, self.chain.network());
        }
        Ok(())
    }

    fn keep(&self, proven: Result<Vec<ProvenConflict>, Unproven>, into: &mut Vec<ProvenConflict>) {
        match proven {
            Ok(proven) => into.extend(proven),
            Err(unproven) => {
                self.metrics.unproven.inc();
                tracing::error!(reason = %unproven, "a conflict was not confirmed by the second proof and accuses nobody");
            }
        }
    }
}
