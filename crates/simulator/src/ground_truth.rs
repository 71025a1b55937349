//! What really happened: every message with a valid signature that was sent, compared with all
//! earlier ones of its signer.
//!
//! It compares all pairs by the text of the rule and is deliberately simple. The watcher's results
//! are compared with it, so it shares no code with the watcher. Forged messages are not entered.
//! Votes whose target is more than [`HISTORY_EPOCHS`] epochs older than the newest one are dropped;
//! no offence of a scenario reaches that far back.

use crate::conditions::TimedCondition;
use crate::expected::Expected;
use crate::registry::RegistryRecord;
use crate::scenario::Scenario;
use consensus::{AttestationData, BeaconBlockHeader, Epoch, Offence, Root, Slot, ValidatorIndex, sha256};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Number of epochs that the history keeps.
pub const HISTORY_EPOCHS: u64 = 64;

/// What the signers of a message signed. One message may contain several claims: a block is a
/// proposal and carries votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Vote { data: AttestationData, signers: Vec<ValidatorIndex> },
    Proposal(BeaconBlockHeader),
}

/// Two contradicting messages of one validator that were both sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Crime {
    pub kind: Offence,
    pub validator: ValidatorIndex,
    /// The greater of the two messages' slots.
    pub slot: Slot,
    /// The hash-tree-roots of the two `AttestationData` or headers, in ascending order.
    pub roots: [Root; 2],
    /// The id of a finding about it: SHA-256(genesis validators root, kind, validator, the two
    /// roots).
    pub finding_id: Root,
    /// Nanoseconds since the Unix epoch.
    pub first_message_sent_at: u64,
    /// Nanoseconds since the Unix epoch. From this time on the offence can be detected.
    pub second_message_sent_at: u64,
}

/// Everything that there was to find, and what else was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroundTruth {
    /// In the order in which they became visible.
    pub crimes: Vec<Crime>,
    /// The validators whose slashing is in a block of the first branch, with that block's slot.
    pub slashed: BTreeMap<ValidatorIndex, Slot>,
    /// The registry of the first branch after the last block of each epoch, by validator, if the
    /// scenario moves it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub registry: BTreeMap<Epoch, Vec<RegistryRecord>>,
    /// The conditions that were played.
    pub happened: Vec<Happened>,
    /// The incidents that a watcher must report.
    pub incidents: Vec<Expected>,
    /// Kinds of incidents that a watcher may report as well.
    pub may_follow: Vec<String>,
    /// Messages of all kinds that were sent.
    pub messages: u64,
    /// Those of `messages` with signatures that are not by their claimed signer.
    pub forged: u64,
    /// Those of `messages` that are random bytes.
    pub junk: u64,
    /// Messages that nobody received. They are counted only here.
    pub unheard: u64,
}

/// A condition that was played.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Happened {
    #[serde(rename = "circumstance")]
    pub condition: TimedCondition,
    /// Number of validators that it affected.
    pub validators: u64,
}

impl GroundTruth {
    /// The truth before anything has happened. `sees` tells whether an incident can be observed
    /// where the scenario is played.
    pub(crate) fn of(scenario: &Scenario, sees: impl Fn(&Expected) -> bool) -> Self {
        Self {
            incidents: scenario.incidents.iter().filter(|expected| sees(expected)).cloned().collect(),
            may_follow: scenario.may_follow.clone(),
            ..Self::default()
        }
    }

    /// The offences that a watcher must find. It must find no others.
    pub fn pairs(&self) -> BTreeSet<(Offence, ValidatorIndex)> {
        self.crimes.iter().map(|crime| (crime.kind, crime.validator)).collect()
    }
}

/// All claims with their signers and times.
#[derive(Clone, Debug)]
pub(crate) struct MessageHistory {
    genesis_validators_root: Root,
    slots_per_epoch: u64,
    votes: BTreeMap<ValidatorIndex, Vec<Vote>>,
    proposals: BTreeMap<(Slot, ValidatorIndex), Vec<(Root, u64)>>,
    newest: Epoch,
}

#[derive(Clone, Copy, Debug)]
struct Vote {
    slot: Slot,
    source: Epoch,
    target: Epoch,
    root: Root,
    sent_at: u64,
}

impl MessageHistory {
    pub(crate) fn new(genesis_validators_root: Root, slots_per_epoch: u64) -> Self {
        Self {
            genesis_validators_root,
            slots_per_epoch,
            votes: BTreeMap::new(),
            proposals: BTreeMap::new(),
            newest: Epoch::new(0),
        }
    }

    /// Enters a message that was sent at `sent_at` (in nanoseconds since the Unix epoch). Returns
    /// the offences that it completes.
    pub(crate) fn record(&mut self, claims: &[Claim], sent_at: u64) -> Vec<Crime> {
        let mut crimes = Vec::new();
        for claim in claims {
            match claim {
                Claim::Vote { data, signers } => {
                    let (source, target) = (data.source.epoch, data.target.epoch);
                    let vote = Vote { slot: data.slot, source, target, root: data.root(), sent_at };
                    for signer in signers {
                        self.vote(*signer, vote, &mut crimes);
                    }
                    self.forget(target);
                }
                Claim::Proposal(header) => self.proposal(header, sent_at, &mut crimes),
            }
        }
        crimes
    }

