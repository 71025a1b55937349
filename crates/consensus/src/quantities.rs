//! Quantities as types of their own. A bare `u64` never stands for a slot, an epoch or a validator.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

use crate::Preset;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            pub const MAX: Self = Self(u64::MAX);

            #[inline]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            #[inline]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            #[inline]
            pub const fn saturating_add(self, n: u64) -> Self {
                Self(self.0.saturating_add(n))
            }

            #[inline]
            pub const fn saturating_sub(self, n: u64) -> Self {
                Self(self.0.saturating_sub(n))
            }

            #[inline]
            pub fn checked_add(self, n: u64) -> Option<Self> {
                self.0.checked_add(n).map(Self)
            }

            #[inline]
            pub fn checked_sub(self, n: u64) -> Option<Self> {
                self.0.checked_sub(n).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }

        /// Serializes as a decimal string, as the beacon API does with every `uint64`.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map(Self).map_err(serde::de::Error::custom)
            }
        }

        impl ssz::Encode for $name {
            fn is_ssz_fixed_len() -> bool {
                true
            }
            fn ssz_fixed_len() -> usize {
                8
            }
            fn ssz_bytes_len(&self) -> usize {
                8
            }
            fn ssz_append(&self, buf: &mut Vec<u8>) {
                buf.extend_from_slice(&self.0.to_le_bytes());
            }
        }

        impl ssz::Decode for $name {
            fn is_ssz_fixed_len() -> bool {
                true
            }
            fn ssz_fixed_len() -> usize {
                8
            }
            fn from_ssz_bytes(bytes: &[u8]) -> Result<Self, ssz::DecodeError> {
                u64::from_ssz_bytes(bytes).map(Self)
            }
        }

        impl tree_hash::TreeHash for $name {
            fn tree_hash_type() -> tree_hash::TreeHashType {
                tree_hash::TreeHashType::Basic
            }
            fn tree_hash_packed_encoding(&self) -> tree_hash::PackedEncoding {
                self.0.tree_hash_packed_encoding()
            }
            fn tree_hash_packing_factor() -> usize {
                4
            }
            fn tree_hash_root(&self) -> tree_hash::Hash256 {
                self.0.tree_hash_root()
            }
        }
    };
}

quantity!(
    /// A slot: a period of `SLOT_DURATION`, counted from genesis.
    Slot
);
quantity!(
    /// An epoch: a period of `SLOTS_PER_EPOCH` slots.
    Epoch
);
quantity!(
    /// A validator's index in the registry. In a received message it can be any 64-bit number.
    ValidatorIndex
);
quantity!(
    /// A builder's index in the state's list of builders (Gloas). In a received message it can be
    /// any 64-bit number.
    BuilderIndex
);
quantity!(
    /// A committee's index within its slot.
    CommitteeIndex
);
quantity!(
    /// An amount of ether. One Gwei is 10^-9 ETH.
    Gwei
);

impl Slot {
    /// Returns the epoch that contains this slot.
    #[inline]
    pub const fn epoch(self, preset: &Preset) -> Epoch {
        Epoch(self.0 / preset.slots_per_epoch)
    }
}

impl Epoch {
    /// `FAR_FUTURE_EPOCH` of the specification. It means "never".
    pub const FAR_FUTURE: Self = Self::MAX;

    /// Returns the first slot of the epoch. The result saturates at the largest slot.
    #[inline]
    pub const fn start_slot(self, preset: &Preset) -> Slot {
        Slot(self.0.saturating_mul(preset.slots_per_epoch))
    }
}
