//! Votes that wait for a block, and how a proposer packs them.
//!
//! Before Electra, an attestation in a block holds the votes for one `AttestationData`, which names
//! the committee. From Electra on, an attestation holds the votes of all committees for one
//! `AttestationData`.

use crate::containers::VotesByBits;
use crate::keys::Keyring;
use consensus::{AttestationData, CommitteeIndex, Root, Slot, ValidatorIndex};
use std::collections::BTreeMap;

/// The votes by root of their data, then by committee, then by position of the voter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(BTreeMap<Root, Waiting>);

#[derive(Clone, Debug)]
struct Waiting {
    data: AttestationData,
    committees: BTreeMap<CommitteeIndex, Seats>,
}

#[derive(Clone, Debug, Default)]
struct Seats {
    size: usize,
    taken: BTreeMap<usize, ValidatorIndex>,
}

/// A validator's position in a committee of `size` members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) committee: CommitteeIndex,
    pub(crate) position: usize,
    pub(crate) size: usize,
}

impl Pool {
    /// Adds a vote.
    pub(crate) fn add(&mut self, data: &AttestationData, place: Place, validator: ValidatorIndex) {
        let waiting = self.0.entry(data.root()).or_insert_with(|| Waiting { data: *data, committees: BTreeMap::new() });
        let seats = waiting.committees.entry(place.committee).or_default();
        seats.size = place.size;
        seats.taken.insert(place.position, validator);
    }

    /// Removes and returns up to `limit` attestations. Those with the fewest votes come first, so
    /// that there is always space for conflicting votes. Votes for slots before `oldest` are
    /// dropped. `sign` creates the signature of the signers over the data.
    pub(crate) fn pack(
        &mut self,
        oldest: Slot,
        limit: usize,
        sign: impl Fn(&AttestationData, &[ValidatorIndex]) -> VotesByBits,
    ) -> Vec<VotesByBits> {
        self.0.retain(|_, waiting| waiting.data.slot >= oldest);
        let mut order: Vec<(usize, Root)> = self.0.iter().map(|(root, waiting)| (waiting.n_votes(), *root)).collect();
        order.sort();
        let chosen = order.into_iter().take(limit).filter_map(|(_, root)| self.0.remove(&root));
        chosen.map(|waiting| waiting.to_bits(&sign)).collect()
    }
}

impl Waiting {
    fn n_votes(&self) -> usize {
        self.committees.values().map(|seats| seats.taken.len()).sum()
    }

    fn to_bits(&self, sign: impl Fn(&AttestationData, &[ValidatorIndex]) -> VotesByBits) -> VotesByBits {
        let mut signers: Vec<ValidatorIndex> = self.committees.values().flat_map(|seats| seats.taken.values().copied()).collect();
        signers.sort();
        let mut votes = sign(&self.data, &signers);
        votes.committees = self.committees.keys().copied().collect();
        votes.bits = self.committees.values().flat_map(|seats| (0..seats.size).map(|at| seats.taken.contains_key(&at))).collect();
        votes
    }
}

/// Votes of members of one committee for the same data.
pub(crate) fn one_committee(
    keys: &Keyring,
    signing_root: Root,
    data: &AttestationData,
    committee: CommitteeIndex,
    size: usize,
    members: &[(usize, ValidatorIndex)],
) -> VotesByBits {
    let mut bits = vec![false; size];
    let mut signers = Vec::with_capacity(members.len());
    for (position, member) in members {
        bits[*position] = true;
        signers.push(*member);
    }
    signers.sort();
    let signature = keys.sign_together(&signers, signing_root);
    VotesByBits { data: *data, committees: vec![committee], bits, signers, signature }
}
