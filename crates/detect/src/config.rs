//! `[detect]` of the configuration: a section per detector, each defined beside the code that it steers.

use crate::detectors::slashing_wave::SlashingWaveConfig;
use serde::{Deserialize, Serialize};

/// Thresholds of all detectors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectConfig {
    pub slashing_wave: SlashingWaveConfig,
}

impl DetectConfig {
    /// What is wrong with it: path in the file and text.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        self.slashing_wave.problems(&mut Problems { section: "slashing_wave", found: &mut found });
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

    pub(crate) fn say(&mut self, key: &str, text: String) {
        self.found.push((format!("detect.{}.{key}", self.section), text));
    }
}
