//! Assignment of offences to validators: the acts of a scenario, and what is left of each.

use crate::scenario::{Act, Deed, Who};
use consensus::{Slot, ValidatorIndex};
use std::collections::BTreeSet;

/// All acts with what is left of them.
#[derive(Clone, Debug)]
pub(crate) struct PlannedActs {
    parts: Vec<Part>,
    /// Validators that have begun an offence, or that an act names. [`Who::OnDuty`] does not choose
    /// them.
    picked: BTreeSet<ValidatorIndex>,
}

#[derive(Clone, Debug)]
struct Part {
    deed: Deed,
    from: Slot,
    left: Left,
}

#[derive(Clone, Debug)]
enum Left {
    These(BTreeSet<ValidatorIndex>),
    Anybody(usize),
}

impl PlannedActs {
    pub(crate) fn new(acts: &[Act]) -> Self {
        let parts: Vec<Part> = acts
            .iter()
            .map(|act| Part {
                deed: act.deed,
                from: act.from,
                left: match &act.who {
                    Who::Validators(validators) => Left::These(validators.iter().copied().collect()),
                    Who::OnDuty(n) => Left::Anybody(*n),
                },
            })
            .collect();
        let named = parts.iter().filter_map(|part| match &part.left {
            Left::These(validators) => Some(validators),
            Left::Anybody(_) => None,
        });
        let picked = named.flatten().copied().collect();
        Self { parts, picked }
    }

    /// Returns the offence that `validator` commits at its duty in `slot`, if any. `possible` tells
    /// which offences have an opportunity now. An offence that is returned counts as committed.
    pub(crate) fn deed(&mut self, slot: Slot, validator: ValidatorIndex, possible: impl Fn(Deed) -> bool) -> Option<Deed> {
        for part in self.parts.iter_mut().filter(|part| slot >= part.from && possible(part.deed)) {
            match &mut part.left {
                Left::These(validators) => {
                    if validators.remove(&validator) {
                        return Some(part.deed);
                    }
                }
                Left::Anybody(n) => {
                    if *n > 0 && self.picked.insert(validator) {
                        *n -= 1;
                        return Some(part.deed);
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_does_its_deed_once_and_not_too_early() {
        let validator = ValidatorIndex::new;
        let mut acts = PlannedActs::new(&[
            Act { deed: Deed::DoubleVote, who: Who::Validators(vec![validator(3)]), from: Slot::new(4) },
            Act { deed: Deed::Surround, who: Who::OnDuty(1), from: Slot::new(0) },
        ]);
        let vote = |deed: Deed| deed == Deed::DoubleVote;
        let any = |_: Deed| true;
        assert_eq!(acts.deed(Slot::new(3), validator(3), vote), None);
        assert_eq!(acts.deed(Slot::new(4), validator(2), vote), None);
        assert_eq!(acts.deed(Slot::new(5), validator(3), vote), Some(Deed::DoubleVote));
        assert_eq!(acts.deed(Slot::new(6), validator(3), any), None, "named ones are not picked for other deeds");
        assert_eq!(acts.deed(Slot::new(6), validator(9), any), Some(Deed::Surround));
        assert_eq!(acts.deed(Slot::new(6), validator(8), any), None);
    }
}
