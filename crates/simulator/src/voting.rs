//! Votes and aggregates: the honest ones, and those of a second machine.

use crate::branch::members;
use crate::conditions::Condition;
use crate::containers::{VotesByBits, aggregate_and_proof, attestation, attester_slashing, signed, single_attestation};
use crate::ground_truth::Claim;
use crate::message::{Nature, Sent, moment};
use crate::pool::{Place, one_committee};
use crate::scenario::Deed;
use crate::world::{MAIN, Withheld, World};
use consensus::{
    AttestationData, Checkpoint, CommitteeIndex, DomainType, MessageKind, Root, SignatureBytes, Slot, ValidatorIndex, sha256,
};

/// `TARGET_AGGREGATORS_PER_COMMITTEE`.
const TARGET_AGGREGATORS: u64 = 16;
/// Number of slots from the surrounding vote to the arrival of the withheld vote that it surrounds.
const LATE_SLOTS: u64 = 2;

impl World {
    /// Sends all votes of a slot by the validators that follow a branch, and then its aggregates.
    pub(crate) fn vote(&mut self, slot: Slot, branch: usize, out: &mut Vec<Sent>) {
        for committee in self.committees() {
            let members = self.branches[branch].committee(slot, committee);
            let size = members.len();
            let data = self.data_of(slot, branch, committee);
            let mut honest = Vec::with_capacity(size);
            let mut second_aggregate = Vec::new();
            for (position, member) in members.into_iter().enumerate() {
                let place = Place { committee, position, size };
                let said = match self.view(slot, branch, member, &data, committee) {
                    Some(said) => said,
                    None => continue,
                };
                let deed = if branch == MAIN { self.vote_deed(slot, member) } else { None };
                if self.commit(deed, slot, place, member, &said, out) == Conduct::Replaced {
                    continue;
                }
                let at = self.vote_time(slot, place);
                out.push(self.vote_message(&said, place, member, at, self.scenario.honest_node(member.as_u64())));
                self.branches[branch].pool.add(&said, place, member);
                self.branches[branch].count(said.target, &self.preset);
                if said == data {
                    honest.push((position, member));
                }
                if deed == Some(Deed::DoubleVoteInAggregate) {
                    second_aggregate.push((position, member));
                }
            }
            let node = self.scenario.honest_node(slot.as_u64().wrapping_add(committee.as_u64()));
            out.extend(self.aggregate(slot, &data, committee, size, &honest, moment::AGGREGATES, node));
            if let Some(stale) = self.stale_data(slot, committee).filter(|_| branch == MAIN) {
                let node = self.scenario.second_node();
                out.extend(self.aggregate(slot, &stale, committee, size, &second_aggregate, moment::SECOND_AGGREGATES, node));
            }
        }
    }

    /// The data that a member on duty signs on this branch. `None` if the member does not vote, or
    /// votes on another branch or at another time.
    fn view(
        &self,
        slot: Slot,
        branch: usize,
        member: ValidatorIndex,
        honest: &AttestationData,
        committee: CommitteeIndex,
    ) -> Option<AttestationData> {
        if self.branch_of(slot, member) != branch {
            return None;
        }
        let epoch = slot.epoch(&self.preset).as_u64();
        if self.scenario.random().percent(self.scenario.wear.missed_votes, "missed vote", &[epoch, member.as_u64()]) {
            return None;
        }
        let mut said = *honest;
        for condition in self.conditions(slot, member) {
            match condition {
                Condition::Offline | Condition::ClockAhead(_) => return None,
                Condition::StaleView(behind) => said = self.data_behind(slot, branch, committee, behind),
                Condition::NoBlocks | Condition::LateBlocks(_) | Condition::OtherBranch => {}
            }
        }
        Some(said)
    }

    /// Sends the votes of validators whose clocks are ahead. These votes are for a slot that has
    /// not begun, with the current head.
    pub(crate) fn vote_ahead(&self, slot: Slot, out: &mut Vec<Sent>) {
        let mut distances: Vec<u64> = Vec::new();
        for one in self.scenario.conditions.iter().filter(|one| (one.from..one.until).contains(&slot.as_u64())) {
            if let Condition::ClockAhead(distance) = one.what
                && !distances.contains(&distance)
            {
                distances.push(distance);
            }
        }
        for distance in distances {
            let later = slot.saturating_add(distance);
            let epoch = later.epoch(&self.preset);
            let main = &self.branches[MAIN];
            let active = std::sync::Arc::new(self.active(epoch));
            let shuffling = main.shuffling_ahead(epoch, active, &self.preset);
            for committee in (0..shuffling.committees_per_slot()).map(CommitteeIndex::new) {
                let seated = members(&shuffling, later, committee);
                let size = seated.len();
                let data = AttestationData {
                    slot: later,
                    index: if self.fork(later).has_single_attestations() { CommitteeIndex::new(0) } else { committee },
                    beacon_block_root: main.head(),
                    source: main.source(slot.epoch(&self.preset)),
                    target: Checkpoint { epoch, root: main.head() },
                };
                for (position, member) in seated.into_iter().enumerate() {
                    if !self.conditions(slot, member).any(|what| what == Condition::ClockAhead(distance)) {
                        continue;
                    }
                    let place = Place { committee, position, size };
                    let at = self.vote_time(slot, place);
                    out.push(self.vote_message(&data, place, member, at, self.scenario.honest_node(member.as_u64())));
                }
            }
        }
    }

