//! The only list of the names of findings and incidents, and of who may see them.
//!
//! A name is stored, hashed into ids, given to programs and used as a label of metrics. So it never
//! changes. The details and the sentence of a kind are in the file of its detector. As soon as a
//! line is added here, the compiler asks for them in `detect::detectors`.

use consensus::Offence;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// Longest name of a kind, in bytes. Names are ASCII words with underscores.
pub const MAX_KIND_LEN: usize = 32;

/// Who may see a finding or an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Public,
    /// Readers who may see which keys the operator watches. Findings of these kinds exist only for
    /// watched keys.
    WatchedKeys,
}

/// Declares the kinds that are not offences: variant, name, audience.
macro_rules! anomalies {
    ($($variant:ident $name:literal $audience:ident,)+) => {
        /// The kind of a finding or an incident. Kinds are ordered by name.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            /// A slashable offence. Only findings have these kinds, not incidents.
            Offence(Offence),
            $($variant,)+
            /// Stored by another version of this program. This version only reads such kinds and
            /// never creates them.
            Unknown(UnknownKind),
        }

        impl Kind {
            /// Kinds of incidents. They are also used for single anomalies.
            pub const ANOMALIES: &'static [Self] = &[$(Self::$variant,)+];

            pub fn as_str(&self) -> &str {
                match self {
                    Self::Offence(offence) => offence.as_str(),
                    $(Self::$variant => $name,)+
                    Self::Unknown(UnknownKind(name)) => name,
                }
            }

            /// Who may see it. An unknown kind counts as private, because it may have been about
            /// watched keys.
            pub const fn audience(&self) -> Audience {
                match self {
                    Self::Offence(_) => Audience::Public,
                    $(Self::$variant => Audience::$audience,)+
                    Self::Unknown(_) => Audience::WatchedKeys,
                }
            }
        }

        $(const _: () = assert!($name.len() <= MAX_KIND_LEN);)+
    };
}

anomalies! {
    SlashingWave "slashing_wave" Public,
    ClockSkew "clock_skew" Public,
    OwnClock "own_clock" Public,
    ParticipationDrop "participation_drop" Public,
    FinalityDelay "finality_delay" Public,
    HeadSplit "head_split" Public,
    CheckpointSplit "checkpoint_split" Public,
    CompetingBlocks "competing_blocks" Public,
    DeepReorg "deep_reorg" Public,
    StaleVotes "stale_votes" Public,
    PayloadStatusSplit "payload_status_split" Public,
    MissedProposals "missed_proposals" Public,
    LateBlocks "late_blocks" Public,
    ClientDominance "client_dominance" Public,
    SyncStorm "sync_storm" Public,
    SubnetSilent "subnet_silent" Public,
    UnpunishedOffence "unpunished_offence" Public,
    BlindSpot "blind_spot" Public,
    MissedDuties "missed_duties" WatchedKeys,
    FlappingKeys "flapping_keys" WatchedKeys,
    DormantKeySigned "dormant_key_signed" WatchedKeys,
    SecondSigner "second_signer" WatchedKeys,
    KillSwitchFailed "kill_switch_failed" WatchedKeys,
    SignsAfterStop "signs_after_stop" WatchedKeys,
    ProofNotConfirmed "proof_not_confirmed" WatchedKeys,
    SignedElsewhere "signed_elsewhere" WatchedKeys,
    TwoOrigins "two_origins" WatchedKeys,
    EquivocationNotSlashable "equivocation_not_slashable" Public,
}

/// The name of a kind that this version of the program does not have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownKind(Box<str>);

impl Kind {
    /// All kinds that this version finds: first the offences, then the anomalies.
    pub fn all() -> impl Iterator<Item = Self> {
        Offence::ALL.map(Self::Offence).into_iter().chain(Self::ANOMALIES.iter().cloned())
    }

    /// The kind with this name. `None` if this version does not have it.
    pub fn known(name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.as_str() == name)
    }

    pub const fn offence(&self) -> Option<Offence> {
        match self {
            Self::Offence(offence) => Some(*offence),
            _ => None,
        }
    }

    /// The name for people to read, with spaces instead of underscores.
    pub fn words(&self) -> String {
        self.as_str().replace('_', " ")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        match Self::known(&name) {
            Some(kind) => Ok(kind),
            None if (1..=MAX_KIND_LEN).contains(&name.len()) && name.bytes().all(is_word) => {
                Ok(Self::Unknown(UnknownKind(name.as_ref().into())))
            }
            None => Err(D::Error::custom(format!("{name:?} cannot name a kind"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(name: &str) -> Result<Kind, serde_json::Error> {
        serde_json::from_value(json!(name))
    }

    #[test]
    fn every_kind_is_read_by_the_name_that_it_is_written_with() {
        for kind in Kind::all() {
            assert_eq!(serde_json::to_value(&kind).unwrap(), kind.as_str());
            assert_eq!(read(kind.as_str()).unwrap(), kind);
        }
        let names: std::collections::BTreeSet<String> = Kind::all().map(|kind| kind.to_string()).collect();
        assert_eq!(names.len(), Kind::all().count(), "each name once");
    }

    /// A kind of another version keeps its name and is not shown in public.
    #[test]
    fn an_unknown_kind_is_readable_and_private() {
        let kind = read("tide_of_votes").unwrap();
        assert!(matches!(kind, Kind::Unknown(_)));
        assert_eq!((kind.as_str(), kind.audience(), kind.offence()), ("tide_of_votes", Audience::WatchedKeys, None));
        assert_eq!(serde_json::to_value(&kind).unwrap(), "tide_of_votes");
        assert_eq!(Kind::known("tide_of_votes"), None);
        for bad in ["", "no kind", &"k".repeat(33)] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
