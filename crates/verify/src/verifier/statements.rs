//! Signed messages of which a signer may send only one, although no rule punishes two: votes of the
//! payload-timeliness committee and bids of builders (Gloas), and inclusion lists (Heze). Each of
//! them is proven by itself. Whether two of them contradict each other is decided elsewhere.
//!
//! This crate does not know whether a signer is in the committee that it claims to be in, so none
//! of these messages is forwarded.

use super::{Signers, Verifier, without_key};
use crate::batch::{Judgement, SignatureClaim};
use crate::claim_set::ClaimSet;
use crate::outcome_collector::{OutcomeCollector, PendingOutcome};
use crate::verifier::blocks::PriorResult;
use crate::{FirstSeen, Outcome, Statement};
use chain::Chain;
use consensus::{Network, Root, SignatureBytes, sha256};

/// A statement before the equation.
pub(super) struct StatementJob {
    pub(super) item: PendingOutcome,
    pub(super) heard: FirstSeen,
    pub(super) statement: Statement,
    pub(super) signature: SignatureBytes,
}

impl Verifier {
    /// Proves the statements of a batch, all of them together.
    pub(super) fn prove_statements(&mut self, chain: &Chain, jobs: Vec<StatementJob>, ledger: &mut OutcomeCollector) {
        let network: &Network = chain.network();
        let mut docket = ClaimSet::default();
        let mut asked: Vec<(PendingOutcome, Root, PriorResult, Outcome)> = Vec::new();
        for StatementJob { item, heard, statement, signature } in jobs {
            let name = name_of(&statement);
            let lacks_key = match &statement {
                Statement::PayloadVote { validator, .. } => without_key(chain, *validator, &heard),
                Statement::Bid { .. } => Outcome::UnknownValidator,
                Statement::InclusionList { list, .. } => without_key(chain, list.validator_index, &heard),
            };
            let standing = match self.statements.get(&name) {
                Some(known) if *known == signature => PriorResult::Known,
                Some(_) => PriorResult::Forged,
                None => {
                    let claim = SignatureClaim::statement(network, statement, signature, heard);
                    if self.is_known_forgery(|| claim.fingerprint()) {
                        PriorResult::Forged
                    } else {
                        PriorResult::Asked(docket.add(claim))
                    }
                }
            };
            asked.push((item, name, standing, lacks_key));
        }
        if asked.is_empty() {
            return;
        }
        let judged = self.judge(chain, docket, Signers::Certain, ledger);
        for (item, name, standing, lacks_key) in asked {
            let outcome = match standing.judgement(&judged) {
                Judgement::Proven { .. } if standing.is_repeat() => Outcome::Duplicate,
                Judgement::Proven { .. } => {
                    if let PriorResult::Asked(place) = standing {
                        self.statements.insert(name, judged.claim(place.claim).signature_bytes());
                    }
                    Outcome::Proven { forwardable: false }
                }
                Judgement::Forged => {
                    if let PriorResult::Asked(place) = standing {
                        self.forgeries.insert(judged.claim(place.claim).fingerprint(), ());
                    }
                    Outcome::BadSignature
                }
                Judgement::NoKey => lacks_key,
                Judgement::NoVersion => Outcome::UnknownFork,
            };
            ledger.settle(item, outcome);
        }
    }
}

/// One hash of the kind, the signer and the content.
fn name_of(statement: &Statement) -> Root {
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
