//! The equation, and how a batch that fails it is split. The module above explains the idea.

use super::claim::{ClaimSubject, ForkVersionChoice, SignatureClaim};
use crate::peer_reputation::{PeerReputation, PeerReputations};
use crate::workers::Workers;
use crate::{SinglesProof, bls};
use blst::min_pk::{AggregatePublicKey, AggregateSignature, PublicKey, Signature};
use consensus::{BuilderIndex, MAX_VALIDATORS_PER_COMMITTEE, Root, ValidatorIndex};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

/// Number of claims that one worker takes at a time.
const CHUNK_CLAIMS: usize = 256;
/// Number of distinct messages that one worker takes at a time.
const CHUNK_MESSAGES: usize = 8;

/// Source of public keys. Its keys are validated, and each came with a proof of possession.
pub(crate) trait KeySource: Sync {
    fn key(&self, validator: ValidatorIndex) -> Option<&PublicKey>;

    fn builder_key(&self, builder: BuilderIndex) -> Option<&PublicKey>;
}

impl KeySource for chain::Registry {
    fn key(&self, validator: ValidatorIndex) -> Option<&PublicKey> {
        self.pubkey(validator)
    }

    fn builder_key(&self, builder: BuilderIndex) -> Option<&PublicKey> {
        self.builder_key(builder)
    }
}

impl SinglesProof {
    /// Whether a single vote is proven by itself.
    fn proves_alone(self, claim: &SignatureClaim) -> bool {
        match self {
            Self::Sums => false,
            Self::RandomCombination => true,
            // This byte is in the middle of a coordinate, so its values are evenly distributed
            // among honest signatures. A sender gains nothing by choosing a signature with a
            // certain value.
            Self::Mixed { alone_percent } => u32::from(claim.signature[40]) * 100 < u32::from(alone_percent) * 256,
        }
    }
}

/// The result for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimResult {
    /// All members signed. `alone` means that the claim was proven by itself, or in a random
    /// combination with its own group check, so the received bytes are a valid signature.
    Proven {
        alone: bool,
    },
    Forged,
    /// The claim names a validator whose key is not known.
    NoKey,
    /// A fork is scheduled but has not happened yet, and the signature is valid with neither of the
    /// two possible versions. Nobody is at fault.
    NoVersion,
}

/// The results of a batch. Only [`prove_claims`] makes one, and a `Signed` is made only from it.
pub(crate) struct BatchResult {
    pub(super) claims: Vec<SignatureClaim>,
    pub(super) results: Vec<ClaimResult>,
    /// For each claim, the number of its unit: claims of one unit may be added up.
    pub(super) units: Vec<u32>,
    /// For each proven claim, the number of its proof: claims of one proof were proven as one sum.
    pub(super) proofs: Vec<u32>,
    /// The signatures of the claims. `None` for bytes that are not a point of the curve.
    pub(super) signatures: Vec<Option<Signature>>,
}

impl BatchResult {
    /// Whether the claim was not tried, because its sender's budget was used up.
    pub(crate) fn was_skipped(&self, claim: usize) -> bool {
        self.claims[claim].version == ForkVersionChoice::Skipped
    }

    /// The result of the claim at this position of the batch.
    pub(crate) fn of(&self, claim: usize) -> ClaimResult {
        self.results[claim]
    }

    pub(crate) fn claim(&self, claim: usize) -> &SignatureClaim {
        &self.claims[claim]
    }

