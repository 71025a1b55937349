//! The one list of what findings and incidents are called, and of who may be told of them.
//!
//! A name is stored, hashed into ids, given to programs and used as a label of metrics, so it never
//! changes. Details and sentence of a kind stand in the file of its detector. The compiler asks for
//! them (in `detect::detectors`) as soon as a line is added here.

use consensus::Offence;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// Longest name of a kind, in bytes. Names are ASCII words with underscores.
pub const MAX_KIND_LEN: usize = 32;

/// Who may be told of a finding or an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Public,
    /// Those who may see which keys the operator watches. Without a watched key there is no such
    /// finding.
    WatchedKeys,
}

/// Declares the kinds that are no offence: variant, name, audience.
macro_rules! anomalies {
    ($($variant:ident $name:literal $audience:ident,)+) => {
        /// What a finding or an incident is called. Ordered by name.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            /// Slashable. Findings only.
            Offence(Offence),
            $($variant,)+
            /// Stored by another version of this program. Never made here: it is only read.
            Unknown(UnknownKind),
        }

        impl Kind {
            /// Kinds of incidents, also used for single anomalies.
            pub const ANOMALIES: &'static [Self] = &[$(Self::$variant,)+];

            pub fn as_str(&self) -> &str {
                match self {
                    Self::Offence(offence) => offence.as_str(),
                    $(Self::$variant => $name,)+
                    Self::Unknown(UnknownKind(name)) => name,
                }
            }

            /// An unknown kind may have been about watched keys.
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
    EquivocationNotSlashable "equivocation_not_slashable" Public,
}

/// The name of a kind that this version of the program does not have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownKind(Box<str>);

impl Kind {
    /// All that this version finds: offences, then anomalies.
    pub fn all() -> impl Iterator<Item = Self> {
        Offence::ALL.map(Self::Offence).into_iter().chain(Self::ANOMALIES.iter().cloned())
    }

    /// `None` for a name that this version does not have.
    pub fn known(name: &str) -> Option<Self> {
        Self::all().find(|kind| kind.as_str() == name)
    }

    pub const fn offence(&self) -> Option<Offence> {
        match self {
            Self::Offence(offence) => Some(*offence),
            _ => None,
        }
    }

    /// For people: without underscores.
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

    /// A kind of another version keeps its name, and no stranger is told of it.
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