    fn vote(&mut self, signer: ValidatorIndex, vote: Vote, crimes: &mut Vec<Crime>) {
        let gvr = self.genesis_validators_root;
        let earlier = self.votes.entry(signer).or_default();
        if earlier.iter().any(|other| other.root == vote.root) {
            return;
        }
        for other in earlier.iter() {
            let kind = if other.target == vote.target {
                Offence::DoubleVote
            } else if (other.source < vote.source && vote.target < other.target)
                || (vote.source < other.source && other.target < vote.target)
            {
                Offence::SurroundVote
            } else {
                continue;
            };
            let slot = other.slot.max(vote.slot);
            crimes.push(crime(gvr, kind, signer, slot, [other.root, vote.root], [other.sent_at, vote.sent_at]));
        }
        earlier.push(vote);
    }

    fn proposal(&mut self, header: &BeaconBlockHeader, sent_at: u64, crimes: &mut Vec<Crime>) {
        let root = header.root();
        let earlier = self.proposals.entry((header.slot, header.proposer_index)).or_default();
        if earlier.iter().any(|(other, _)| *other == root) {
            return;
        }
        for (other, other_sent_at) in earlier.iter() {
            let (gvr, kind) = (self.genesis_validators_root, Offence::DoubleProposal);
            crimes.push(crime(gvr, kind, header.proposer_index, header.slot, [*other, root], [*other_sent_at, sent_at]));
        }
        earlier.push((root, sent_at));
    }

    fn forget(&mut self, target: Epoch) {
        if target <= self.newest {
            return;
        }
        self.newest = target;
        let oldest = target.saturating_sub(HISTORY_EPOCHS);
        for votes in self.votes.values_mut() {
            votes.retain(|vote| vote.target >= oldest);
        }
        let first_slot = oldest.as_u64().saturating_mul(self.slots_per_epoch);
        self.proposals = self.proposals.split_off(&(Slot::new(first_slot), ValidatorIndex::new(0)));
    }
}

pub(crate) fn crime(
    gvr: Root,
    kind: Offence,
    validator: ValidatorIndex,
    slot: Slot,
    mut roots: [Root; 2],
    sent_at: [u64; 2],
) -> Crime {
    roots.sort();
    let mut preimage = gvr.to_vec();
    preimage.extend_from_slice(kind.as_str().as_bytes());
    preimage.extend_from_slice(&validator.as_u64().to_le_bytes());
    preimage.extend_from_slice(roots[0].as_slice());
    preimage.extend_from_slice(roots[1].as_slice());
    Crime {
        kind,
        validator,
        slot,
        roots,
        finding_id: Root::from(sha256(&preimage)),
        first_message_sent_at: sent_at[0],
        second_message_sent_at: sent_at[1],
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use consensus::Checkpoint;

    /// Tests of other modules that read ledgers use this too.
    pub(crate) fn vote(source: u64, target: u64, head: u8, signers: &[u64]) -> Claim {
        let at = |epoch| Checkpoint { epoch: Epoch::new(epoch), root: Root::ZERO };
        let data = AttestationData {
            slot: Slot::new(target * 8),
            beacon_block_root: Root::repeat_byte(head),
            source: at(source),
            target: at(target),
            ..AttestationData::default()
        };
        Claim::Vote { data, signers: signers.iter().copied().map(ValidatorIndex::new).collect() }
    }

    fn check(claims: &[Claim], expected: &[(Offence, u64)]) {
        let mut history = MessageHistory::new(Root::ZERO, 8);
        let found: Vec<(Offence, u64)> = claims
            .iter()
            .enumerate()
            .flat_map(|(at, claim)| history.record(std::slice::from_ref(claim), at as u64))
            .map(|crime| (crime.kind, crime.validator.as_u64()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn pairs_by_the_rule() {
        let double = |v| (Offence::DoubleVote, v);
        let surround = |v| (Offence::SurroundVote, v);
        check(&[vote(1, 2, 0, &[7]), vote(2, 3, 0, &[7])], &[]);
        check(&[vote(1, 2, 0, &[7, 8]), vote(1, 2, 0, &[8]), vote(1, 2, 1, &[8, 9])], &[double(8)]);
        check(&[vote(3, 4, 0, &[1]), vote(2, 5, 0, &[1])], &[surround(1)]);
        check(&[vote(2, 5, 0, &[1]), vote(3, 4, 0, &[1])], &[surround(1)]);
        check(&[vote(2, 4, 0, &[1]), vote(2, 5, 0, &[1]), vote(3, 5, 1, &[1])], &[double(1)]);
        check(&[vote(1, 2, 0, &[1]), vote(1, 2, 1, &[1]), vote(1, 2, 2, &[1])], &[double(1), double(1), double(1)]);
    }

    #[test]
    fn proposals_by_slot_and_proposer() {
        let header = |slot, proposer, body| {
            Claim::Proposal(BeaconBlockHeader {
                slot: Slot::new(slot),
                proposer_index: ValidatorIndex::new(proposer),
                body_root: Root::repeat_byte(body),
                ..BeaconBlockHeader::default()
            })
        };
        check(
            &[header(1, 5, 0), header(1, 5, 0), header(2, 5, 1), header(1, 6, 1), header(1, 5, 1)],
            &[(Offence::DoubleProposal, 5)],
        );
    }

    #[test]
    fn old_votes_are_forgotten() {
        let mut history = MessageHistory::new(Root::ZERO, 8);
        history.record(&[vote(0, 1, 0, &[1])], 0);
        history.record(&[vote(HISTORY_EPOCHS, HISTORY_EPOCHS + 2, 0, &[2])], 1);
        assert!(history.votes[&ValidatorIndex::new(1)].is_empty());
    }
}
