//! Finds the validators behind the bits of a vote: which committees can this vote mean?
//!
//! [`chain::Chain::contexts`] returns either one shuffling that is certain, or several possible
//! ones. With the wrong shuffling a good vote looks forged. So a vote is called forged only if it
//! fails with the one certain shuffling.

use crate::PeerBytes;
use crate::batch::ClaimedSigners;
use chain::{Chain, Contexts};
use consensus::{Attestation, AttestationData, Checkpoint, Root, Shuffling, ShufflingId, ValidatorIndex};
use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

/// The possible signers of a vote.
pub(crate) enum Resolution {
    /// Only this shuffling is possible.
    Certain(CommitteeCandidate),
    /// Candidates that have not been tried yet, the likeliest first. Never empty.
    Candidates(Vec<CommitteeCandidate>),
    /// There is nothing (or nothing more) to try now.
    Later,
    /// The certain shuffling has no such committee, or the committee has another size, or no bit is
    /// set.
    Invalid(&'static str),
}

/// The signers of a vote under one shuffling.
pub(crate) struct CommitteeCandidate {
    pub(crate) members: ClaimedSigners,
    pub(crate) shuffling: Arc<Shuffling>,
}

/// The chain's answers, so that it is asked only once for each attestation data. The cache is
/// dropped when the chain changes. Its size is bounded by the chain's budget for one slot.
pub(crate) struct ContextCache {
    answers: HashMap<Root, Answer>,
    need: Need,
}

struct Answer {
    contexts: Contexts,
    /// The peers on whose budgets the chain was asked.
    askers: HashSet<Option<PeerBytes>>,
}

/// What the chain's answers are needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The committees are needed to know who signed.
    Signers,
    /// The vote names its signers. Their seats in committees are useful, but only if they cost no
    /// computation.
    Seats,
}

impl ContextCache {
    pub(crate) fn new(need: Need) -> Self {
        Self { answers: HashMap::new(), need }
    }

    /// The chain's answer for attestation data.
    ///
    /// If the slot of a vote is not in the epoch of its target, the committees are those of the
    /// slot, because `get_beacon_committee` uses the epoch of the slot. No honest client makes such
    /// a vote, so its committees are never certain.
    ///
    /// `asker` is the peer whose budget pays for what has to be computed. An answer can be
    /// `Unknown`, or lack candidates, because the budget of one peer is used up. In these cases the
    /// chain is asked once for each peer, so that the votes of one peer do not delay the votes of
    /// others.
    pub(crate) fn of<'a>(
        &'a mut self,
        chain: &mut Chain,
        data: &AttestationData,
        data_root: Root,
        asker: Option<&PeerBytes>,
    ) -> &'a Contexts {
        let need = self.need;
        let asker = asker.cloned();
        let ask = |chain: &mut Chain| {
            let slot_epoch = data.slot.epoch(chain.network().preset());
            match need {
                Need::Seats if slot_epoch == data.target.epoch => return chain.contexts_at_hand(data),
                // The slot is not in the target's epoch, so no member has a seat there.
                Need::Seats => return Contexts::Unknown,
                Need::Signers if slot_epoch == data.target.epoch => return chain.contexts_asked_by(data, &asker),
                Need::Signers => {}
            }
            let target = Checkpoint { epoch: slot_epoch, root: data.beacon_block_root };
            match chain.contexts_asked_by(&AttestationData { target, ..*data }, &asker) {
                Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => Contexts::Candidates(shufflings),
                Contexts::Unknown => Contexts::Unknown,
            }
        };
        match self.answers.entry(data_root) {
            Entry::Vacant(entry) => {
                let answer = Answer { contexts: ask(chain), askers: HashSet::from([asker]) };
                &entry.insert(answer).contexts
            }
            Entry::Occupied(entry) => {
                let answer = entry.into_mut();
                let may_lack_some = match answer.contexts {
                    Contexts::Certain(_) => false,
                    Contexts::Candidates(_) | Contexts::Unknown => true,
                };
                if may_lack_some && !answer.askers.contains(&asker) {
                    answer.contexts = ask(chain);
                    answer.askers.insert(asker);
                }
                &answer.contexts
            }
        }
    }
}

