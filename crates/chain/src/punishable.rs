//! Decides whether a block could include a slashing now.
//!
//! This is the only place that decides it. It asks the registry at the end of the branch with the
//! most backing, which slashings and exits in blocks have changed since the state. Where blocks are
//! missing, or do not tell, the answer is unknown: a false answer is worse. Which messages are
//! forwarded, which peers are blamed, and what a finding reports all depend on it. Source:
//! phase0/beacon-chain.md, `is_slashable_validator`, `get_domain`.
//!
//! A state checks a signature with its previous or its current fork version. It chooses by the
//! epoch that the message is about. Whether a message can be checked therefore depends on the
//! version it was *signed with*, which is not always the scheduled one:
//!
//! ```text
//! fork N ──────────────── epoch F: fork N + 1 ───────────── fork N + 2
//!    now     a vote for target F + 3, signed with N: a block can include it until F, never after
//!            the same vote, signed with N + 1: no block can include it before F
//! ```
//!
//! For a short time after a fork, peers and nodes still check with the state of the last block,
//! which is from before the fork. During that time both states must accept the message.
//!
//! All of this is also so for a fork whose containers this program does not know: its states check
//! with its version, so what was signed with an older one for its epochs is expired.

use crate::Chain;
use crate::exits::earliest_exit;
use crate::follow::Doubt;
use crate::registry::Registry;
use consensus::state::StateFork;
use consensus::{Epoch, ForkName, ForkVersion, Network, Punishable, Spec, ValidatorIndex};

/// Number of epochs after which a slashing in a block counts.
const SETTLED_EPOCHS: u64 = 3;

/// The epoch that a message is about, and the fork version for which its signature is valid. Both
/// determine the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedWith {
    /// For a vote the epoch of its target, for a proposal the epoch of its slot.
    pub epoch: Epoch,
    pub version: ForkVersion,
}

impl SignedWith {
    /// Uses the version of the fork that is scheduled at `epoch`.
    pub fn scheduled(network: &Network, epoch: Epoch) -> Self {
        Self { epoch, version: network.spec.fork_at(epoch).version }
    }

    /// Uses the version of the fork `fork`, or the scheduled version if that fork is not in the
    /// configuration.
    pub fn of_fork(network: &Network, epoch: Epoch, fork: ForkName) -> Self {
        let found = network.spec.forks.iter().find(|one| one.name == fork);
        found.map_or_else(|| Self::scheduled(network, epoch), |fork| Self { epoch, version: fork.version })
    }
}

impl Chain {
    /// Returns whether a block would now accept a slashing of `validator` with two messages that
    /// were signed like this, as far as this program knows. "Now" is the epoch of the clock, or of
    /// the head if the head is later.
    pub fn punishable(&self, validator: ValidatorIndex, signed: [SignedWith; 2]) -> Punishable {
        let (now, head) = (self.now(), self.backed_head().slot);
        let [now, head] = [now.max(head), head].map(|slot| slot.epoch(self.preset()));
        let standing = self.standing(validator, now);
        if standing != Punishable::Yes {
            return standing;
        }
        // A head that has not moved for an epoch does not show which states nodes check with now.
        let states = [now, head.max(now.saturating_sub(1))].map(|epoch| self.state_fork_in(epoch));
        let spec = &self.network().spec;
        let ages = states.iter().flat_map(|state| signed.iter().map(|signed| age(spec, state, *signed)));
        match ages.max() {
            Some(Age::Expired) => Punishable::ForkExpired,
            Some(Age::NotYet) => Punishable::Unknown,
            Some(Age::Checkable) | None => Punishable::Yes,
        }
    }

    /// Applies `is_slashable_validator` to the registry at the end of the branch with the most
    /// backing. It is `Unknown` if it depends on something that blocks do not tell.
    fn standing(&self, validator: ValidatorIndex, now: Epoch) -> Punishable {
        let of_state = self.registry().record(validator);
        let followed = self.follower.known(&self.backed_head().root).filter(|known| !known.has_doubt(&[Doubt::Blocks]));
        let index = u32::try_from(validator.as_u64()).ok();
        // A validator without a key in a state has no certain index.
        let (Some(of_state), Some(index)) = (of_state, index) else { return Punishable::Unknown };
        // A recent state is enough: a slashing in a later block does not count yet, and exits and
        // activations take longer.
        let state_epoch = self.registry().slot().epoch(self.preset());
        let is_enough = of_state.slashed || now <= state_epoch.saturating_add(SETTLED_EPOCHS);
        let record = match followed {
            Some(followed) => followed.record(self.registry(), index),
            None => Some(of_state).filter(|_| is_enough),
        };
        let Some(record) = record else { return Punishable::Unknown };
        let has_doubt = |doubts: &[Doubt]| followed.is_some_and(|followed| followed.has_doubt(doubts));
        // A slashing in a recent block can still be undone with its branch.
        let slashed_in = followed.and_then(|followed| followed.slashed_in(index));
        if of_state.slashed || slashed_in.is_some_and(|at| at.saturating_add(SETTLED_EPOCHS) <= now) {
            return Punishable::AlreadySlashed;
        }
        let same_activation = record.activation_epoch == of_state.activation_epoch;
        if !(same_activation && record.activation_epoch != Epoch::FAR_FUTURE) && has_doubt(&Doubt::ABOUT_ARRIVALS) {
            return Punishable::Unknown;
        }
        if now < record.activation_epoch {
            return Punishable::NotActive;
        }
        // The earliest end of an exit that began after the state.
        let preset = self.preset();
        let begun = self.registry().slot().epoch(preset);
        let earliest = earliest_exit(begun).saturating_add(preset.min_validator_withdrawability_delay);
        let is_of_state = of_state.withdrawable_epoch != Epoch::FAR_FUTURE;
        let may_differ = has_doubt(&Doubt::ABOUT_EXITS) || Registry::is_near_ejection(record.effective_balance, preset);
        if may_differ && !is_of_state && now >= earliest {
            return Punishable::Unknown;
        }
        if now >= record.withdrawable_epoch { Punishable::Withdrawable } else { Punishable::Yes }
    }

