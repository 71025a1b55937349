//! The claims of one equation, each once: the same signers, message and signature bytes share one claim and its judgement.

use crate::batch::Claim;
use consensus::{Root, SignatureBytes};
use std::collections::HashMap;

#[derive(Default)]
pub(crate) struct Docket {
    pub(crate) claims: Vec<Claim>,
    by_content: HashMap<(Root, SignatureBytes), Vec<usize>>,
}

/// Where a claim stands in the docket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) claim: usize,
    /// Nobody made it before in this docket.
    pub(crate) first: bool,
}

impl Docket {
    pub(crate) fn add(&mut self, claim: Claim) -> Place {
        let equals = self.by_content.entry(claim.content()).or_default();
        if let Some(known) = equals.iter().copied().find(|known| self.claims[*known].members() == claim.members()) {
            self.claims[known].absorb(claim);
            return Place { claim: known, first: false };
        }
        let place = self.claims.len();
        equals.push(place);
        self.claims.push(claim);
        Place { claim: place, first: true }
    }
}
