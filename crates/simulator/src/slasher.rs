//! A slasher in the simulated network. It includes slashings of conflicting messages in blocks, a
//! number of slots later, and as many in a block as its fork allows.
//!
//! One operation slashes one validator, as most did on 10 September 2025. Each validator is accused
//! once, because a slashed validator is not slashed again. An operation makes both of its messages
//! public, whether they were sent separately or not.
//!
//! A slashed validator proposes no more blocks, as the specification says. It continues to vote:
//! its exit waits in a queue that is longer than any scenario, so that committees do not change.

use crate::containers::VotesByBits;
use crate::ground_truth::{Claim, Crime, MessageHistory};
use consensus::{
    AttestationData, BeaconBlockHeader, Epoch, ForkName, Offence, Root, SignedBeaconBlockHeader, Slot, ValidatorIndex,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// `MAX_PROPOSER_SLASHINGS`.
pub(crate) const MAX_PROPOSER_SLASHINGS: usize = 16;
/// Number of epochs from the end of a run to the end of the exit queue.
pub(crate) const EXIT_QUEUE_EPOCHS: u64 = 64;

/// `MAX_ATTESTER_SLASHINGS` or `MAX_ATTESTER_SLASHINGS_ELECTRA`.
pub(crate) fn max_attester_slashings(fork: ForkName) -> usize {
    if fork.has_single_attestations() { 1 } else { 2 }
}

/// Two contradicting messages of one validator, without their signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// If one of them surrounds the other, the first surrounds the second.
    Votes(ValidatorIndex, Box<[AttestationData; 2]>),
    Headers(Box<[BeaconBlockHeader; 2]>),
}

/// The slashing operations of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Operations {
    pub(crate) attester: Vec<[VotesByBits; 2]>,
    pub(crate) proposer: Vec<[SignedBeaconBlockHeader; 2]>,
}

impl Operations {
    /// The claims that these operations add to a block.
    pub(crate) fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        let votes = self.attester.iter().flatten().map(|side| Claim::Vote { data: side.data, signers: side.signers.clone() });
        votes.chain(self.proposer.iter().flatten().map(|header| Claim::Proposal(header.message)))
    }

    /// The validators that are slashed, in the order of processing.
    pub(crate) fn slashed(&self) -> Vec<ValidatorIndex> {
        let proposers = self.proposer.iter().map(|[first, _]| first.message.proposer_index);
        proposers.chain(self.attester.iter().flat_map(|[first, _]| first.signers.iter().copied())).collect()
    }
}

/// Finds conflicts by comparing all pairs, delays them, and remembers who has been accused.
#[derive(Clone, Debug)]
pub(crate) struct Slasher {
    after_slots: u64,
    history: MessageHistory,
    votes: BTreeMap<Root, AttestationData>,
    headers: BTreeMap<Root, BeaconBlockHeader>,
    oldest: Epoch,
    waiting: VecDeque<(Slot, Charge)>,
    charged: BTreeSet<ValidatorIndex>,
    /// With the slot of the block that includes the slashing.
    slashed: BTreeMap<ValidatorIndex, Slot>,
}

impl Slasher {
    pub(crate) fn new(after_slots: u64, history: MessageHistory) -> Self {
        Self {
            after_slots,
            history,
            votes: BTreeMap::new(),
            headers: BTreeMap::new(),
            oldest: Epoch::new(0),
            waiting: VecDeque::new(),
            charged: BTreeSet::new(),
            slashed: BTreeMap::new(),
        }
    }