    /// Every claim with its result.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&SignatureClaim, ClaimResult)> {
        self.claims.iter().zip(self.results.iter().copied())
    }

    /// The claims that failed with the scheduled version and may hold with another one: their
    /// positions, and the same claims with the other version.
    pub(crate) fn in_doubt(&self) -> (Vec<usize>, Vec<SignatureClaim>) {
        let forged = (0..self.claims.len()).filter(|place| self.results[*place] == ClaimResult::Forged);
        forged.filter_map(|place| Some((place, self.claims[place].with_other_version()?))).unzip()
    }

    /// Copies the results of `other`, in which the claims at `places` were tried with the other
    /// version.
    pub(crate) fn take_over(&mut self, places: &[usize], other: &Self) {
        for (nth, place) in places.iter().enumerate() {
            self.results[*place] = match other.results[nth] {
                ClaimResult::Forged => ClaimResult::NoVersion,
                ClaimResult::Proven { .. } | ClaimResult::NoKey | ClaimResult::NoVersion => other.results[nth],
            };
            if matches!(other.results[nth], ClaimResult::Proven { .. }) {
                self.claims[*place] = other.claims[nth].clone();
            }
        }
    }

    /// Copies the claims at `places` and their results from `later`, in which they were tried.
    pub(crate) fn take_over_postponed(&mut self, places: &[usize], later: Self) {
        for ((place, claim), result) in places.iter().zip(later.claims).zip(later.results) {
            self.claims[*place] = claim;
            self.results[*place] = result;
        }
    }

    /// The claims that were proven.
    pub(crate) fn proven(&self) -> impl Iterator<Item = &SignatureClaim> {
        self.claims
            .iter()
            .zip(&self.results)
            .filter(|(_, result)| matches!(result, ClaimResult::Proven { .. }))
            .map(|(claim, _)| claim)
    }
}

/// Decides about every claim.
pub(crate) fn prove_claims(
    claims: Vec<SignatureClaim>,
    keys: &dyn KeySource,
    singles: SinglesProof,
    workers: &Workers,
    reputations: &PeerReputations,
    rng: &mut StdRng,
) -> BatchResult {
    let chunks: Vec<&[SignatureClaim]> = claims.chunks(CHUNK_CLAIMS / 4).collect();
    let points = workers.map(&chunks, |chunk| chunk.iter().map(|claim| Points::of(claim, keys)).collect::<Vec<_>>());
    let points: Vec<Result<Points, ClaimResult>> = points.into_iter().flatten().collect();
    let units = units_of(&claims);
    let mut trial = BatchProof {
        claims: &claims,
        points: &points,
        units: &units,
        singles,
        workers,
        results: points.iter().map(|points| points.as_ref().err().copied().unwrap_or(ClaimResult::Forged)).collect(),
        proofs: vec![0; claims.len()],
        n_proofs: 0,
    };
    trial.run(reputations, rng);
    let BatchProof { results, proofs, .. } = trial;
    let signatures = points.iter().map(|points| points.as_ref().ok().map(|points| points.signature)).collect();
    BatchResult { claims, results, units, proofs, signatures }
}

/// Assigns each claim to a unit. Single votes with the same data and committee share one unit, up
/// to the number of members that fit into an evidence container before Electra. A second claim of a
/// validator that is already in the unit gets a unit of its own. One of its two signatures must be
/// forged, and a proven sum would be useless if one of two equal members had to be taken out.
fn units_of(claims: &[SignatureClaim]) -> Vec<u32> {
    let mut open: HashMap<(Root, super::claim::MergeKey), u32> = HashMap::new();
    let mut members: HashMap<u32, HashSet<ValidatorIndex>> = HashMap::new();
    let mut n_units = 0u32;
    let mut fresh = || {
        n_units += 1;
        n_units - 1
    };
    claims
        .iter()
        .map(|claim| {
            let ClaimSubject::Vote { data_root, merges: Some(key), .. } = &claim.subject else { return fresh() };
            let mut unit = *open.entry((*data_root, *key)).or_insert_with(&mut fresh);
            if members.get(&unit).is_some_and(|there| there.len() as u64 >= MAX_VALIDATORS_PER_COMMITTEE) {
                unit = fresh();
                open.insert((*data_root, *key), unit);
            }
            let there = members.entry(unit).or_default();
            if claim.members().iter().all(|member| there.insert(*member)) { unit } else { fresh() }
        })
        .collect()
}

