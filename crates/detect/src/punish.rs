//! Whether a block could still include a slashing: [`Chain::punishable`], for messages that are signed with the version of their time.

use chain::{Chain, SignedWith};
use consensus::{Epoch, ValidatorIndex};
use evidence::Punishable;

/// Whether a slashing of `validator` with messages about `epochs` would be accepted now, as far as is known here.
pub fn punishable(chain: &Chain, validator: ValidatorIndex, epochs: [Epoch; 2]) -> Punishable {
    chain.punishable(validator, epochs.map(|epoch| SignedWith::scheduled(chain.network(), epoch)))
}
