//! Runs the equations of a batch, keeps the reputation of the senders, and limits what claims may
//! cost whose fork version is not certain.

use crate::batch::{BatchResult, ClaimResult, ClaimSet, ProvenClaims, SignatureClaim, prove_claims};
use crate::peer_reputation::{PeerReputation, PeerReputations};
use crate::workers::Workers;
use crate::{PeerBytes, SinglesProof, VerifyConfig};
use chain::Chain;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// How many claims of one peer about a fork that has not happened yet may fail with every possible
/// version in one slot. Nobody is blamed for such claims, so further ones are not tried.
const MAX_WITHOUT_VERSION: usize = 64;
/// At least this many claims are tried in one equation, if there are any left. So the bound may be
/// exceeded by one less.
const TRIED_TOGETHER: usize = 16;

/// Whether the claimed signers are known for certain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Signers {
    Certain,
    /// One of several committees that are possible.
    Guessed,
}

#[derive(Debug)]
pub(super) struct Prover {
    singles: SinglesProof,
    workers: Workers,
    /// The weights must be unpredictable for the senders of signatures.
    rng: StdRng,
    reputations: PeerReputations,
    /// Number of claims about a fork that has not happened yet that failed with every possible
    /// version in this slot, by peer.
    without_version: HashMap<PeerBytes, usize>,
    n_tried_again: u64,
    /// Number of claims that were put into equations.
    #[cfg(test)]
    n_prepared: usize,
}

