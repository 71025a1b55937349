//! One outcome for each message: who is owed one, and what was settled.

use crate::batch::Harvest;
use crate::{InnerKind, MessageKind, MessageOutcome, Outcome, PeerBytes, Ticket, Verified};

/// Somebody who is owed an outcome.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Order of arrival over all batches.
    number: u64,
    whose: Whose,
    /// `Parked` was reported.
    pub(crate) parked: bool,
}

#[derive(Clone, Debug)]
enum Whose {
    Message { ticket: Option<Ticket>, peer: Option<PeerBytes>, kind: MessageKind },
    Inner(InnerKind),
}

impl Item {
    pub(crate) fn message(number: u64, ticket: Option<Ticket>, peer: Option<PeerBytes>, kind: MessageKind) -> Self {
        Self { number, whose: Whose::Message { ticket, peer, kind }, parked: false }
    }

    /// Part of a block, which has the block's place in the order.
    pub(crate) fn inside(&self, kind: InnerKind) -> Self {
        Self { number: self.number, whose: Whose::Inner(kind), parked: false }
    }

    /// Not a part of one.
    pub(crate) fn is_message(&self) -> bool {
        match self.whose {
            Whose::Message { .. } => true,
            Whose::Inner(_) => false,
        }
    }

    /// On which subnet it came, if it did.
    pub(crate) fn subnet(&self) -> Option<u64> {
        match self.whose {
            Whose::Message { kind: MessageKind::Attestation { subnet }, .. } => Some(subnet),
            Whose::Message { .. } | Whose::Inner(_) => None,
        }
    }
}

/// What one call proved and settled.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) verified: Verified,
    outcomes: Vec<(u64, MessageOutcome)>,
    inner: Vec<(u64, InnerKind, Outcome)>,
}

impl Ledger {
    pub(crate) fn settle(&mut self, item: Item, outcome: Outcome) {
        match item.whose {
            Whose::Message { ticket, peer, kind } => self.outcomes.push((item.number, (ticket, peer, kind, outcome))),
            Whose::Inner(kind) => self.inner.push((item.number, kind, outcome)),
        }
    }

    /// What an equation proved.
    pub(crate) fn take(&mut self, harvest: Harvest) {
        let Harvest { votes, proposals, statements } = harvest;
        self.verified.votes.extend(votes);
        self.verified.proposals.extend(proposals);
        self.verified.statements.extend(statements);
    }

    /// In order of arrival: also what was proven, of which operations and aggregates come before
    /// single votes. Of a key that signs too much only the first pairs are listed, and these must
    /// be the same however messages are batched. A sum of several messages has the place of its
    /// earliest.
    pub(crate) fn close(mut self) -> Verified {
        self.verified.votes.sort_by_key(|vote| (vote.heard.at, vote.data_root, vote.indices.first().copied()));
        self.verified.proposals.sort_by_key(|proposal| (proposal.heard.at, proposal.root));
        self.outcomes.sort_by_key(|(number, _)| *number);
        self.inner.sort_by_key(|(number, kind, _)| (*number, *kind));
        self.verified.outcomes = self.outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        self.verified.inner = self.inner.into_iter().map(|(_, kind, outcome)| (kind, outcome)).collect();
        self.verified
    }
}