    fn vote_deed(&mut self, slot: Slot, member: ValidatorIndex) -> Option<Deed> {
        if self.withheld.contains_key(&member) {
            return Some(Deed::LateSurround);
        }
        let epoch = slot.epoch(&self.preset);
        let has_stale_view = self.stale_data(slot, CommitteeIndex::new(0)).is_some();
        let has_slasher = self.slasher.is_some();
        let now = self.justified_epoch(epoch).as_u64();
        let before = self.justified_epoch(epoch.saturating_sub(1)).as_u64();
        self.acts.deed(slot, member, |deed| match deed {
            Deed::DoubleVote | Deed::DoubleVoteInAggregate | Deed::DoubleVoteInBlock | Deed::DoubleVoteInOperation => {
                has_stale_view
            }
            Deed::DoubleVoteUnheard => has_stale_view && has_slasher,
            Deed::Surround => before >= 1,
            Deed::LateSurround => now >= 1,
            Deed::DoubleProposal | Deed::DoubleProposalInColumn | Deed::DoubleProposalInOperation => false,
        })
    }

    /// Commits the offence, if there is one, and returns what happens to the honest vote.
    fn commit(
        &mut self,
        deed: Option<Deed>,
        slot: Slot,
        place: Place,
        member: ValidatorIndex,
        honest: &AttestationData,
        out: &mut Vec<Sent>,
    ) -> Conduct {
        let second = self.scenario.second_node();
        let stale = self.stale_data(slot, place.committee);
        match (deed, stale) {
            (Some(Deed::DoubleVote), Some(stale)) => {
                let at = self.at(slot, moment::SECOND_VOTES) + self.vote_time(slot, place) - self.at(slot, moment::VOTES);
                out.push(self.vote_message(&stale, place, member, at, second));
            }
            (Some(Deed::DoubleVoteInBlock), Some(stale)) => self.branches[MAIN].pool.add(&stale, place, member),
            (Some(Deed::DoubleVoteInOperation), Some(stale)) => out.push(self.slashing_message(slot, honest, &stale, member)),
            (Some(Deed::DoubleVoteUnheard), Some(stale)) => {
                self.overheard.push(Claim::Vote { data: stale, signers: vec![member] });
            }
            (Some(Deed::Surround), _) => {
                let source = self.justified_epoch(slot.epoch(&self.preset).saturating_sub(1));
                if let Some(data) = self.surrounding_data(slot, place.committee, source) {
                    let at = self.vote_time(slot, place);
                    out.push(self.vote_message(&data, place, member, at, second));
                    return Conduct::Replaced;
                }
            }
            (Some(Deed::LateSurround), _) => return self.surround_late(slot, place, member, honest, out),
            _ => {}
        }
        Conduct::Honest
    }

    /// At the first duty, signs a vote and keeps it. At the second, sends a vote that surrounds the
    /// first, and a little later the first.
    fn surround_late(
        &mut self,
        slot: Slot,
        place: Place,
        member: ValidatorIndex,
        honest: &AttestationData,
        out: &mut Vec<Sent>,
    ) -> Conduct {
        let second = self.scenario.second_node();
        let at = self.vote_time(slot, place);
        let Some(mut earlier) = self.withheld.remove(&member) else {
            let message = self.vote_message(honest, place, member, at, second);
            self.withheld.insert(member, Withheld { source: honest.source.epoch, message });
            return Conduct::Replaced;
        };
        if let Some(data) = self.surrounding_data(slot, place.committee, earlier.source) {
            out.push(self.vote_message(&data, place, member, at, second));
        }
        let late = slot.saturating_add(LATE_SLOTS);
        earlier.message.at_ns = self.at(late, moment::SECOND_VOTES);
        self.delayed.entry(late).or_default().push(earlier.message);
        Conduct::Replaced
    }

    /// The members of a committee vote one after the other, between a third and a half of the slot.
    fn vote_time(&self, slot: Slot, place: Place) -> u64 {
        let spread = self.at(Slot::new(0), moment::VOTES_END - moment::VOTES);
        self.at(slot, moment::VOTES) + spread / place.size as u64 * place.position as u64
    }