/// The points of a claim: the sum of its members' keys, and its signature.
struct Points {
    key: PublicKey,
    signature: Signature,
    in_group: OnceLock<bool>,
}

impl Points {
    /// Reads the points. `Err` is the result of a claim that needs no pairing.
    fn of(claim: &SignatureClaim, keys: &dyn KeySource) -> Result<Self, ClaimResult> {
        if claim.version == ForkVersionChoice::Skipped {
            return Err(ClaimResult::NoVersion);
        }
        let mut each = Vec::with_capacity(claim.members().len());
        match claim.builder() {
            Some(builder) => each.push(*keys.builder_key(builder).ok_or(ClaimResult::NoKey)?),
            None => {
                for member in claim.members() {
                    each.push(*keys.key(*member).ok_or(ClaimResult::NoKey)?);
                }
            }
        }
        // If the keys cancel out, no signature proves anything about their owners together.
        let key = bls::sum_keys(&each).ok_or(ClaimResult::Forged)?;
        let signature = bls::decompress(&claim.signature).ok_or(ClaimResult::Forged)?;
        Ok(Self { key, signature, in_group: OnceLock::new() })
    }

    fn in_group(&self) -> bool {
        *self.in_group.get_or_init(|| bls::in_group(&self.signature))
    }
}

/// A batch while it is being proven.
struct BatchProof<'a> {
    claims: &'a [SignatureClaim],
    points: &'a [Result<Points, ClaimResult>],
    units: &'a [u32],
    singles: SinglesProof,
    workers: &'a Workers,
    results: Vec<ClaimResult>,
    proofs: Vec<u32>,
    n_proofs: u32,
}

/// The part of one unit in an equation: claims over one message. Their plain sum gets one weight.
struct Term {
    message: Root,
    claims: Vec<usize>,
    weight: u64,
}

/// What a worker computes from some of the terms.
struct Partial {
    keys: Vec<(Root, AggregatePublicKey)>,
    signature: AggregateSignature,
}

