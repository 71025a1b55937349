//! Whether a block could still include a slashing. Source: phase0/beacon-chain.md, `is_slashable_validator`, `get_domain`.

use chain::Chain;
use consensus::{Epoch, Network, ValidatorIndex};
use evidence::Punishable;

/// Whether a slashing of `validator` with messages about `epochs` would be accepted now, as far as is known here.
/// "Now" is the epoch of the clock, or of the newest block we hold if that is later.
pub fn punishable(chain: &Chain, validator: ValidatorIndex, epochs: [Epoch; 2]) -> Punishable {
    let network = chain.network();
    let now = chain.now().max(chain.head().slot).epoch(network.preset());
    let Some(record) = chain.registry().record(validator) else { return Punishable::Unknown };
    if record.slashed {
        return Punishable::AlreadySlashed;
    }
    if now < record.activation_epoch {
        return Punishable::NotActive;
    }
    if now >= record.withdrawable_epoch {
        return Punishable::Withdrawable;
    }
    match epochs.iter().map(|epoch| signature_age(network, now, *epoch)).max() {
        Some(Age::Expired) => Punishable::ForkExpired,
        Some(Age::NotYet) => Punishable::Unknown,
        Some(Age::Checkable) | None => Punishable::Yes,
    }
}

/// A state checks signatures with its previous or its current fork version, by epoch. Ordered: the worst last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Checkable,
    /// Signed with a later fork's version: checkable once that fork is there.
    NotYet,
    Expired,
}

fn signature_age(network: &Network, now: Epoch, epoch: Epoch) -> Age {
    let spec = &network.spec;
    let current = spec.fork_at(now);
    let previous = spec.fork_at(current.epoch.saturating_sub(1));
    let signed_with = spec.fork_at(epoch).version;
    let checked_with = if epoch < current.epoch { previous.version } else { current.version };
    if signed_with == checked_with {
        Age::Checkable
    } else if epoch >= current.epoch {
        Age::NotYet
    } else {
        Age::Expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Root, Spec};

    #[test]
    fn two_forks_old_is_proven_but_no_longer_punishable() {
        let spec = Spec::builtin("mainnet").unwrap();
        let network = Network { spec, genesis_time: 0, genesis_validators_root: Root::ZERO };
        // Mainnet: Capella from 194 048, Deneb from 269 568, Electra from 364 032.
        let now = Epoch::new(364_100);
        let age = |epoch| signature_age(&network, now, Epoch::new(epoch));
        assert!(age(364_050) == Age::Checkable);
        assert!(age(300_000) == Age::Checkable);
        assert!(age(269_000) == Age::Expired);
        assert!(age(u64::MAX) == Age::NotYet);
    }
}
