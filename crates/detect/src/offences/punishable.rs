//! Whether a block could still include a slashing. It applies [`Chain::punishable`] to messages
//! that are signed with the fork version of their epoch.

use chain::{Chain, SignedWith};
use consensus::{Epoch, ValidatorIndex};
use evidence::Punishable;

/// Whether a slashing of `validator` with messages about `epochs` would be accepted now, as far as
/// is known here.
pub fn punishable(chain: &Chain, validator: ValidatorIndex, epochs: [Epoch; 2]) -> Punishable {
    chain.punishable(validator, epochs.map(|epoch| SignedWith::scheduled(chain.network(), epoch)))
}
