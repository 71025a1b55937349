//! `punishable` depends on the fork versions that states have. These are not always those of the
//! schedule.
#![allow(clippy::unwrap_used)]

use chain::{Chain, PubkeyCache};
use consensus::{Epoch, Slot, Spec, ValidatorIndex};
use detect::punishable;
use evidence::Punishable;
use sources::capture::CaptureFile;
use std::path::Path;

/// A Fulu genesis (minimal preset, 8 slots per epoch) with these future forks.
fn chain(forks: &str) -> Chain {
    let file = CaptureFile::open(Path::new("../../tests/data/fulu_4.e2s")).unwrap();
    let config = file.first_config().unwrap().unwrap();
    let without: Vec<&str> = config.lines().filter(|line| !line.starts_with("GLOAS_") && !line.starts_with("HEZE_")).collect();
    let spec = Spec::from_yaml(&format!("{}\n{forks}", without.join("\n"))).unwrap();
    let state = file.first_state().unwrap().unwrap();
    Chain::from_state(spec, &state, &mut PubkeyCache::in_memory(), &mut |_| ()).unwrap()
}

fn of(chain: &Chain, epochs: [u64; 2]) -> Punishable {
    punishable(chain, ValidatorIndex::new(3), epochs.map(Epoch::new))
}

/// A state passes both forks in one epoch. What was signed before the first is then checked with
/// the version of the first.
#[test]
fn where_two_forks_share_an_epoch_what_was_signed_before_is_expired() {
    let mut chain = chain("GLOAS_FORK_EPOCH: 4\nHEZE_FORK_EPOCH: 4\n");
    assert_eq!(of(&chain, [3, 3]), Punishable::Yes);
    chain.tick(Slot::new(6 * 8));
    assert_eq!(of(&chain, [3, 3]), Punishable::ForkExpired);
    assert_eq!(of(&chain, [4, 4]), Punishable::Yes);
}

/// Until the first block of the fork, nodes and peers check with the state of the last block.
#[test]
fn for_a_moment_after_a_fork_both_states_must_agree() {
    let mut chain = chain("GLOAS_FORK_EPOCH: 4\n");
    chain.tick(Slot::new(4 * 8));
    assert_eq!(chain.head().slot, Slot::new(0));
    assert_eq!(of(&chain, [4, 4]), Punishable::Unknown);
    assert_eq!(of(&chain, [3, 3]), Punishable::Yes);
    // There is no block for an epoch, so the head no longer counts.
    chain.tick(Slot::new(5 * 8));
    assert_eq!(of(&chain, [4, 4]), Punishable::Yes);
}
