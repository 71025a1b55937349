//! Collects the results of one call, so that each message gets exactly one outcome.

use crate::batch::ProvenClaims;
use crate::parking::Job;
use crate::{InnerKind, MessageOutcome, Origin, Outcome, PeerBytes, Ticket, Verified};
use consensus::MessageKind;

/// A message or part of a block that must get an outcome.
#[derive(Clone, Debug)]
pub(crate) struct PendingOutcome {
    /// Position in the order of arrival, counted over all batches.
    number: u64,
    whose: Whose,
    /// Whether the outcome `Parked` was already reported.
    pub(crate) parked: bool,
}

#[derive(Clone, Debug)]
enum Whose {
    Message { ticket: Option<Ticket>, peer: Option<PeerBytes>, kind: MessageKind, subscribed: Option<bool> },
    Inner(InnerKind),
}

impl PendingOutcome {
    pub(crate) fn message(number: u64, ticket: Option<Ticket>, origin: Origin, kind: MessageKind) -> Self {
        let Origin { peer, subscribed, .. } = origin;
        Self { number, whose: Whose::Message { ticket, peer, kind, subscribed }, parked: false }
    }

    /// An item for a part of this block. It has the block's position in the order.
    pub(crate) fn inside(&self, kind: InnerKind) -> Self {
        Self { number: self.number, whose: Whose::Inner(kind), parked: false }
    }

    /// Whether this item is a message of its own, not a part of a block.
    pub(crate) fn is_message(&self) -> bool {
        match self.whose {
            Whose::Message { .. } => true,
            Whose::Inner(_) => false,
        }
    }

    /// The sender, if it was not subscribed to the topic of its message.
    pub(crate) fn unsubscribed_sender(&self) -> Option<&PeerBytes> {
        match &self.whose {
            Whose::Message { peer, subscribed: Some(false), .. } => peer.as_ref(),
            Whose::Message { .. } | Whose::Inner(_) => None,
        }
    }

    /// The subnet on which the message came, if it came on one.
    pub(crate) fn subnet(&self) -> Option<u64> {
        match self.whose {
            Whose::Message { kind: MessageKind::Attestation { subnet }, .. } => Some(subnet),
            Whose::Message { .. } | Whose::Inner(_) => None,
        }
    }
}

/// Everything that one call proved, and the outcomes that it settled.
#[derive(Default)]
pub(crate) struct OutcomeCollector {
    pub(crate) verified: Verified,
    outcomes: Vec<(u64, MessageOutcome)>,
    inner: Vec<(u64, InnerKind, Outcome)>,
}

impl OutcomeCollector {
    /// Records the outcome of an item.
    pub(crate) fn record(&mut self, item: PendingOutcome, outcome: Outcome) {
        match item.whose {
            Whose::Message { ticket, peer, kind, .. } => self.outcomes.push((item.number, (ticket, peer, kind, outcome))),
            Whose::Inner(kind) => self.inner.push((item.number, kind, outcome)),
        }
    }

    /// Records that the committees of a vote did not become known.
    pub(crate) fn expire(&mut self, job: Job) {
        *self.verified.expired_in.entry(job.vote.attestation().data.target.epoch).or_default() += 1;
        self.record(job.item, Outcome::Expired);
    }

    /// Adds everything that one equation proved.
    pub(crate) fn add_proven(&mut self, proven: ProvenClaims) {
        let ProvenClaims { votes, proposals, statements } = proven;
        self.verified.votes.extend(votes);
        self.verified.proposals.extend(proposals);
        self.verified.statements.extend(statements);
    }

    /// Returns the result, in order of arrival. Votes and proposals are sorted too, because
    /// operations and aggregates are proven before single votes. Only the first pairs are listed of
    /// a key that signs too much, and these must not depend on how messages are batched. A sum of
    /// several messages has the position of its earliest message.
    pub(crate) fn into_verified(mut self) -> Verified {
        self.verified.votes.sort_by_key(|vote| (vote.heard.at, vote.data_root, vote.indices.first().copied()));
        self.verified.proposals.sort_by_key(|proposal| (proposal.heard.at, proposal.root));
        self.outcomes.sort_by_key(|(number, _)| *number);
        self.inner.sort_by_key(|(number, kind, _)| (*number, *kind));
        self.verified.outcomes = self.outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        self.verified.inner = self.inner.into_iter().map(|(_, kind, outcome)| (kind, outcome)).collect();
        self.verified
    }
}
