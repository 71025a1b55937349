//! Validators that a block of the chain has slashed. A state shows this too, but only the next
//! state that comes, and in a replay none may come.
//!
//! A slashed validator cannot be slashed again. So a further offence that becomes known
//! [`SETTLED_AFTER_EPOCHS`] after the block is recorded as `already_slashed`. This is later than
//! the block's confirmation ([`super::inclusions`]), so the result does not depend on how messages
//! were batched. If the chain leaves the block after all, the punished offence is open again and
//! its validator can be punished again. Findings that were recorded meanwhile may keep their wrong
//! mark.
//!
//! **Bounds.** [`MAX_KNOWN`] validators. Only the registry shows the punishment of further ones.

use super::inclusions::CONFIRMED_AFTER_EPOCHS;
use consensus::{Network, Root, Slot, ValidatorIndex};
use evidence::{Finding, Included, Punishable};
use std::collections::HashMap;

/// More validators were never slashed within the 8 192 epochs for which it matters.
const MAX_KNOWN: usize = 262_144;
/// One epoch more than the confirmation of a block takes.
const SETTLED_AFTER_EPOCHS: u64 = CONFIRMED_AFTER_EPOCHS + 1;

/// For each punished validator: the finding for which a block punished it, and the slot of that
/// block.
#[derive(Debug, Default)]
pub struct SlashedByBlock(HashMap<ValidatorIndex, (Root, Slot)>);

impl SlashedByBlock {
    /// Reads a stored finding.
    pub fn recall(&mut self, finding: &Finding) {
        if let (Some(subject), Some(included)) = (&finding.validator, finding.included) {
            self.note(subject.index, finding.id, included);
        }
    }

    /// Records that a block of the chain has punished the validator.
    pub fn note(&mut self, validator: ValidatorIndex, finding: Root, included: Included) {
        if self.0.len() < MAX_KNOWN || self.0.contains_key(&validator) {
            self.0.entry(validator).or_insert((finding, included.slot));
        }
    }

    /// Records that the chain has left the block that punished this finding.
    pub fn reopen(&mut self, finding: &Finding) {
        if let Some(subject) = &finding.validator
            && self.0.get(&subject.index).is_some_and(|(of, _)| *of == finding.id)
        {
            self.0.remove(&subject.index);
        }
    }

    /// Marks a new finding as `AlreadySlashed` if its validator was punished for another offence
    /// long enough before.
    pub fn mark(&self, finding: &mut Finding, network: &Network) {
        let Some(subject) = &finding.validator else { return };
        let seen = finding.second_seen.unwrap_or(finding.first_seen).as_unix_ns();
        if finding.punishable == Some(Punishable::Yes) && self.is_settled(subject.index, finding.id, seen, network) {
            finding.set_punishable(Punishable::AlreadySlashed);
        }
    }

    /// Returns true if the validator was punished for an offence other than finding `id`, long
    /// enough before `seen_ns`.
    pub fn is_settled(&self, validator: ValidatorIndex, id: Root, seen_ns: u64, network: &Network) -> bool {
        let settled_after = SETTLED_AFTER_EPOCHS * network.preset().slots_per_epoch;
        self.0.get(&validator).is_some_and(|(of, at)| *of != id && at.saturating_add(settled_after) <= network.slot_at(seen_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{ForkName, Spec};
    use evidence::{Evidence, EvidenceKind, OffenceFacts, Time};

    fn mainnet() -> Network {
        Network { spec: Spec::builtin("mainnet").unwrap(), genesis_time: 0, genesis_validators_root: Root::ZERO }
    }

    /// The `nth` offence of a validator, which became known in this slot.
    fn offence(validator: u64, nth: u8, slot: u64) -> Finding {
        let at = Time::from_unix_ns(mainnet().slot_start_ns(Slot::new(slot)));
        let facts = OffenceFacts {
            validator: ValidatorIndex::new(validator),
            roots: [Root::ZERO, Root::repeat_byte(nth)],
            seen: [at; 2],
            ..OffenceFacts::sample()
        };
        Finding::slashable(facts, &Evidence::new(EvidenceKind::AttesterSlashing, ForkName::Fulu, vec![nth], ().into()))
    }

    fn marked(punished: &SlashedByBlock, mut finding: Finding) -> Punishable {
        punished.mark(&mut finding, &mainnet());
        finding.punishable.unwrap()
    }

    #[test]
    fn who_was_punished_long_enough_ago_cannot_be_again_unless_the_chain_left_the_block() {
        let mut punished = SlashedByBlock::default();
        let included = Included { slot: Slot::new(100), block_root: Root::ZERO };
        let first = Finding { included: Some(included), ..offence(5, 1, 90) };
        punished.recall(&first);
        punished.recall(&offence(6, 1, 90));
        let settled = 100 + SETTLED_AFTER_EPOCHS * 32;
        assert_eq!(marked(&punished, offence(5, 2, settled)), Punishable::AlreadySlashed);
        assert_eq!(marked(&punished, offence(5, 2, settled - 1)), Punishable::Yes, "too soon");
        assert_eq!(marked(&punished, offence(5, 1, settled)), Punishable::Yes, "the one that was punished");
        assert_eq!(marked(&punished, offence(6, 2, settled)), Punishable::Yes, "no block has punished that one");
        let gone = Finding { punishable: Some(Punishable::Withdrawable), ..offence(5, 2, settled) };
        assert_eq!(marked(&punished, gone), Punishable::Withdrawable);
        punished.reopen(&offence(5, 2, settled));
        assert_eq!(marked(&punished, offence(5, 3, settled)), Punishable::AlreadySlashed, "another one was reopened");
        punished.reopen(&first);
        assert_eq!(marked(&punished, offence(5, 3, settled)), Punishable::Yes);
    }
}
