//! What the members of a wave have in common, compared with how common that is among all
//! validators.

use super::SlashingWaveConfig;
use super::cause::Clues;
use crate::monitor::DetectorView;
use consensus::{Epoch, ValidatorIndex};
use evidence::{Count, SharedTrait};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Largest number of different traits that are counted.
const MAX_TRAITS: usize = 4_096;
/// Largest number of traits reported per sort of trait.
const TOLD: usize = 5;
pub(super) const CREDENTIAL: &str = "withdrawal_credential";
pub(super) const ACTIVATION: &str = "activation_epoch";
pub(super) const CLIENT: &str = "client";
pub(super) const FORK_SIDE: &str = "fork_side";

/// Number of members by sort of trait and value.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Traits {
    counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// For each credential, one validator that has it. It is needed for the share among all
    /// validators.
    credentials: BTreeMap<String, ValidatorIndex>,
    /// Counts among all validators; computed when first needed.
    #[serde(skip)]
    among_all: Option<AmongAll>,
}

#[derive(Debug)]
struct AmongAll {
    by_credential: Vec<u32>,
    by_activation: HashMap<Epoch, u64>,
    validators: u64,
}

impl Traits {
    pub(super) fn add(&mut self, validator: ValidatorIndex, clues: &Clues, view: &DetectorView<'_>) {
        let registry = view.chain.registry();
        for label in view.labels.of(validator) {
            self.count(format!("label:{}", label.key), label.value.clone());
        }
        if let Some(credential) = registry.withdrawal_credentials(validator) {
            let value = credential.to_string();
            if self.count(CREDENTIAL.into(), value.clone()) {
                self.credentials.insert(value, validator);
            }
        }
        if let Some(record) = registry.record(validator) {
            self.count(ACTIVATION.into(), record.activation_epoch.to_string());
        }
        if let Some(client) = &clues.client {
            self.count(CLIENT.into(), client.clone());
        }
        for side in &clues.sides {
            self.count(FORK_SIDE.into(), side.clone());
        }
    }

    /// Counts one member with this value. Returns false if there was no room for the value.
    fn count(&mut self, what: String, value: String) -> bool {
        let has_room = self.counts.values().map(BTreeMap::len).sum::<usize>() < MAX_TRAITS;
        let values = self.counts.entry(what).or_default();
        match values.get_mut(&value) {
            Some(count) => *count += 1,
            None if has_room => {
                values.insert(value, 1);
            }
            None => return false,
        }
        true
    }

    /// Labels that any member has, as `key=value`, at most `most` of them.
    pub(super) fn labels(&self, most: usize) -> Vec<String> {
        let of_key = self.counts.iter().filter_map(|(what, values)| Some((what.strip_prefix("label:")?, values)));
        of_key.flat_map(|(key, values)| values.keys().map(move |value| format!("{key}={value}"))).take(most).collect()
    }

    /// The traits that are reported. At least two members and at least `shared_percent` of the
    /// members have such a trait, and it is at least `shared_times_usual` times as frequent among
    /// them as among all validators. Traits with most members come first, a few per sort.
    pub(super) fn shared(&mut self, n_members: u64, config: &SlashingWaveConfig, view: &DetectorView<'_>) -> Vec<SharedTrait> {
        let among_all = self.among_all.get_or_insert_with(|| AmongAll::of(view));
        let mut reported: Vec<SharedTrait> = Vec::new();
        let each =
            self.counts.iter().flat_map(|(what, values)| values.iter().map(move |(value, members)| (what, value, members)));
        for (what, value, members) in each {
            if *members < 2 || members * 100 < n_members * config.shared_percent {
                continue;
            }
            let all = match what.as_str() {
                CREDENTIAL => {
                    let number = self.credentials.get(value).and_then(|member| view.chain.registry().credential_number(*member));
                    number.and_then(|number| among_all.by_credential.get(number as usize)).map(|n| u64::from(*n))
                }
                ACTIVATION => value.parse().ok().and_then(|epoch| among_all.by_activation.get(&epoch).copied()),
                CLIENT | FORK_SIDE => None,
                label => label.strip_prefix("label:").map(|key| view.labels.n_labelled(key, value)),
            };
            let usual = all.is_some_and(|all| {
                // The trait is usual if members / n_members < times * all / validators.
                u128::from(*members) * u128::from(among_all.validators)
                    < u128::from(config.shared_times_usual) * u128::from(all) * u128::from(n_members)
            });
            if !usual {
                reported.push(SharedTrait { what: what.clone(), value: value.clone(), members: Count(*members) });
            }
        }
        reported.sort_by(|a, b| (&a.what, b.members, &a.value).cmp(&(&b.what, a.members, &b.value)));
        let mut of_this = ("", 0);
        let keep: Vec<bool> = reported
            .iter()
            .map(|one| {
                of_this = if of_this.0 == one.what { (of_this.0, of_this.1 + 1) } else { (one.what.as_str(), 1) };
                of_this.1 <= TOLD
            })
            .collect();
        let mut keep = keep.into_iter();
        reported.retain(|_| keep.next().unwrap_or(false));
        reported
    }
}

impl AmongAll {
    fn of(view: &DetectorView<'_>) -> Self {
        let registry = view.chain.registry();
        let mut by_activation = HashMap::new();
        for index in 0..registry.len() as u64 {
            if let Some(record) = registry.record(ValidatorIndex::new(index)) {
                *by_activation.entry(record.activation_epoch).or_default() += 1;
            }
        }
        Self { by_credential: registry.n_by_credential(), by_activation, validators: registry.len() as u64 }
    }
}
