//! What is known about a slot: its blocks, and its votes by content.

use crate::client::{ByClient, N_CLIENTS};
use consensus::{Checkpoint, Gwei, Root, ValidatorIndex};
use std::collections::BTreeMap;
use verify::{SourceKind, Vote};

/// Number of different votes of a slot that are kept apart. One more replaces the smallest.
pub const MAX_TALLIES: usize = 64;
/// Number of blocks of a slot that are kept.
pub const MAX_BLOCKS: usize = 16;
/// Number of different sets of labels that are kept apart in one tally. Voters with further sets
/// are counted without their labels, and [`Tally::labels_partial`] says so.
pub const MAX_LABEL_SETS: usize = 256;

/// A proven block.
#[derive(Clone, Debug)]
pub struct BlockFact {
    pub root: Root,
    pub parent: Root,
    pub proposer: ValidatorIndex,
    /// Position of the client that its graffiti names, or that its proposer's earlier graffiti
    /// named.
    pub client: usize,
    /// Arrival in nanoseconds after the start of its slot; negative if it came before.
    pub offset_ns: i64,
    pub source: SourceKind,
    /// Number of attestations in the block.
    pub n_attestations: usize,
}

/// Votes of one slot for the same head, source and target.
#[derive(Clone, Debug)]
pub struct Tally {
    pub head: Root,
    pub source: Checkpoint,
    pub target: Checkpoint,
    pub voters: u64,
    /// Effective balances of the voters.
    pub stake: Gwei,
    pub by_client: ByClient,
    /// Voters by the number of their set of labels ([`crate::watch::Labels::set`]), for those that
    /// have one.
    pub by_label_set: BTreeMap<u32, SetVoters>,
    /// Voters with labels are missing in `by_label_set`: there are too many sets, or the labels
    /// changed after they were counted.
    pub labels_partial: bool,
}

/// Voters with one set of labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetVoters {
    pub voters: u64,
    /// Those whose vote says that the payload of the head was present: `AttestationData.index` is 1
    /// (Gloas, `validator.md`). It is 0 before Gloas.
    pub payload_present: u64,
}

/// Voters that are added to a tally, in sums.
#[derive(Clone, Debug, Default)]
pub(super) struct VoterSums {
    pub n: u64,
    pub stake: Gwei,
    pub by_client: ByClient,
    pub by_label_set: BTreeMap<u32, u64>,
}

/// What is known about a slot.
#[derive(Clone, Debug, Default)]
pub struct SlotFacts {
    /// In the order of arrival.
    pub blocks: Vec<BlockFact>,
    pub tallies: Vec<Tally>,
    /// VoterSums whose tally was replaced because there were too many.
    pub untallied: u64,
    /// Validators whose vote for this slot was received, each counted once.
    pub voters: u64,
    /// Validators whose vote for this slot was received in a block.
    pub voters_in_blocks: u64,
    pub by_client: ByClient,
    /// Number of seats in the slot's committees; 0 while it is not known.
    pub expected: u64,
    /// VoterSums that were not checked against a committee of this slot.
    pub unseated: u64,
}

impl SlotFacts {
    /// Votes as a percentage of seats; `None` while the number of seats is not known.
    pub fn participation_percent(&self) -> Option<u64> {
        (self.expected > 0).then(|| (self.voters * 100 / self.expected).min(100))
    }

    /// Adds the voters of a vote. `payload_present` is what the vote says of the payload of its
    /// head.
    pub(super) fn tally(&mut self, vote: &Vote, payload_present: bool, fresh: &VoterSums) {
        if fresh.n == 0 {
            return;
        }
        let data = &vote.data;
        let same =
            |tally: &Tally| tally.head == data.beacon_block_root && tally.source == data.source && tally.target == data.target;
        let at = self.tallies.iter().position(same).unwrap_or_else(|| {
            let empty = Tally {
                head: data.beacon_block_root,
                source: data.source,
                target: data.target,
                voters: 0,
                stake: Gwei::new(0),
                by_client: [0; N_CLIENTS],
                by_label_set: BTreeMap::new(),
                labels_partial: false,
            };
            let smallest = self.tallies.iter().enumerate().min_by_key(|(_, tally)| tally.voters).map(|(at, _)| at);
            match smallest.filter(|_| self.tallies.len() >= MAX_TALLIES) {
                Some(at) => {
                    self.untallied += std::mem::replace(&mut self.tallies[at], empty).voters;
                    at
                }
                None => {
                    self.tallies.push(empty);
                    self.tallies.len() - 1
                }
            }
        });
        let tally = &mut self.tallies[at];
        tally.voters += fresh.n;
        tally.stake = tally.stake.saturating_add(fresh.stake.as_u64());
        for (sum, n) in tally.by_client.iter_mut().zip(fresh.by_client) {
            *sum += n;
        }
        for (set, n) in &fresh.by_label_set {
            if tally.by_label_set.len() < MAX_LABEL_SETS || tally.by_label_set.contains_key(set) {
                let known = tally.by_label_set.entry(*set).or_default();
                known.voters += n;
                known.payload_present += if payload_present { *n } else { 0 };
            } else {
                tally.labels_partial = true;
            }
        }
    }

    /// Forgets the labels of the voters, because the numbers of their sets are no longer valid.
    pub(super) fn forget_labels(&mut self) {
        for tally in &mut self.tallies {
            tally.labels_partial |= !std::mem::take(&mut tally.by_label_set).is_empty();
        }
    }
}
