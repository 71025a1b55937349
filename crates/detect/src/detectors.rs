//! One file for each kind of trouble. Every file says what it looks for, why its thresholds are what they are, and which false
//! alarms were thought of.

pub mod slashing_wave;

use crate::config::DetectConfig;
use crate::monitor::Detector;

/// Those that are switched on.
pub(crate) fn all(config: &DetectConfig) -> Vec<Box<dyn Detector>> {
    let mut all: Vec<Box<dyn Detector>> = Vec::new();
    if config.slashing_wave.enabled {
        all.push(Box::new(slashing_wave::SlashingWave::new(config.slashing_wave.clone())));
    }
    all
}
