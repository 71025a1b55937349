//! The claims of one equation, without duplicates. Claims with the same signers, the same message
//! and the same signature bytes share one claim and its result.

use super::SignatureClaim;
use consensus::{Root, SignatureBytes};
use std::collections::HashMap;

/// The claims of one equation.
#[derive(Default)]
pub(crate) struct ClaimSet {
    claims: Vec<SignatureClaim>,
    by_content: HashMap<(Root, SignatureBytes), Vec<usize>>,
}

/// The position of a claim in the claim set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClaimRef {
    pub(crate) claim: usize,
    /// True if no equal claim was added to this set before.
    pub(crate) first: bool,
}

impl ClaimSet {
    /// Adds a claim, or merges it into an equal one.
    pub(crate) fn add(&mut self, claim: SignatureClaim) -> ClaimRef {
        let equals = self.by_content.entry(claim.content()).or_default();
        if let Some(known) = equals.iter().copied().find(|known| self.claims[*known].members() == claim.members()) {
            self.claims[known].absorb(claim);
            return ClaimRef { claim: known, first: false };
        }
        let place = self.claims.len();
        equals.push(place);
        self.claims.push(claim);
        ClaimRef { claim: place, first: true }
    }

    /// The claims, in the order in which they were added.
    pub(crate) fn into_claims(self) -> Vec<SignatureClaim> {
        self.claims
    }
}
