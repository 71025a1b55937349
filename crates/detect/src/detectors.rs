//! One file for each detector, and the one list of them.
//!
//! A file holds everything about its kinds: what it looks for, why its thresholds are what they are
//! (its section of the configuration, with defaults and checks), which false alarms were
//! considered, the details of each kind, and the sentence that people read. docs/dev/detector.md
//! describes how to add a detector.

pub mod blocks;
pub mod checkpoint_split;
pub mod clock_skew;
mod common;
pub mod equivocation;
pub mod finality_delay;
pub mod head_split;
pub mod network;
pub mod own_clock;
pub mod participation_drop;
pub mod payload_status;
pub mod proposals;
pub mod punishment;
pub mod slashing_wave;
pub mod stale_votes;

use crate::config::{DetectorConfig as _, Problems};
use crate::monitor::{Details, Detector};
use crate::watch::{dormant, flapping, missed_duties, second_signer, signed_elsewhere, stops, two_origins};
use evidence::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Makes three things from the list of detectors: their configuration, the detectors that are
/// switched on, and every kind's sentence. A line of the list names a module (which is also the
/// name of its section of the configuration), its configuration, and the details of its kinds. A
/// kind without a line does not compile, because the match below does not cover it.
macro_rules! detectors {
    (
        $($section:ident: $config:ident finds $($details:ident)+;)+
        [$($elsewhere:ty),+ $(,)?]
    ) => {
        /// `[detect]` of the configuration: thresholds of all detectors.
        #[derive(Clone, Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct DetectConfig {
            $(pub $section: $section::$config,)+
        }

        impl DetectConfig {
            /// Everything that is wrong with the thresholds, as pairs of path in the file and text.
            pub fn problems(&self) -> Vec<(String, String)> {
                let mut found = Vec::new();
                $(self.$section.problems(&mut Problems::of(concat!("detect.", stringify!($section)), &mut found));)+
                found
            }

            /// The detectors that are switched on.
            pub(crate) fn detectors(&self) -> Vec<Box<dyn Detector>> {
                [$(self.$section.detector()),+].into_iter().flatten().collect()
            }
        }

        /// A finding or an incident in one sentence, for people. `None` for offences, whose kind
        /// already says everything, for a kind of another version, and for details that another
        /// version wrote.
        pub fn sentence(kind: &Kind, details: &Map<String, Value>, validators: Option<u64>) -> Option<String> {
            match *kind {
                Kind::Offence(_) | Kind::Unknown(_) => None,
                $($(<$section::$details>::KIND => sentence_of::<$section::$details>(details, validators),)+)+
                $(<$elsewhere>::KIND => sentence_of::<$elsewhere>(details, validators),)+
            }
        }
    };
}

detectors! {
    slashing_wave: SlashingWaveConfig finds SlashingWaveDetails;
    clock_skew: ClockSkewConfig finds ClockSkewDetails;
    own_clock: OwnClockConfig finds OwnClockDetails;
    participation_drop: ParticipationDropConfig finds ParticipationDropDetails;
    finality_delay: FinalityDelayConfig finds FinalityDelayDetails;
    head_split: HeadSplitConfig finds HeadSplitDetails;
    checkpoint_split: CheckpointSplitConfig finds CheckpointSplitDetails;
    blocks: BlocksConfig finds CompetingBlocksDetails DeepReorgDetails;
    stale_votes: StaleVotesConfig finds StaleVotesDetails;
    payload_status: PayloadStatusConfig finds PayloadStatusSplitDetails;
    proposals: ProposalsConfig finds MissedProposalsDetails LateBlocksDetails;
    network: NetworkConfig finds ClientDominanceDetails SyncStormDetails SubnetSilentDetails;
    punishment: PunishmentConfig finds UnpunishedOffenceDetails BlindSpotDetails;
    equivocation: EquivocationConfig finds EquivocationDetails;
    // Kinds of watched keys. Their detector is configured in `[watch]`.
    [
        missed_duties::MissedDutiesDetails,
        flapping::FlappingKeysDetails,
        dormant::DormantKeySignedDetails,
        second_signer::SecondSignerDetails,
        stops::KillSwitchFailedDetails,
        stops::SignsAfterStopDetails,
        stops::ProofNotConfirmedDetails,
        signed_elsewhere::SignedElsewhereDetails,
        two_origins::TwoOriginsDetails,
    ]
}

fn sentence_of<D: Details>(details: &Map<String, Value>, validators: Option<u64>) -> Option<String> {
    D::of_stored(details).map(|details| format!("{}.", details.sentence(validators)))
}
