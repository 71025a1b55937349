//! A scenario as a TOML file. It contains only the differences from a quiet network.
//!
//! ```toml
//! # Clocks of one client run ahead for a while.
//! validators = 128
//! slots = 400
//! fork = "phase0"
//! clients = [["prysm", 65], ["lighthouse", 35]]
//! [[circumstances]]
//! what = { clock_ahead = 296 }
//! who = { client = "prysm" }
//! from = 32
//! until = 60
//! [[acts]]
//! deed = "double_vote"
//! first = 10
//! n = 5
//! from = 20
//! # An incident that must be reported, its first slot, and the greatest delay in slots.
//! [[incidents]]
//! kind = "clock_skew"
//! onset = 32
//! within = 2
//! ```
//!
//! Two more options go before the first `[[...]]`. With `slashings_after = 4`, blocks include
//! slashings from four slots after the second message on. `may_follow = ["missed_proposals"]` lists
//! kinds that may be reported as well. Every option has a default ([`Scenario::quiet`]). Unknown
//! keys are errors.

use crate::conditions::{Peers, TimedCondition, Wear};
use crate::error::SimError;
use crate::expected::Expected;
use crate::scenario::{Act, Deed, Noise, Scenario, Who};
use consensus::{Epoch, ForkName, PresetName, Slot, ValidatorIndex};
use serde::Deserialize;
use std::time::Duration;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ScenarioFile {
    seed: u64,
    /// `minimal`, `mainnet` or `gnosis`.
    preset: String,
    fork: ForkName,
    slot_ms: u64,
    slots: u64,
    validators: usize,
    missed_blocks_percent: u8,
    clients: Vec<(String, u8)>,
    custom_graffiti: u8,
    /// The first index and the number of one operator's validators.
    operator: Option<(u64, u64)>,
    /// `(n, epoch)`: the `n` validators with the highest indices become active in `epoch`.
    fresh: Option<(u64, u64)>,
    acts: Vec<ActLine>,
    circumstances: Vec<TimedCondition>,
    wear: Wear,
    peers: Peers,
    noise: NoiseLine,
    /// Number of slots after which blocks begin to include slashings.
    slashings_after: Option<u64>,
    incidents: Vec<Expected>,
    may_follow: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActLine {
    deed: Deed,
    /// The validators with this index and the following ones. Without it, those that are on duty
    /// are chosen.
    first: Option<u64>,
    n: u64,
    from: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NoiseLine {
    forged: u64,
    junk: u64,
    duplicates: u64,
    altered: u64,
}

impl Default for ScenarioFile {
    fn default() -> Self {
        let quiet = Scenario::quiet(64);
        Self {
            seed: quiet.seed,
            preset: quiet.preset.as_str().to_owned(),
            fork: quiet.fork,
            slot_ms: quiet.slot_duration.as_millis() as u64,
            slots: quiet.slots,
            validators: quiet.n_validators,
            missed_blocks_percent: 0,
            clients: Vec::new(),
            custom_graffiti: 0,
            operator: None,
            fresh: None,
            acts: Vec::new(),
            circumstances: Vec::new(),
            wear: Wear::default(),
            peers: Peers::default(),
            noise: NoiseLine::default(),
            slashings_after: None,
            incidents: Vec::new(),
            may_follow: Vec::new(),
        }
    }
}

impl Scenario {
    /// Reads the text of a scenario file.
    ///
    /// # Errors
    /// The text is not a scenario file, or the scenario cannot be played.
    pub fn from_toml(text: &str) -> Result<Self, SimError> {
        let file: ScenarioFile = toml::from_str(text).map_err(|error| SimError::File(error.to_string()))?;
        let preset = [PresetName::Minimal, PresetName::Mainnet, PresetName::Gnosis].into_iter();
        let preset = preset.clone().find(|name| name.as_str() == file.preset).ok_or_else(|| SimError::Scenario {
            what: "preset",
            found: file.preset.clone(),
            possible: "minimal, mainnet or gnosis".to_owned(),
        })?;
        let indices = |first: u64, n: u64| (first..first.saturating_add(n)).take(1 << 22).map(ValidatorIndex::new).collect();
        let acts = file.acts.iter().map(|act| Act {
            deed: act.deed,
            who: act.first.map_or(Who::OnDuty(act.n as usize), |first| Who::Validators(indices(first, act.n))),
            from: Slot::new(act.from),
        });
        let scenario = Self {
            seed: file.seed,
            preset,
            fork: file.fork,
            slot_duration: Duration::from_millis(file.slot_ms),
            slots: file.slots,
            missed_blocks_percent: file.missed_blocks_percent,
            operator: file.operator.map_or_else(Vec::new, |(first, n)| indices(first, n)),
            acts: acts.collect(),
            noise: Noise {
                forged: file.noise.forged,
                junk: file.noise.junk,
                duplicates: file.noise.duplicates,
                altered: file.noise.altered,
            },
            clients: file.clients,
            custom_graffiti: file.custom_graffiti,
            conditions: file.circumstances,
            wear: file.wear,
            fresh: file.fresh.map(|(n, epoch)| (n, Epoch::new(epoch))),
            peers: file.peers,
            slashings_after: file.slashings_after,
            incidents: file.incidents,
            may_follow: file.may_follow,
            ..Self::quiet(file.validators)
        };
        scenario.check()?;
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::{Condition, Group};

    #[test]
    fn a_file_is_what_it_says() {
        let scenario = Scenario::from_toml(
            "validators = 128\nslots = 40\nfork = \"phase0\"\nclients = [[\"prysm\", 65], [\"teku\", 35]]\noperator = [4, 2]\n\
             [[circumstances]]\nwhat = { clock_ahead = 296 }\nwho = { client = \"prysm\" }\nfrom = 8\nuntil = 9\n\
             [[circumstances]]\nwhat = \"offline\"\nwho = \"everybody\"\nfrom = 8\nuntil = 9\n\
             [[acts]]\ndeed = \"double_vote\"\nfirst = 10\nn = 5\nfrom = 20\n",
        )
        .unwrap();
        assert_eq!(scenario.conditions[0].what, Condition::ClockAhead(296));
        assert_eq!(scenario.conditions[1].who, Group::Everybody);
        assert_eq!(scenario.acts[0].who, Who::Validators((10..15).map(ValidatorIndex::new).collect()));
        assert_eq!(scenario.operator, [ValidatorIndex::new(4), ValidatorIndex::new(5)]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let refusal = |text| Scenario::from_toml(text).unwrap_err().to_string();
        assert!(refusal("validatos = 3").contains("validatos"));
        assert!(refusal("preset = \"big\"").contains("preset is big"));
        assert!(
            refusal("[[circumstances]]\nwhat = \"offline\"\nwho = \"everybody\"\nfrom = 9\nuntil = 9")
                .contains("from before until")
        );
    }
}
