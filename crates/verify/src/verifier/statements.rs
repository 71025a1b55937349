//! Signed messages of which a signer may send only one, although no rule punishes two: votes of the
//! payload-timeliness committee and bids of builders (Gloas), and inclusion lists (Heze). Each of
//! them is proven by itself. Whether two of them contradict each other is decided elsewhere.
//!
//! This crate does not know whether a signer is in the committee that it claims to be in, so none
//! of these messages is forwarded.

use super::blocks::PriorResult;
use super::prover::Signers;
use super::{OutcomeCollector, PendingOutcome, Verifier, without_key};
use crate::batch::{ClaimResult, ClaimSet, SignatureClaim};
use crate::{FirstSeen, Outcome, Statement};
use base::BoundedMap;
use chain::Chain;
use consensus::{Network, Root, SignatureBytes, sha256};

/// A statement before the equation.
pub(super) struct StatementJob {
    pub(super) item: PendingOutcome,
    pub(super) heard: FirstSeen,
    pub(super) statement: Statement,
    pub(super) signature: SignatureBytes,
}

/// Proven statements by a hash of signer and content, with their only valid signature.
#[derive(Debug)]
pub(super) struct SeenStatements(BoundedMap<Root, SignatureBytes>);

impl SeenStatements {
    pub(super) fn new(limit: usize) -> Self {
        Self(BoundedMap::new(limit))
    }
}

impl Verifier {
    /// Proves the statements of a batch, all of them together.
    pub(super) fn prove_statements(&mut self, chain: &Chain, jobs: Vec<StatementJob>, collector: &mut OutcomeCollector) {
        let network: &Network = chain.network();
        let mut claims = ClaimSet::default();
        let mut pending: Vec<(PendingOutcome, Root, PriorResult, Outcome)> = Vec::new();
        for StatementJob { item, heard, statement, signature } in jobs {
            let key = statement_key(&statement);
            let lacks_key = match &statement {
                Statement::PayloadVote { validator, .. } => without_key(chain, *validator, &heard),
                Statement::Bid { .. } => Outcome::UnknownValidator,
                Statement::InclusionList { list, .. } => without_key(chain, list.validator_index, &heard),
            };
            let prior = match self.statements.0.get(&key) {
                Some(known) if *known == signature => PriorResult::Known,
                Some(_) => PriorResult::Forged,
                None => {
                    let claim = SignatureClaim::statement(network, statement, signature, heard);
                    if self.forgeries.is_known(|| claim.fingerprint()) {
                        PriorResult::Forged
                    } else {
                        PriorResult::Pending(claims.add(claim))
                    }
                }
            };
            pending.push((item, key, prior, lacks_key));
        }
        if pending.is_empty() {
            return;
        }
        let proofs = self.prove_and_remember(chain, claims, Signers::Certain, collector);
        for (item, key, prior, lacks_key) in pending {
            let outcome = match prior.result(&proofs) {
                ClaimResult::Proven { .. } if prior.is_repeat() => Outcome::Duplicate,
                ClaimResult::Proven { .. } => {
                    if let PriorResult::Pending(place) = prior {
                        self.statements.0.insert(key, proofs.claim(place.claim).signature_bytes());
                    }
                    Outcome::Proven { forwardable: false }
                }
                ClaimResult::Forged => {
                    if let PriorResult::Pending(place) = prior {
                        self.forgeries.remember(proofs.claim(place.claim).fingerprint());
                    }
                    Outcome::BadSignature
                }
                ClaimResult::NoKey => lacks_key,
                ClaimResult::NoVersion => Outcome::UnknownFork,
            };
            collector.record(item, outcome);
        }
    }
}

/// One hash of the kind, the signer and the content.
fn statement_key(statement: &Statement) -> Root {
    let (kind, signer) = match statement {
        Statement::PayloadVote { validator, .. } => (0u8, validator.as_u64()),
        Statement::Bid { bid, .. } => (1, bid.builder_index.as_u64()),
        Statement::InclusionList { list, .. } => (2, list.validator_index.as_u64()),
    };
    let mut preimage = vec![kind];
    preimage.extend_from_slice(&signer.to_le_bytes());
    preimage.extend_from_slice(statement.root().as_slice());
    Root::from(sha256(&preimage))
}