    pub(crate) fn vote_root(&self, data: &AttestationData) -> Root {
        self.signing_root(data.root(), DomainType::BeaconAttester, data.target.epoch)
    }

    /// Votes of `signers`. The caller sets the committees and bits.
    pub(crate) fn sum(&self, data: &AttestationData, signers: &[ValidatorIndex]) -> VotesByBits {
        let signature = self.keys.sign_together(signers, self.vote_root(data));
        VotesByBits { data: *data, committees: Vec::new(), bits: Vec::new(), signers: signers.to_vec(), signature }
    }

    fn vote_message(&self, data: &AttestationData, place: Place, member: ValidatorIndex, at_ns: u64, node: usize) -> Sent {
        let signature = self.keys.sign(member, self.vote_root(data));
        Sent {
            at_ns,
            node,
            topic: self.topic(data.slot, self.subnet(data.slot, place.committee)),
            ssz: self.vote_ssz(data, place, member, &signature),
            nature: Nature::Signed,
            claims: vec![Claim::Vote { data: *data, signers: vec![member] }],
        }
    }

    /// The message on a subnet: a single attestation, or before Electra an attestation with one
    /// bit.
    pub(crate) fn vote_ssz(&self, data: &AttestationData, place: Place, member: ValidatorIndex, by: &SignatureBytes) -> Vec<u8> {
        let fork = self.fork(data.slot);
        if fork.has_single_attestations() {
            return single_attestation(place.committee, member, data, by).to_ssz();
        }
        let bits = (0..place.size).map(|at| at == place.position).collect();
        let committees = vec![place.committee];
        let votes = VotesByBits { data: *data, committees, bits, signers: vec![member], signature: *by };
        attestation(fork, &self.preset, &votes).to_ssz()
    }

    #[expect(clippy::too_many_arguments, reason = "a slot's committee, who of it, and when and where it leaves")]
    fn aggregate(
        &self,
        slot: Slot,
        data: &AttestationData,
        committee: CommitteeIndex,
        size: usize,
        members: &[(usize, ValidatorIndex)],
        moment: u64,
        node: usize,
    ) -> Option<Sent> {
        let (aggregator, proof) = self.aggregator(slot, size, members)?;
        let votes = one_committee(&self.keys, self.vote_root(data), data, committee, size, members);
        let message = aggregate_and_proof(aggregator, attestation(self.fork(slot), &self.preset, &votes), &proof);
        let over_it = self.signing_root(message.root(), DomainType::AggregateAndProof, slot.epoch(&self.preset));
        Some(Sent {
            at_ns: self.at(slot, moment),
            node,
            topic: self.topic(slot, MessageKind::Aggregate),
            ssz: signed(message, &self.keys.sign(aggregator, over_it)).to_ssz(),
            nature: Nature::Signed,
            claims: vec![Claim::Vote { data: votes.data, signers: votes.signers }],
        })
    }

    /// The first member that `is_aggregator` accepts, with its selection proof.
    fn aggregator(
        &self,
        slot: Slot,
        size: usize,
        members: &[(usize, ValidatorIndex)],
    ) -> Option<(ValidatorIndex, SignatureBytes)> {
        let mut slot_root = [0; 32];
        slot_root[..8].copy_from_slice(&slot.as_u64().to_le_bytes());
        let root = self.signing_root(Root::from(slot_root), DomainType::SelectionProof, slot.epoch(&self.preset));
        let one_in = (size as u64 / TARGET_AGGREGATORS).max(1);
        members.iter().map(|(_, member)| (*member, self.keys.sign(*member, root))).find(|(_, proof)| {
            let hash = sha256(proof.as_slice());
            u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes")) % one_in == 0
        })
    }

    fn slashing_message(&self, slot: Slot, first: &AttestationData, second: &AttestationData, member: ValidatorIndex) -> Sent {
        let sides = [self.sum(first, &[member]), self.sum(second, &[member])];
        Sent {
            at_ns: self.at(slot, moment::OPERATIONS),
            node: self.scenario.honest_node(member.as_u64()),
            topic: self.topic(slot, MessageKind::AttesterSlashing),
            ssz: attester_slashing(self.fork(slot), &self.preset, &sides[0], &sides[1]).to_ssz(),
            nature: Nature::Signed,
            claims: sides.into_iter().map(|side| Claim::Vote { data: side.data, signers: side.signers }).collect(),
        }
    }
}

/// What happens to the honest vote of a validator on duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    /// The honest vote is sent, whatever else is sent.
    Honest,
    /// Another vote takes its place.
    Replaced,
}
