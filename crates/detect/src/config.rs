//! `[detect]` of the configuration: a section per detector, each defined beside the code that it steers.

use crate::detectors::blocks::BlocksConfig;
use crate::detectors::checkpoint_split::CheckpointSplitConfig;
use crate::detectors::clock_skew::ClockSkewConfig;
use crate::detectors::equivocation::EquivocationConfig;
use crate::detectors::finality_delay::FinalityDelayConfig;
use crate::detectors::head_split::HeadSplitConfig;
use crate::detectors::network::NetworkConfig;
use crate::detectors::own_clock::OwnClockConfig;
use crate::detectors::participation_drop::ParticipationDropConfig;
use crate::detectors::proposals::ProposalsConfig;
use crate::detectors::punishment::PunishmentConfig;
use crate::detectors::slashing_wave::SlashingWaveConfig;
use crate::detectors::stale_votes::StaleVotesConfig;
use serde::{Deserialize, Serialize};

/// Thresholds of all detectors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectConfig {
    pub slashing_wave: SlashingWaveConfig,
    pub clock_skew: ClockSkewConfig,
    pub own_clock: OwnClockConfig,
    pub participation_drop: ParticipationDropConfig,
    pub finality_delay: FinalityDelayConfig,
    pub head_split: HeadSplitConfig,
    pub checkpoint_split: CheckpointSplitConfig,
    pub blocks: BlocksConfig,
    pub stale_votes: StaleVotesConfig,
    pub proposals: ProposalsConfig,
    pub network: NetworkConfig,
    pub punishment: PunishmentConfig,
    pub equivocation: EquivocationConfig,
}

impl DetectConfig {
    /// What is wrong with it: path in the file and text.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut section = |section: &'static str, check: &dyn Fn(&mut Problems<'_>)| {
            check(&mut Problems { section, found: &mut found });
        };
        section("slashing_wave", &|problems| self.slashing_wave.problems(problems));
        section("clock_skew", &|problems| self.clock_skew.problems(problems));
        section("own_clock", &|problems| self.own_clock.problems(problems));
        section("participation_drop", &|problems| self.participation_drop.problems(problems));
        section("finality_delay", &|problems| self.finality_delay.problems(problems));
        section("head_split", &|problems| self.head_split.problems(problems));
        section("checkpoint_split", &|problems| self.checkpoint_split.problems(problems));
        section("blocks", &|problems| self.blocks.problems(problems));
        section("stale_votes", &|problems| self.stale_votes.problems(problems));
        section("proposals", &|problems| self.proposals.problems(problems));
        section("network", &|problems| self.network.problems(problems));
        section("punishment", &|problems| self.punishment.problems(problems));
        found
    }
}

/// Collects what is wrong with one section.
pub(crate) struct Problems<'a> {
    section: &'static str,
    found: &'a mut Vec<(String, String)>,
}

impl Problems<'_> {
    pub(crate) fn at_least(&mut self, key: &str, value: u64, least: u64) {
        if value < least {
            self.say(key, format!("{value} is too little; use {least} or more"));
        }
    }

    pub(crate) fn between(&mut self, key: &str, value: u64, least: u64, most: u64) {
        if !(least..=most).contains(&value) {
            self.say(key, format!("{value} is not between {least} and {most}"));
        }
    }

    pub(crate) fn say(&mut self, key: &str, text: String) {
        self.found.push((format!("detect.{}.{key}", self.section), text));
    }
}
