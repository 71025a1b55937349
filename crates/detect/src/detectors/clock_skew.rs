//! `clock_skew`: a part of the network votes for slots that have not begun. [`super::own_clock`]
//! handles the case that our own clock is wrong.
//!
//! A vote that arrives before its slot begins, by more than the 500 ms that clocks may differ, was
//! signed by a machine whose clock is ahead. An incident opens when one slot has at least
//! `min_voters` of them, and they are at least `min_percent` of all votes that arrived in it. How
//! far ahead most of them are helps to find the cause (Medalla: hours, all by the same distance).
//! The clients that they run, and the labels or withdrawal credentials that a sample of them
//! shares, show whose clocks they are. These validators will contradict themselves when their
//! clocks are right again, so the incident is critical when there are many: they must be stopped
//! now.
//!
//! **False alarms considered.** Our own clock is behind: then everybody (`everybody_percent`) seems
//! ahead by the same, which is reported as `own_clock` and not here. Single wrong clocks are below
//! `min_voters`. Votes inside blocks and slashing operations are not counted, because their time of
//! arrival is that of the block.

use super::common::{add, by_client, one_client, shared_client};
use super::own_clock;
use crate::client::{ByClient, N_CLIENTS};
use crate::config::{DetectorConfig, Problems};
use crate::monitor::{Details, Detector, DetectorView, Observation, Signal};
use consensus::{Slot, ValidatorIndex};
use evidence::{Count, Kind, Severity, SharedTrait};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Number of validators listed in the details.
const EXAMPLES: usize = 16;

/// `[detect.clock_skew]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockSkewConfig {
    pub enabled: bool,
    /// Number of votes for the future in one slot that open an incident.
    pub min_voters: u64,
    /// Their smallest percentage of all votes that arrived in the slot.
    pub min_percent: u64,
    /// The incident is critical from this percentage on.
    pub critical_percent: u64,
    /// From this percentage of early votes on, our own clock is the cause.
    pub everybody_percent: u64,
    /// Percentage that must share a client, label or credential for it to be reported.
    pub client_percent: u64,
    /// The incident is over after this number of epochs without a further observation.
    pub closes_after_epochs: u64,
}

impl Default for ClockSkewConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            min_voters: 4,
            min_percent: 1,
            critical_percent: 10,
            everybody_percent: 90,
            client_percent: 80,
            closes_after_epochs: 1,
        }
    }
}

impl DetectorConfig for ClockSkewConfig {
    fn detector(&self) -> Option<Box<dyn Detector>> {
        self.enabled.then(|| Box::new(ClockSkew::new(self.clone())) as _)
    }

