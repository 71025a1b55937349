//! Turns proven claims into votes and proposals. Only what was proven becomes [`Signed`].

use super::claim::ClaimSubject;
use super::{BatchResult, ClaimResult, Signed};
use crate::workers::Workers;
use crate::{Arrival, Proposal, Stated, Vote, bls};
use consensus::{SignatureBytes, ValidatorIndex};
use std::collections::BTreeMap;

/// Everything that a batch proved, in the order of the claims. Among the votes, the aggregates come
/// first, then the single votes, summed up by unit.
#[derive(Debug)]
pub(crate) struct ProvenClaims {
    pub(crate) votes: Vec<Signed<Vote>>,
    pub(crate) proposals: Vec<Signed<Proposal>>,
    pub(crate) statements: Vec<Signed<Stated>>,
}

impl BatchResult {
    /// Collects everything that was proven.
    pub(crate) fn collect_proven(&self, workers: &Workers) -> ProvenClaims {
        let mut votes = Vec::new();
        let mut proposals = Vec::new();
        let mut statements = Vec::new();
        let mut sums: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, claim) in self.claims.iter().enumerate() {
            match self.results[i] {
                ClaimResult::Proven { .. } => {}
                ClaimResult::Forged | ClaimResult::NoKey | ClaimResult::NoVersion => continue,
            }
            match &claim.subject {
                ClaimSubject::Vote { merges: Some(_), .. } => sums.entry(self.units[i]).or_default().push(i),
                ClaimSubject::Vote { merges: None, .. } => votes.extend(self.vote(&[i])),
                ClaimSubject::Proposal { header, root } => proposals.push(Signed::proven(Proposal {
                    header: *header,
                    root: *root,
                    signature: claim.signature,
                    heard: claim.heard.clone(),
                })),
                ClaimSubject::Statement(statement) => statements.push(Signed::proven(Stated {
                    statement: *statement,
                    signature: claim.signature,
                    heard: claim.heard.clone(),
                })),
                ClaimSubject::Attribute => {}
            }
        }
        let sums: Vec<Vec<usize>> = sums.into_values().collect();
        let summed = workers.map(&sums, |unit| self.vote(unit));
        for (unit, vote) in sums.into_iter().zip(summed) {
            match vote {
                Some(vote) => votes.push(vote),
                // These signers own opposite keys. The sum of their signatures proves nothing, so
                // each group of claims that was proven together becomes a vote of its own.
                None => {
                    let mut proofs: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
                    for claim in unit {
                        proofs.entry(self.proofs[claim]).or_default().push(claim);
                    }
                    votes.extend(proofs.values().filter_map(|proof| self.vote(proof)));
                }
            }
        }
        ProvenClaims { votes, proposals, statements }
    }

    /// Makes one vote out of the proven claims of one unit. Returns `None` if their signatures
    /// cancel out.
    fn vote(&self, unit: &[usize]) -> Option<Signed<Vote>> {
        let first = &self.claims[*unit.first()?];
        let ClaimSubject::Vote { data, data_root, shuffling, .. } = &first.subject else { return None };
        let mut members: Vec<(ValidatorIndex, Arrival)> = Vec::new();
        let mut heard = &first.heard;
        for claim in unit.iter().map(|i| &self.claims[*i]) {
            members.extend(claim.members().iter().map(|member| (*member, claim.heard.arrival())));
            if claim.heard.at < heard.at {
                heard = &claim.heard;
            }
        }
        members.sort_unstable();
        debug_assert!(members.windows(2).all(|pair| pair[0].0 < pair[1].0), "a unit names each validator once");
        Some(Signed::proven(Vote {
            data: *data,
            data_root: *data_root,
            indices: members.iter().map(|(member, _)| *member).collect(),
            arrivals: members.iter().map(|(_, arrival)| *arrival).collect(),
            signature: self.signature(unit)?,
            shuffling: shuffling.clone(),
            signed_with: first.signed_with(),
            heard: heard.clone(),
        }))
    }

    fn signature(&self, unit: &[usize]) -> Option<SignatureBytes> {
        if let [one] = unit {
            return Some(self.claims[*one].signature);
        }
        let points = unit.iter().map(|i| self.signatures[*i]).collect::<Option<Vec<_>>>()?;
        bls::sum_signatures(&points).map(|sum| bls::compress(&sum))
    }
}
