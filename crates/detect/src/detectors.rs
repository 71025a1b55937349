//! One file for each kind of trouble. Every file says what it looks for, why its thresholds are what they are, and which false
//! alarms were thought of.
//!
//! | file | kinds |
//! |---|---|
//! | [`slashing_wave`] | `slashing_wave` |
//! | [`clock_skew`], [`own_clock`] | of the same name |
//! | [`participation_drop`], [`finality_delay`] | of the same name |
//! | [`head_split`], [`checkpoint_split`] | of the same name |
//! | [`blocks`] | `competing_blocks`, `deep_reorg` |
//! | [`stale_votes`] | of the same name |
//! | [`proposals`] | `missed_proposals`, `late_blocks` |
//! | [`network`] | `client_dominance`, `sync_storm`, `subnet_silent` |
//! | [`punishment`] | `unpunished_offence`, `blind_spot` |
//! | [`equivocation`] | `equivocation_not_slashable` |

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
pub mod proposals;
pub mod punishment;
pub mod slashing_wave;
pub mod stale_votes;

use crate::config::DetectConfig;
use crate::monitor::Detector;

/// Those that are switched on.
pub(crate) fn all(config: &DetectConfig) -> Vec<Box<dyn Detector>> {
    let config = config.clone();
    let mut all: Vec<Box<dyn Detector>> = Vec::new();
    let mut add = |enabled: bool, detector: Box<dyn Detector>| {
        if enabled {
            all.push(detector);
        }
    };
    add(config.slashing_wave.enabled, Box::new(slashing_wave::SlashingWave::new(config.slashing_wave)));
    add(config.clock_skew.enabled, Box::new(clock_skew::ClockSkew::new(config.clock_skew)));
    add(config.own_clock.enabled, Box::new(own_clock::OwnClock::new(config.own_clock)));
    add(config.participation_drop.enabled, Box::new(participation_drop::ParticipationDrop::new(config.participation_drop)));
    add(config.finality_delay.enabled, Box::new(finality_delay::FinalityDelay::new(config.finality_delay)));
    add(config.head_split.enabled, Box::new(head_split::HeadSplit::new(config.head_split)));
    add(config.checkpoint_split.enabled, Box::new(checkpoint_split::CheckpointSplit::new(config.checkpoint_split)));
    add(config.blocks.enabled, Box::new(blocks::Blocks::new(config.blocks)));
    add(config.stale_votes.enabled, Box::new(stale_votes::StaleVotes::new(config.stale_votes)));
    add(config.proposals.enabled, Box::new(proposals::Proposals::new(config.proposals)));
    add(config.network.enabled, Box::new(network::Network::new(config.network)));
    add(config.punishment.enabled, Box::new(punishment::Punishment::new(config.punishment)));
    add(config.equivocation.enabled, Box::<equivocation::Equivocation>::default());
    all
}