impl Prover {
    pub(super) fn new(config: &VerifyConfig, rng: StdRng) -> Self {
        Self {
            singles: config.singles,
            workers: Workers::new(config.threads),
            rng,
            reputations: PeerReputations::new(config.remembered_peers),
            without_version: HashMap::new(),
            n_tried_again: 0,
            #[cfg(test)]
            n_prepared: 0,
        }
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    pub(super) fn set_singles(&mut self, singles: SinglesProof) {
        self.singles = singles;
    }

    pub(super) fn reputation_of(&self, peer: Option<&PeerBytes>) -> PeerReputation {
        self.reputations.of(peer)
    }

    pub(super) fn reputations_mut(&mut self) -> &mut PeerReputations {
        &mut self.reputations
    }

    /// Claims about a fork to come that were tried with a second version.
    pub(super) fn n_tried_again(&self) -> u64 {
        self.n_tried_again
    }

    pub(super) fn start_slot(&mut self, is_new_epoch: bool) {
        self.without_version.clear();
        if is_new_epoch {
            self.reputations.halve();
        }
    }

    /// Proves the claims of a batch in one equation. Returns the result of each claim, and what was
    /// proven.
    ///
    /// A claim about a fork that has not happened yet may hold with no possible version. Nobody is
    /// blamed for such a claim, and it costs two equations. So a peer may have
    /// [`MAX_WITHOUT_VERSION`] such claims in a slot. Claims that hold do not use up this number.
    /// Therefore claims that may exceed it are postponed until the other claims have shown how much
    /// is left.
    pub(super) fn prove_batch(&mut self, chain: &Chain, claims: ClaimSet, signers: Signers) -> (BatchResult, Vec<ProvenClaims>) {
        let now = chain.now().epoch(chain.network().preset());
        let mut claims = claims.into_claims();
        claims.iter_mut().for_each(|claim| claim.decide_version(chain.network(), now));
        let mut proven = Vec::new();
        let mut postponed = self.postpone(&mut claims);
        let mut proofs = self.prove_once(chain, claims, signers, &mut proven);
        loop {
            let (mut places, mut claims) = (Vec::new(), Vec::new());
            postponed.retain(|peer, waiting| {
                let n_tried = self.n_affordable(peer).min(waiting.len());
                for (place, claim) in waiting.drain(..n_tried) {
                    places.push(place);
                    claims.push(claim);
                }
                n_tried > 0 && !waiting.is_empty()
            });
            if claims.is_empty() {
                return (proofs, proven);
            }
            let later = self.prove_once(chain, claims, signers, &mut proven);
            proofs.take_over_postponed(&places, later);
        }
    }

    /// Takes out the claims that may be more than what their senders have left, with their places,
    /// and marks them as skipped.
    fn postpone(&self, claims: &mut [SignatureClaim]) -> BTreeMap<PeerBytes, VecDeque<(usize, SignatureClaim)>> {
        let mut affordable: HashMap<PeerBytes, usize> = HashMap::new();
        let mut postponed: BTreeMap<PeerBytes, VecDeque<(usize, SignatureClaim)>> = BTreeMap::new();
        for (place, claim) in claims.iter_mut().enumerate().filter(|(_, claim)| claim.is_version_in_doubt()) {
            let Some(peer) = claim.version_budget_peer().cloned() else { continue };
            let left = affordable.entry(peer.clone()).or_insert_with(|| self.n_affordable(&peer));
            if *left > 0 {
                *left -= 1;
                continue;
            }
            postponed.entry(peer).or_default().push_back((place, claim.clone()));
            claim.skip();
        }
        postponed
    }

    /// How many claims of this peer may be tried in the next equation.
    fn n_affordable(&self, peer: &PeerBytes) -> usize {
        match MAX_WITHOUT_VERSION.saturating_sub(self.without_version.get(peer).copied().unwrap_or(0)) {
            0 => 0,
            left => left.max(TRIED_TOGETHER),
        }
    }

    /// The equation, and for what it does not prove the one with the other version that is
    /// possible.
    fn prove_once(
        &mut self,
        chain: &Chain,
        claims: Vec<SignatureClaim>,
        signers: Signers,
        proven: &mut Vec<ProvenClaims>,
    ) -> BatchResult {
        #[cfg(test)]
        {
            self.n_prepared += claims.len();
        }
        let mut proofs = prove_claims(claims, chain.registry(), self.singles, &self.workers, &self.reputations, &mut self.rng);
        proven.push(proofs.collect_proven(&self.workers));
        let (places, again) = proofs.in_doubt();
        if !again.is_empty() {
            self.n_tried_again += again.len() as u64;
            let other = prove_claims(again, chain.registry(), self.singles, &self.workers, &self.reputations, &mut self.rng);
            proven.push(other.collect_proven(&self.workers));
            proofs.take_over(&places, &other);
        }
        for (claim, result) in proofs.all() {
            match (result, claim.responsible_peer(), signers) {
                (ClaimResult::Proven { .. }, Some(peer), _) => self.reputations.proven(peer),
                (ClaimResult::Forged, Some(peer), Signers::Certain) => self.reputations.forged(peer),
                (ClaimResult::Proven { .. } | ClaimResult::Forged | ClaimResult::NoKey | ClaimResult::NoVersion, _, _) => {}
            }
            let failed_with_all = result == ClaimResult::NoVersion && claim.is_version_in_doubt();
            if let Some(peer) = claim.version_budget_peer().filter(|_| failed_with_all && signers == Signers::Certain) {
                *self.without_version.entry(peer.clone()).or_default() += 1;
            }
        }
        proofs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::ClaimedSigners;
    use crate::{FirstSeen, SourceKind, Time};
    use chain::PubkeyCache;
    use consensus::{AttestationData, Checkpoint, Epoch, Fork, ForkName, Root, SignatureBytes, ValidatorIndex};
    use rand::SeedableRng as _;

    /// One peer sends many claims about a fork to come. Each of them is put into an equation once,
    /// however many rounds its sender's budget makes of them.
    #[test]
    fn a_postponed_claim_is_prepared_once() {
        let read = test_support::capture::Capture::read(&test_support::capture("gloas_12"));
        let mut spec = read.spec.clone();
        spec.forks.push(Fork { name: ForkName::Heze, epoch: Epoch::new(100), version: [8, 0, 0, 1] });
        let chain = Chain::from_state(spec, &read.state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap();
        let peer = PeerBytes::from([7]);
        let mut claims = ClaimSet::default();
        let n_claims = 2_000;
        for nth in 0..n_claims {
            let target = Checkpoint { epoch: Epoch::new(200 + nth), root: Root::ZERO };
            let data = AttestationData { target, ..AttestationData::default() };
            let heard = FirstSeen { at: Time(nth), source: SourceKind::Gossip, peer: Some(peer.clone()) };
            let members = ClaimedSigners::from_sorted(vec![ValidatorIndex::new(1)]).unwrap();
            // Bytes that are not a point of the curve cost no pairing.
            let signature = SignatureBytes::ZERO;
            claims.add(SignatureClaim::aggregate(chain.network(), data, data.root(), members, signature, None, heard));
        }
        let mut prover = Prover::new(&VerifyConfig::default(), StdRng::seed_from_u64(1));
        // Nobody is blamed for a guess, so the budget stays as it is, and all claims are tried.
        let (proofs, proven) = prover.prove_batch(&chain, claims, Signers::Guessed);
        assert!((0..n_claims as usize).all(|claim| proofs.of(claim) == ClaimResult::NoVersion && !proofs.was_skipped(claim)));
        assert!(proven.iter().all(|proven| proven.votes.is_empty()));
        assert!(prover.n_tried_again() == n_claims, "each was tried with both versions, and once");
        assert_eq!(prover.n_prepared, 2 * n_claims as usize - MAX_WITHOUT_VERSION, "once as skipped, and once when it is tried");
    }
}