    /// Enters the messages of a slot, including those that only this slasher received.
    pub(crate) fn hear<'a>(&mut self, slot: Slot, said: impl Iterator<Item = &'a [Claim]>) {
        for claims in said {
            for claim in claims {
                match claim {
                    Claim::Vote { data, .. } => drop(self.votes.insert(data.root(), *data)),
                    Claim::Proposal(header) => drop(self.headers.insert(header.root(), *header)),
                }
            }
            for crime in self.history.record(claims, 0) {
                let charge = self.charge(&crime).filter(|_| self.charged.insert(crime.validator));
                self.waiting.extend(charge.map(|charge| (slot.saturating_add(self.after_slots), charge)));
            }
        }
    }

    /// Drops what the history has dropped: messages with a target before epoch `oldest` or a slot
    /// before `first_slot`.
    pub(crate) fn forget(&mut self, oldest: Epoch, first_slot: Slot) {
        if oldest > self.oldest {
            self.oldest = oldest;
            self.votes.retain(|_, data| data.target.epoch >= oldest);
            self.headers.retain(|_, header| header.slot >= first_slot);
        }
    }

    /// Returns what a block of this slot includes. Its proposer must not be slashed.
    pub(crate) fn include(&mut self, slot: Slot, fork: ForkName) -> Vec<Charge> {
        let (mut attester, mut proposer) = (max_attester_slashings(fork), MAX_PROPOSER_SLASHINGS);
        let mut included = Vec::new();
        let mut later = VecDeque::new();
        for (ready, charge) in std::mem::take(&mut self.waiting) {
            let room = match &charge {
                Charge::Votes(..) => &mut attester,
                Charge::Headers(_) => &mut proposer,
            };
            if ready > slot || *room == 0 {
                later.push_back((ready, charge));
                continue;
            }
            *room -= 1;
            self.slashed.insert(charge.accused(), slot);
            included.push(charge);
        }
        self.waiting = later;
        included
    }

    /// The slot in which a validator was slashed, if it was.
    pub(crate) fn slashed_in(&self, validator: ValidatorIndex) -> Option<Slot> {
        self.slashed.get(&validator).copied()
    }

    pub(crate) fn slashed(&self) -> &BTreeMap<ValidatorIndex, Slot> {
        &self.slashed
    }

    fn charge(&self, crime: &Crime) -> Option<Charge> {
        let [one, other] = crime.roots;
        match crime.kind {
            Offence::DoubleProposal => Some(Charge::Headers(Box::new([*self.headers.get(&one)?, *self.headers.get(&other)?]))),
            Offence::DoubleVote | Offence::SurroundVote => {
                let mut sides = [*self.votes.get(&one)?, *self.votes.get(&other)?];
                sides.sort_by_key(|data| data.source.epoch);
                Some(Charge::Votes(crime.validator, Box::new(sides)))
            }
        }
    }
}

impl Charge {
    fn accused(&self) -> ValidatorIndex {
        match self {
            Self::Votes(validator, _) => *validator,
            Self::Headers(headers) => headers[0].proposer_index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground_truth::tests::vote;

    #[test]
    fn each_once_and_as_many_as_a_block_takes() {
        let said = [vote(2, 5, 0, &[1, 2, 3]), vote(3, 4, 0, &[1]), vote(2, 5, 1, &[2, 3]), vote(2, 5, 2, &[2])].map(|one| [one]);
        for (fork, a_block) in [(ForkName::Deneb, 2), (ForkName::Electra, 1)] {
            let mut slasher = Slasher::new(4, MessageHistory::new(Root::ZERO, 8));
            slasher.hear(Slot::new(40), said.iter().map(<[Claim; 1]>::as_slice));
            assert!(slasher.include(Slot::new(43), fork).is_empty(), "not yet");
            let mut accused = Vec::new();
            for slot in 44.. {
                let charges = slasher.include(Slot::new(slot), fork);
                assert!(charges.len() <= a_block);
                if charges.is_empty() {
                    break;
                }
                accused.extend(charges);
            }
            let who: Vec<u64> = accused.iter().map(|charge| charge.accused().as_u64()).collect();
            assert_eq!(who, [1, 2, 3], "{fork}");
            let Charge::Votes(_, sides) = &accused[0] else { panic!("votes") };
            assert!(consensus::is_slashable_attestation_data(&sides[0], &sides[1]), "the surrounding one comes first");
            assert_eq!(slasher.slashed_in(ValidatorIndex::new(1)), Some(Slot::new(44)));
        }
    }
}
