//! Whose blocks pay their fees to whom, as far as blocks were heard. Only for addresses that somebody watches.

use consensus::{ExecutionAddress, ValidatorIndex};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Validators remembered per address.
pub const MAX_PAYERS: usize = 65_536;

/// Fee recipient -> proposers who named it. Serializes to JSON, so that it outlives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeePayers(BTreeMap<ExecutionAddress, BTreeSet<ValidatorIndex>>);

impl FeePayers {
    /// Begins to watch these addresses, keeps what is known of them and forgets the others.
    pub fn watch(&mut self, addresses: impl IntoIterator<Item = ExecutionAddress>) {
        let mut known = std::mem::take(&mut self.0);
        self.0 = addresses.into_iter().map(|address| (address, known.remove(&address).unwrap_or_default())).collect();
    }

    /// A proven block. Whether somebody is new because of it.
    pub fn seen(&mut self, proposer: ValidatorIndex, fee_recipient: ExecutionAddress) -> bool {
        match self.0.get_mut(&fee_recipient) {
            Some(payers) if payers.len() < MAX_PAYERS => payers.insert(proposer),
            _ => false,
        }
    }

    pub fn of(&self, address: &ExecutionAddress) -> impl Iterator<Item = ValidatorIndex> {
        self.0.get(address).into_iter().flatten().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
