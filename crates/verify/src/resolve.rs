//! Finds the validators behind the bits of a vote: which committees can this vote mean?
//!
//! [`chain::Chain::contexts`] returns either one shuffling that is certain, or several possible
//! ones. With the wrong shuffling a good vote looks forged. So a vote is called forged only if it
//! fails with the one certain shuffling.

use crate::PeerBytes;
use crate::batch::ClaimedSigners;
use chain::{Chain, Contexts};
use consensus::{Attestation, AttestationData, Checkpoint, Root, Shuffling, ShufflingId, ValidatorIndex};
use std::collections::HashMap;
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
    Misfit(&'static str),
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
    asker: Option<PeerBytes>,
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
    /// `Unknown` because the budget of one peer is used up. In that case the chain is asked again
    /// for another peer, so that the votes of one peer do not delay the votes of others.
    pub(crate) fn of<'a>(
        &'a mut self,
        chain: &mut Chain,
        data: &AttestationData,
        data_root: Root,
        asker: Option<&PeerBytes>,
    ) -> &'a Contexts {
        let need = self.need;
        let is_refused = |answer: &Answer| matches!(answer.contexts, Contexts::Unknown) && answer.asker.as_ref() != asker;
        if self.answers.get(&data_root).is_some_and(is_refused) {
            self.answers.remove(&data_root);
        }
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
        let answer = self.answers.entry(data_root).or_insert_with(|| Answer { contexts: ask(chain), asker: asker.clone() });
        &answer.contexts
    }
}

/// The shuffling of the target's epoch in which all `members` have their committee at the vote's
/// slot, if it is one of `contexts`.
pub(crate) fn seated(contexts: &Contexts, data: &AttestationData, members: &[ValidatorIndex]) -> Option<Arc<Shuffling>> {
    let shufflings = match contexts {
        Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => shufflings,
        Contexts::Unknown => return None,
    };
    let sits =
        |shuffling: &Shuffling, member: &ValidatorIndex| shuffling.seat(*member).is_some_and(|seat| seat.slot == data.slot);
    shufflings.iter().find(|s| s.epoch() == data.target.epoch && members.iter().all(|member| sits(s, member))).cloned()
}

/// Finds the signers of a vote by bits.
///
/// `tried` lists the shufflings with which the vote failed before. Shufflings that the vote cannot
/// belong to are added to it. `sure` is whether an answer that the chain calls certain may be
/// trusted: the registry is recent enough, or other votes were proven with this shuffling.
pub(crate) fn by_bits(attestation: &Attestation, contexts: &Contexts, tried: &mut Vec<ShufflingId>, sure: bool) -> Resolution {
    if attestation.aggregation_bits.is_zero() {
        return Resolution::Misfit("no bit is set; ask its sender for the signed one");
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
        (true, true) => Resolution::Misfit("its bits fit no committees of its slot; ask its sender for the signed one"),
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

/// Whether there is a shuffling with which the vote was not tried yet.
pub(crate) fn has_news(contexts: &Contexts, tried: &[ShufflingId]) -> bool {
    match contexts {
        Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => shufflings.iter().any(|s| !tried.contains(&s.id())),
        Contexts::Unknown => false,
    }
}
