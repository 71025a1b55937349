//! stub
use crate::*;

/// A `BeaconState` in its bytes, validated once and read in place.
#[derive(Clone, Debug)]
pub struct StateView<'a> {
    bytes: &'a [u8],
}

impl<'a> StateView<'a> {
    pub fn parse(_fork: ForkName, _preset: &Preset, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let _ = Self { bytes };
        Err(DecodeError::new("BeaconState", "", 0, "not read yet"))
    }
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    pub fn fork_name(&self) -> ForkName {
        ForkName::Phase0
    }
    /// Seconds since the Unix epoch.
    pub fn genesis_time(&self) -> u64 {
        0
    }
    pub fn genesis_validators_root(&self) -> Root {
        Root::ZERO
    }
    pub fn slot(&self) -> Slot {
        Slot::new(0)
    }
    pub fn fork(&self) -> StateFork {
        StateFork::default()
    }
    pub fn latest_block_header(&self) -> BeaconBlockHeader {
        BeaconBlockHeader::default()
    }
    /// Hash-tree-root of the whole state.
    pub fn root(&self) -> Root {
        Root::ZERO
    }
    pub fn latest_block_root(&self) -> Root {
        Root::ZERO
    }
    pub fn block_root_at(&self, _slot: Slot) -> Option<Root> {
        None
    }
    pub fn randao_mix(&self, _epoch: Epoch) -> Root {
        Root::ZERO
    }
    pub fn n_validators(&self) -> usize {
        0
    }
    pub fn validators(&self) -> impl Iterator<Item = Validator> + use<'a> {
        std::iter::empty()
    }
    pub fn validator(&self, _index: ValidatorIndex) -> Option<Validator> {
        None
    }
    pub fn current_justified_checkpoint(&self) -> Checkpoint {
        Checkpoint::default()
    }
    pub fn previous_justified_checkpoint(&self) -> Checkpoint {
        Checkpoint::default()
    }
    pub fn finalized_checkpoint(&self) -> Checkpoint {
        Checkpoint::default()
    }
}

/// `Fork` as a state holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateFork {
    pub previous_version: [u8; 4],
    pub current_version: [u8; 4],
    pub epoch: Epoch,
}

pub fn fork_of_state(_spec: &Spec, _bytes: &[u8]) -> Result<ForkName, DecodeError> {
    Err(DecodeError::new("BeaconState", "", 0, "not read yet"))
}
