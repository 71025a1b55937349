//! Which proposers' blocks pay their fees to which address, as far as blocks were received. Only
//! watched addresses are kept.

use consensus::{ExecutionAddress, ValidatorIndex};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Largest number of validators that are remembered per address.
pub const MAX_PAYERS: usize = 65_536;

/// Proposers by the fee recipient that their blocks name. It serializes to JSON, so that it can be
/// kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeePayers(BTreeMap<ExecutionAddress, BTreeSet<ValidatorIndex>>);

impl FeePayers {
    /// Sets the watched addresses. Keeps what is known of them and forgets all others.
    pub fn watch(&mut self, addresses: impl IntoIterator<Item = ExecutionAddress>) {
        let mut known = std::mem::take(&mut self.0);
        self.0 = addresses.into_iter().map(|address| (address, known.remove(&address).unwrap_or_default())).collect();
    }

    /// Takes in a proven block. Returns whether a proposer was added.
    pub fn seen(&mut self, proposer: ValidatorIndex, fee_recipient: ExecutionAddress) -> bool {
        match self.0.get_mut(&fee_recipient) {
            Some(payers) if payers.len() < MAX_PAYERS => payers.insert(proposer),
            _ => false,
        }
    }

    /// The proposers whose blocks named this fee recipient; none if the address is not watched.
    pub fn of(&self, address: &ExecutionAddress) -> impl Iterator<Item = ValidatorIndex> {
        self.0.get(address).into_iter().flatten().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