    fn problems(&self, problems: &mut Problems<'_>) {
        problems.at_least("min_voters", self.min_voters, 1);
        problems.between("min_percent", self.min_percent, 0, 100);
        problems.between("critical_percent", self.critical_percent, 1, 100);
        problems.between("everybody_percent", self.everybody_percent, 51, 100);
        problems.between("client_percent", self.client_percent, 1, 100);
        problems.between("closes_after_epochs", self.closes_after_epochs, 1, 1_024);
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct ClockSkewDetails {
    votes_from_the_future: u64,
    percent_of_votes: u64,
    /// The distance that most of these votes have.
    slots_ahead: u64,
    seconds_ahead: u64,
    /// The percentage of these votes that have it.
    by_this_much_percent: u64,
    /// Whether at least nine in ten have it.
    together: bool,
    blocks_from_the_future: u64,
    #[serde(with = "by_client")]
    by_client: ByClient,
    examples: Vec<ValidatorIndex>,
}

impl Details for ClockSkewDetails {
    const KIND: Kind = Kind::ClockSkew;

    fn sentence(&self, _validators: Option<u64>) -> String {
        let together = if self.together { ", all by the same distance" } else { "" };
        format!(
            "{} votes in a slot ({} percent) were for slots that had not begun, {} seconds ahead{together}; their signers will contradict \
             themselves when the clocks are right again",
            self.votes_from_the_future, self.percent_of_votes, self.seconds_ahead
        )
    }
}

pub(crate) struct ClockSkew {
    config: ClockSkewConfig,
    since: Option<(Slot, Slot)>,
}

impl ClockSkew {
    pub(crate) fn new(config: ClockSkewConfig) -> Self {
        Self { config, since: None }
    }
}

/// Labels and withdrawal credentials that at least `percent` of the sample share. They show whose
/// machines these are. The number of members counts the sample only.
fn cohorts(sample: &[ValidatorIndex], percent: u64, view: &DetectorView<'_>) -> Vec<SharedTrait> {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for validator in sample {
        let labels = view.labels.of(*validator).iter().map(|label| (format!("label:{}", label.key), label.value.clone()));
        let credential = view.chain.registry().withdrawal_credentials(*validator);
        let credential = credential.map(|credential| ("withdrawal_credential".to_owned(), credential.to_string()));
        labels.chain(credential).for_each(|one| *counts.entry(one).or_default() += 1);
    }
    let most = |n: u64| n >= 2 && n * 100 >= sample.len() as u64 * percent;
    let found = counts.into_iter().filter(|(_, n)| most(*n));
    found.map(|((what, value), n)| SharedTrait { what, value, members: Count(n) }).collect()
}

impl Detector for ClockSkew {
    fn slot_ended(&mut self, slot: Slot, view: &DetectorView<'_>, out: &mut Vec<Signal>) {
        let Some(arrivals) = view.facts.arrivals(slot) else { return };
        let voters: u64 = arrivals.ahead.values().map(|ahead| ahead.voters).sum();
        let all = arrivals.votes();
        let percent = voters * 100 / all.max(1);
        let is_ours = own_clock::is_behind(arrivals, self.config.everybody_percent);
        if voters < self.config.min_voters || percent < self.config.min_percent || is_ours {
            return;
        }
        let per_epoch = view.network().preset().slots_per_epoch;
        let since = match self.since {
            Some((since, last)) if last.saturating_add(per_epoch) >= slot => since,
            _ => slot,
        };
        self.since = Some((since, slot));
        let mut by_client = [0; N_CLIENTS];
        let mut examples: Vec<ValidatorIndex> = Vec::new();
        for ahead in arrivals.ahead.values() {
            add(&mut by_client, &ahead.by_client);
            examples.extend(&ahead.examples);
        }
        examples.sort();
        examples.dedup();
        let cohorts = cohorts(&examples, self.config.client_percent, view);
        examples.truncate(EXAMPLES);
        let (distance, most) =
            arrivals.ahead.iter().max_by_key(|(_, ahead)| ahead.voters).map_or((0, 0), |(n, ahead)| (*n, ahead.voters));
        let shared = one_client(&by_client, self.config.client_percent).map(shared_client);
        let slot_ms = view.network().spec.slot_duration.as_millis() as u64;
        let details = ClockSkewDetails {
            votes_from_the_future: voters,
            percent_of_votes: percent,
            slots_ahead: distance,
            seconds_ahead: distance * slot_ms / 1000,
            by_this_much_percent: most * 100 / voters.max(1),
            together: most * 10 >= voters * 9,
            blocks_from_the_future: arrivals.blocks_ahead,
            by_client,
            examples,
        };
        out.push(Signal::Observation(Observation {
            what: details.into(),
            key: String::new(),
            slot,
            since,
            until: slot,
            severity: if percent >= self.config.critical_percent { Severity::Critical } else { Severity::Warning },
            measure: voters,
            // Every validator votes once per epoch, so a slot shows only one `per_epoch`-th of
            // them.
            validators: Some((voters * per_epoch).min(view.chain.registry().len() as u64)),
            shared: shared.into_iter().chain(cohorts).collect(),
            closes_after: self.config.closes_after_epochs * per_epoch,
        }));
    }

    fn time_went_back(&mut self) {
        *self = Self::new(self.config.clone());
    }
}