/// The shuffling of the target's epoch in which all `members` have their committee at the vote's
/// slot, if it is one of `contexts`.
pub(crate) fn shuffling_with_seats(
    contexts: &Contexts,
    data: &AttestationData,
    members: &[ValidatorIndex],
) -> Option<Arc<Shuffling>> {
    let shufflings = match contexts {
        Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => shufflings,
        Contexts::Unknown => return None,
    };
    let has_seat =
        |shuffling: &Shuffling, member: &ValidatorIndex| shuffling.seat(*member).is_some_and(|seat| seat.slot == data.slot);
    shufflings.iter().find(|s| s.epoch() == data.target.epoch && members.iter().all(|member| has_seat(s, member))).cloned()
}

/// Finds the signers of a vote by bits.
///
/// `tried` lists the shufflings with which the vote failed before. Shufflings that the vote cannot
/// belong to are added to it. `sure` is whether an answer that the chain calls certain may be
/// trusted: the registry is recent enough, or other votes were proven with this shuffling.
pub(crate) fn by_bits(attestation: &Attestation, contexts: &Contexts, tried: &mut Vec<ShufflingId>, sure: bool) -> Resolution {
    if attestation.aggregation_bits.is_zero() {
        return Resolution::Invalid("no bit is set; ask its sender for the signed one");
    }
    let (shufflings, certain) = match contexts {
        Contexts::Certain(shufflings) => (shufflings, sure && shufflings.len() == 1),
        Contexts::Candidates(shufflings) => (shufflings, false),
        Contexts::Unknown => return Resolution::Later,
    };
    let mut candidates: Vec<CommitteeCandidate> = Vec::with_capacity(shufflings.len());
    for shuffling in shufflings.iter().filter(|shuffling| certain || !tried.contains(&shuffling.id())).collect::<Vec<_>>() {
        let members = attestation.attesting_indices(shuffling).and_then(ClaimedSigners::from_sorted);
        match members.filter(|members| candidates.iter().all(|other| other.members != *members)) {
            Some(members) => candidates.push(CommitteeCandidate { members, shuffling: shuffling.clone() }),
            None => tried.push(shuffling.id()),
        }
    }
    match (certain, candidates.is_empty()) {
        (true, false) => Resolution::Certain(candidates.swap_remove(0)),
        (true, true) => Resolution::Invalid("its bits fit no committees of its slot; ask its sender for the signed one"),
        (false, false) => Resolution::Candidates(candidates),
        (false, true) => Resolution::Later,
    }
}

/// The one certain shuffling, if there is one.
pub(crate) fn only(contexts: &Contexts) -> Option<&Arc<Shuffling>> {
    match contexts {
        Contexts::Certain(shufflings) => match shufflings.as_slice() {
            [only] => Some(only),
            _ => None,
        },
        Contexts::Candidates(_) | Contexts::Unknown => None,
    }
}

/// The contexts of a vote with a known target, without the shufflings that are wrong: exactly one
/// of them is confirmed by proven votes. The others are those of a registry that is too old, or
/// that blocks told wrongly.
pub(crate) fn only_confirmed(contexts: &Contexts, is_confirmed: impl Fn(&ShufflingId) -> bool) -> Option<Contexts> {
    let Contexts::Certain(shufflings) = contexts else { return None };
    let mut confirmed = shufflings.iter().filter(|shuffling| is_confirmed(&shuffling.id()));
    match (confirmed.next(), confirmed.next()) {
        (Some(only), None) => Some(Contexts::Certain(vec![only.clone()])),
        _ => None,
    }
}