impl BatchProof<'_> {
    /// Proves all claims, in several equations.
    ///
    /// The claims of peers of good reputation share one equation, and so do the claims of peers
    /// that are not known yet. The claims of peers of bad reputation are proven one by one. Claims
    /// whose fork version is in doubt have one equation for each peer.
    ///
    /// Then the sets that failed are split, level by level. Every set on a level is known to
    /// contain a forgery. The halves of all sets are tested at once, on all threads.
    fn run(&mut self, reputations: &PeerReputations, rng: &mut StdRng) {
        let mut all: Vec<usize> = (0..self.claims.len()).filter(|i| self.points[*i].is_ok()).collect();
        // Sorts by peer, so that a split separates peers first. The sort is stable, so the claims
        // of one peer stay in order of arrival.
        all.sort_by(|a, b| self.peer(*a).cmp(&self.peer(*b)));
        let (mut good, mut unknown, mut sets) = (Vec::new(), Vec::new(), Vec::new());
        // A claim that may hold only with another version would make the equation of the others
        // fail, so such claims are kept apart. Nobody is called a forger because of them.
        let in_doubt = |claim: &usize| self.claims[*claim].is_version_in_doubt();
        let (doubted, all): (Vec<usize>, Vec<usize>) = all.into_iter().partition(in_doubt);
        sets.extend(doubted.chunk_by(|a, b| self.peer(*a) == self.peer(*b)).map(<[usize]>::to_vec));
        for run in all.chunk_by(|a, b| self.peer(*a) == self.peer(*b)) {
            match reputations.of(self.claims[run[0]].heard.peer.as_ref()) {
                PeerReputation::Good => good.extend_from_slice(run),
                PeerReputation::Unknown => unknown.extend_from_slice(run),
                PeerReputation::Bad => sets.extend(run.iter().map(|claim| vec![*claim])),
            }
        }
        // These two come first because they are mostly the largest, so that all threads finish at
        // about the same time.
        sets.splice(0..0, [good, unknown].into_iter().filter(|set| !set.is_empty()));
        let held = self.each_holds(&sets, rng);
        let mut bad = Vec::new();
        for (set, held) in sets.into_iter().zip(held) {
            if held {
                self.mark_proven(&set);
            } else {
                bad.push(set);
            }
        }
        while !bad.is_empty() {
            // A set with one claim that fails is a forgery. Every result starts as `Forged`, so
            // nothing is to be done.
            let halves: Vec<(Vec<usize>, Vec<usize>)> =
                bad.drain(..).filter(|set| set.len() > 1).map(|set| self.halve(set)).collect();
            let (lefts, rights): (Vec<_>, Vec<_>) = halves.into_iter().unzip();
            let left_holds = self.each_holds(&lefts, rng);
            // If the left half holds, the right half must be bad and is not tested. But a claim by
            // itself is always tested, because a sum can also fail when keys cancel out in it, and
            // nobody may be called a forger because of another's claim.
            let is_tested = |right: &[usize], left_held: bool| !left_held || right.len() == 1;
            let tested: Vec<Vec<usize>> = rights
                .iter()
                .zip(&left_holds)
                .filter(|(right, left)| is_tested(right, **left))
                .map(|(right, _)| right.clone())
                .collect();
            let mut right_holds = self.each_holds(&tested, rng).into_iter();
            for ((left, right), left_held) in lefts.into_iter().zip(rights).zip(left_holds) {
                let right_held = is_tested(&right, left_held) && right_holds.next().unwrap_or(false);
                for (set, held) in [(left, left_held), (right, right_held)] {
                    if held {
                        self.mark_proven(&set);
                    } else {
                        bad.push(set);
                    }
                }
            }
        }
    }

    fn peer(&self, claim: usize) -> Option<&[u8]> {
        self.claims[claim].heard.peer.as_deref()
    }

    /// Splits a set at the border between two peers that is nearest to the middle. Splits in the
    /// middle if all claims are from one peer.
    fn halve(&self, mut set: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
        let middle = set.len() / 2;
        let border = (1..set.len())
            .filter(|i| self.peer(set[i - 1]) != self.peer(set[*i]))
            .min_by_key(|i| i.abs_diff(middle))
            .unwrap_or(middle);
        let right = set.split_off(border);
        (set, right)
    }

    /// Marks the claims of a set for which the equation held. Each term of the equation is a proof.
    fn mark_proven(&mut self, set: &[usize]) {
        let mut by_unit: HashMap<u32, (u32, u32)> = HashMap::new();
        for claim in set {
            let mut fresh = || {
                self.n_proofs += 1;
                (self.n_proofs, 0)
            };
            let (proof, n_claims) = if self.singles.proves_alone(&self.claims[*claim]) {
                &mut fresh()
            } else {
                by_unit.entry(self.units[*claim]).or_insert_with(fresh)
            };
            *n_claims += 1;
            self.proofs[*claim] = *proof;
        }
        for claim in set {
            let alone = self.singles.proves_alone(&self.claims[*claim])
                || by_unit.get(&self.units[*claim]).is_none_or(|(_, n_claims)| *n_claims == 1);
            self.results[*claim] = ClaimResult::Proven { alone };
        }
    }

    /// Tests several sets, each by an equation of its own.
    fn each_holds(&self, sets: &[Vec<usize>], rng: &mut StdRng) -> Vec<bool> {
        let seeded: Vec<(&[usize], [u8; 32])> = sets.iter().map(|set| (set.as_slice(), rng.random())).collect();
        self.workers.map(&seeded, |(set, seed)| self.holds(set, &mut StdRng::from_seed(*seed)))
    }

    /// Whether the equation holds for a set of claims.
    fn holds(&self, set: &[usize], rng: &mut StdRng) -> bool {
        let terms = self.terms(set, rng);
        let per_chunk = (terms.len() * CHUNK_CLAIMS).div_ceil(set.len().max(1)).max(1);
        let chunks: Vec<&[Term]> = terms.chunks(per_chunk).collect();
        let Some(partials) = self.workers.map(&chunks, |chunk| self.partial(chunk)).into_iter().collect::<Option<Vec<Partial>>>()
        else {
            return false;
        };
        let mut messages: Vec<(Root, AggregatePublicKey)> = Vec::new();
        let mut total: Option<AggregateSignature> = None;
        for partial in partials {
            match &mut total {
                Some(total) => total.add_aggregate(&partial.signature),
                None => total = Some(partial.signature),
            }
            for (message, key) in partial.keys {
                match messages.last_mut() {
                    Some((last, sum)) if *last == message => sum.add_aggregate(&key),
                    Some(_) | None => messages.push((message, key)),
                }
            }
        }
        let Some(total) = total else { return false };
        let messages: Vec<(Root, PublicKey)> =
            messages.into_iter().map(|(message, key)| (message, key.to_public_key())).collect();
        let groups: Vec<&[(Root, PublicKey)]> = messages.chunks(CHUNK_MESSAGES).collect();
        let mut sides = self.workers.map(&groups, |group| bls::Keys::of(group)).into_iter();
        let Some(mut left) = sides.next() else { return false };
        for side in sides {
            left.merge(side);
        }
        left.signed(&total.to_signature())
    }

    /// The terms of an equation, ordered by message so that equal messages are next to each other.
    fn terms(&self, set: &[usize], rng: &mut StdRng) -> Vec<Term> {
        let mut ordered: Vec<usize> = set.to_vec();
        let alone = |claim: usize| self.singles.proves_alone(&self.claims[claim]);
        ordered.sort_by_key(|i| (self.claims[*i].signing_root, alone(*i), self.units[*i]));
        let mut terms: Vec<Term> = Vec::with_capacity(ordered.len());
        for claim in ordered {
            let message = self.claims[claim].signing_root;
            let joins = !alone(claim) && terms.last().is_some_and(|term| self.units[term.claims[0]] == self.units[claim]);
            match terms.last_mut() {
                Some(term) if joins => term.claims.push(claim),
                Some(_) | None => terms.push(Term { message, claims: vec![claim], weight: rng.random_range(1..=u64::MAX) }),
            }
        }
        terms
    }

    /// The sums, group checks and weights of some terms. `None` if one of the sums cannot be a
    /// valid signature.
    fn partial(&self, terms: &[Term]) -> Option<Partial> {
        let mut keys = Vec::with_capacity(terms.len());
        let mut signatures = Vec::with_capacity(terms.len());
        for term in terms {
            let (key, signature) = self.sum(&term.claims)?;
            keys.push(key);
            signatures.push(signature);
        }
        let weights: Vec<u64> = terms.iter().map(|term| term.weight).collect();
        let mut by_message = Vec::new();
        let mut from = 0;
        for run in terms.chunk_by(|a, b| a.message == b.message) {
            let until = from + run.len();
            by_message.push((run[0].message, bls::weigh_keys(&keys[from..until], &weights[from..until])));
            from = until;
        }
        Some(Partial { keys: by_message, signature: bls::weigh_signatures(&signatures, &weights) })
    }

    fn sum(&self, claims: &[usize]) -> Option<(PublicKey, Signature)> {
        let points = |claim: &usize| self.points[*claim].as_ref().ok();
        if let [one] = claims {
            let points = points(one)?;
            return points.in_group().then_some((points.key, points.signature));
        }
        let each = claims.iter().map(points).collect::<Option<Vec<_>>>()?;
        let key = bls::sum_keys(&each.iter().map(|points| points.key).collect::<Vec<_>>())?;
        let signature = bls::sum_signatures(&each.iter().map(|points| points.signature).collect::<Vec<_>>())?;
        bls::in_group(&signature).then_some((key, signature))
    }
}
