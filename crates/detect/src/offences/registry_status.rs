//! Validators that have nothing to lose according to the registry. Their messages are verified like
//! all others, but with the lowest priority.

use chain::Registry;
use consensus::{Epoch, Preset, ValidatorIndex};

/// `MAX_SEED_LOOKAHEAD` of the specification. A validator that becomes eligible in an epoch is
/// active at the earliest this many epochs after the next one.
const MAX_SEED_LOOKAHEAD: u64 = 4;
/// A block that comes this many epochs after its proposer's exit gives context to nobody.
const LATE_EPOCHS: u64 = 64;

/// Returns true if nothing that this validator signs can be punished in epoch `now`: it is slashed,
/// withdrawable, or certainly not active yet. It also returns true if the validator is not in the
/// registry, because then nothing can be proven.
pub fn cannot_be_punished(registry: &Registry, preset: &Preset, validator: ValidatorIndex, now: Epoch) -> bool {
    let Some(record) = registry.record(validator) else { return true };
    record.slashed || record.withdrawable_epoch <= now || now < first_active(registry, preset, record.activation_epoch)
}

/// Returns true if a block of this validator for epoch `claimed` can be part of no chain that
/// matters in epoch `now`. Then the proposer had exited by `claimed`, was certainly not active yet,
/// or exited at least [`LATE_EPOCHS`] ago. A slashed validator cannot propose either, but it is not
/// excluded here, because the state that shows the slashing may be later than the block.
pub fn cannot_propose(registry: &Registry, preset: &Preset, validator: ValidatorIndex, claimed: Epoch, now: Epoch) -> bool {
    let Some(record) = registry.record(validator) else { return true };
    record.exit_epoch <= claimed
        || record.exit_epoch.saturating_add(LATE_EPOCHS) <= now
        || claimed < first_active(registry, preset, record.activation_epoch)
}

/// Returns the earliest epoch in which the validator can be active. The state of the registry may
/// be old, so a validator without an activation epoch in it may have got one since.
fn first_active(registry: &Registry, preset: &Preset, activation: Epoch) -> Epoch {
    if activation < Epoch::FAR_FUTURE {
        return activation;
    }
    registry.slot().epoch(preset).saturating_add(1 + MAX_SEED_LOOKAHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::{Chain, PubkeyCache};
    use consensus::Spec;
    use sources::capture::CaptureFile;
    use std::path::Path;

    /// Changes a `Validator` in the SSZ of a state. Its fields are: key 48 bytes, credentials 32,
    /// effective balance 8, slashed 1, four epochs.
    fn set(state: &mut [u8], key: &[u8], slashed: bool, activation: u64, exit: u64, withdrawable: u64) {
        let balance = 32_000_000_000u64.to_le_bytes();
        let at = (0..state.len() - 121).find(|at| state[*at..].starts_with(key) && state[at + 80..].starts_with(&balance));
        let at = at.expect("the validator is in the registry");
        state[at + 88] = u8::from(slashed);
        for (nth, epoch) in [activation, exit, withdrawable].into_iter().enumerate() {
            let from = at + 97 + 8 * nth;
            state[from..from + 8].copy_from_slice(&epoch.to_le_bytes());
        }
    }

    #[test]
    fn who_has_nothing_to_lose_and_who_can_have_no_turn() {
        let file = CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap();
        let spec = Spec::from_yaml(&file.first_config().unwrap().unwrap()).unwrap();
        let mut state = file.first_state().unwrap().unwrap();
        let of = |state: &[u8]| Chain::from_state(spec.clone(), state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap();
        let known = of(&state);
        let never = u64::MAX;
        let records = [
            (false, 0, never, never),     // active
            (true, 0, 100, 8292),         // slashed
            (false, 0, 100, 356),         // exits in epoch 100
            (false, 50, never, never),    // is active from epoch 50 on
            (false, never, never, never), // activation epoch not known
        ];
        for (index, (slashed, activation, exit, withdrawable)) in records.into_iter().enumerate() {
            let key = known.registry().pubkey_bytes(ValidatorIndex::new(index as u64)).unwrap();
            set(&mut state, key.as_slice(), slashed, activation, exit, withdrawable);
        }
        let chain = of(&state);
        let (registry, preset) = (chain.registry(), chain.network().preset());
        let lost = |now: u64| -> Vec<u64> {
            let lost = |index: &u64| cannot_be_punished(registry, preset, ValidatorIndex::new(*index), Epoch::new(now));
            (0..5).filter(lost).collect()
        };
        assert_eq!(lost(0), [1, 3, 4]);
        assert_eq!(lost(4), [1, 3, 4]);
        assert_eq!(lost(5), [1, 3], "a block may have made it active since the state");
        assert_eq!(lost(50), [1]);
        assert_eq!(lost(355), [1], "an exited validator can be slashed until it is withdrawable");
        assert_eq!(lost(356), [1, 2]);
        let no_turn = |claimed: u64, now: u64| -> Vec<u64> {
            let (claimed, now) = (Epoch::new(claimed), Epoch::new(now));
            (0..5).filter(|index| cannot_propose(registry, preset, ValidatorIndex::new(*index), claimed, now)).collect()
        };
        assert_eq!(no_turn(4, 4), [3, 4]);
        assert_eq!(no_turn(99, 99), [0; 0], "who is slashed may have been so by a later block");
        assert_eq!(no_turn(100, 100), [1, 2]);
        assert_eq!(no_turn(99, 163), [0; 0], "late, but perhaps missing");
        assert_eq!(no_turn(99, 164), [1, 2]);
        let stranger = ValidatorIndex::new(1 << 30);
        assert!(cannot_be_punished(registry, preset, stranger, Epoch::new(9)));
        assert!(cannot_propose(registry, preset, stranger, Epoch::new(9), Epoch::new(9)));
    }
}