/// Whether there is a shuffling with which the vote was not tried yet.
pub(crate) fn has_untried(contexts: &Contexts, tried: &[ShufflingId]) -> bool {
    match contexts {
        Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => shufflings.iter().any(|s| !tried.contains(&s.id())),
        Contexts::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::{BlockFacts, MAX_ODD_OF_PEER, PubkeyCache};
    use consensus::{CommitteeIndex, Epoch, SignatureBytes, Slot, sha256};

    fn root(nth: u64) -> Root {
        Root::from(sha256(format!("block {nth}").as_bytes()))
    }

    fn vote(target: Root, head: Root) -> AttestationData {
        AttestationData {
            slot: Slot::new(400),
            index: CommitteeIndex::new(0),
            beacon_block_root: head,
            source: Checkpoint::default(),
            target: Checkpoint { epoch: Epoch::new(50), root: target },
        }
    }

    /// A chain of 400 blocks, whose shufflings are computed by the worker.
    fn live_chain() -> Chain {
        let read = test_support::capture::Capture::read(&test_support::capture("fulu_4"));
        let mut chain = Chain::from_state(read.spec.clone(), &read.state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap();
        let mut parent_root = chain.head().root;
        for nth in 0..400u64 {
            let randao_reveal = SignatureBytes::from_slice(&[nth as u8; 96]);
            let (slot, proposer_index) = (Slot::new(1 + nth), ValidatorIndex::new(nth % 64));
            chain.tick(slot);
            chain.extend(&BlockFacts { root: root(nth), slot, parent_root, proposer_index, randao_reveal });
            parent_root = root(nth);
        }
        chain.compute_on_worker();
        chain
    }

    /// Lets the worker finish, and returns how many of the vote's shufflings are there.
    fn n_at_hand(chain: &mut Chain, data: &AttestationData, wanted: usize) -> usize {
        let mut n_found = 0;
        for _ in 0..2_000_000 {
            chain.tick(Slot::new(400));
            n_found = match chain.contexts_at_hand(data) {
                Contexts::Certain(found) | Contexts::Candidates(found) => found.len(),
                Contexts::Unknown => 0,
            };
            if n_found >= wanted {
                break;
            }
            std::thread::yield_now();
        }
        n_found
    }

    /// A peer has used up its budget, and its vote comes first. The shuffling that is lacking is
    /// computed on the budget of another peer with the same vote.
    #[test]
    fn one_peers_budget_does_not_delay_the_votes_of_others_on_the_same_data() {
        let mut chain = live_chain();
        let [first, second] = [1u8, 2].map(|peer| PeerBytes::from([peer]));
        // The target is unknown. The branch of the head is one candidate, and the branch on which
        // blocks are built is another.
        let data = vote(Root::repeat_byte(1), root(100));
        let near = vote(Root::repeat_byte(1), Root::repeat_byte(2));
        chain.contexts_asked_by(&near, &Some(second.clone()));
        assert_eq!(n_at_hand(&mut chain, &near, 1), 1);
        for target in 0..u64::from(MAX_ODD_OF_PEER) {
            chain.contexts_asked_by(&vote(root(200 + target), root(200 + target)), &Some(first.clone()));
        }
        let mut cache = ContextCache::new(Need::Signers);
        let n_found = |contexts: &Contexts| match contexts {
            Contexts::Candidates(found) => found.len(),
            Contexts::Certain(_) | Contexts::Unknown => 0,
        };
        assert_eq!(n_found(cache.of(&mut chain, &data, data.root(), Some(&first))), 1, "its own budget is used up");
        cache.of(&mut chain, &data, data.root(), Some(&second));
        assert_eq!(n_at_hand(&mut chain, &data, 2), 2, "the other peer's budget pays for it");
    }

    /// A registry that blocks told beside that of an old state: the one that most of a committee
    /// confirms is the right one. If both seem confirmed, neither counts.
    #[test]
    fn what_votes_confirmed_is_certain_and_two_confirmed_are_not() {
        let preset = consensus::Preset::MINIMAL;
        let made = |n: u32| Arc::new(Shuffling::new(Epoch::new(3), root(1), root(2), Arc::new((0..n).collect()), &preset));
        let (followed, of_state) = (made(63), made(64));
        let certain = Contexts::Certain(vec![followed.clone(), of_state.clone()]);
        let confirmed = |contexts: &Contexts, ids: &[ShufflingId]| match only_confirmed(contexts, |id| ids.contains(id)) {
            Some(Contexts::Certain(found)) => Some(found.iter().map(|found| found.id()).collect::<Vec<_>>()),
            Some(Contexts::Candidates(_) | Contexts::Unknown) => panic!("it is certain or nothing"),
            None => None,
        };
        assert_eq!(confirmed(&certain, &[]), None);
        assert_eq!(confirmed(&certain, &[followed.id()]), Some(vec![followed.id()]));
        assert_eq!(confirmed(&certain, &[followed.id(), of_state.id()]), None);
        let open = Contexts::Candidates(vec![followed.clone(), of_state]);
        assert_eq!(confirmed(&open, &[followed.id()]), None, "the vote's branch is not known");
    }
}