    /// Returns the `Fork` of a state in `epoch`. It is the one in the latest state, until the next
    /// fork.
    fn state_fork_in(&self, epoch: Epoch) -> StateFork {
        let scheduled = self.network().spec.state_fork_at(epoch);
        let known = self.state_fork();
        let is_same = (known.current_version, known.epoch) == (scheduled.current_version, scheduled.epoch);
        if is_same { known } else { scheduled }
    }
}

/// States whether a state can check a message. The order matters: the worst value is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Checkable,
    /// Signed with the version of a later fork. It can be checked after that fork.
    NotYet,
    Expired,
}

fn age(spec: &Spec, state: &StateFork, signed: SignedWith) -> Age {
    if state.version_for(signed.epoch) == signed.version {
        return Age::Checkable;
    }
    // The later fork does not help for messages about epochs before it: they are not checked with
    // its version then either.
    let is_to_come =
        spec.forks.iter().any(|fork| fork.version == signed.version && state.epoch < fork.epoch && fork.epoch <= signed.epoch);
    if is_to_come { Age::NotYet } else { Age::Expired }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed_by_schedule(spec: &Spec, epoch: u64) -> SignedWith {
        SignedWith { epoch: Epoch::new(epoch), version: spec.fork_at(Epoch::new(epoch)).version }
    }

    #[test]
    fn two_forks_old_is_proven_but_no_longer_punishable() {
        let spec = Spec::builtin("mainnet").unwrap();
        // Mainnet: Capella from epoch 194 048, Deneb from 269 568, Electra from 364 032.
        let state = spec.state_fork_at(Epoch::new(364_100));
        let age = |epoch| age(&spec, &state, signed_by_schedule(&spec, epoch));
        assert_eq!(age(364_050), Age::Checkable);
        assert_eq!(age(300_000), Age::Checkable);
        assert_eq!(age(269_000), Age::Expired);
        assert_eq!(age(u64::MAX), Age::NotYet);
    }

    /// The state is upgraded twice in that epoch, so its previous version is one with which nobody
    /// signed anything.
    #[test]
    fn where_forks_share_an_epoch_what_was_signed_before_is_expired() {
        let spec = Spec::from_yaml("ALTAIR_FORK_EPOCH: 5\nBELLATRIX_FORK_EPOCH: 5\nCAPELLA_FORK_EPOCH: 9\n").unwrap();
        let state = spec.state_fork_at(Epoch::new(6));
        assert_eq!((state.previous_version, state.current_version), ([1, 0, 0, 0], [2, 0, 0, 0]));
        assert_eq!(age(&spec, &state, signed_by_schedule(&spec, 4)), Age::Expired);
        assert_eq!(age(&spec, &state, signed_by_schedule(&spec, 5)), Age::Checkable);
        let later = spec.state_fork_at(Epoch::new(9));
        assert_eq!(age(&spec, &later, signed_by_schedule(&spec, 5)), Age::Checkable);
        assert_eq!(age(&spec, &later, signed_by_schedule(&spec, 4)), Age::Expired);
    }

    /// The owner of a key signs two contradicting votes with the old version, for a target in a
    /// fork that this program does not know.
    #[test]
    fn what_is_signed_with_the_old_version_for_an_unknown_fork_is_expired_from_then_on() {
        let later = "FULU_FORK_EPOCH: 5\nI_STAR_FORK_EPOCH: 9\nI_STAR_FORK_VERSION: 0x09000000\n";
        let spec = Spec::from_yaml(later).unwrap();
        let old = |epoch| SignedWith { epoch: Epoch::new(epoch), version: [6, 0, 0, 0] };
        let [before, after] = [8, 9].map(|epoch| spec.state_fork_at(Epoch::new(epoch)));
        assert_eq!((after.previous_version, after.current_version), ([6, 0, 0, 0], [9, 0, 0, 0]));
        assert_eq!([8, 9, 20].map(|epoch| age(&spec, &before, old(epoch))), [Age::Checkable; 3]);
        let ages = [8, 9, 20].map(|epoch| age(&spec, &after, old(epoch)));
        assert_eq!(ages, [Age::Checkable, Age::Expired, Age::Expired]);
    }

    #[test]
    fn before_a_fork_only_todays_version_is_taken_and_after_it_no_more() {
        let spec = Spec::builtin("mainnet").unwrap();
        let epoch = Epoch::new(364_040);
        let of =
            |name: ForkName| SignedWith { epoch, version: spec.forks.iter().find(|fork| fork.name == name).unwrap().version };
        let before = spec.state_fork_at(Epoch::new(364_031));
        assert_eq!(age(&spec, &before, of(ForkName::Deneb)), Age::Checkable);
        assert_eq!(age(&spec, &before, of(ForkName::Electra)), Age::NotYet);
        assert_eq!(age(&spec, &before, of(ForkName::Fulu)), Age::Expired, "no state ever checks that epoch with Fulu's version");
        let after = spec.state_fork_at(Epoch::new(364_032));
        assert_eq!(age(&spec, &after, of(ForkName::Deneb)), Age::Expired);
        assert_eq!(age(&spec, &after, of(ForkName::Electra)), Age::Checkable);
    }
}
