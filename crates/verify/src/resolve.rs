//! Bits to validators: which committees could this vote mean?
//!
//! What [`chain::Chain::contexts`] answers may be one shuffling for certain, or several that could be it. Under the wrong one
//! a good vote looks forged, so only a vote that fails under the one certain shuffling is called that.

use crate::PeerBytes;
use crate::batch::Members;
use chain::{Chain, Contexts};
use consensus::{Attestation, AttestationData, Checkpoint, Root, Shuffling, ShufflingId, ValidatorIndex};
use std::collections::HashMap;
use std::sync::Arc;

/// A vote's possible signers.
pub(crate) enum Resolution {
    /// This shuffling and no other.
    Certain(Candidate),
    /// Not yet tried, likeliest first. Never empty.
    Candidates(Vec<Candidate>),
    /// Nothing (more) to try now.
    Later,
    /// The certain shuffling has no such committee, or of another size; or no bit is set.
    Misfit(&'static str),
}

/// Signers under one shuffling.
pub(crate) struct Candidate {
    pub(crate) members: Members,
    pub(crate) shuffling: Arc<Shuffling>,
}

/// The chain's answers, asked once per data. Dropped when the chain changes. What they hold is bounded by the chain's budget of a slot.
pub(crate) struct ContextCache {
    answers: HashMap<Root, Answer>,
    need: Need,
}

struct Answer {
    contexts: Contexts,
    asker: Option<PeerBytes>,
}

/// What the chain's answers are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Without committees nobody knows who signed.
    Signers,
    /// The signers are named; where they sit is welcome if it costs nothing.
    Seats,
}

impl ContextCache {
    pub(crate) fn new(need: Need) -> Self {
        Self { answers: HashMap::new(), need }
    }

    /// For a vote whose slot lies outside its target's epoch, the committees are those of the slot (`get_beacon_committee` takes
    /// the slot's epoch); no honest client makes one, so they are never certain.
    ///
    /// `asker`: the peer whose budget it takes what has to be computed from. What is unknown to one because its budget is used up is asked
    /// again for another, so that nobody's votes keep those of others waiting.
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
                // Nobody sits there.
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

/// The shuffling of the target's epoch in which all `members` sit at the vote's slot, if it is among these.
pub(crate) fn seated(contexts: &Contexts, data: &AttestationData, members: &[ValidatorIndex]) -> Option<Arc<Shuffling>> {
    let shufflings = match contexts {
        Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => shufflings,
        Contexts::Unknown => return None,
    };
    let sits =
        |shuffling: &Shuffling, member: &ValidatorIndex| shuffling.seat(*member).is_some_and(|seat| seat.slot == data.slot);
    shufflings.iter().find(|s| s.epoch() == data.target.epoch && members.iter().all(|member| sits(s, member))).cloned()
}

/// The signers of a vote by bits. `tried`: shufflings under which it failed before; those it cannot be of are added.
/// `sure`: whether what the chain calls certain may be taken for that (its registry is not too old, or others signed by it).
pub(crate) fn by_bits(attestation: &Attestation, contexts: &Contexts, tried: &mut Vec<ShufflingId>, sure: bool) -> Resolution {
    if attestation.aggregation_bits.is_zero() {
        return Resolution::Misfit("no bit is set; ask its sender for the signed one");
    }
    let (shufflings, certain) = match contexts {
        Contexts::Certain(shufflings) => (shufflings, sure && shufflings.len() == 1),
        Contexts::Candidates(shufflings) => (shufflings, false),
        Contexts::Unknown => return Resolution::Later,
    };
    let mut candidates: Vec<Candidate> = Vec::with_capacity(shufflings.len());
    for shuffling in shufflings.iter().filter(|shuffling| certain || !tried.contains(&shuffling.id())).collect::<Vec<_>>() {
        let members = attestation.attesting_indices(shuffling).and_then(Members::from_sorted);
        match members.filter(|members| candidates.iter().all(|other| other.members != *members)) {
            Some(members) => candidates.push(Candidate { members, shuffling: shuffling.clone() }),
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

/// The one certain shuffling.
pub(crate) fn only(contexts: &Contexts) -> Option<&Arc<Shuffling>> {
    match contexts {
        Contexts::Certain(shufflings) => match shufflings.as_slice() {
            [only] => Some(only),
            _ => None,
        },
        Contexts::Candidates(_) | Contexts::Unknown => None,
    }
}

/// Whether there is a shuffling under which it was not tried.
pub(crate) fn has_news(contexts: &Contexts, tried: &[ShufflingId]) -> bool {
    match contexts {
        Contexts::Certain(shufflings) | Contexts::Candidates(shufflings) => shufflings.iter().any(|s| !tried.contains(&s.id())),
        Contexts::Unknown => false,
    }
}
